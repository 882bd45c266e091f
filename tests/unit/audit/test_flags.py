"""The audit: every flag on a handful of pairs made for it, and nothing flagged that is sound."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logit

from sparserm.audit.flags import REASONS, SURE, HeldOutMargins, audit, flagged, held_out_margins, summary
from sparserm.evaluation.accuracy import cross_validated_margins
from sparserm.heads.fitting import FitSettings, fit_head
from sparserm.heads.reward import rewards
from sparserm.heads.saved import HeadCard, SavedHead
from sparserm.pairs.parsing import parse_pairs
from sparserm.pairs.split import short_key
from sparserm.representations.values import PairRepresentations, stacked
from sparserm.types import PreferenceData, Score, SparseRMError
from tests.unit.separable import SAE, TRAIN

FOX = "The quick brown fox jumps over the lazy dog while the cat sleeps in the warm afternoon sun"


@pytest.fixture(autouse=True)
def _few_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often the prompts are halved is tested on its own; here less of it does."""
    monkeypatch.setattr("sparserm.heads.gated_selection.SPLITS", 2)


def _data(*rows: tuple[str, str, str], name: str = "made up") -> PreferenceData:
    return parse_pairs([{"prompt": p, "chosen": c, "rejected": r, "id": f"id{i}"} for i, (p, c, r) in enumerate(rows)], name)


def _flags(data: PreferenceData, **settings) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for flag in audit(data, **settings).flags:
        found.setdefault(flag.reason, []).append(data.pairs[flag.index].row)
    return found


# ------------------------------------------------------------------------------------------------------- within one file


def test_sound_pairs_are_not_flagged() -> None:
    data = _data(
        ("Why?", "apples", "pears"), ("Why?", "apples", "plums"), ("How?", "slowly", "fast"), ("How?", "with care", "fast")
    )
    assert _flags(data) == {}


def test_repeated_rows_are_flagged_with_the_row_they_repeat() -> None:
    data = _data(("Why?", "apples", "pears"), ("Who?", "me", "you"), ("Why?", "Apples", " pears "))
    (flag,) = audit(data).flags
    assert (flag.index, flag.reason, flag.detail) == (2, "duplicate", "repeats row 1")


def test_nearly_repeated_rows_are_flagged_by_similarity() -> None:
    data = _data((FOX, "yes it does", "no"), (FOX + " today", "yes it does", "no"), ("Who?", "me", "you"))
    found = audit(data)
    assert [(flag.index, flag.reason) for flag in found.flags] == [(1, "near duplicate"), (1, "near-equal prompts")]
    assert 0.8 <= found.flags[0].score < 1


def test_reversed_preferences_are_flagged_on_both_sides_and_are_no_duplicates() -> None:
    data = _data(("Why?", FOX, "pears"), ("Why?", "pears", FOX.upper()), ("Who?", "pears", FOX))
    assert _flags(data) == {"reversed": [1, 2]}


def test_preferences_that_run_in_a_circle_are_flagged_and_those_beside_it_are_not() -> None:
    circle = [("Why?", "a1", "b2"), ("Why?", "b2", "c3"), ("Why?", "c3", "a1")]
    data = _data(*circle, ("Why?", "c3", "d4"), ("Who?", "c3", "b2"))
    found = audit(data)
    assert [(flag.index, flag.reason) for flag in found.flags] == [(0, "circle"), (1, "circle"), (2, "circle")]
    assert found.flags[0].detail.endswith("rows 1, 2, 3")


def test_responses_that_differ_in_case_only_are_flagged() -> None:
    assert _flags(_data(("Why?", "Because.", "because."))) == {"same responses": [1]}


@pytest.mark.parametrize(
    "other", ["Be\u200bcause.", "Bесause.", "Ｂecause.", "Because.\ufeff"]
)  # the second has Cyrillic letters
def test_responses_that_look_the_same_are_flagged(other: str) -> None:
    assert _flags(_data(("Why?", "Because.", other)))["same responses"] == [1]


def test_what_the_reader_warns_of_is_flagged_once() -> None:
    rows = [
        {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No.", "score_chosen": 1, "score_rejected": 2},
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
    ]
    found = audit(parse_pairs(rows))
    assert [(flag.index, flag.reason) for flag in found.flags] == [(0, "doubtful"), (1, "doubtful"), (2, "duplicate")]
    assert [flag.detail[:6] for flag in found.flags if flag.reason == "doubtful"] == ["chosen", "score_"]


# ------------------------------------------------------------------------------------------------------ between two files


def test_shared_prompts_are_flagged_and_nearly_shared_ones_too() -> None:
    train = _data((FOX, "yes", "no"), ("Why?", "yes", "no"), name="train.jsonl")
    test = _data(
        ("why not?", "yes", "no"), (FOX + " today", "a", "b"), ("Why? ", "c", "d"), ("Why?", "e", "f"), name="test.jsonl"
    )
    found = audit(test, against=train)
    assert [(flag.index, flag.reason) for flag in found.flags] == [(2, "leakage"), (3, "leakage"), (1, "near leakage")]
    assert found.flags[0].detail == "same prompt as row 2 of train.jsonl"
    assert "row 1 of train.jsonl (similarity 0." in found.flags[2].detail


# ------------------------------------------------------------------------------------------------------------ with a head


def test_pairs_that_a_head_contradicts_with_confidence_come_first_surest_first() -> None:
    chances = np.array([0.9, 0.5, 0.19, 0.1, 0.21])  # of the chosen response
    data = _data(*[(f"p{i}", "good " * (i + 1), "bad") for i in range(5)])
    found = audit(data, held_out=HeldOutMargins(logit(chances), 0))
    assert [(flag.index, round(flag.score, 2)) for flag in found.flags] == [(3, 0.9), (2, 0.81)]
    assert found.flags[0].detail == "win probability of the rejected response: 90%"
    assert found.agreement is not None
    assert (found.agreement.n_sure, found.agreement.n_contradicted) == (3, 2)
    assert found.agreement.n_expected == pytest.approx(0.1 + 0.1 + 0.19)
    assert found.agreement.accuracy == pytest.approx(1 / 5)


def _trained(*prompts: str, score: Score = "gated") -> tuple[SavedHead, FitSettings]:
    settings = FitSettings(k=2, l2=0.1, score=score)
    card = HeadCard("made up", "tiny", "f", "blocks.0.hook_resid_post", "sae", "f", 16, training={"settings": vars(settings)})
    keys = np.array(sorted(map(short_key, prompts)), np.int64)
    empty = np.zeros(2), np.zeros(2), np.zeros(101), np.zeros(101)
    return SavedHead(fit_head(TRAIN, SAE, settings).head, card, *empty, keys), settings


@pytest.mark.parametrize("score", ["gated", "projection"])
def test_pairs_that_the_head_was_trained_on_are_judged_by_heads_that_were_not(score: Score) -> None:
    n = len(TRAIN.groups)
    data = _data(*[(f"p{group}", f"yes {i}", "no") for i, group in enumerate(TRAIN.groups)])
    saved, settings = _trained(score=score)
    head_margins = rewards(saved.head, TRAIN.chosen) - rewards(saved.head, TRAIN.rejected)
    assert held_out_margins(saved, data, TRAIN, SAE).margins == pytest.approx(head_margins)
    saved, settings = _trained(*{pair.prompt[0].content for pair in data.pairs}, score=score)
    found = held_out_margins(saved, data, TRAIN, SAE)
    assert found.n_trained_on == n
    assert found.margins == pytest.approx(cross_validated_margins(TRAIN, SAE, settings))
    saved, _ = _trained(*{pair.prompt[0].content for pair in data.pairs[:40]}, score=score)
    some = held_out_margins(saved, data, TRAIN, SAE)
    assert some.n_trained_on == 40
    assert some.margins[40:] == pytest.approx(head_margins[40:])
    assert not np.allclose(some.margins[:40], head_margins[:40])


@pytest.mark.parametrize("score", ["gated", "projection"])
def test_a_head_of_an_earlier_version_is_judged_by_heads_of_its_own_kind(score: Score) -> None:
    data = _data(*[(f"p{group}", f"yes {i}", "no") for i, group in enumerate(TRAIN.groups)])
    saved, settings = _trained(*{pair.prompt[0].content for pair in data.pairs}, score=score)
    settings = replace(settings, selection="frequency")
    old = {name: value for name, value in vars(settings).items() if name != "score"}
    saved = replace(saved, card=replace(saved.card, training={"settings": old}))
    assert held_out_margins(saved, data, TRAIN, SAE).margins == pytest.approx(cross_validated_margins(TRAIN, SAE, settings))


@pytest.mark.parametrize("score", ["gated", "projection"])
def test_a_wrong_label_among_right_ones_is_found_though_the_head_was_trained_on_it(score: Score) -> None:
    n = len(TRAIN.groups)
    both, rows = stacked(TRAIN.chosen, TRAIN.rejected), np.arange(n)
    wrong = rows == 7
    turned = PairRepresentations(both.take(rows + n * wrong), both.take(rows + n * ~wrong), TRAIN.groups)
    data = _data(*[(f"p{group}", f"yes {i}", "no") for i, group in enumerate(TRAIN.groups)])
    saved, _ = _trained(*{pair.prompt[0].content for pair in data.pairs}, score=score)
    found = audit(data, held_out=held_out_margins(saved, data, turned, SAE))
    assert [flag.index for flag in found.flags if flag.reason == "contradicted"] == [7]


# --------------------------------------------------------------------------------------------------------------- exports


def test_flagged_rows_are_taken_away_with_their_texts() -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    row = {"prompt": turns, "chosen": "yes", "rejected": "no", "category": "x", "id": 5}
    data = parse_pairs([row, row])
    table = flagged(audit(data).flags, data.pairs)
    assert table.to_dict("records") == [
        {
            "row": 2,
            "id": "5",
            "category": "x",
            "reason": "duplicate",
            "score": 1.0,
            "detail": "repeats row 1",
            "prompt": "system: Be kind.\n\nuser: Why?",
            "chosen": "yes",
            "rejected": "no",
        }
    ]


def test_the_table_of_no_flags_still_has_its_columns() -> None:
    data = _data(("Why?", "apples", "pears"))
    assert list(flagged(audit(data).flags, data.pairs)) == [
        "row",
        "id",
        "category",
        "reason",
        "score",
        "detail",
        "prompt",
        "chosen",
        "rejected",
    ]


def test_the_summary_is_json_without_texts() -> None:
    data = _data(("Why?", "Because.", "because."), ("Who?", "me", "you"))
    found = json.loads(json.dumps(summary(audit(data, held_out=HeldOutMargins(np.array([-3.0, 1.0]), 0)), data.pairs)))
    assert found["counts"] == {"contradicted": 1, "same responses": 1}
    assert found["flags"][0].keys() == {"row", "id", "reason", "score", "detail"}
    assert (found["n"], found["agreement"]["n_sure"]) == (2, 1)


def test_every_reason_is_explained_and_sure_means_more_than_even() -> None:
    assert all(REASONS.values()) and 0.5 < SURE < 1


def test_no_pairs_are_refused() -> None:
    with pytest.raises(SparseRMError, match="has no pairs"):
        audit(PreferenceData("empty", ()))
