"""The detection score: how well something said of a latent tells texts in which it fires from texts in which it does not.

A label is worth what it predicts (Bills et al., 2023; Paulo et al., 2024, "Automatically Interpreting Millions of Features
in Large Language Models", from whom the name is). Texts are the different responses of preference pairs. *Active* are those
whose peak is in the upper half of all peaks above zero; *inactive* those in which the latent is silent, or, where it is
silent in less than a quarter of the responses, the quarter of the lowest peaks. Firing grows with length, so that "it is
long" would pass for an explanation: for every active text an inactive one of like length is taken, and no other.

The prompts are halved. Whatever is said of the latent is found on one half and judged on the other; a response text occurs
once, so that no text is in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparserm.features.cards import peaks_of
from sparserm.heads.labels import Detection
from sparserm.representations.values import PairRepresentations
from sparserm.types import PreferencePair

#: Active texts of each half, and as many inactive ones, below which nothing is said.
LEAST_TEXTS = 20
#: Classes of length, of as many texts each, within which texts are matched.
LENGTHS = 10
#: Top examples that texts are held against, and as many inactive texts.
NEAREST = 10


@dataclass(frozen=True, eq=False)
class ResponseTexts:
    """The different responses of preference pairs.

    Attributes:
        texts: ``n`` of them, each once.
        rows: ``[n]`` where each stands among all chosen, then all rejected responses.
        groups: ``[n]`` the number of its prompt.
        lengths: ``[n]`` its class of length.
        finding: ``[n]`` bool, whether its prompt is of the half on which labels are found; the others are for judging.
        tfidf: ``[n, words]`` sparse, rows of length 1; words and their weights are those of the finding half.
    """

    texts: tuple[str, ...]
    rows: np.ndarray
    groups: np.ndarray
    lengths: np.ndarray
    finding: np.ndarray
    tfidf: Any

    def peaks(self, feature: int, pairs: PairRepresentations) -> np.ndarray:
        """``[n]`` largest activation of a latent in each, 0 where it is silent.

        Raises:
            SparseRMError: the representations do not hold how strongly latents fired.
        """
        both = [peaks_of(pairs.chosen.strengths, feature), peaks_of(pairs.rejected.strengths, feature)]
        return np.concatenate(both)[self.rows]


@dataclass(frozen=True)
class Sample:
    """As many active as inactive texts: ``rows [m]`` of the texts, and ``active [m]`` bool."""

    rows: np.ndarray
    active: np.ndarray

    def limited(self, most: int) -> Sample:
        """At most ``most`` texts, half of them active, spread over all lengths."""
        kept = [side[_spread(len(side), most // 2)] for side in (np.flatnonzero(self.active), np.flatnonzero(~self.active))]
        places = np.concatenate(kept)
        return Sample(self.rows[places], self.active[places])


@dataclass(frozen=True)
class Contrast:
    """What a latent is told by: texts to find something on, and texts of other prompts to judge it by.

    Attributes:
        top: rows of the strongest active texts of the finding half, strongest first.
        n_firing: texts, of all, in which the latent fires.
    """

    find: Sample
    judge: Sample
    top: np.ndarray
    n_firing: int

    @property
    def too_few(self) -> bool:
        """Whether either half has fewer than :data:`LEAST_TEXTS` active texts with an inactive one of like length."""
        return min(len(self.find.rows), len(self.judge.rows)) < 2 * LEAST_TEXTS


def gather_texts(texts: Sequence[PreferencePair], pairs: PairRepresentations) -> ResponseTexts:
    """The different responses of ``texts``, the pairs behind ``pairs``; the language model is not run."""
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
    """Active and inactive texts of both halves, matched in length.

    Args:
        peaks: ``[n]`` of the latent, from :meth:`ResponseTexts.peaks`.
    """
    firing = peaks > 0
    active = firing & (peaks >= (np.median(peaks[firing]) if firing.any() else np.inf))
    inactive = ~active & (peaks <= np.quantile(peaks, 0.25))
    strongest = np.argsort(-peaks, kind="stable")
    top = strongest[(active & texts.finding)[strongest]][:NEAREST]
    find, judge = (_matched(active & half, inactive & half, texts.lengths) for half in (texts.finding, ~texts.finding))
    return Contrast(find, judge, top, int(firing.sum()))


def detection(scores: np.ndarray, sample: Sample, texts: ResponseTexts) -> Detection:
    """Judge a rule that calls the texts of ``sample`` active where ``scores [m]`` are above zero."""
    from sklearn.metrics import roc_auc_score

    from sparserm.evaluation.intervals import share_interval

    right = (scores > 0) == sample.active
    groups = texts.groups[sample.rows]
    return Detection(
        accuracy=float(right.mean()),
        ci95=share_interval(right, groups),
        auroc=float(roc_auc_score(sample.active, scores)),
        n=len(right),
        n_prompts=len(np.unique(groups)),
    )


def example_scores(rows: np.ndarray, found: Contrast, texts: ResponseTexts) -> np.ndarray:
    """``[m]`` how much more each text is like the latent's top examples than like inactive ones: mean cosines of TF-IDF."""
    inactive = found.find.rows[~found.find.active]
    inactive = inactive[_spread(len(inactive), NEAREST)]
    near, far = ((texts.tfidf[rows] @ texts.tfidf[others].T).mean(1) for others in (found.top, inactive))
    return np.asarray(near - far).ravel()


def _matched(active: np.ndarray, inactive: np.ndarray, lengths: np.ndarray) -> Sample:
    """In each class of length as many of the one as of the other, drawn at random and always the same."""
    draw = np.random.default_rng(0)
    chosen: tuple[list[int], list[int]] = ([], [])
    for length in np.unique(lengths):
        here = [draw.permutation(np.flatnonzero(side & (lengths == length))) for side in (active, inactive)]
        n = min(map(len, here))
        for rows, side in zip(chosen, here, strict=True):
            rows.extend(side[:n].tolist())
    return Sample(np.array(chosen[0] + chosen[1], np.int64), np.repeat([True, False], len(chosen[0])))


def _spread(n: int, most: int) -> np.ndarray:
    """At most ``most`` places of ``n``, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)) if n else np.zeros(0, np.int64)


def _tfidf(texts: Sequence[str], finding: np.ndarray) -> Any:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    try:
        words.fit([text for text, found in zip(texts, finding, strict=True) if found])
    except ValueError:  # no text has a word
        return csr_matrix((len(texts), 1), dtype=np.float32)
    return words.transform(texts)
