"""Policies beside the one that they came from: hand-computed win rates and gains, and what is concluded from them."""

from __future__ import annotations

import numpy as np
import pytest

from sparserm.policy.measures import Answers, JudgeMeasure, PolicyMeasures, conclude, measure_judge, measure_policy, win_shares

NAN = float("nan")


def test_win_rates_by_hand() -> None:
    start = np.array([[0.0, 2.0], [1.0, 1.0], [0.0, NAN]])
    rewards = np.array([[1.0, 3.0], [1.0, NAN], [NAN, 5.0]])
    # 1 beats 0, 3 beats both; 1 ties with both, the empty one loses to both; the empty one ties with one empty and loses
    # to 0, 5 beats both.
    assert win_shares(rewards, start).tolist() == [3 / 4, 1 / 4, 2.5 / 4]


def test_a_policy_that_has_not_moved_wins_half() -> None:
    rewards = np.random.default_rng(0).normal(size=(20, 3))
    found = measure_judge(rewards, rewards)
    assert found.win_rate == 0.5 and found.gain == 0 and found.verdict == "sees no difference"


def test_gains_are_in_deviations_of_the_start_and_verdicts_follow_the_interval() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(200, 2))
    better = measure_judge(start + 2 * start.std(), start)
    assert better.gain == pytest.approx(2)
    assert better.verdict == "prefers the policy"
    assert measure_judge(start - 1, start).verdict == "prefers the start"
    noise = measure_judge(rng.normal(size=(200, 2)), start)
    assert noise.win_ci95[0] < 0.5 < noise.win_ci95[1] and noise.verdict == "sees no difference"


def test_few_prompts_that_agree_are_no_proof() -> None:
    start = np.zeros((2, 2))
    assert measure_judge(np.array([[1.0, 0.0], [1.0, 0.0]]), start).verdict == "sees no difference"
    assert measure_judge(np.ones((2, 2)), start).verdict == "sees no difference"
    assert measure_judge(np.ones((20, 2)), np.zeros((20, 2))).verdict == "prefers the policy"


def test_verdicts_on_nothing_are_rare() -> None:
    rng = np.random.default_rng(0)
    for prompts in (3, 8, 48):
        found = [measure_judge(*rng.normal(size=(2, prompts, 2))).verdict for _ in range(400)]
        assert np.mean([verdict != "sees no difference" for verdict in found]) < 0.09


def test_a_policy_that_says_nothing_loses() -> None:
    start = answers(np.arange(12.0).reshape(6, 2), np.ones((6, 2, 3)))
    silent = answers(np.full((6, 2), NAN), np.full((6, 2, 3), NAN))
    found = measure_policy(1, silent, start, [7, 8, 9])
    assert found.empty == 1 and found.features == {}
    judged = found.judges["head"]
    assert (judged.reward, judged.gain, judged.gain_ci95, judged.win_rate) == (None, None, None, 0)
    assert judged.verdict == "prefers the start"
    back = measure_policy(1, start, silent, [7, 8, 9]).judges["head"]
    assert back.win_rate == 1 and back.gain is None
    half = silent.rewards["head"].copy()
    half[0, 1] = 3
    assert measure_judge(half, start.rewards["head"]).gain_ci95 is None


def answers(rewards: np.ndarray, parts: np.ndarray | None = None) -> Answers:
    ones = np.ones(rewards.shape)
    return Answers({"head": rewards, "other": rewards}, parts, 3 * ones, ones > 0, 2 * ones)


def test_features_that_rise_add_up_to_the_rewards_rise() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(size=(5, 2, 3)), rng.normal(size=(5, 2, 3)) + 1
    after[0, 0] = NAN  # an empty answer
    start, end = answers(before.sum(2), before), answers(after.sum(2), after)
    found = measure_policy(2, end, start, [7, 8, 9])
    assert found.kl_ci95 == (2, 2)
    assert found.empty == 0.1 and found.tokens == 3 and found.kl == 2 and found.finished == 1
    risen = np.subtract(
        *(list(measure_policy(i, one, start, [7, 8, 9]).features.values()) for i, one in ((2, end), (0, start)))
    )
    change = found.judges["head"].reward - measure_policy(0, start, start, [7, 8, 9]).judges["head"].reward
    assert risen.sum() == pytest.approx(change)
    assert measure_policy(1, answers(before.sum(2)), start, []).features == {}


@pytest.mark.parametrize(
    ("own", "others", "said"),
    [
        ("prefers the policy", ["prefers the policy"] * 2, "Confirmed"),
        ("prefers the policy", ["prefers the policy", "sees no difference"], "no difference is seen by judge 1"),
        ("prefers the policy", ["prefers the start", "sees no difference"], "Over-optimised.*by judge 0"),
        ("prefers the policy", [], "there are no other judges"),
        ("sees no difference", ["prefers the policy"], "training did not increase its reward"),
    ],
)
def test_what_is_concluded(own, others, said) -> None:
    def judge(verdict) -> JudgeMeasure:
        return JudgeMeasure(0, 0, (0, 0), 0.5, (0, 1), verdict)

    judges = {"head": judge(own), **{f"judge {i}": judge(one) for i, one in enumerate(others)}}
    import re

    assert re.search(said, conclude(PolicyMeasures(1, judges, 0, 0, 0, 0, (0, 0), {}), "head"))
