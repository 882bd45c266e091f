"""Surface marks: what is counted, and how far it goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserm.audit.surface import MARKS, count_marks, surface
from sparserm.pairs.parsing import parse_pairs


@pytest.mark.parametrize(
    ("mark", "text", "count"),
    [
        ("words", "One two, three.", 3),
        ("refusals", "I’m sorry, but I can’t help with that. I cannot.", 3),
        ("refusals", "I am not able to do it, I won't do it, I'm unable to.", 3),
        ("refusals", "You can't. I can help. I'm sorry for your loss.", 0),
        ("disclaimers", "As an AI language model, I suggest that you consult a good doctor.", 2),
        ("hedges", "Perhaps it may rain, maybe.", 2),
        ("negations", "No, it isn't and never was. Nothing else. Know.", 4),
        ("first person", "I told my friend what we think. It is mine.", 4),
        ("second person", "You know your way, yourself.", 3),
        ("politeness", "Thank you. Please accept my apologies, sorry.", 3),
        ("list items", "Steps:\n1. one\n2) two\n- three\n  * four\nnot - five", 4),
        ("markdown", "# Title\n**bold** and `code`\n```\nx\n```", 6),
        ("question marks", "Why? 为什么？", 2),
        ("numbers", "3 apples, 1,000.5 pears and 2 plums", 3),
        ("quotations", 'He said "yes" and “no”.', 2),
    ],
)
def test_marks_are_counted(mark, text, count) -> None:
    names = [one.name for one in MARKS]
    assert count_marks([text])[0, names.index(mark)] == count


def _surface(*pairs: tuple[str, str]):
    data = parse_pairs([{"prompt": f"p{i}", "chosen": a, "rejected": b} for i, (a, b) in enumerate(pairs)])
    return surface(data.pairs, np.arange(len(pairs)))


def test_a_rule_is_measured_where_the_two_differ() -> None:
    found = _surface(("a!", "b"), ("a!", "b"), ("a", "b!"), ("a", "b"), ("a", "b"))
    rule = next(one for one in found.rules if one.name == "exclamation marks")
    assert (rule.mean_chosen, rule.mean_rejected, rule.n_differ) == (0.4, 0.2, 3)
    assert rule.accuracy == pytest.approx(2 / 3)
    assert rule.ci95[0] < 2 / 3 < rule.ci95[1]
    assert [one.name for one in found.rules] == ["exclamation marks"]


def test_marks_together_separate_what_one_mark_separates_and_no_more() -> None:
    by_lists = _surface(*[(f"word\n- {i}", f"word {i}") for i in range(20)])
    assert by_lists.accuracy == 1.0
    assert max(one.weight for one in by_lists.rules) > 0
    rng = np.random.default_rng(0)
    noise = [("sun " * rng.integers(1, 9), "moon " * rng.integers(1, 9)) for _ in range(300)]
    assert 0.4 < _surface(*noise).accuracy < 0.6


def test_where_the_surface_says_nothing_it_is_a_coin() -> None:
    found = _surface(*[("yes", "yep")] * 6)
    assert (found.rules, found.accuracy, found.n) == ((), 0.5, 6)
    assert found.ci95[0] < 0.5 < found.ci95[1]


def test_one_pair_is_measured_and_leaves_everything_open() -> None:
    found = _surface(("a!", "b"))
    assert (found.accuracy, found.rules[0].accuracy) == (0.5, 1.0)
    assert found.rules[0].ci95[0] < 0.3


_PIECES = [
    *("I can't", "I am sorry, but", "I'm not able to", "I won't", "as an AI", "As a language model", "see a doctor"),
    *(
        "consult someone, a lawyer",
        "don't",
        "DON’T",
        "cannot",
        "Never",
        "me",
        "You",
        "yours",
        "thanks",
        "apologise",
        "apologize",
    ),
    *("\n- one", "\n2) two", "\n* three", "\n٣. four", "٣٫٥", "3.5", "1,000", "# head", "## head", "**bold**", "`code`", "***"),
    *(
        "?",
        "？",
        "!",
        "，",
        "、",
        "“quoted”",
        '"so"',
        "«so»",
        "\n",
        "\t",
        " ",
        "may",
        "mayor",
        "Seems",
        "i",
        "I'd",
        "us",
        "USA",
    ),
]


@given(st.lists(st.sampled_from(_PIECES) | st.text(st.characters(codec="latin-1"), max_size=4), max_size=12).map(" ".join))
def test_counts_are_those_of_the_patterns(text: str) -> None:
    straight = text.replace("’", "'")
    counted = dict(zip([mark.name for mark in MARKS], count_marks([text])[0].tolist(), strict=True))
    assert counted == {mark.name: len(mark.pattern.findall(straight)) for mark in MARKS}
