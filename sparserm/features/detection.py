"""Detection scores: how well a label separates texts in which a latent fires from texts in which it does not.

A label is judged by what it predicts (Bills et al., 2023; Paulo et al., 2024, "Automatically Interpreting Millions of Features
in Large Language Models", who introduced the name). Texts are the distinct responses of preference pairs. *Active* texts are
those in which the latent fires, weakly too, since a label stands beside them all. *Inactive* texts are those in which it does
not fire, or, if that is less than a quarter of the responses, the quarter with the lowest peaks. Latents fire more often in
longer texts, so a label such as "long" would score well: every active text is matched with an inactive one of similar length.

Prompts are split in halves. Labels are found on one half (the labelling half) and judged on the other (the held-out half);
each distinct text is used once, so no text is in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparserm.heads.labels import Detection
from sparserm.representations.values import PairRepresentations
from sparserm.types import PreferencePair

#: Minimum number of active texts in each half, and of inactive ones, to judge a label.
LEAST_TEXTS = 20
#: Number of length bins (quantiles) within which texts are matched.
LENGTHS = 10
#: Number of top examples, and of inactive texts, that texts are compared with.
NEAREST = 10


@dataclass(frozen=True, eq=False)
class ResponseTexts:
    """The distinct responses of preference pairs.

    Attributes:
        texts: ``n`` distinct texts.
        rows: ``[n]`` index of each in the concatenation of all chosen and all rejected responses.
        groups: ``[n]`` prompt number of each.
        lengths: ``[n]`` length bin of each.
        finding: ``[n]`` bool, whether its prompt is in the labelling half; the others are held out.
        tfidf: ``[n, words]`` sparse TF-IDF vectors of norm one; vocabulary and weights come from the labelling half.
    """

    texts: tuple[str, ...]
    rows: np.ndarray
    groups: np.ndarray
    lengths: np.ndarray
    finding: np.ndarray
    tfidf: Any

    def peaks(self, feature: int, pairs: PairRepresentations) -> np.ndarray:
        """``[n]`` peak activation of a latent in each text, 0 where it does not fire.

        Raises:
            SparseRMError: the representations have no activation strengths.
        """
        both = [pairs.chosen.by_latent.peaks(feature), pairs.rejected.by_latent.peaks(feature)]
        return np.concatenate(both)[self.rows]


@dataclass(frozen=True)
class Sample:
    """A balanced sample of active and inactive texts: ``rows [m]`` into the texts, and ``active [m]`` bool."""

    rows: np.ndarray
    active: np.ndarray

    def limited(self, most: int) -> Sample:
        """A subsample of at most ``most`` texts, half of them active, spread over all lengths."""
        kept = [side[_spread(len(side), most // 2)] for side in (np.flatnonzero(self.active), np.flatnonzero(~self.active))]
        places = np.concatenate(kept)
        return Sample(self.rows[places], self.active[places])


@dataclass(frozen=True)
class Contrast:
    """Active and inactive texts of a latent, in both halves.

    Attributes:
        find: sample of the labelling half.
        judge: sample of the held-out half.
        top: rows of the strongest active texts of the labelling half, strongest first.
        n_firing: number of texts in which the latent fires, in both halves.
    """

    find: Sample
    judge: Sample
    top: np.ndarray
    n_firing: int

    @property
    def too_few(self) -> bool:
        """Whether either half has fewer than :data:`LEAST_TEXTS` active texts with an inactive one of similar length."""
        return min(len(self.find.rows), len(self.judge.rows)) < 2 * LEAST_TEXTS


def gather_texts(texts: Sequence[PreferencePair], pairs: PairRepresentations) -> ResponseTexts:
    """Collect the distinct responses of the pairs ``texts``, whose representations are ``pairs``; the backbone is not run."""
    both = [pair.chosen for pair in texts] + [pair.rejected for pair in texts]
    first: dict[str, int] = {}
    for row, response in enumerate(both):
        first.setdefault(response, row)
    rows = np.fromiter(first.values(), np.int64, len(first))
    groups = np.concatenate([pairs.groups, pairs.groups])[rows]
    tokens = np.concatenate([pairs.chosen.n_tokens, pairs.rejected.n_tokens])[rows]
    edges = np.quantile(tokens, np.linspace(0, 1, LENGTHS + 1)[1:-1])
    prompts = np.random.default_rng(0).permutation(np.unique(groups))
    finding = np.isin(groups, prompts[: (len(prompts) + 1) // 2])
    distinct = tuple(first)
    return ResponseTexts(distinct, rows, groups, np.searchsorted(edges, tokens), finding, _tfidf(distinct, finding))


def contrast(peaks: np.ndarray, texts: ResponseTexts) -> Contrast:
    """Sample active and inactive texts of both halves, matched by length.

    Args:
        peaks: ``[n]`` peak activations of the latent, from :meth:`ResponseTexts.peaks`.
    """
    firing = peaks > 0
    inactive = peaks <= np.quantile(peaks, 0.25)
    active = firing & ~inactive
    strongest = np.argsort(-peaks, kind="stable")
    top = strongest[(active & texts.finding)[strongest]][:NEAREST]
    find, judge = (_matched(active & half, inactive & half, texts.lengths) for half in (texts.finding, ~texts.finding))
    return Contrast(find, judge, top, int(firing.sum()))


def detection(scores: np.ndarray, sample: Sample, texts: ResponseTexts) -> Detection:
    """Detection score of a rule that predicts the texts of ``sample`` to be active where ``scores [m]`` are above zero."""
    from sklearn.metrics import roc_auc_score

    from sparserm.evaluation.intervals import accuracy_interval

    right = (scores > 0) == sample.active
    groups = texts.groups[sample.rows]
    return Detection(
        accuracy=float(right.mean()),
        ci95=accuracy_interval(right, groups),
        auroc=float(roc_auc_score(sample.active, scores)),
        n=len(right),
        n_prompts=len(np.unique(groups)),
    )


def example_scores(rows: np.ndarray, found: Contrast, texts: ResponseTexts) -> np.ndarray:
    """``[m]`` mean TF-IDF cosine similarity of each text to the latent's top examples minus that to inactive texts."""
    inactive = found.find.rows[~found.find.active]
    inactive = inactive[_spread(len(inactive), NEAREST)]
    near, far = ((texts.tfidf[rows] @ texts.tfidf[others].T).mean(1) for others in (found.top, inactive))
    return np.asarray(near - far).ravel()


def _matched(active: np.ndarray, inactive: np.ndarray, lengths: np.ndarray) -> Sample:
    """Draw as many active as inactive texts from every length bin, with a fixed seed."""
    draw = np.random.default_rng(0)
    chosen: tuple[list[int], list[int]] = ([], [])
    for length in np.unique(lengths):
        here = [draw.permutation(np.flatnonzero(side & (lengths == length))) for side in (active, inactive)]
        n = min(map(len, here))
        for rows, side in zip(chosen, here, strict=True):
            rows.extend(side[:n].tolist())
    return Sample(np.array(chosen[0] + chosen[1], np.int64), np.repeat([True, False], len(chosen[0])))


def _spread(n: int, most: int) -> np.ndarray:
    """At most ``most`` evenly spaced indices below ``n``."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)) if n else np.zeros(0, np.int64)


def _tfidf(texts: Sequence[str], finding: np.ndarray) -> Any:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    try:
        words.fit([text for text, found in zip(texts, finding, strict=True) if found])
    except ValueError:  # no text contains a word
        return csr_matrix((len(texts), 1), dtype=np.float32)
    return words.transform(texts)
