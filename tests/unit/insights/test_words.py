"""Whether a name fits the pairs at hand: the words at which a feature fires there, beside those that the name was made of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparserm.insights.find import with_words
from sparserm.insights.snippets import Lit
from sparserm.insights.values import Finding, Insights
from sparserm.insights.words import WordsHere

READ = [Lit(("See", " a", " doctor", "."), (0.0, 0.0, 6.0, 0.0)), Lit(("In", " summer", ","), (0.0, 4.0, 0.0))]


def test_words_are_weighted_by_activation() -> None:
    found = WordsHere.of([*READ, Lit(("nothing",), (0.0,))])
    assert found.words == (("doctor", 0.6), ("summer", 0.4)) and found.shown == "doctor · summer"


@pytest.mark.parametrize(
    ("name", "evidence", "fits"),
    [
        ("urges medical help", "fires on: nurse · doctor", True),
        ("names a season", "fires on: autumn · winter", False),
        ("says 'the summer' or 'June'", "fires on: may", True),  # a word that the name quotes
        ("names a doctor", "fires on: may", False),  # what it does not quote may be any word
        ("names a season", "", None),
    ],
)
def test_a_name_fits_where_its_words_are_among_them(name: str, evidence: str, fits: bool | None) -> None:
    assert WordsHere.of(READ).fit(name, evidence) is fits


def test_a_tenth_of_the_firings_is_enough() -> None:
    few = WordsHere((("doctor", 0.1), ("summer", 0.9)), "summer · doctor")
    assert few.fit("x", "fires on: doctor") and not replace(few, words=(("doctor", 0.09),)).fit("x", "fires on: doctor")


def test_nothing_read_says_nothing() -> None:
    assert WordsHere.of([]).fit("x", "fires on: doctor") is None


def _finding(feature: int, name: str, evidence: str, detection: float | None = 0.9) -> Finding:
    held = {"length_held": 0.9, "length_held_z": 9.0, "returns": 1.0, "family": ()}
    return Finding(feature, name, True, evidence, detection, 100, 90, (0.8, 0.95), 10.0, 1e-6, **held)


def test_the_verdict_tells_only_names_that_fit_and_a_users_name_always_does() -> None:
    seasons, help_ = _finding(1, "names a season", "fires on: winter"), _finding(2, "urges help", "fires on: doctor")
    own = _finding(3, "my own name", "fires on: winter", detection=None)
    found = Insights("d", "h", "s", "x", 300, 300, 50, 3, (seasons, help_, own), None, 0, ())
    told = with_words(found, {one.member: WordsHere.of(READ) for one in found.findings})
    assert [one.fits for one in told.findings] == [False, True, None]
    assert [one.title for one in told.findings] == ["feature 1", "urges help", "my own name"]
    assert told.findings[0].fires_on == "fires on: doctor · summer" and found.findings[0].fires_on == "fires on: winter"
    assert "urges help (90% of the 100" in told.verdict and "my own name" in told.verdict and "season" not in told.verdict
    assert [one["label"] for one in told.to_dict()["features"]] == [None, "urges help", "my own name"]
