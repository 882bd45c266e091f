"""Feature cards: top and weak activating examples of one latent, misleading examples and similar latents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, urlencode

import numpy as np

from sparserm.heads.reward import RewardHead, alignment_scores
from sparserm.representations.values import PairRepresentations, Representations
from sparserm.types import PreferencePair, Progress, Score, SparseRMError

if TYPE_CHECKING:
    from sparserm.backbone.model import Backbone
    from sparserm.sae.autoencoder import SparseAutoencoder

Side = Literal["chosen", "rejected"]
SIDES: tuple[Side, Side] = ("chosen", "rejected")

#: Numbers of top examples and of examples per band (both on each side), of misleading examples, and of similar latents.
TOP, PER_BAND, WRONG, SIMILAR = 5, 2, 5, 10
#: Quantiles of the peak activations between which the bands lie.
BANDS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Example:
    """A response, given by the index of its pair and its side, and the peak activation of the latent in it."""

    pair: int
    side: Side
    peak: float


@dataclass(frozen=True)
class Reading:
    """Activations ``[T]`` and projections ``[T]`` (float32) of a latent at every token of a response."""

    activations: np.ndarray
    scores: np.ndarray

    def scores_of(self, score: Score) -> np.ndarray:
        """``[T]`` float32 alignment scores: the projections, or gated, zero where the latent does not fire."""
        return self.scores * (self.activations > 0) if score == "gated" else self.scores


@dataclass(frozen=True)
class Band:
    """Examples with a peak activation between two quantiles of the peaks of all responses in which the latent fires."""

    low: float
    high: float
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class WrongSide:
    """A misleading example: a pair in which the latent pushes toward the rejected response.

    Attributes:
        pair: index of the pair.
        contribution: contribution to ``r(chosen) - r(rejected)``, below zero; in standard deviations of the score for a latent
            outside the head.
        score_chosen, score_rejected: alignment scores.
    """

    pair: int
    contribution: float
    score_chosen: float
    score_rejected: float


@dataclass(frozen=True)
class FeatureCard:
    """Statistics and examples of one latent on preference pairs.

    Attributes:
        feature: id of the latent.
        scores_chosen, scores_rejected: ``[n]`` float64 alignment scores, gated for a gated head.
        peaks_chosen, peaks_rejected: ``[n]`` float32 peak activations, 0 where it does not fire.
        top: the distinct responses with the highest peaks, strongest first, :data:`TOP` of each side.
        bands: examples from every quarter of the peaks, the highest quarter first.
        wrong: misleading examples, most negative contribution first; for a latent outside the head the sign of its mean score
            difference takes the place of the weight.
        similar: ids of other latents and the cosine similarity of their decoder directions, largest first.
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
        """All distinct responses that the card shows."""
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
    *,
    score: Score = "projection",
) -> FeatureCard:
    """Build the card of a latent; the backbone is not run.

    Args:
        texts: the pairs as text, in the order of ``pairs``.
        pairs: the representations of the pairs, with activation strengths.
        head: gives the weight of the latent if it is one of its features.
        score: what the alignment scores count where there is no head.

    Raises:
        SparseRMError: the SAE has no such latent, or the representations have no activation strengths.
    """
    if not 0 <= feature < sae.d_sae:
        raise SparseRMError(f"feature {feature} is not in SAE {sae.name}; expected 0 to {sae.d_sae - 1}")
    score = score if head is None else head.score
    chosen, rejected = (pooled_scores(side, feature, sae, score) for side in (pairs.chosen, pairs.rejected))
    peaks = {"chosen": pairs.chosen.by_latent.peaks(feature), "rejected": pairs.rejected.by_latent.peaks(feature)}
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


def pooled_scores(responses: Representations, feature: int, sae: SparseAutoencoder, score: Score) -> np.ndarray:
    """``[n]`` float64 alignment scores of one latent in responses.

    Raises:
        SparseRMError: gated scores, and the representations have no activation strengths or the SAE has no thresholds.
    """
    if score == "gated" and responses.pooling == "mean":
        return responses.by_latent.dense_gated(np.array([feature]))[:, 0]
    direction = sae.directions([feature]).cpu().numpy()
    projections = alignment_scores(responses.h, direction, sae.b_dec.cpu().numpy())[:, 0]
    if score == "projection":
        return projections
    import torch

    return np.asarray(projections * (sae.part([feature]).encode(torch.from_numpy(responses.h))[:, 0].numpy() > 0))


def read_examples(
    examples: Mapping[int, Sequence[Example]],
    texts: Sequence[PreferencePair],
    backbone: Backbone,
    sae: SparseAutoencoder,
    *,
    progress: Progress | None = None,
) -> dict[int, dict[tuple[int, Side], Reading]]:
    """Run the backbone on the examples of latents, once on each response.

    Args:
        examples: of each latent, by its id.

    Returns:
        ``{latent: {(pair, side): reading}}``, the latent at every response token.
    """
    wanted: dict[tuple[int, Side], list[int]] = {}
    for feature, own in examples.items():
        for one in own:
            wanted.setdefault((one.pair, one.side), []).append(feature)
    places = list(wanted)
    tokenized = [backbone.tokenize(texts[pair].prompt, getattr(texts[pair], side)) for pair, side in places]
    encoder, columns = sae.encoder_of(examples)
    near = encoder.to(backbone.device)
    center = sae.b_dec.cpu().numpy()
    found: dict[int, dict[tuple[int, Side], Reading]] = {feature: {} for feature in examples}
    for i, states in backbone.hidden_states(tokenized, [sae.hook], progress=progress):
        own_states = states[sae.hook][: tokenized[i].end - tokenized[i].start]
        features = wanted[places[i]]
        directions = sae.directions(features).cpu().numpy()
        scores = alignment_scores(own_states.cpu().numpy(), directions, center).astype(np.float32)
        activations = near.encode(own_states)[:, [columns[feature] for feature in features]].cpu().numpy()
        for column, feature in enumerate(features):
            found[feature][places[i]] = Reading(activations[:, column].copy(), scores[:, column].copy())
    return found


def similar_latents(sae: SparseAutoencoder, feature: int, n: int = SIMILAR) -> tuple[tuple[int, float], ...]:
    """The ``n`` latents with the most similar decoder directions, as ids and cosine similarities."""
    cosines = (sae.weights["W_dec"] @ sae.directions([feature])[0] / sae.norms).cpu().numpy().astype(np.float64)
    cosines[feature] = -np.inf
    order = np.argsort(-cosines, kind="stable")[: min(n, sae.d_sae - 1)]
    return tuple((int(j), float(cosines[j])) for j in order)


def neuronpedia_url(sae: SparseAutoencoder, feature: int) -> str | None:
    """URL of the latent's page on Neuronpedia; None where the SAE is not on Neuronpedia."""
    identity = str(sae.metadata.get("neuronpedia_id") or "")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", identity):
        return None
    return f"https://www.neuronpedia.org/{identity}/{feature}"


def neuronpedia_list_url(sae: SparseAutoencoder, features: Iterable[int], name: str) -> str | None:
    """URL of a list of latents on Neuronpedia, such as those of a head; None where the SAE is not on Neuronpedia.

    The form is that of SAELens's ``get_neuronpedia_quick_list``.
    """
    own = [url for url in (neuronpedia_url(sae, feature) for feature in features) if url is not None]
    parts = (url.rsplit("/", 3)[1:] for url in own)
    listed = [{"modelId": model, "layer": layer, "index": index} for model, layer, index in parts]
    query = urlencode({"name": name, "features": json.dumps(listed)}, quote_via=quote)
    return f"https://www.neuronpedia.org/quick-list/?{query}" if listed else None


def _strongest(peaks: np.ndarray, texts: Sequence[PreferencePair], side: Side) -> list[Example]:
    """The distinct responses of one side with the highest peaks."""
    order = (int(i) for i in np.argsort(-peaks, kind="stable") if peaks[i] > 0)
    return _distinct(order, peaks, texts, side, TOP)


def _bands(peaks: Mapping[str, np.ndarray], texts: Sequence[PreferencePair]) -> tuple[Band, ...]:
    """The responses nearest to the median of every quarter of the peaks, the highest quarter first."""
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
    """The distinct pairs with the most negative ``w_j (s_j(chosen) - s_j(rejected)) / sigma_j``."""
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


def _distinct(rows: Iterable[int], peaks: np.ndarray, texts: Sequence[PreferencePair], side: Side, n: int) -> list[Example]:
    """Examples of the first ``n`` distinct responses in ``rows``."""
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
