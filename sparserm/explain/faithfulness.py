"""Faithfulness of explanations: additivity, interventions on the representation, and activation steering.

Contributions sum to the reward by construction; these errors are measured on the real path from text to reward. A feature of a
gated head counts only where it fires, and moving the representation makes it fire at other tokens: predictions follow its gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sparserm.backbone.model import Backbone
from sparserm.explain.contributions import explain_response
from sparserm.heads.reward import RewardHead, alignment_scores, contributions, rewards, token_activations, token_scores
from sparserm.representations.represent import represent
from sparserm.types import HookPoint, Progress, SparseRMError, Text

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
        move: error of :func:`predicted_change` when the representations at the tokens are moved along a feature's direction.
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


def predicted_change(head: RewardHead, amount: float = AMOUNT, states: np.ndarray | None = None) -> np.ndarray:
    """``[K]`` predicted change of the reward when ``h`` moves along each feature's direction by ``amount * sigma``.

    The projection onto a feature's own direction changes by that much, onto others in proportion to the cosine between the
    directions. With projections the reward changes by ``weight * amount`` for the feature itself, in every response. With gated
    scores only the tokens count at which a feature fires after the move; those at which it no longer fires count as zero.

    Args:
        states: ``[T, d]`` representations that are pooled, of one response; required by gated heads.

    Raises:
        SparseRMError: a gated head without ``states``.
    """
    cosines = head.directions.astype(np.float64) @ head.directions.T.astype(np.float64)
    shifts = amount * head.sigma[:, None] * cosines
    if head.encoder is None:
        return np.asarray(shifts @ (head.weights / head.sigma))
    if states is None:
        raise SparseRMError("the head is gated, so its reward changes where its features fire; give the states of a response")
    before, projections = token_scores(head, states), alignment_scores(states, head.directions, head.center)
    change = np.empty(len(shifts))
    for j, (step, shift) in enumerate(zip(_steps(head, amount), shifts, strict=True)):
        after = np.where(token_activations(head, states + step) > 0, projections + shift, 0.0)
        change[j] = (after - before).mean(0) @ (head.weights / head.sigma)
    return change


def measure_faithfulness(
    head: RewardHead,
    hook: HookPoint,
    texts: Sequence[Text],
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
    states, n_tokens = _states(texts, hook, backbone)
    scored = _rewards(head, hook, texts, backbone)
    explained = [explain_response(head, state, [""] * n, {}) for state, n in zip(states, n_tokens, strict=True)]
    feature_sums = [sum(part.contribution for part in one.contributions) + one.bias for one in explained]
    token_sums = [float(one.token_contributions.sum()) + one.bias for one in explained]
    pooled = [state[-1:] if head.pooling == "last" else state[:n] for state, n in zip(states, n_tokens, strict=True)]
    predicted = np.stack([predicted_change(head, AMOUNT, own) for own in pooled], axis=1)
    steps = _steps(head, AMOUNT)
    moved = np.stack([_rewards_at(head, [own + step for own in pooled]) for step in steps]) - _rewards_at(head, pooled)
    order = np.argsort(-np.abs(head.weights), kind="stable")[:features]
    steered = []
    for done, j in enumerate(order):
        with backbone.steering(hook, torch.from_numpy(steps[j])):
            again = _rewards(head, hook, texts, backbone)
        steered.append(again - scored - predicted[j])
        if progress:
            progress(done + 1, len(order), "Steering (features)")
    return Faithfulness(
        texts=len(texts),
        features=len(order),
        feature_sum=float(np.abs(feature_sums - scored).max()),
        token_sum=float(np.abs(token_sums - scored).max()) if head.pooling == "mean" else None,
        move=float(np.abs(moved - predicted).max()),
        steer=float(np.abs(steered).max()),
        spread=float(scored.std()),
    )


def _steps(head: RewardHead, amount: float) -> np.ndarray:
    """``[K, d]`` float32 move along each feature's direction by ``amount * sigma``."""
    return np.asarray((amount * head.sigma[:, None] * head.directions).astype(np.float32))


def _rewards(head: RewardHead, hook: HookPoint, texts: Sequence[Text], backbone: Backbone) -> np.ndarray:
    """``[n]`` rewards of texts, as they are scored; nothing is stored."""
    gate = head.gate if head.pooling == "mean" else None
    return rewards(head, represent(texts, backbone, {hook: gate}, head.pooling)[hook])


def _rewards_at(head: RewardHead, pooled: Sequence[np.ndarray]) -> np.ndarray:
    """``[n]`` rewards of responses from the representations ``[T, d]`` that are pooled."""
    scores = np.stack([token_scores(head, own).mean(0) for own in pooled])
    return contributions(head, scores).sum(1) + head.bias


def _states(texts: Sequence[Text], hook: HookPoint, backbone: Backbone) -> tuple[list[np.ndarray], list[int]]:
    """``[T + c, d]`` representations of each text, in order, and its number ``T`` of response tokens; nothing is stored."""
    tokenized = backbone.chat.many(texts)
    found: dict[int, np.ndarray] = {i: own[hook].cpu().numpy() for i, own in backbone.hidden_states(tokenized, [hook])}
    return [found[i] for i in range(len(texts))], [text.end - text.start for text in tokenized]
