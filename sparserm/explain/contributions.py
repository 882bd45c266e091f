"""Exact additive explanations of rewards: contributions by feature and token, and differences between responses.

A reward is linear in the alignment scores (SparseRM, arXiv 2511.07896), so contributions sum exactly to rewards and margins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparserm.heads.reward import RewardHead, contributions, token_scores


@dataclass(frozen=True)
class Contribution:
    """Contribution of one feature to a reward: ``contribution = weight * (score - mu) / sigma``."""

    feature: int
    label: str
    score: float
    weight: float
    contribution: float


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
        token_activations: ``[T, K]`` float32 activations of the features' latents; None without an SAE.
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
    """Contribution of one feature to a margin ``r(A) - r(B)``: ``contribution = weight * (score_a - score_b) / sigma``."""

    feature: int
    label: str
    score_a: float
    score_b: float
    weight: float
    contribution: float


@dataclass(frozen=True)
class Comparison:
    """Rewards of several responses to one prompt, and the margin between two of them.

    ``margin`` and ``contributions`` are those of the first minus the second of two responses, and of the best minus the next
    best of more.
    """

    rewards: tuple[float, ...]
    ranking: tuple[int, ...]
    margin: float
    contributions: tuple[FeatureDifference, ...]


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
        activations: ``[T, K]`` activations of the head's latents, passed through to the explanation.
    """
    n = len(tokens)
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
    parts = [
        Contribution(int(f), label_of(labels, int(f)), float(s), float(w), float(c))
        for f, s, w, c in zip(head.features, scores, head.weights, total, strict=True)
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
        token_activations=activations,
    )


def explain_difference(a: Explanation, b: Explanation) -> tuple[FeatureDifference, ...]:
    """Contributions to the margin ``r(a) - r(b)`` of two explanations by the same head, largest first; they sum to it."""
    others = {part.feature: part for part in b.contributions}
    parts = [
        FeatureDifference(
            part.feature,
            part.label,
            part.score,
            others[part.feature].score,
            part.weight,
            part.contribution - others[part.feature].contribution,
        )
        for part in a.contributions
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
    parts = [
        FeatureDifference(int(f), label_of(labels, int(f)), float(sa), float(sb), float(w), float(w * (sa - sb) / sigma))
        for f, sa, sb, w, sigma in zip(head.features, scores[a], scores[b], head.weights, head.sigma, strict=True)
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
