"""Exact additive explanations of rewards: contributions by feature and token, and differences between responses.

A reward is linear in the alignment scores (SparseRM, arXiv 2511.07896), so contributions sum exactly to rewards and margins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparserm.heads.reward import RewardHead, contributions, token_activations, token_scores


@dataclass(frozen=True)
class Contribution:
    """Contribution of one feature to a reward: ``contribution = weight * (score - mu) / sigma``.

    Attributes:
        fires: whether the feature fires at a token that is pooled; with gated scores the contribution is zero where it does
            not. None if unknown: projections, without the SAE.
        activation: its largest activation at a token that is pooled: of the response with mean pooling, at the end of the turn
            with last pooling. ``fires`` is ``activation > 0``. None if unknown.
        family: the feature that leads its family, see :attr:`~sparserm.heads.reward.RewardHead.leaders`; by default itself.
    """

    feature: int
    label: str
    score: float
    weight: float
    contribution: float
    mu: float = 0.0
    sigma: float = 1.0
    fires: bool | None = None
    activation: float | None = None
    family: int = -1

    def __post_init__(self) -> None:
        if self.family < 0:
            object.__setattr__(self, "family", self.feature)


@dataclass(frozen=True)
class Explanation:
    """A reward with its contributions: ``reward == sum(contributions) + bias``.

    Attributes:
        contributions: largest absolute contribution first.
        tokens: ``[T]`` the response's tokens as text; joined they give the response.
        token_contributions: ``[T, K]`` float64 in the head's feature order. Mean pooling: the share of each token, so that each
            column sums to the feature's contribution, and all entries plus ``bias`` to the reward. Last pooling: the
            contributions computed from that token instead of from the end of the turn.
        running_reward: ``[T]`` reward of the response up to and including each token. With last pooling it is computed from the
            token itself; the reward is computed from the end of the turn, so it is close to the last value but not equal.
        features: ``[K]`` latent ids, the columns of ``token_contributions``.
        n_truncated: tokens cut from the left of the prompt.
        token_scores: ``[T, K]`` float64 alignment scores at each token.
        token_activations: ``[T, K]`` float32 activations of the features' latents; None for projections without an SAE.
    """

    reward: float
    bias: float
    contributions: tuple[Contribution, ...]
    tokens: tuple[str, ...]
    token_contributions: np.ndarray
    running_reward: np.ndarray
    features: np.ndarray
    n_truncated: int = 0
    token_scores: np.ndarray | None = None
    token_activations: np.ndarray | None = None


@dataclass(frozen=True)
class FeatureDifference:
    """Contribution of one feature to a margin ``r(A) - r(B)``: ``contribution = weight * (score_a - score_b) / sigma``.

    Attributes:
        fires_a, fires_b, activation_a, activation_b: as in :class:`Contribution`, for each response; None if unknown.
        family: as in :class:`Contribution`.
    """

    feature: int
    label: str
    score_a: float
    score_b: float
    weight: float
    contribution: float
    sigma: float = 1.0
    fires_a: bool | None = None
    fires_b: bool | None = None
    activation_a: float | None = None
    activation_b: float | None = None
    family: int = -1

    def __post_init__(self) -> None:
        if self.family < 0:
            object.__setattr__(self, "family", self.feature)


@dataclass(frozen=True)
class Comparison:
    """Rewards of several responses to one prompt, and the margin between two of them.

    ``margin`` and ``contributions`` are those of the first minus the second of two responses, and of the best minus the next
    best of more. ``n_truncated``: for each response, tokens cut from the left of the prompt.
    """

    rewards: tuple[float, ...]
    ranking: tuple[int, ...]
    margin: float
    contributions: tuple[FeatureDifference, ...]
    n_truncated: tuple[int, ...] = ()


@dataclass(frozen=True)
class InspectedInput:
    """The tokens that the language model reads for one response.

    Attributes:
        tokens: ``[N]`` all tokens of the chat-templated text; joined they give the text.
        scored: ``[N]`` whether the head reads the representation at that token: the response tokens with mean pooling, the
            last token of the text with last pooling.
        n_truncated: tokens cut from the left of the prompt.
    """

    tokens: tuple[str, ...]
    scored: tuple[bool, ...]
    n_truncated: int


def explain_response(
    head: RewardHead,
    h: np.ndarray,
    tokens: Sequence[str],
    labels: Mapping[int, str],
    n_truncated: int = 0,
    activations: np.ndarray | None = None,
) -> Explanation:
    """Explain the reward of one response by feature and by token.

    Args:
        h: ``[T + c, d]`` representation at every response token and at the ``c`` tokens that close its turn.
        tokens: ``[T]`` texts of the response tokens.
        labels: feature labels by id.
        n_truncated: tokens cut from the left of the prompt.
        activations: ``[T + c, K]`` activations of the head's latents; a gated head computes them itself.
    """
    n = len(tokens)
    if head.encoder:
        activations = token_activations(head, h)
    at_tokens = token_scores(head, h[:n])
    per_token = contributions(head, at_tokens)
    if head.pooling == "mean":
        running = per_token.cumsum(0).sum(1) / np.arange(1, n + 1) + head.bias
        token_contributions = per_token / n
        total = token_contributions.sum(0)
        scores = at_tokens.mean(0)
    else:
        running = per_token.sum(1) + head.bias
        token_contributions = per_token
        scores = token_scores(head, h[-1])
        total = contributions(head, scores)
    pooled = activations if activations is None else activations[:n] if head.pooling == "mean" else activations[-1:]
    parts = [
        Contribution(
            feature=int(feature),
            label=label_of(labels, int(feature)),
            score=float(scores[j]),
            weight=float(head.weights[j]),
            contribution=float(total[j]),
            mu=float(head.mu[j]),
            sigma=float(head.sigma[j]),
            fires=None if pooled is None else bool((pooled[:, j] > 0).any()),
            activation=None if pooled is None else float(pooled[:, j].max(initial=0.0)),
            family=int(head.leaders[j]),
        )
        for j, feature in enumerate(head.features)
    ]
    return Explanation(
        reward=float(total.sum() + head.bias),
        bias=head.bias,
        contributions=tuple(sorted(parts, key=lambda part: -abs(part.contribution))),
        tokens=tuple(tokens),
        token_contributions=token_contributions,
        running_reward=running,
        features=head.features,
        n_truncated=n_truncated,
        token_scores=at_tokens,
        token_activations=None if activations is None else activations[:n],
    )


def explain_difference(a: Explanation, b: Explanation) -> tuple[FeatureDifference, ...]:
    """Contributions to the margin ``r(a) - r(b)`` of two explanations by the same head, largest first; they sum to it."""
    others = {part.feature: part for part in b.contributions}
    both = [(part, others[part.feature]) for part in a.contributions]
    parts = [
        FeatureDifference(
            feature=one.feature,
            label=one.label,
            score_a=one.score,
            score_b=other.score,
            weight=one.weight,
            contribution=one.contribution - other.contribution,
            sigma=one.sigma,
            fires_a=one.fires,
            fires_b=other.fires,
            activation_a=one.activation,
            activation_b=other.activation,
            family=one.family,
        )
        for one, other in both
    ]
    return tuple(sorted(parts, key=lambda part: -abs(part.contribution)))


def compare_responses(head: RewardHead, scores: np.ndarray, labels: Mapping[int, str]) -> Comparison:
    """Rank responses and explain a margin: the first minus the second of two, the best minus the next best of more.

    Args:
        scores: ``[n, K]`` alignment scores of the responses, ``n`` at least 2.
        labels: feature labels by id.
    """
    totals = contributions(head, scores).sum(1) + head.bias
    ranking = tuple(int(i) for i in np.argsort(-totals, kind="stable"))
    a, b = (0, 1) if len(scores) == 2 else ranking[:2]
    fires = [None if head.encoder is None else scores[i] != 0 for i in (a, b)]  # a gated score is zero where it is silent
    parts = [
        FeatureDifference(
            feature=int(feature),
            label=label_of(labels, int(feature)),
            score_a=float(scores[a][j]),
            score_b=float(scores[b][j]),
            weight=float(head.weights[j]),
            contribution=float(head.weights[j] * (scores[a][j] - scores[b][j]) / head.sigma[j]),
            sigma=float(head.sigma[j]),
            fires_a=None if fires[0] is None else bool(fires[0][j]),
            fires_b=None if fires[1] is None else bool(fires[1][j]),
            family=int(head.leaders[j]),
        )
        for j, feature in enumerate(head.features)
    ]
    return Comparison(
        rewards=tuple(float(r) for r in totals),
        ranking=ranking,
        margin=float(totals[a] - totals[b]),
        contributions=tuple(sorted(parts, key=lambda part: -abs(part.contribution))),
    )


def label_of(labels: Mapping[int, str], feature: int) -> str:
    """The feature's label, or its number where it has none."""
    return labels.get(feature) or f"feature {feature}"
