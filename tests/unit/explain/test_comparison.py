"""Responses side by side: every margin adds up, probabilities are Bradley-Terry's, and a diff loses no character."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserm.explain.comparison import DiffSpan, check_number, word_diff
from sparserm.types import SparseRMError
from tests.unit.explain.random_heads import compared


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("seed", range(10))
def test_the_differences_of_any_two_sum_to_their_margin(seed: int, pooling: str) -> None:
    found = compared(seed, pooling)
    for a in range(4):
        for b in range(4):
            parts = found.differences(a, b)
            assert sum(part.contribution for part in parts) == pytest.approx(found.margin(a, b), abs=1e-12)
            back = {part.feature: -part.contribution for part in found.differences(b, a)}
            assert {part.feature: part.contribution for part in parts} == back


@pytest.mark.parametrize("seed", range(5))
def test_scores_and_contributions_are_in_the_heads_feature_order(seed: int) -> None:
    found = compared(seed)
    bias = found.explanations[0].bias
    np.testing.assert_allclose(found.contributions.sum(1) + bias, found.rewards, atol=1e-12)
    for i, one in enumerate(found.explanations):
        np.testing.assert_allclose(found.contributions[i], one.token_contributions.sum(0), atol=1e-12)
        np.testing.assert_allclose(found.scores[i], one.token_scores.mean(0), atol=1e-12)


def test_the_chance_to_win_is_bradley_terrys() -> None:
    found = compared(3)
    object.__setattr__(found, "rewards", np.array([0.0, np.log(3.0), 0.0, -np.log(3.0)]))
    np.testing.assert_allclose(found.win_probability[1], [0.75, 0.5, 0.75, 0.9])
    np.testing.assert_allclose(found.win_probability + found.win_probability.T, 1.0)
    assert found.ranking == (1, 0, 2, 3)  # equal ones keep their order


@pytest.mark.parametrize("n", [0, 1, 9])
def test_two_to_eight_stand_side_by_side(n: int) -> None:
    with pytest.raises(SparseRMError, match=f"got {n} responses; expected two to 8"):
        check_number(n)
    check_number(2)
    check_number(8)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("", "", ()),
        ("same", "same", (DiffSpan("both", "same"),)),
        ("only a", "", (DiffSpan("a", "only a"),)),
        ("the cat sat.", "the cat.", (DiffSpan("both", "the cat"), DiffSpan("a", " sat"), DiffSpan("both", "."))),
        ("I don't", "I do", (DiffSpan("both", "I"), DiffSpan("a", " don't"), DiffSpan("b", " do"))),
        ("猫が好", "猫が嫌", (DiffSpan("both", "猫が"), DiffSpan("a", "好"), DiffSpan("b", "嫌"))),
        ("👩‍👩‍👧 مرحبا", "👩‍👩‍👧 سلام", (DiffSpan("both", "👩‍👩‍👧"), DiffSpan("a", " مرحبا"), DiffSpan("b", " سلام"))),
    ],
)
def test_words_are_compared(a: str, b: str, expected: tuple[DiffSpan, ...]) -> None:
    assert word_diff(a, b) == expected


@settings(deadline=None)
@given(st.text(alphabet="ab .,'\n\u00e9猫\u0301🥚"), st.text(alphabet="ab .,'\n\u00e9猫\u0301🥚"))
def test_both_texts_can_be_read_back_from_the_diff(a: str, b: str) -> None:
    spans = word_diff(a, b)
    assert "".join(span.text for span in spans if span.side != "b") == a
    assert "".join(span.text for span in spans if span.side != "a") == b
    assert all(one.side != other.side for one, other in pairwise(spans))


def test_common_words_of_long_texts_are_still_compared() -> None:
    words = [f"w{i}" if i % 2 else "the" for i in range(400)]
    longer = [*words[:200], "new", *words[200:]]
    assert [span.side for span in word_diff(" ".join(words), " ".join(longer))] == ["both", "b", "both"]


def test_responses_that_got_stuck_do_not_stall_the_diff() -> None:
    a, b = "a " * 3000, "a b " * 1500
    assert "".join(span.text for span in word_diff(a, b) if span.side != "b") == a
