"""Faithfulness of explanations: additivity, interventions on the representation, and activation steering.

Contributions sum to the reward by construction; these errors are measured on the real path from text to reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sparserm.backbone.model import Backbone
from sparserm.explain.contributions import explain_response
from sparserm.heads.reward import RewardHead, contributions, token_scores
from sparserm.types import HookPoint, Progress, SparseRMError, TokenizedText

#: Size of an intervention, in standard deviations of the feature's alignment score.
AMOUNT = 2.0


@dataclass(frozen=True)
class Faithfulness:
    """Largest absolute errors over texts and features, in units of reward.

    Attributes:
        texts: number of texts scored.
        features: number of features whose directions were steered along.
        feature_sum: error of the sum of contributions and bias.
        token_sum: error of the sum of token contributions and bias with mean pooling; None with last pooling.
        move: error of :func:`predicted_change` when the pooled representation is moved along a feature's direction.
        steer: error of the same prediction when the residual stream is steered at the hook and the text is scored again.
        spread: standard deviation of the rewards, for scale.
    """

    texts: int
    features: int
    feature_sum: float
    token_sum: float | None
    move: float
    steer: float
    spread: float


def predicted_change(head: RewardHead, amount: float = AMOUNT) -> np.ndarray:
    """``[K]`` predicted change of the reward when ``h`` moves along each feature's direction by ``amount * sigma``.

    The feature's own score changes by that much, which changes the reward by exactly ``weight * amount``. The scores of other
    features change in proportion to the cosine between the directions.
    """
    cosines = head.directions.astype(np.float64) @ head.directions.T.astype(np.float64)
    return np.asarray(amount * head.sigma * (cosines @ (head.weights / head.sigma)))


def measure_faithfulness(
    head: RewardHead,
    hook: HookPoint,
    texts: Sequence[TokenizedText],
    backbone: Backbone,
    *,
    features: int = 8,
    progress: Progress | None = None,
) -> Faithfulness:
    """Measure the errors of explanations and predicted interventions.

    Args:
        features: number of features steered along, largest absolute weight first; each costs one pass of the backbone.

    Raises:
        SparseRMError: there are no texts.
    """
    if not texts:
        raise SparseRMError("there are no texts to explain; give at least one")
    states = _states(texts, hook, backbone)
    pooled = _pooled(states, texts, head)
    scored = _rewards(head, pooled)
    explained = [
        explain_response(head, state, [""] * (text.end - text.start), {}) for state, text in zip(states, texts, strict=True)
    ]
    feature_sums = [sum(part.contribution for part in one.contributions) + one.bias for one in explained]
    token_sums = [float(one.token_contributions.sum()) + one.bias for one in explained]
    predicted = predicted_change(head)
    steps = AMOUNT * head.sigma[:, None] * head.directions
    moved = np.stack([_rewards(head, pooled + step) for step in steps]) - scored
    order = np.argsort(-np.abs(head.weights), kind="stable")[:features]
    steered = []
    for done, j in enumerate(order):
        with backbone.steering(hook, torch.from_numpy(steps[j].astype(np.float32))):
            again = _rewards(head, _pooled(_states(texts, hook, backbone), texts, head))
        steered.append(again - scored - predicted[j])
        if progress:
            progress(done + 1, len(order), "Steering (features)")
    return Faithfulness(
        texts=len(texts),
        features=len(order),
        feature_sum=float(np.abs(feature_sums - scored).max()),
        token_sum=float(np.abs(token_sums - scored).max()) if head.pooling == "mean" else None,
        move=float(np.abs(moved - predicted[:, None]).max()),
        steer=float(np.abs(steered).max()),
        spread=float(scored.std()),
    )


def _rewards(head: RewardHead, pooled: np.ndarray) -> np.ndarray:
    """``[n]`` rewards of pooled representations ``[n, d]``."""
    return contributions(head, token_scores(head, pooled)).sum(1) + head.bias


def _states(texts: Sequence[TokenizedText], hook: HookPoint, backbone: Backbone) -> list[np.ndarray]:
    """``[T + c, d]`` representations of each text, in order; nothing is stored."""
    found: dict[int, np.ndarray] = {i: own[hook].cpu().numpy() for i, own in backbone.hidden_states(texts, [hook])}
    return [found[i] for i in range(len(texts))]


def _pooled(states: Sequence[np.ndarray], texts: Sequence[TokenizedText], head: RewardHead) -> np.ndarray:
    """``[n, d]`` pooled representations."""
    if head.pooling == "last":
        return np.stack([state[-1] for state in states])
    return np.stack([state[: text.end - text.start].mean(0) for state, text in zip(states, texts, strict=True)])
