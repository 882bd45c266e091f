"""Near duplicates: found where they are, each with the most similar other text, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from sparserm.audit.duplicates import COMMON, NEAR, near_matches, normalised

LONG = "The quick brown fox jumps over the lazy dog while the cat sleeps in the warm afternoon sun"


def test_case_white_space_and_forms_of_a_character_make_no_difference() -> None:
    assert normalised("  Ｈello\n WORLD ") == normalised("hello world")
    assert normalised("yes!") != normalised("yes?")


def test_a_text_with_one_word_changed_is_found_and_one_with_half_is_not() -> None:
    changed, other = LONG.replace("lazy", "sleepy"), LONG[:40] + " runs through the forest at night without any rest"
    (match,) = near_matches([LONG, other, changed])
    assert (match.index, match.other) == (2, 0)
    assert NEAR <= match.similarity < 1


def test_similarity_is_the_share_of_shingles_in_common() -> None:
    # Shingles within words, blanks around them included, of five characters; a shorter word is a shingle of its own.
    (match,) = near_matches(["abcdef ghijkl mnopqr stuvwx yzabcd", "abcdef ghijkl mnopqr stuvwx yzabcd ef"])
    assert match.similarity == pytest.approx(20 / 21)


def test_the_first_of_equal_texts_is_named() -> None:
    assert [(one.index, one.other) for one in near_matches([LONG, LONG.upper(), LONG + "."])] == [(1, 0), (2, 0)]


def test_texts_of_two_sources_are_compared_with_one_another_only() -> None:
    found = near_matches([LONG, LONG, "something else entirely"], ["nothing alike", LONG])
    assert [(one.index, one.other) for one in found] == [(0, 1), (1, 1)]
    assert near_matches([LONG, LONG], ["nothing alike"]) == []


def test_a_template_that_all_texts_share_does_not_make_them_alike() -> None:
    rng = np.random.default_rng(0)
    names = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 9)) for _ in range(2 * COMMON)]
    assert near_matches([f"{LONG}. My number is {name}" for name in names]) == []


def test_texts_without_blanks_are_compared_too() -> None:
    text = "机器学习模型需要大量的数据才能进行训练并且取得良好的效果"
    assert [one.index for one in near_matches([text, text + "吗"])] == [1]


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["a"], ["?", "!"]])
def test_nothing_to_compare_is_no_error(texts) -> None:
    assert near_matches(texts) == []
