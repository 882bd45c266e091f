"""Automatic labels: the rule finds what is there, says nothing where nothing is, and never learns from what judges it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from sparserm.features import auto_labels
from sparserm.features.auto_labels import (
    LEAST_DETECTION,
    LabelContext,
    Proposal,
    Rule,
    Unlabelled,
    choose_terms,
    label_features,
    log_odds,
    terms_of,
)
from sparserm.features.detection import contrast, gather_texts
from sparserm.features.firing import describe_firings
from sparserm.features.logit_lens import LogitLens
from sparserm.heads.labels import AutoLabel
from tests.unit.features.world import ALWAYS, CHANCE, DATA, FIRING, LONG, NOWHERE, PAIRS, RARE, REPRESENTED, SORRY, TEXTS, N


def _labels(labeller=None, features=range(5), **more) -> dict[int, AutoLabel]:
    return dict(label_features(list(features), DATA, REPRESENTED, TEXTS, labeller or Rule(), FIRING, **more))


class Saying:
    """A labeller whose label calls texts active by ``score``; it keeps which rows it was asked about."""

    source = "saying"

    def __init__(self, score: Callable[[str], float], most_judged: int | None = None) -> None:
        self.score, self.most_judged = score, most_judged
        self.asked: set[int] = set()

    def propose(self, context: LabelContext) -> Proposal:
        def scores(rows: np.ndarray) -> np.ndarray:
            self.asked |= set(rows.tolist())
            return np.array([self.score(context.texts.texts[row]) for row in rows])

        return Proposal("apologises", scores, prompt="what is it?")


def test_the_rule_finds_the_word_and_its_label_predicts() -> None:
    label = _labels()[SORRY]
    assert label.text == label.terms[0] == "“sorry”" and label.reason == ""
    assert label.detection.accuracy == 1 and label.detection.ci95[0] > 0.9
    assert label.shown == "“sorry” (auto 1.00)"
    assert (label.source, label.data, label.data_hash, label.n_texts) == ("rule", "world.jsonl", "abc", 2 * N)
    assert label.n_firing == (TEXTS.peaks(SORRY, REPRESENTED) > 0).sum()
    assert label.examples.accuracy > 0.8


def test_where_data_is_insufficient_there_is_a_reason_and_no_label() -> None:
    labels = _labels()
    assert all(labels[feature].text is None for feature in (CHANCE, RARE, LONG, ALWAYS))
    assert labels[RARE].reason == f"fires in 3 of {2 * N} responses" and labels[RARE].detection is None
    assert labels[RARE].shown == f"no reliable label (fires in 3 of {2 * N} responses)"
    assert "too few others of similar length" in labels[LONG].reason
    assert "best guess: " in labels[CHANCE].reason or "no word or surface feature" in labels[CHANCE].reason


def test_the_rule_does_not_look_at_the_texts_that_judge_it() -> None:
    """Other judged texts, even ones in which the word means the opposite, leave the terms as they are."""
    judged = {text for text, finding in zip(TEXTS.texts, TEXTS.finding, strict=True) if not finding}
    turned = [
        replace(
            pair,
            **{
                side: text.replace("sorry", "glad") if "sorry" in text else f"sorry {text}"
                for side in ("chosen", "rejected")
                if (text := getattr(pair, side)) in judged
            },
        )
        for pair in PAIRS
    ]
    texts = gather_texts(turned, REPRESENTED)
    np.testing.assert_array_equal(texts.finding, TEXTS.finding)
    found = contrast(texts.peaks(SORRY, REPRESENTED), texts)
    assert Rule().propose(LabelContext(texts, found, (), NOWHERE)).terms == _labels(features=[SORRY])[SORRY].terms
    label = dict(label_features([SORRY], replace(DATA, pairs=tuple(turned)), REPRESENTED, texts, Rule(), FIRING))[SORRY]
    assert label.text is None and label.detection.accuracy == 0 and "detection 0.00" in label.reason


def test_a_label_is_judged_on_the_other_half_alone() -> None:
    labeller = Saying(lambda text: "sorry" in text)
    label = _labels(labeller, [SORRY])[SORRY]
    assert (label.text, label.source, label.prompt) == ("apologises", "saying", "what is it?")
    assert labeller.asked and not TEXTS.finding[list(labeller.asked)].any()


def test_judging_that_costs_something_is_limited() -> None:
    labeller = Saying(lambda text: "sorry" in text, most_judged=30)
    assert _labels(labeller, [SORRY])[SORRY].detection.n == len(labeller.asked) == 30


@pytest.mark.parametrize("right", [0.5, 0.66])
def test_a_label_that_predicts_too_little_is_not_shown(right: float) -> None:
    """It is right for a share of the texts, by their number."""

    def score(text: str) -> float:
        return ("sorry" in text) == (int(text.rpartition("-")[2]) % 100 < 100 * right)

    label = _labels(Saying(score), [SORRY])[SORRY]
    assert label.text is None and label.reason == f"best guess: apologises; detection {label.detection.accuracy:.2f}"
    assert label.detection.ci95[0] <= LEAST_DETECTION


def test_promoted_words_that_agree_are_named() -> None:
    none = np.zeros((1, 2), np.float32)
    lens = LogitLens(np.array([[" Sorry", "xyz"]]), none, np.array([["a", "b"]]), none)
    assert _labels(features=[SORRY], lens=lens)[SORRY].promoted == ("“sorry”",)
    assert _labels(features=[SORRY])[SORRY].promoted == ()


def test_words_at_which_it_fires_stand_beside_the_label() -> None:
    firing = {**FIRING, SORRY: describe_firings([(0, ["I", " am", " sorry"], np.array([0.0, 0.0, 2.0]))])}
    label = dict(label_features([SORRY, CHANCE], DATA, REPRESENTED, TEXTS, Rule(), firing))
    assert label[SORRY].evidence == "fires on: sorry" and label[CHANCE].evidence == ""


def test_progress_is_told_of_every_feature() -> None:
    told: list[tuple[int, int, str]] = []
    _labels(progress=lambda *one: told.append(one))
    assert told == [(i + 1, 5, "Labels (features)") for i in range(5)]


def test_texts_without_a_common_term_are_no_obstacle(monkeypatch) -> None:
    monkeypatch.setattr(auto_labels, "LEAST_COUNT", 10_000)
    with pytest.raises(Unlabelled, match="no word or surface feature"):
        texts = gather_texts(PAIRS, REPRESENTED)
        Rule().propose(LabelContext(texts, contrast(TEXTS.peaks(SORRY, REPRESENTED), TEXTS), (), NOWHERE))


def test_log_odds_by_hand(monkeypatch) -> None:
    """Monroe et al., eq. 16, 19 and 22, with a prior of 2 over two terms as frequent as each other."""
    monkeypatch.setattr(auto_labels, "PRIOR", 2.0)
    active, inactive = csr_matrix([[1, 1], [1, 0], [1, 0]]), csr_matrix([[0, 1], [0, 1], [1, 1]])
    every = csr_matrix(np.vstack([active.toarray(), inactive.toarray()]))
    z = log_odds(active, inactive, every)
    delta = np.log(4 / 2) - np.log(2 / 4)  # counts 3 and 1 in 4, against 1 and 3, each with a prior of 1
    np.testing.assert_allclose(z, [delta / np.sqrt(1 / 4 + 1 / 2), -delta / np.sqrt(1 / 4 + 1 / 2)])


def test_terms_are_chosen_while_they_add_something() -> None:
    active = np.array([True] * 4 + [False] * 4)
    has = np.array([[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0]], bool).T
    assert choose_terms(has, active) == [0, 1]
    assert choose_terms(has[:, :0], active) == []
    assert choose_terms(np.ones((8, 1), bool), active) == []


def test_terms_are_words_pairs_beginnings_ends_and_marks() -> None:
    assert terms_of("I’m sorry, but I can't.\n- 12 eggs") >= {
        "“sorry”",
        "“i'm”",
        "“i'm sorry”",
        "begins with “i'm”",
        "ends without punctuation",
        "list items",
        "numbers",
        "line breaks",
        "refusals",
        "commas",
        "first person",
    }
    assert terms_of("") == set()
    assert terms_of("🙂") == {"ends with “🙂”"}
    assert "words" not in terms_of("one two")
