"""Comparing a trained policy's answers to held-out prompts with those of the initial policy.

Rewards of different judges have different scales, so judges are compared by how often the policy's answers win against the
initial policy's, and by the mean reward in standard deviations of the initial policy's answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["prefers the policy", "sees no difference", "prefers the start"]


@dataclass(frozen=True)
class Answers:
    """A policy's answers to held-out prompts: ``P`` prompts, ``n`` answers to each.

    Attributes:
        rewards: for each judge ``[P, n]``; NaN for an empty answer, which has none.
        contributions: ``[P, n, K]`` of the ranking head's features, NaN for an empty answer; None for a classifier.
        tokens, finished: ``[P, n]`` the length of each answer, and whether its turn ended (it was not truncated).
        divergence: ``[P, n]`` KL from the initial policy along each answer, in nats.
    """

    rewards: Mapping[str, np.ndarray]
    contributions: np.ndarray | None
    tokens: np.ndarray
    finished: np.ndarray
    divergence: np.ndarray


@dataclass(frozen=True)
class JudgeMeasure:
    """Comparison of a policy's answers with the initial policy's by one judge.

    Attributes:
        reward: mean over non-empty answers, on the judge's own scale; None if all are empty.
        gain: mean over prompts of the difference in mean reward between the policy's and the initial policy's answers, in
            standard deviations of the initial policy's answers. Empty answers are left out, and so are prompts with only
            empty answers from either; None if none is left.
        win_rate: probability that an answer of the policy wins against one of the initial policy to the same prompt; a tie
            counts half, an empty answer loses to any other.
        gain_ci95, win_ci95: 95 % intervals over prompts.
        verdict: whether the interval of the win rate is above, below or around one half; "the start" is the initial policy.
    """

    reward: float | None
    gain: float | None
    gain_ci95: tuple[float, float] | None
    win_rate: float
    win_ci95: tuple[float, float]
    verdict: Verdict


@dataclass(frozen=True)
class PolicyMeasures:
    """Measures of a policy after a round; round 0 is the initial policy.

    Attributes:
        judges: the ranker first, then the others.
        tokens: mean length of an answer; ``finished``, ``empty``: shares of answers that were not truncated, and that are
            empty.
        kl: mean divergence from the initial policy in nats per answer; ``kl_ci95``: 95 % interval over prompts.
        features: mean contribution of each of the ranking head's features to a non-empty answer, by feature id.
    """

    round: int
    judges: dict[str, JudgeMeasure]
    tokens: float
    finished: float
    empty: float
    kl: float
    kl_ci95: tuple[float, float]
    features: dict[int, float]


def measure_policy(number: int, answers: Answers, start: Answers, features: Sequence[int]) -> PolicyMeasures:
    """Compare a policy's answers with the initial policy's to the same prompts.

    Args:
        number: of the round.
        features: ids of the ranking head's features, in the order of the contributions; empty for a classifier.
    """
    first = next(iter(answers.rewards.values()))
    empty = np.isnan(first)
    means: list[float] = []
    if answers.contributions is not None and not empty.all():
        means = answers.contributions[~empty].mean(0).tolist()
    kl = answers.divergence.mean(1)
    return PolicyMeasures(
        round=number,
        judges={name: measure_judge(rewards, start.rewards[name]) for name, rewards in answers.rewards.items()},
        tokens=float(answers.tokens.mean()),
        finished=float(answers.finished.mean()),
        empty=float(empty.mean()),
        kl=float(kl.mean()),
        kl_ci95=_interval(kl),
        features=dict(zip(features, means, strict=True)) if means else {},
    )


def measure_judge(rewards: np.ndarray, start: np.ndarray) -> JudgeMeasure:
    """Compare the rewards ``[P, n]`` of a policy's answers with those of the initial policy to the same prompts."""
    both = ~(np.isnan(rewards).all(1) | np.isnan(start).all(1))
    gains = np.nanmean(rewards[both], 1) - np.nanmean(start[both], 1)
    spread = float(np.nanstd(start[both])) if both.any() else 0.0
    gains = gains / spread if spread > 0 else gains
    wins = win_shares(rewards, start)
    interval = _interval(np.array([*wins, 0.0, 1.0]))
    verdict: Verdict = "sees no difference"
    if interval[0] > 0.5 or interval[1] < 0.5:
        verdict = "prefers the policy" if interval[0] > 0.5 else "prefers the start"
    return JudgeMeasure(
        reward=None if np.isnan(rewards).all() else float(np.nanmean(rewards)),
        gain=float(gains.mean()) if len(gains) else None,
        gain_ci95=_interval(gains) if len(gains) > 1 else None,
        win_rate=float(wins.mean()),
        win_ci95=interval,
        verdict=verdict,
    )


def win_shares(rewards: np.ndarray, start: np.ndarray) -> np.ndarray:
    """``[P]`` for each prompt the share of pairs of a policy's and the initial policy's answer that the policy wins."""
    mine, theirs = (np.nan_to_num(side, nan=-np.inf) for side in (rewards, start))
    better = mine[:, :, None] > theirs[:, None, :]
    ties = mine[:, :, None] == theirs[:, None, :]
    return np.asarray((better + 0.5 * ties).mean((1, 2)))


def conclude(measures: PolicyMeasures, ranker: str) -> str:
    """One sentence on over-optimisation: whether the judges that took no part in the training agree with the ranker."""
    own = measures.judges[ranker]
    others = {name: judge for name, judge in measures.judges.items() if name != ranker}
    if own.verdict != "prefers the policy":
        return f"The ranker {own.verdict}: training did not increase its reward."
    if not others:
        return "The ranker prefers the policy; there are no other judges, so this may be over-optimisation."
    against = [name for name, judge in others.items() if judge.verdict == "prefers the start"]
    unmoved = [name for name, judge in others.items() if judge.verdict == "sees no difference"]
    if against:
        return f"Over-optimised: the ranker prefers the policy, but the initial policy is preferred by {' and '.join(against)}."
    if unmoved:
        return f"Not confirmed: the ranker prefers the policy, but no difference is seen by {' and '.join(unmoved)}."
    return "Confirmed: the ranker prefers the policy, and so does every judge that had no part in the training."


def _interval(values: np.ndarray) -> tuple[float, float]:
    """95 % t interval of the mean of one value for each prompt, since there may be few prompts.

    Win shares may by chance be equal for all of a few prompts, which would give an interval of width zero; the caller adds one
    loss and one win to them, similar to Agresti and Coull (1998) for proportions.
    """
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return float(values.mean()) - half, float(values.mean()) + half
