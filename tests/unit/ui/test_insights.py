"""Win rates as bars: where they begin and end, their labels and marks."""

from __future__ import annotations

import pytest

from sparserm.insights.values import Finding, Member
from sparserm.ui.insights.charts import win_rates
from sparserm.ui.shared.style import DOWN, UP


def _finding(**other: object) -> Finding:
    known = {
        "feature": 3,
        "name": "says <no> & more",
        "named": True,
        "evidence": "fires on: no",
        "detection": 0.9,
        "n": 40,
        "wins": 30,
        "ci95": (0.6, 0.86),
        "z": 3.2,
        "q": 0.001,
        "length_held": 0.7,
        "length_held_z": 3.1,
        "returns": 0.9,
        "family": (Member(4, "feature 4"),),
    }
    return Finding(**{**known, **other})  # type: ignore[arg-type]


def test_a_bar_leaves_from_one_half_and_ends_at_the_win_rate_with_its_interval() -> None:
    figure = win_rates([_finding(), _finding(wins=10, ci95=(0.14, 0.4), z=-3.2, length_held=0.3)], 100)
    bars, marks, texts = figure.data
    assert bars.base == 0.5 and list(bars.x) == pytest.approx([0.25, -0.25])
    assert list(bars.error_x.array) == pytest.approx([0.11, 0.15]) and list(bars.error_x.arrayminus) == pytest.approx(
        [0.15, 0.11]
    )
    assert list(bars.marker.color) == [UP, DOWN] and list(marks.x) == [0.7, 0.3]
    assert [text.strip() for text in texts.text] == ["75%", "25%"]
    low, high = figure.layout.xaxis.range
    assert low < 0.14 and high > 0.86 and (low + high) / 2 == pytest.approx(0.5)


def test_a_label_is_no_markup_and_says_in_how_many_pairs_the_feature_differs() -> None:
    named, unnamed = (
        note.text for note in win_rates([_finding(), _finding(name="feature 3", named=False)], 100).layout.annotations
    )
    assert (
        named.startswith("says &lt;no&gt; &amp; more<br>") and "40 pairs differ in it (40%) · feature 3 · + 1 like it" in named
    )
    assert "fires on: no" not in named and "fires on: no" in unnamed and unnamed.count("feature 3") == 1


def test_what_length_explains_is_said_to_be_not_sure() -> None:
    sure, other = win_rates([_finding(), _finding(length_held_z=0.5)], 100).data[0].customdata
    assert "equally long: 70%<br>" in sure and "equally long: 70%, not sure<br>" in other
