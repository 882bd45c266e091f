"""Verdicts that are missing, contradict each other, name columns, or have an unknown name: none is read the wrong way round."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from sparserm.pairs.files import read_bytes
from sparserm.pairs.parsing import PairsError, parse_pairs, parse_rows
from sparserm.types import PreferenceData, SparseRMError
from tests.unit.pairs.forms import BAD, GOOD, Q

ROW = {"prompt": Q, "chosen": GOOD, "rejected": BAD}
LETTERS = {"prompt": Q, "response_a": GOOD, "response_b": BAD}
NUMBERS = {"prompt": Q, "response_1": GOOD, "response_2": BAD}


def _read(*rows: dict[str, Any], **named: Any) -> tuple[list[tuple[str, str]], str]:
    found: PreferenceData = parse_pairs(list(rows), **named)
    return [(pair.chosen, pair.rejected) for pair in found.pairs], " | ".join(str(issue) for issue in found.issues)


# ----------------------------------------------------------------------------------------------------- missing verdicts


@pytest.mark.parametrize("missing", ["none", "None", "nan", "NaN", "null", "", None, float("nan")])
@pytest.mark.parametrize("models", [{}, {"model_a": None, "model_b": None}, {"model_a": float("nan"), "model_b": None}])
def test_a_missing_verdict_prefers_no_response(missing: Any, models: dict[str, Any]) -> None:
    talk = {"conversation_a": [{"role": "user", "content": Q}], "conversation_b": [{"role": "user", "content": Q}]}
    for row in (LETTERS, NUMBERS, talk):
        for name in ("winner", "preference"):
            if name == "winner" or row is not talk:
                with pytest.raises(PairsError, match=f"column {name}: is .*expected model_a, model_b, a, b or a tie"):
                    parse_pairs([{**row, **models, name: missing}])


def test_a_model_that_won_against_itself_is_refused() -> None:
    with pytest.raises(PairsError, match="winner: is 'm', and so are model_a and model_b: expected model_a, model_b or a tie"):
        parse_pairs([{**LETTERS, "model_a": "m", "model_b": "M", "winner": "m"}])
    assert _read({**LETTERS, "model_a": "m", "model_b": "n", "winner": "N"})[0] == [(BAD, GOOD)]


# ----------------------------------------------------------------------------------------------------------------- ties


@pytest.mark.parametrize("said", ["Both are bad", "both good", "bothbad", "A draw", "equally good", "neither is good", "A==B"])
def test_words_that_all_say_tie_are_one(said: str) -> None:
    assert _read({**LETTERS, "winner": said}, {**LETTERS, "winner": "b"})[0] == [(BAD, GOOD)]
    assert _read({**ROW, "status": said}, ROW)[0] == [(GOOD, BAD)]


@pytest.mark.parametrize("said", ["A (both are correct)", "both good, slightly A", "tie resolved", "Draw, Robert", "both done"])
def test_a_verdict_with_other_words_is_no_tie(said: str) -> None:
    assert _read({**ROW, "status": said})[0] == [(GOOD, BAD)]
    with pytest.raises(PairsError, match="expected model_a, model_b, a, b or a tie"):
        parse_pairs([{**LETTERS, "winner": said}])


@pytest.mark.parametrize("text", ["Both are fine.", "Neither.", "Same", "A tie"])
@pytest.mark.parametrize("names", [("winner", "loser"), ("preferred", "dispreferred")])
def test_a_response_is_no_verdict(text: str, names: tuple[str, str]) -> None:
    assert _read({"prompt": Q, names[0]: text, names[1]: BAD})[0] == [(text, BAD)]


@pytest.mark.parametrize("mark", ["Y", "x", "✓", "T", "yes", 1, True])
@pytest.mark.parametrize("name", ["tie", "is_tie", "Is Tied"])
def test_any_mark_in_a_column_of_ties_is_one(name: str, mark: Any) -> None:
    assert _read({**ROW, name: mark}, {**ROW, "prompt": "Why?", name: ""}, {**ROW, name: "no"})[0] == [(GOOD, BAD)] * 2
    with pytest.raises(PairsError, match="is 'ja', expected true for a tie, or false"):
        parse_pairs([{**ROW, name: "ja"}])


@pytest.mark.parametrize("name", ["swap", "inverted", "is_inverted", "flip"])
@pytest.mark.parametrize("yes", [True, 1, "yes", "x", "ja"])
def test_any_mark_in_a_column_of_flips_is_warned_of(name: str, yes: Any) -> None:
    assert f"`{name}` is true in 1 of 2 rows" in _read({**ROW, name: yes}, {**ROW, "prompt": "Why?", name: "no"})[1]


# ------------------------------------------------------------------------------------------------ verdicts that disagree


@pytest.mark.parametrize("name", ["preferred", "winner", "better_response"])
@pytest.mark.parametrize("strength", [3, 1])
def test_a_verdict_by_name_goes_before_a_strength(name: str, strength: int) -> None:
    pairs, said = _read({**NUMBERS, name: "response_1", "preference_strength": strength})
    assert pairs == [(GOOD, BAD)]
    assert f"`preference_strength` says otherwise in 1 of 1 rows: read {name}; check what each means" in said
    assert "otherwise" not in _read({**NUMBERS, name: "response_1", "preference_strength": -strength})[1]


def test_a_row_without_the_verdict_is_read_by_the_other() -> None:
    rows = {**NUMBERS, "winner": "a"}, {**NUMBERS, "prompt": "Why?", "winner": None, "preference_strength": 2}
    assert _read(*rows)[0] == [(GOOD, BAD), (BAD, GOOD)]


def test_a_verdict_that_contradicts_chosen_and_rejected_is_warned_of() -> None:
    pairs, said = _read({**ROW, **LETTERS, "winner": "b"}, {**ROW, **LETTERS, "prompt": "Why?", "winner": "a"})
    assert pairs == [(GOOD, BAD)] * 2
    assert "`winner` says otherwise in 1 of 2 rows: read chosen and rejected" in said


# ------------------------------------------------------------------------------------------- labels instead of responses


@pytest.mark.parametrize(
    "names",
    [
        ("gpt4", "llama"),
        ("A", "B"),
        ("summary1", "summary2"),
        ("left", "right"),
        ("response_3", "response_1"),
        ("GPT-4", "gpt_3"),
    ],
)
@pytest.mark.parametrize("ours", [("chosen", "rejected"), ("winner", "loser"), ("Best", "Worst")])
def test_cells_that_name_other_columns_stand_for_their_texts(names: tuple[str, str], ours: tuple[str, str]) -> None:
    row = {"prompt": Q, names[0]: GOOD, names[1]: BAD, ours[0]: names[0], ours[1]: names[1]}
    turned = {**row, "prompt": "Why?", ours[0]: names[1], ours[1]: names[0]}
    pairs, said = _read(row, turned)
    assert pairs == [(GOOD, BAD), (BAD, GOOD)]
    assert f"`{ours[0]}` and `{ours[1]}` as the names of the columns with the responses" in said


@pytest.mark.parametrize(
    ("beside", "labels"),
    [
        ({"response_gpt4": GOOD, "response_llama": BAD}, ("gpt4", "llama")),
        ({"response_a": GOOD, "response_b": BAD, "model_a": "gpt", "model_b": "llama"}, ("llama", "gpt")),
        ({"responses": [GOOD, BAD]}, ("0", "1")),
        ({"responses": [GOOD, BAD]}, (0, 1)),
        ({"gpt4": GOOD, "llama": None}, ("gpt4", "llama")),
    ],
)
def test_labels_whose_texts_are_not_certain_are_refused(beside: dict[str, Any], labels: tuple[Any, Any]) -> None:
    row = {"prompt": Q, **beside, "chosen": labels[0], "rejected": labels[1]}
    with pytest.raises(SparseRMError, match="which name the responses in other columns; expected the responses themselves"):
        parse_pairs([row, row], skip_bad=True)


def test_texts_that_stand_in_other_columns_too_are_responses() -> None:
    assert _read({**ROW, **LETTERS, "model": GOOD}, {**ROW, "prompt": "Pick one.", "chosen": "A", "rejected": "B"})[0][1:] == [
        ("A", "B")
    ]
    assert _read({**ROW, "chosen": "4", "rejected": "5", "tags": ["a"] * 9})[0] == [("4", "5")]


# --------------------------------------------------------------------------------------------- verdicts of unknown names


@pytest.mark.parametrize(
    "names", [("reply_A", "reply_B"), ("Translation 1", "Translation 2"), ("orig_left_text", "orig_right_text")]
)
@pytest.mark.parametrize("verdict", ["A", "left", "tie"])
def test_a_verdict_of_an_unknown_name_gets_no_hint_to_map_sides(names: tuple[str, str], verdict: str) -> None:
    row = {"prompt": Q, names[0]: GOOD, names[1]: BAD, "Which one?": verdict}
    with pytest.raises(SparseRMError, match=r"where 'Which one.' says which of .* call the responses response_a") as caught:
        parse_pairs([row])
    assert "columns=" not in str(caught.value) and "--column" not in str(caught.value)
    pairs, said = _read(row, columns={"chosen": names[0], "rejected": names[1]})
    assert pairs == [(GOOD, BAD)] and "`Which one?` may say which response won, and is not read" in said
    del row["Which one?"]
    assert _read(row, columns={"chosen": names[0], "rejected": names[1]}) == ([(GOOD, BAD)], "")


# ---------------------------------------------------------------------------------------------------- several responses


@pytest.mark.parametrize("verdict", [{"winner": "a"}, {"winner": "c"}, {"preference": "tie"}])
def test_a_third_response_beside_a_verdict_on_two_is_not_lost(verdict: dict[str, str]) -> None:
    with pytest.raises(PairsError, match="column response_c: stands beside response_a and response_b and would be lost"):
        parse_pairs([{**LETTERS, "response_c": "Who knows.", **verdict}])
    assert _read({**LETTERS, "response_c": None, "winner": "a"})[0] == [(GOOD, BAD)]


def test_every_response_with_a_score_of_its_own_is_read() -> None:
    row = {**NUMBERS, "response_3": "Who knows.", "score_1": "4,5", "score_2": 2, "score_3": 3}
    pairs, _ = _read(row)
    assert sorted(pairs) == sorted([(GOOD, BAD), (GOOD, "Who knows."), ("Who knows.", BAD)])
    with pytest.raises(PairsError, match="column score_3: is empty, expected a number"):
        parse_pairs([{**row, "score_3": None}])


def test_scores_that_look_like_numbers_and_are_none_drop_no_response() -> None:
    row = {"prompt": Q, "responses": [GOOD, BAD, "Who knows."]}
    assert _read({**row, "scores": ["4,5", "3", "N/A"]})[0] == [(GOOD, BAD)]
    for score in ("1,000", "4/5", "80%"):
        with pytest.raises(PairsError, match=f"column responses: has the rating '{score}', expected a number such as 4.5"):
            parse_pairs([{**row, "scores": [score, "900", "10"]}])


@pytest.mark.parametrize(
    "names",
    [("chosen", "rejected", "rejected2"), ("chosen", "rejected_1", "rejected_2"), ("positive", "negative 1", "negative 2")],
)
def test_responses_in_several_columns_are_not_lost(names: tuple[str, ...]) -> None:
    row = {"prompt": Q, **dict(zip(names, (GOOD, BAD, "Who knows."), strict=True))}
    with pytest.raises(SparseRMError, match="of which only one would be read; expected a column for each side; write its resp"):
        parse_pairs([row])
    assert _read(row, columns={"chosen": names[0], "rejected": names[1]})[0] == [(GOOD, BAD)]
    assert _read({**row, names[-1]: None})[0] == [(GOOD, BAD)]
    assert _read({**ROW, "chosen_2": 0.5, "Rejected": "x"})[0] == [(GOOD, BAD)]


@pytest.mark.parametrize("filename", ["a.jsonl", "a.json", "list.json"])
def test_a_key_that_stands_twice_is_refused(filename: str) -> None:
    text = '{"prompt": "Q?", "chosen": "A.", "rejected": "B.", "chosen": "C."}'
    data = (f"[{text}]" if filename == "list.json" else text).encode()
    with pytest.raises(SparseRMError, match="the key 'chosen' stands twice in one object"):
        parse_rows(read_bytes(data, filename), filename, columns=None, skip_bad=False)


def test_two_columns_of_one_name_are_refused() -> None:
    cells = [Q, GOOD, BAD, "other"]
    names = ["prompt", "chosen", "rejected", "rejected"]
    with pytest.raises(SparseRMError, match="the data frame has more than one column 'rejected': rename all but one"):
        parse_pairs(pd.DataFrame([cells], columns=names))
    with pytest.raises(SparseRMError, match=r"a.json has more than one column 'rejected': rename all but one"):
        read_bytes(json.dumps({"columns": names, "data": [cells]}).encode(), "a.json")
    with pytest.raises(SparseRMError, match="has a row of 4 cells in data and 3 columns, expected a column for each cell"):
        read_bytes(json.dumps({"columns": names[:3], "data": [cells]}).encode(), "a.json")


@pytest.mark.parametrize("columns", [None, pd.MultiIndex.from_tuples([("prompt", ""), ("a", "chosen"), ("a", "rejected")])])
def test_a_data_frame_without_names_is_refused(columns: Any) -> None:
    with pytest.raises(SparseRMError, match=r"the data frame has the columns .*, expected names that are text, such as prompt"):
        parse_pairs(pd.DataFrame([[Q, GOOD, BAD]], columns=columns))
    found = parse_pairs(pd.Series([ROW]))
    assert [(pair.chosen, pair.rejected) for pair in found.pairs] == [(GOOD, BAD)]
