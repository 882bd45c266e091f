"""Explanations: every margin of the token by feature matrix adds up, and so do the differences between responses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparserm.explain.contributions import Explanation, compare_responses, explain_difference, explain_response, label_of
from sparserm.heads.reward import RewardHead, contributions, rewards, token_scores
from tests.unit.explain.random_heads import random_head
from tests.unit.responses import responses

#: Contributions of h = (x, y) are 2 (x - 1) and -(y - 2) / 2.
HEAD = RewardHead(
    features=np.array([4, 9]),
    directions=np.eye(2, dtype=np.float32),
    center=np.zeros(2, np.float32),
    mu=np.array([1.0, 2.0]),
    sigma=np.array([0.5, 2.0]),
    weights=np.array([1.0, -1.0]),
    bias=0.25,
    pooling="mean",
)
#: Two response tokens, then one that closes the turn.
H = np.array([[2.0, 2.0], [1.0, 6.0], [4.0, 0.0]], np.float32)
TOKENS, LABELS = ["Yes", "!"], {4: "politeness"}


def _by_feature(explanation: Explanation) -> list[float]:
    values = {part.feature: part.contribution for part in explanation.contributions}
    return [values[int(feature)] for feature in explanation.features]


def test_mean_pooling_by_hand() -> None:
    found = explain_response(HEAD, H, TOKENS, LABELS, n_truncated=3)
    np.testing.assert_allclose(found.token_contributions, [[1.0, 0.0], [0.0, -1.0]])
    assert _by_feature(found) == [1.0, -1.0]
    assert found.reward == 0.25
    np.testing.assert_allclose(found.running_reward, [2.25, 0.25])
    assert (found.tokens, found.n_truncated, found.bias) == (("Yes", "!"), 3, 0.25)


def test_last_pooling_by_hand() -> None:
    found = explain_response(replace(HEAD, pooling="last"), H, TOKENS, LABELS)
    assert _by_feature(found) == [6.0, 1.0]
    assert found.reward == 7.25
    np.testing.assert_allclose(found.token_contributions, [[2.0, 0.0], [0.0, -2.0]])
    np.testing.assert_allclose(found.running_reward, [2.25, -1.75])


def test_a_contribution_says_where_it_comes_from() -> None:
    part = explain_response(HEAD, H, TOKENS, LABELS).contributions[0]
    assert (part.feature, part.label, part.score, part.weight, part.contribution) == (4, "politeness", 1.5, 1.0, 1.0)


@pytest.mark.parametrize("seed", range(20))
def test_mean_pooling_adds_up_along_every_margin(seed: int) -> None:
    head, h = random_head(seed, "mean")
    n = len(h) - 1
    found = explain_response(head, h, ["x"] * n, {})
    cells = found.token_contributions
    assert cells.shape == (n, len(head.features))
    np.testing.assert_allclose(cells.sum(0), _by_feature(found), atol=1e-12)
    assert cells.sum() + head.bias == pytest.approx(found.reward, abs=1e-12)
    assert sum(_by_feature(found)) + head.bias == pytest.approx(found.reward, abs=1e-12)
    assert found.running_reward[-1] == pytest.approx(found.reward, abs=1e-12)
    assert found.reward == pytest.approx(float(rewards(head, responses(h[:n].mean(0, dtype=np.float64)[None]))[0]), abs=1e-9)
    for t in range(n):  # the running reward is that of the response cut short
        short = explain_response(head, h[: t + 1], ["x"] * (t + 1), {})
        assert found.running_reward[t] == pytest.approx(short.reward, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_last_pooling_reads_the_end_of_the_turn(seed: int) -> None:
    head, h = random_head(seed, "last")
    n = len(h) - 1
    found = explain_response(head, h, ["x"] * n, {})
    assert found.reward == pytest.approx(float(rewards(head, responses(h[-1:]))[0]), abs=1e-12)
    assert sum(_by_feature(found)) + head.bias == pytest.approx(found.reward, abs=1e-12)
    np.testing.assert_allclose(found.token_contributions, contributions(head, token_scores(head, h[:n])))
    np.testing.assert_allclose(found.running_reward, found.token_contributions.sum(1) + head.bias)


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_contribution_comes_first(seed: int) -> None:
    head, h = random_head(seed, "mean")
    explained = [abs(part.contribution) for part in explain_response(head, h, ["x"] * len(h), {}).contributions]
    compared = [abs(part.contribution) for part in compare_responses(head, token_scores(head, h[:2]), {}).contributions]
    assert explained == sorted(explained, reverse=True) and compared == sorted(compared, reverse=True)


def test_a_feature_without_a_label_goes_by_its_number() -> None:
    assert label_of({4: "politeness", 5: ""}, 4) == "politeness"
    assert label_of({4: "politeness", 5: ""}, 5) == "feature 5"
    assert label_of({}, 9) == "feature 9"


def test_two_responses_are_compared_first_minus_second_even_if_it_is_worse() -> None:
    found = compare_responses(HEAD, token_scores(HEAD, H[1:]), LABELS)
    assert found.rewards == (-1.75, 7.25)
    assert found.ranking == (1, 0)
    assert found.margin == -9.0
    parts = [(part.feature, part.label, part.score_a, part.score_b, part.contribution) for part in found.contributions]
    assert parts == [(4, "politeness", 1.0, 4.0, -6.0), (9, "feature 9", 6.0, 0.0, -3.0)]


def test_of_three_responses_the_best_is_compared_with_the_next_best() -> None:
    found = compare_responses(HEAD, token_scores(HEAD, H), LABELS)
    assert found.rewards == (2.25, -1.75, 7.25)
    assert found.ranking == (2, 0, 1)
    assert found.margin == 5.0
    assert {part.feature: part.contribution for part in found.contributions} == {4: 4.0, 9: 1.0}


def test_equal_rewards_keep_their_order() -> None:
    assert compare_responses(HEAD, token_scores(HEAD, H[[1, 0, 1, 0]]), {}).ranking == (1, 3, 0, 2)


@pytest.mark.parametrize("seed", range(20))
def test_differences_sum_to_the_margin(seed: int) -> None:
    head, h = random_head(seed, "mean")
    found = compare_responses(head, token_scores(head, h), {})
    first, second = (0, 1) if len(h) == 2 else found.ranking[:2]
    assert sum(part.contribution for part in found.contributions) == pytest.approx(found.margin, abs=1e-12)
    assert found.margin == pytest.approx(found.rewards[first] - found.rewards[second], abs=1e-12)
    np.testing.assert_allclose(found.rewards, rewards(head, responses(h)), atol=1e-12)
    assert sorted(found.ranking) == list(range(len(h)))
    assert [found.rewards[i] for i in found.ranking] == sorted(found.rewards, reverse=True)


def test_a_difference_of_explanations_adds_up_to_the_margin() -> None:
    head, h = random_head(3, "mean")
    tokens = ["x"] * len(h)
    a, b = explain_response(head, h, tokens, LABELS), explain_response(head, h[::-1] * 0.5, tokens, LABELS)
    parts = explain_difference(a, b)
    assert sum(part.contribution for part in parts) == pytest.approx(a.reward - b.reward)
    for part in parts:
        scale = head.weights / head.sigma
        assert part.contribution == pytest.approx(
            (part.score_a - part.score_b) * scale[list(head.features).index(part.feature)]
        )
    assert [part.contribution for part in explain_difference(a, a)] == [0.0] * len(head.features)


def test_token_scores_give_the_token_contributions() -> None:
    head, h = random_head(4, "mean")
    found = explain_response(head, h, ["x"] * len(h), LABELS)
    assert found.token_scores is not None
    np.testing.assert_allclose(
        head.weights * (found.token_scores - head.mu) / head.sigma / len(h), found.token_contributions, atol=1e-12
    )
