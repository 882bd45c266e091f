"""What else stands beside a head's accuracy: what it owes to length, whether explanations hold, how much of it is chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparserm.backbone import Backbone
from sparserm.evidence import selection_stability
from sparserm.faithfulness import Faithfulness, measure_faithfulness
from sparserm.fitting import FitSettings, fit_head
from sparserm.head import rewards
from sparserm.length import LengthBalanced, LengthCorrelation, length_balanced, length_correlation
from sparserm.sae import SparseAutoencoder
from sparserm.types import PairRepresentations, PreferencePair, Progress

#: Test pairs that are explained, and features that the backbone is steered along: each costs a pass over these pairs.
PAIRS, STEERED = 25, 2


@dataclass(frozen=True)
class HeadFacts:
    """Of a head trained on all training pairs.

    Attributes:
        k: its features.
        length: of rewards and margins on the test pairs; ``balanced``: accuracy where length says nothing, None where the
            responses of all pairs are of one length.
        faithfulness: on the first test pairs.
        jaccard: overlap of its features with those from training prompts drawn anew, and by ``chance``.
    """

    k: int
    length: LengthCorrelation
    balanced: LengthBalanced | None
    faithfulness: Faithfulness
    jaccard: float
    chance: float


def head_facts(
    train: PairRepresentations,
    test: PairRepresentations,
    texts: Sequence[PreferencePair],
    sae: SparseAutoencoder,
    backbone: Backbone,
    settings: FitSettings,
    progress: Progress | None = None,
) -> HeadFacts:
    """Fit a head and measure it.

    Args:
        texts: the pairs behind ``test``.

    Raises:
        SparseRMError: the pairs are too few for the head's features.
    """
    fitted = fit_head(train, sae, settings)
    both = rewards(fitted.head, test.stacked)
    margins = both[: len(texts)] - both[len(texts) :]
    explained = [backbone.tokenize(pair.prompt, text) for pair in texts[:PAIRS] for text in (pair.chosen, pair.rejected)]
    stability = selection_stability(fitted, train, sae, settings)
    return HeadFacts(
        k=settings.k,
        length=length_correlation(both, margins, test.log_lengths, test.length_gaps),
        balanced=length_balanced(margins, test.length_gaps, np.asarray(test.groups)),
        faithfulness=measure_faithfulness(
            fitted.head, sae.hook, explained, backbone, features=min(STEERED, settings.k), progress=progress
        ),
        jaccard=stability.jaccard,
        chance=stability.chance,
    )
