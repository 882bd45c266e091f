"""Which latents tell of a response's beginning and not of what it says: how much of their firing is at its first token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparserm.types import PairRepresentations, PreferencePair, Progress, SparseRMError, TokenizedText

if TYPE_CHECKING:
    from sparserm.backbone import Backbone
    from sparserm.sae import SparseAutoencoder

#: Responses that are looked at; spread evenly over the pairs.
SAMPLE = 200
#: Firings in the sample below which nothing is said of a latent: one of two would prove little.
MIN_FIRINGS = 5


def measure_openings(
    texts: Sequence[PreferencePair],
    pairs: PairRepresentations,
    backbone: Backbone,
    sae: SparseAutoencoder,
    *,
    progress: Progress | None = None,
) -> np.ndarray:
    """``[d_sae]`` share of each latent's firings that fall on the first token of a response, over a sample of responses.

    All firings are known from the summaries; the backbone reads the sampled texts only up to their first response token,
    which is little work, and less where responses to a prompt begin alike. A latent that
    fires fewer than :data:`MIN_FIRINGS` times in the sample gets 0.

    Raises:
        SparseRMError: the representations are not of these pairs, or do not hold how strongly latents fired.
    """
    sides = [pairs.chosen, pairs.rejected]
    if len(texts) != len(pairs.groups):
        raise SparseRMError(
            f"got {len(texts)} pairs and representations of {len(pairs.groups)}; expected as many of each; represent "
            "these pairs"
        )
    rows = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), SAMPLE // 2)).round().astype(int))
    counts: dict[TokenizedText, int] = {}
    everywhere = np.zeros(sae.d_sae)
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        part = side.take(rows)
        latents = part.strengths
        lengths = np.repeat(part.n_tokens, np.diff(latents.indptr))
        everywhere += np.bincount(latents.indices, weights=latents.rate * lengths, minlength=sae.d_sae)
        for row in rows:
            whole = backbone.tokenize(texts[row].prompt, getattr(texts[row], name))
            first = TokenizedText(whole.ids[: whole.start + 1], whole.start, whole.start + 1, whole.n_truncated)
            counts[first] = counts.get(first, 0) + 1
    at_first = np.zeros(sae.d_sae)
    beginnings = list(counts)
    near = sae.to(backbone.device)
    for i, states in backbone.hidden_states(beginnings, [sae.hook], progress=progress):
        z = near.encode(states[sae.hook][0])
        at_first += counts[beginnings[i]] * (z > 0).cpu().numpy()
    everywhere = everywhere.round()  # back from rates in single precision
    return np.divide(at_first, everywhere, out=np.zeros(sae.d_sae), where=everywhere >= MIN_FIRINGS)
