"""One latent in full: where it fires most and least, on both sides, where it misled, and which latents resemble it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from sparserm.heads.reward import RewardHead, alignment_scores
from sparserm.representations.values import LatentSummary, PairRepresentations
from sparserm.types import PreferencePair, Progress, SparseRMError

if TYPE_CHECKING:
    from sparserm.backbone.model import Backbone
    from sparserm.sae.autoencoder import SparseAutoencoder

Side = Literal["chosen", "rejected"]
SIDES: tuple[Side, Side] = ("chosen", "rejected")

#: Examples of each side: the strongest, and in each quarter of the peaks.
TOP, PER_BAND, WRONG, SIMILAR = 5, 2, 5, 10
BANDS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Example:
    """A response, by the index of its pair and its side, and the latent's largest activation in it."""

    pair: int
    side: Side
    peak: float


@dataclass(frozen=True)
class Reading:
    """A latent at every token of a response: ``activations [T]`` and ``scores [T]`` float32, alignment scores."""

    activations: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Band:
    """Responses whose peak lies between two quantiles of the peaks of all responses in which the latent fires."""

    low: float
    high: float
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class WrongSide:
    """A pair in which a latent spoke for the rejected response.

    ``contribution`` is its part in ``r(chosen) - r(rejected)``, below zero; without a weight, in standard deviations.
    """

    pair: int
    contribution: float
    score_chosen: float
    score_rejected: float


@dataclass(frozen=True)
class FeatureCard:
    """What pairs show of one latent.

    Attributes:
        feature: the latent.
        scores_chosen, scores_rejected: ``[n]`` float64 alignment scores.
        peaks_chosen, peaks_rejected: ``[n]`` float32 largest activations, 0 where it is silent.
        top: the responses in which it fires most, each once, strongest first, :data:`TOP` of each side.
        bands: examples of every quarter of its peaks, the highest first.
        wrong: the pairs in which it argued most for the rejected response; for a latent outside the head, by the sign of its
            mean score difference.
        similar: latents and the cosine of their decoder directions with this one's, largest first.
    """

    feature: int
    scores_chosen: np.ndarray
    scores_rejected: np.ndarray
    peaks_chosen: np.ndarray
    peaks_rejected: np.ndarray
    top: tuple[Example, ...]
    bands: tuple[Band, ...]
    wrong: tuple[WrongSide, ...]
    similar: tuple[tuple[int, float], ...]

    @property
    def examples(self) -> tuple[Example, ...]:
        """Every response that the card shows, each once."""
        misled = (
            Example(one.pair, side, float(peaks[one.pair]))
            for one in self.wrong
            for side, peaks in zip(SIDES, (self.peaks_chosen, self.peaks_rejected), strict=True)
        )
        banded = (example for band in self.bands for example in band.examples)
        return tuple(dict.fromkeys([*self.top, *banded, *misled]))


def feature_card(
    feature: int,
    texts: Sequence[PreferencePair],
    pairs: PairRepresentations,
    sae: SparseAutoencoder,
    head: RewardHead | None = None,
) -> FeatureCard:
    """The card of a latent; the language model is not run.

    Args:
        texts: the pairs behind ``pairs``, in the same order.
        head: its weight and spread are used where the latent is one of its features.

    Raises:
        SparseRMError: the SAE has no such latent, or the representations do not hold how strongly latents fired.
    """
    if not 0 <= feature < sae.d_sae:
        raise SparseRMError(f"feature {feature} is not in SAE {sae.name}; expected 0 to {sae.d_sae - 1}")
    direction = sae.directions()[feature : feature + 1].cpu().numpy()
    center = sae.b_dec.cpu().numpy()
    chosen, rejected = (alignment_scores(side.h, direction, center)[:, 0] for side in (pairs.chosen, pairs.rejected))
    peaks = {"chosen": peaks_of(pairs.chosen.strengths, feature), "rejected": peaks_of(pairs.rejected.strengths, feature)}
    spread = float(np.concatenate([chosen, rejected]).std()) or 1.0
    slope = float(np.sign((chosen - rejected).mean())) / spread
    if head is not None and feature in head.features:
        place = int(np.flatnonzero(head.features == feature)[0])
        slope = float(head.weights[place] / head.sigma[place])
    return FeatureCard(
        feature=feature,
        scores_chosen=chosen,
        scores_rejected=rejected,
        peaks_chosen=peaks["chosen"],
        peaks_rejected=peaks["rejected"],
        top=tuple(one for side in SIDES for one in _strongest(peaks[side], texts, side)),
        bands=_bands(peaks, texts),
        wrong=_wrong_side(slope, chosen, rejected, texts),
        similar=similar_latents(sae, feature),
    )


def peaks_of(latents: LatentSummary, feature: int) -> np.ndarray:
    """``[n]`` float32 largest activation of one latent in each response, 0 where it is silent."""
    entries = np.flatnonzero(latents.indices == feature)
    peaks = np.zeros(len(latents.indptr) - 1, np.float32)
    peaks[np.searchsorted(latents.indptr, entries, side="right") - 1] = latents.peak[entries]
    return peaks


def similar_latents(sae: SparseAutoencoder, feature: int, n: int = SIMILAR) -> tuple[tuple[int, float], ...]:
    """The ``n`` latents whose decoder directions have the largest cosine with this one's."""
    directions = sae.directions()
    cosines = (directions @ directions[feature]).cpu().numpy().astype(np.float64)
    cosines[feature] = -np.inf
    order = np.argsort(-cosines, kind="stable")[: min(n, sae.d_sae - 1)]
    return tuple((int(j), float(cosines[j])) for j in order)


def read_examples(
    feature: int,
    examples: Sequence[Example],
    texts: Sequence[PreferencePair],
    backbone: Backbone,
    sae: SparseAutoencoder,
    *,
    progress: Progress | None = None,
) -> dict[tuple[int, Side], Reading]:
    """``{(pair, side): reading}``, the latent at every response token of the examples."""
    tokenized = [backbone.tokenize(texts[one.pair].prompt, getattr(texts[one.pair], one.side)) for one in examples]
    near = sae.to(backbone.device)
    direction, center = sae.directions()[feature : feature + 1].cpu().numpy(), sae.b_dec.cpu().numpy()
    found: dict[tuple[int, Side], Reading] = {}
    for i, states in backbone.hidden_states(tokenized, [sae.hook], progress=progress):
        own = states[sae.hook][: tokenized[i].end - tokenized[i].start]
        scores = alignment_scores(own.cpu().numpy(), direction, center)[:, 0].astype(np.float32)
        found[examples[i].pair, examples[i].side] = Reading(near.encode(own)[:, feature].cpu().numpy().copy(), scores)
    return found


def _strongest(peaks: np.ndarray, texts: Sequence[PreferencePair], side: Side) -> list[Example]:
    """The highest peaks of one side, a response that is in several pairs once."""
    order = (int(i) for i in np.argsort(-peaks, kind="stable") if peaks[i] > 0)
    return _distinct(order, peaks, texts, side, TOP)


def _distinct(rows: Iterable[int], peaks: np.ndarray, texts: Sequence[PreferencePair], side: Side, n: int) -> list[Example]:
    seen: set[object] = set()
    found: list[Example] = []
    for row in rows:
        response = (texts[row].prompt, getattr(texts[row], side))
        if response not in seen:
            seen.add(response)
            found.append(Example(row, side, float(peaks[row])))
        if len(found) == n:
            break
    return found


def _bands(peaks: Mapping[str, np.ndarray], texts: Sequence[PreferencePair]) -> tuple[Band, ...]:
    """Of every quarter of the peaks the responses nearest to its median, the highest quarter first."""
    firing = np.concatenate([peaks[side][peaks[side] > 0] for side in SIDES])
    if len(firing) == 0:
        return ()
    bands = []
    for low, high in pairwise(BANDS):
        start, middle, end = (float(x) for x in np.quantile(firing, (low, (low + high) / 2, high)))
        examples = []
        for side in SIDES:
            inside = np.flatnonzero((peaks[side] > 0) & (peaks[side] >= start) & (peaks[side] <= end))
            near = inside[np.argsort(np.abs(peaks[side][inside] - middle), kind="stable")]
            examples += _distinct((int(i) for i in near), peaks[side], texts, side, PER_BAND)
        bands.append(Band(start, end, tuple(examples)))
    return tuple(reversed(bands))


def _wrong_side(
    slope: float, chosen: np.ndarray, rejected: np.ndarray, texts: Sequence[PreferencePair]
) -> tuple[WrongSide, ...]:
    """The pairs of most negative ``w_j (s_j(chosen) - s_j(rejected)) / sigma_j``, each once."""
    parts = slope * (chosen - rejected)
    seen: set[object] = set()
    found: list[WrongSide] = []
    for row in np.argsort(parts, kind="stable"):
        pair = texts[row].prompt, texts[row].chosen, texts[row].rejected
        if parts[row] >= 0 or len(found) == WRONG:
            break
        if pair not in seen:
            seen.add(pair)
            found.append(WrongSide(int(row), float(parts[row]), float(chosen[row]), float(rejected[row])))
    return tuple(found)


def neuronpedia_url(sae: SparseAutoencoder, feature: int) -> str | None:
    """The latent's page on Neuronpedia, where the SAE is there."""
    identity = str(sae.metadata.get("neuronpedia_id") or "")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", identity):
        return None
    return f"https://www.neuronpedia.org/{identity}/{feature}"
