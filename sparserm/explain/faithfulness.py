"""Whether explanations say what the model does: their sums, what moving a representation does, what steering the model does.

An explanation is faithful by construction where the reward is a sum; here it is measured, on the real path from text to reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sparserm.backbone.model import Backbone
from sparserm.explain.contributions import explain_response
from sparserm.heads.reward import RewardHead, rewards
from sparserm.types import HookPoint, Progress, SparseRMError, TokenizedText

#: How far representations are moved, in standard deviations of the feature's alignment score.
AMOUNT = 2.0


@dataclass(frozen=True)
class Faithfulness:
    """Largest absolute errors over texts and features, in units of reward.

    Attributes:
        texts: how many were scored, and ``features`` steered along for each of them.
        feature_sum: contributions and bias, against the reward.
        token_sum: with mean pooling contributions of tokens and bias, against the reward; None with last pooling.
        move: a representation moved along a feature's direction, against :func:`predicted_change`.
        steer: the residual stream steered along it at the hook and the text scored anew, against the same prediction.
        spread: standard deviation of the rewards, to hold the errors against.
    """

    texts: int
    features: int
    feature_sum: float
    token_sum: float | None
    move: float
    steer: float
    spread: float


def predicted_change(head: RewardHead, amount: float = AMOUNT) -> np.ndarray:
    """``[K]`` change of the reward when ``h`` moves along each feature's direction by ``amount`` of its score's sigma.

    Along one direction the feature's own score moves by the amount, which changes the reward by exactly ``weight x amount``;
    scores of features whose directions are not orthogonal to it move with it, each by its cosine.
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
    """Explain, move and steer.

    Args:
        features: how many of the head's features are steered along, those of largest weight first: each costs a pass.

    Raises:
        SparseRMError: there are no texts.
    """
    if not texts:
        raise SparseRMError("there are no texts to explain; give at least one")
    states = _states(texts, hook, backbone)
    pooled = _pooled(states, texts, head)
    scored = rewards(head, pooled)
    explained = [
        explain_response(head, state, [""] * (text.end - text.start), {}) for state, text in zip(states, texts, strict=True)
    ]
    feature_sums = [sum(part.contribution for part in one.contributions) + one.bias for one in explained]
    token_sums = [float(one.token_contributions.sum()) + one.bias for one in explained]
    predicted = predicted_change(head)
    steps = AMOUNT * head.sigma[:, None] * head.directions
    moved = np.stack([rewards(head, pooled + step) for step in steps]) - scored
    order = np.argsort(-np.abs(head.weights), kind="stable")[:features]
    steered = []
    for done, j in enumerate(order):
        with backbone.steering(hook, torch.from_numpy(steps[j].astype(np.float32))):
            again = rewards(head, _pooled(_states(texts, hook, backbone), texts, head))
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


def _states(texts: Sequence[TokenizedText], hook: HookPoint, backbone: Backbone) -> list[np.ndarray]:
    """``[T + c, d]`` of each text, in their order; nothing is stored."""
    found: dict[int, np.ndarray] = {i: own[hook].cpu().numpy() for i, own in backbone.hidden_states(texts, [hook])}
    return [found[i] for i in range(len(texts))]


def _pooled(states: Sequence[np.ndarray], texts: Sequence[TokenizedText], head: RewardHead) -> np.ndarray:
    """``[n, d]``."""
    if head.pooling == "last":
        return np.stack([state[-1] for state in states])
    return np.stack([state[: text.end - text.start].mean(0) for state, text in zip(states, texts, strict=True)])
