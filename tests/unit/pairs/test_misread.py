"""Cells and columns that may be read otherwise than meant: read as meant, refused by name, or read with a warning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sparserm.pairs.files import read_bytes
from sparserm.pairs.parsing import PairsError, parse_pairs, parse_rows
from sparserm.types import Message, PreferenceData, Prompt, SparseRMError
from tests.unit.pairs.forms import BAD, GOOD, Q

USER: Prompt = (Message("user", Q),)
HELLO: Prompt = (Message("user", "Hi."), Message("assistant", "Hello."))
ROW = {"prompt": Q, "chosen": GOOD, "rejected": BAD}


def _turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def _is_read(found: PreferenceData, prompt: Prompt = USER) -> None:
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in found.pairs] == [(prompt, GOOD, BAD)]


def _said(found: PreferenceData) -> str:
    return " | ".join(issue.problem for issue in found.issues)


# ------------------------------------------------------------------------------------------------------ JSON in prompts


@pytest.mark.parametrize("value", [[Q], {"text": Q}, {"content": Q}, [{"content": Q}], [{"type": "text", "text": Q}]])
@pytest.mark.parametrize("write", [lambda value: value, json.dumps, repr], ids=["as it is", "json", "python"])
def test_the_only_text_in_a_list_or_an_object_is_the_prompt(value: Any, write: Any) -> None:
    found = parse_pairs([{**ROW, "prompt": write(value)}])
    _is_read(found)
    assert ("read the text in each list or object of `prompt`" in _said(found)) == isinstance(write(value), str)


def test_data_in_some_prompts_or_responses_is_read_as_text_with_a_warning() -> None:
    rows = [ROW, {**ROW, "prompt": '["one"]'}, {"prompt": "As JSON?", "chosen": '{"a": 1}', "rejected": '["a"]'}]
    found = parse_pairs(rows)
    assert [pair.prompt[0].content for pair in found.pairs] == [Q, '["one"]', "As JSON?"]
    warned = [(issue.row, issue.column) for issue in found.issues if "list or an object written as text" in issue.problem]
    assert warned == [(2, "prompt"), (3, "chosen"), (3, "rejected")]


def test_a_column_of_texts_in_quotes_is_warned_of() -> None:
    rows = [{**ROW, "chosen": json.dumps(text)} for text in (GOOD, "Yes.")]
    assert "is in quotes in every pair, as JSON writes texts" in _said(parse_pairs(rows))
    assert not parse_pairs([rows[0], {**ROW, "prompt": "Why?"}]).issues


def test_several_texts_are_no_prompt() -> None:
    with pytest.raises(PairsError, match="column prompt: is a list of 2 texts, expected one, or messages"):
        parse_pairs([{**ROW, "prompt": ["Hi.", Q]}])


# ---------------------------------------------------------------------------------------- conversations beside a prompt


@pytest.mark.parametrize("name", ["conversations", "messages", "context_messages"])
@pytest.mark.parametrize("asked", ["Hi.", Q])
@pytest.mark.parametrize("answered", [(), (GOOD,)])
def test_a_conversation_that_says_more_than_the_prompt_is_read(name: str, asked: str, answered: tuple[str, ...]) -> None:
    found = parse_pairs([{**ROW, "prompt": asked, name: _turns("Hi.", "Hello.", Q, *answered)}])
    _is_read(found, (*HELLO, *USER))
    assert f"read `{name}` as the prompt" in _said(found)


@pytest.mark.parametrize("told", [_turns(Q), _turns(Q, GOOD), _turns(Q, "Another answer."), None, []])
def test_a_conversation_that_repeats_the_prompt_says_nothing(told: Any) -> None:
    found = parse_pairs([{**ROW, "messages": told}])
    _is_read(found)
    assert not found.issues


def test_a_conversation_that_contradicts_the_prompt_is_named() -> None:
    found = parse_pairs([{**ROW, "messages": _turns("What is rust?")}])
    _is_read(found)
    assert "read `prompt` and not `messages`, which is another prompt in some rows" in _said(found)


# ------------------------------------------------------------------------------------------------------- lists of texts


@pytest.mark.parametrize("beside", [{}, {"prompt": Q}, {"prompt": "Hi."}])
@pytest.mark.parametrize("write", [lambda value: value, json.dumps], ids=["lists", "json"])
def test_lists_that_begin_alike_are_turns(beside: dict[str, str], write: Any) -> None:
    rows = [{**beside, "chosen": write(["Hi.", "Hello.", Q, GOOD]), "rejected": write(["Hi.", "Hello.", Q, BAD])}]
    found = parse_pairs(rows)
    _is_read(found, (*HELLO, *USER))
    assert "lists of texts as turns of user and assistant" in _said(found)


def test_lists_that_begin_alike_in_some_rows_alone_are_refused_there() -> None:
    rows = [{**ROW, "chosen": [GOOD], "rejected": [BAD]}, {**ROW, "chosen": [Q, GOOD], "rejected": [Q, BAD]}]
    with pytest.raises(PairsError, match="row 2, column chosen: and rejected are lists that begin with the same text"):
        parse_pairs(rows)


def test_one_side_may_be_a_list_and_the_other_a_text() -> None:
    rows = [ROW, {**ROW, "rejected": [BAD, "No."]}, {**ROW, "chosen": [GOOD], "rejected": "Who knows."}]
    found = parse_pairs(rows)
    assert [(pair.row, pair.rejected) for pair in found.pairs] == [(1, BAD), (2, BAD), (2, "No."), (3, "Who knows.")]
    rows = [{**ROW, "rejected": json.dumps([BAD, "No."])}, {**ROW, "rejected": json.dumps(["Who knows."])}]
    found = parse_pairs(rows)
    assert [(pair.row, pair.rejected) for pair in found.pairs] == [(1, BAD), (1, "No."), (2, "Who knows.")]
    assert "cells as lists of responses" in _said(found)


@pytest.mark.parametrize("spelled", [str, str.title, lambda name: name.replace("_", " ").title()])
def test_answers_with_semicolons_are_several(spelled: Any) -> None:
    row = {"question": Q, "best_answer": GOOD, "correct_answers": f"{GOOD}; It is.", "incorrect_answers": f"{BAD}; No;"}
    found = parse_pairs([{spelled(name): value for name, value in row.items()}])
    pairs = [(pair.chosen, pair.rejected) for pair in found.pairs]
    assert pairs == [(GOOD, BAD), (GOOD, "No"), ("It is.", BAD), ("It is.", "No")]


def test_semicolons_in_columns_that_are_called_like_several_are_warned_of() -> None:
    found = parse_pairs([{"question": Q, "good_answers": "Yes; sure", "bad_answers": "No"}])
    assert "is called like several responses, and has semicolons in 1 of 1 pairs" in _said(found)


# ------------------------------------------------------------------------------------------------------ ties and flips


@pytest.mark.parametrize(
    "beside",
    [
        {"tie": True},
        {"is_tie": "true"},
        {"Tie": 1},
        {"status": "tie"},
        {"winner": "tie (bothbad)"},
        {"preference": "Tied"},
        {"winner": "both_bad"},
    ],
)
def test_a_column_that_says_tie_leaves_the_row_out(beside: dict[str, Any]) -> None:
    (name,) = beside
    found = parse_pairs([{**ROW, name: ""}, {**ROW, **beside}])
    _is_read(found)
    assert [(issue.row, issue.severity) for issue in found.issues] == [(2, "tie")]


def test_an_explanation_is_no_tie() -> None:
    _is_read(parse_pairs([{**ROW, "preference": "Both responses are fine, but the first one says why it is so."}]))


@pytest.mark.parametrize("name", ["flipped", "is_flipped", "label_flipped", "Swapped", "winner"])
def test_a_column_that_says_that_labels_were_flipped_is_warned_of(name: str) -> None:
    yes, no = ("rejected", "chosen") if name == "winner" else (True, False)
    found = parse_pairs([{**ROW, name: no}, {**ROW, "prompt": "Why?", name: yes}])
    assert [pair.chosen for pair in found.pairs] == [GOOD, GOOD]
    (issue,) = found.issues
    assert issue.row == 2 and "in 1 of 2 rows, read as the columns say: check that chosen and rejected were" in issue.problem
    assert not parse_pairs([{**ROW, name: no}]).issues


@pytest.mark.parametrize("values", [(0, 1), ("1", "0"), (True, False)])
def test_a_label_beside_named_responses_is_questioned(values: tuple[Any, Any]) -> None:
    rows = [{**ROW, "label": values[0]}, {**ROW, "prompt": "Why?", "label": values[1]}]
    assert "beside chosen and rejected, which were read as named: check what it says" in _said(parse_pairs(rows))
    assert not parse_pairs(rows[:1]).issues and not parse_pairs([{**row, "label": "chat"} for row in rows]).issues


# ------------------------------------------------------------------------------------------------------ missing values


@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("mark", ["nan", "None", "null"])
def test_missing_values_written_as_text_are_no_texts(column: str, mark: str) -> None:
    rows = [{"prompt": f"{Q} {i}", "chosen": f"{GOOD} {i}", "rejected": f"{BAD} {i}"} for i in range(3)]
    with pytest.raises(SparseRMError, match=f"every cell of {column} is the text '{mark}', as exporters write missing values"):
        parse_pairs([{**row, column: mark} for row in rows], skip_bad=True)
    found = parse_pairs([{**rows[0], column: mark}, *rows[1:]])
    assert [(issue.row, issue.column) for issue in found.issues] == [(1, column)]
    assert "which may be a missing value" in _said(found)


@pytest.mark.parametrize("mark", ["nan", "None", "null", " "])
@pytest.mark.parametrize("name", ["system", "input", "context"])
def test_missing_values_beside_the_prompt_are_left_out(name: str, mark: str) -> None:
    for asked in ("prompt", "instruction"):
        _is_read(parse_pairs([{asked: Q, "chosen": GOOD, "rejected": BAD, name: mark}]))
    _is_read(parse_pairs([{"instruction": Q, name: mark, "response_a": GOOD, "response_b": BAD, "winner": "a"}]))


# --------------------------------------------------------------------------------------------------- steps and choices


def test_steps_that_both_responses_begin_with_are_a_part_of_them() -> None:
    row = {**ROW, "initial_reason_steps": "Step 1: Look.\nStep 2:", "full_chosen": GOOD, "full_rejected": BAD}
    (pair,) = parse_pairs([row]).pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (
        USER,
        f"Step 1: Look.\nStep 2: {GOOD}",
        f"Step 1: Look.\nStep 2: {BAD}",
    )


def test_choices_beside_pairs_are_said_and_alone_get_a_hint() -> None:
    assert "`options` is not read" in _said(parse_pairs([{**ROW, "options": ["a", "b"]}]))
    with pytest.raises(SparseRMError, match="of a multiple choice, write the right choice into chosen and a wrong one into"):
        parse_pairs([{"question": Q, "choices": [GOOD, BAD], "answer": 0}])


# ------------------------------------------------------------------------------------------------------ labels and forms


@pytest.mark.parametrize("spelled", [str.title, str.upper, lambda name: name.replace("_", " ").title()])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": Q, "response_a": BAD, "response_b": GOOD, "winner": "B"},
        {"prompt": Q, "response_1": GOOD, "response_2": BAD, "winner": "Response 1"},
        {"question": Q, "answer_1": BAD, "answer_2": GOOD, "preferred": "answer_2"},
        {"prompt": Q, "response_0": BAD, "response_1": GOOD, "better_response_id": 1},
        {"instruction": Q, "system_prompt": "", "generations": [BAD, GOOD], "ratings": [1, 2]},
    ],
)
def test_columns_of_documented_forms_may_be_spelled_as_titles(row: dict[str, Any], spelled: Any) -> None:
    _is_read(parse_pairs([{spelled(name): value for name, value in row.items()}]))


def test_verdicts_on_single_responses_may_be_spelled_as_titles() -> None:
    _is_read(parse_pairs([{"Prompt": Q, "Completion": text, "Label": text == GOOD} for text in (GOOD, BAD)]))


@pytest.mark.parametrize("names", [("response_a", "response_b"), ("Response A", "Response B")])
def test_numbers_as_verdicts_on_letters_are_refused(names: tuple[str, str]) -> None:
    row = {"prompt": Q, names[0]: GOOD, names[1]: BAD}
    _is_read(parse_pairs([{**row, "label": "A"}]))
    for label in (0, 1, "1"):
        with pytest.raises(PairsError, match=r"or a tie \(a number may mean either response\)"):
            parse_pairs([{**row, "label": label}])


def test_equal_scores_are_ties() -> None:
    row = {"question": {"full_text": Q}, "answer_0": BAD, "answer_1": GOOD, "score_0": -0.5, "score_1": 0.5}
    found = parse_pairs([row, {**row, "score_1": -0.5}])
    _is_read(found)
    assert [issue.row for issue in found.issues if issue.severity == "tie"] == [2]


def test_most_annotations_of_label_studio_decide() -> None:
    def task(*selected: str, **more: Any) -> dict[str, Any]:
        results = [{"result": [{"type": "pairwise", "value": {"selected": side}}]} for side in selected]
        return {"data": {"prompt": Q, "Answer 1": GOOD, "Answer 2": BAD, **more}, "annotations": results}

    skipped = {"was_cancelled": True, "result": [{"type": "pairwise", "value": {"selected": "right"}}]}
    won = task("left", "right", "left")
    won["annotations"] += [skipped] * 5
    found = parse_pairs([won, task("left", "right"), task()])
    _is_read(found)
    assert [issue.row for issue in found.issues if issue.severity == "tie"] == [2, 3]
    _is_read(parse_pairs([task("left", system="Be brief.")]), (Message("system", "Be brief."), *USER))
    with pytest.raises(PairsError, match="column data: has text, expected a prompt and two answers called answer1 and answer2"):
        parse_pairs([{"data": {"text": Q}, "annotations": []}])


def test_candidates_of_nova_need_both_labels() -> None:
    last = {"role": "assistant", "candidates": [{"content": [{"text": GOOD}], "preferenceLabel": "preferred"}] * 2}
    with pytest.raises(PairsError, match="has no two candidates with the preferenceLabel preferred and non-preferred"):
        parse_pairs([{"messages": [{"role": "user", "content": [{"text": Q}]}, last]}])


# ------------------------------------------------------------------------------------------------------ dataset viewer


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_rows_of_the_dataset_viewer_are_read_unless_they_are_cut(name: str) -> None:
    def read(*cut: str) -> PreferenceData:
        rows = [{"row_idx": 0, "row": ROW, "truncated_cells": list(cut)}]
        value = {"features": [{"name": "prompt"}], "rows": rows, "num_rows_total": 1, "partial": False}
        data = json.dumps(value if name == "a.json" else rows[0]).encode()
        return parse_rows(read_bytes(data, name), name, columns=None, skip_bad=False)

    _is_read(read())
    with pytest.raises(PairsError, match=r"is cut short in \['chosen'\] by the Hub's dataset viewer: give the name of the"):
        read("chosen")


# ------------------------------------------------------------------------------------------ texts that are not the prompt


@pytest.mark.parametrize("name", ["text", "question", "code", "persona", "Notes", "rejected_by"])
def test_a_text_that_is_not_read_is_named(name: str) -> None:
    found = parse_pairs([ROW, {**ROW, "prompt": "Why?", name: "Air is no sea."}])
    assert f"not read: `{name}`; what belongs to the prompt has to stand in it" in _said(found)
    letters = {"prompt": Q, "response_a": GOOD, "response_b": BAD, "winner": "a", name: "Air is no sea."}
    assert f"not read: `{name}`" in _said(parse_pairs([letters]))


@pytest.mark.parametrize("value", ["", "train", 7, None, "NULL", [], ["a", "b"], Q, f"{GOOD}"])
def test_what_is_no_text_or_was_read_elsewhere_is_not_named(value: Any) -> None:
    assert not parse_pairs([{**ROW, "text": value}]).issues
    assert not parse_pairs([{**ROW, "chosen_model": "a b", "source": "a b", "id": "a b", "category": "a b"}]).issues


def test_many_texts_are_counted() -> None:
    more = {f"note_{i}": f"Note number {i}." for i in range(12)}
    assert "`note_5` and 4 more; what" in _said(parse_pairs([{**ROW, **more}]))


@pytest.mark.parametrize("name", ["image_path", "video", "audio", "functions", "Image"])
def test_media_in_any_spelling_are_named(name: str) -> None:
    assert f"`{name}` is not read: only the texts are" in _said(parse_pairs([{**ROW, name: "[1]"}]))


@pytest.mark.parametrize("name", ["context", "contexts", "passages", "documents", "evidence"])
@pytest.mark.parametrize("beside", [ROW, {"question": Q, "response_a": GOOD, "response_b": BAD, "winner": "a"}])
def test_texts_before_the_prompt_may_be_a_list(name: str, beside: dict[str, Any]) -> None:
    for value, read in (
        (["Air.", "Sea."], "Air.\n\nSea."),
        (["Air.", ""], "Air."),
        ({"text": "Air."}, "Air."),
        ("Air.", "Air."),
    ):
        _is_read(parse_pairs([{**beside, name: value}]), (Message("user", f"{read}\n\n{Q}"),))
    with pytest.raises(
        PairsError, match=f"column {name}: is of type dict, expected text or a list of texts: write it into the"
    ):
        parse_pairs([{**beside, name: {"title": "Air", "text": "It scatters."}}])


@pytest.mark.parametrize("name", ["context", "history"])
@pytest.mark.parametrize("write", [lambda value: value, json.dumps, repr], ids=["lists", "json", "python"])
@pytest.mark.parametrize("turns", [_turns("Hi.", "Hello."), [["Hi.", "Hello."]]], ids=["messages", "pairs"])
def test_turns_before_the_prompt_are_read_in_any_writing(name: str, write: Any, turns: Any) -> None:
    found = parse_pairs([{**ROW, name: write(turns)}])
    _is_read(found, (*HELLO, *USER))
    found = parse_pairs([{"instruction": Q, "input": "", "chosen": GOOD, "rejected": BAD, name: write(turns)}])
    _is_read(found, (*HELLO, *USER))


@pytest.mark.parametrize("empty", ["[]", "{}", "[ ]", [], {}])
@pytest.mark.parametrize("name", ["history", "context", "input", "system"])
def test_an_empty_list_beside_the_prompt_adds_nothing(name: str, empty: Any) -> None:
    _is_read(parse_pairs([{**ROW, name: empty}]))
    _is_read(parse_pairs([{"instruction": Q, name: empty, "response_a": GOOD, "response_b": BAD, "winner": "a"}]))


def test_data_in_an_input_is_kept() -> None:
    (pair,) = parse_pairs([{"instruction": "Sort it.", "input": "[3, 1]", "chosen": "[1, 3]", "rejected": "[3, 1]"}]).pairs
    assert pair.prompt[0].content == "Sort it.\n\n[3, 1]"


@pytest.mark.parametrize(
    "name", ["sys", "sys_prompt", "System Message", "system_content", "systemInstructions", "system-prompt"]
)
def test_a_system_message_in_any_spelling_is_read(name: str) -> None:
    _is_read(parse_pairs([{**ROW, name: "Be brief."}]), (Message("system", "Be brief."), *USER))


@pytest.mark.parametrize("missing", [{}, {"messages": None}])
def test_a_conversation_that_first_stands_in_a_late_row_is_read(missing: dict[str, None]) -> None:
    rows = [{**ROW, **missing, "prompt": f"{Q} {i}"} for i in range(60)]
    found = parse_pairs([*rows, {**ROW, "messages": _turns("Hi.", "Hello.", Q)}])
    assert [pair.prompt[-1].content for pair in found.pairs] == [*(f"{Q} {i}" for i in range(60)), Q]
    assert found.pairs[-1].prompt == (*HELLO, *USER)


# ------------------------------------------------------------------------------------------------- more missing values

_MARKS = [
    "NULL",
    "Null",
    "NA",
    "n/a",
    "NaT",
    "\\N",
    "undefined",
    "#DIV/0!",
    "#NUM!",
    "Err:508",
    "[deleted]",
    "(empty)",
    "<null>",
]


@pytest.mark.parametrize("mark", [*_MARKS, "<empty>", "[removed]", "Loading...", "<noinput>"])
def test_every_mark_of_a_missing_value_is_known(mark: str) -> None:
    found = parse_pairs([{**ROW, "rejected": mark}, {**ROW, "prompt": "Why?"}])
    assert [(issue.row, issue.column) for issue in found.issues] == [(1, "rejected")]
    assert "which may be a missing value" in _said(found)
    with pytest.raises(SparseRMError, match=r"every cell of rejected is the text .* as exporters write missing values"):
        parse_pairs([{**ROW, "rejected": mark}, {**ROW, "prompt": "Why?", "rejected": mark}])
    for name in ("system", "input", "context"):
        _is_read(parse_pairs([{**ROW, name: mark}]))
        _is_read(parse_pairs([{"instruction": Q, "chosen": GOOD, "rejected": BAD, name: mark}]))


@pytest.mark.parametrize("text", ["Empty.", "removed", "#1!", "#one!", "[1]", "(a)", "Not a number", "Nah"])
def test_other_short_texts_are_no_marks(text: str) -> None:
    assert not parse_pairs([{**ROW, "rejected": text}]).issues


# -------------------------------------------------------------------------------------------------- writings of programs


@pytest.mark.parametrize(
    "text",
    [
        "[HumanMessage(content='Q?', additional_kwargs={}, response_metadata={})]",
        "ChatCompletionMessage(content='A.', refusal=None, role='assistant', tool_calls=None)",
        "Message(role='user', content='Q?')",
        "- role: user\n  content: Q?\n",
        '[{role: "user", content: "Q?"}]',
        "{from: 'human', value: 'Q?'}",
        '[["user","Hi."],["assistant","Hello."],["user","Q?"]]',
        "[('user', 'Hi.'), ('assistant', 'Hello.')]",
        "array([{'content': 'Q?', 'role': 'user'}], dtype=object)",
    ],
)
@pytest.mark.parametrize("column", ["prompt", "chosen"])
def test_messages_in_other_writings_are_refused(text: str, column: str) -> None:
    with pytest.raises(PairsError, match=f"column {column}: (looks like messages, but is neither|message 1 is of type)"):
        parse_pairs([{**ROW, column: text}])


@pytest.mark.parametrize(
    "text", ["Message me.", "- role: admin\n- role: guest", "array([1, 2])", "{a: 1}", "Message(s) sent: content=1"]
)
def test_texts_that_look_somewhat_like_messages_are_read(text: str) -> None:
    (pair,) = parse_pairs([{**ROW, "chosen": text}]).pairs
    assert pair.chosen == text


def test_formulas_and_escapes_of_excel_are_warned_of() -> None:
    assert 'chosen: is written ="..." in 1 of 1 pairs' in str(parse_pairs([{**ROW, "chosen": '="Yes"'}]).issues[0])
    assert "has _x000D_ or the like in 1 of 1 pairs" in _said(parse_pairs([{**ROW, "chosen": "one_x000D_\ntwo"}]))


def test_a_header_among_the_rows_is_warned_of_with_spaces_and_in_capitals() -> None:
    rows = [{"Prompt": "prompt", "Chosen": "Chosen ", "Rejected": "REJECTED"}, {"Prompt": Q, "Chosen": GOOD, "Rejected": BAD}]
    assert "repeats the header" in _said(parse_pairs(rows))


@pytest.mark.parametrize("name", ["{}_avg_rating", "{}_rewards", "score of {}", "{} Score", "votes_{}", "{}-score"])
@pytest.mark.parametrize(("low", "high"), [(1, 4), ("1,5", "4,5")])
def test_scores_that_speak_for_the_rejected_response_are_warned_of(name: str, low: Any, high: Any) -> None:
    row = {**ROW, name.format("chosen"): low, name.format("rejected"): high}
    assert "the label may be the wrong way round" in _said(parse_pairs([row]))
    row = {**ROW, name.format("chosen"): high, name.format("rejected"): low}
    assert not parse_pairs([row]).issues


def test_an_object_of_lists_is_columns_where_it_is_no_row() -> None:
    def read(value: Any) -> PreferenceData:
        return parse_rows(read_bytes(json.dumps(value).encode(), "a.json"), "a.json", columns=None, skip_bad=False)

    found = read({"question": [Q, "Why?"], "good": [GOOD, "Yes."], "bad": [BAD, "No."]})
    assert [(pair.prompt[0].content, pair.chosen, pair.rejected) for pair in found.pairs] == [
        (Q, GOOD, BAD),
        ("Why?", "Yes.", "No."),
    ]
    messages = [_turns(Q), _turns("Why?")]
    assert len(read({"prompt": messages, "chosen": [GOOD, "Yes."], "rejected": [BAD, "No."]}).pairs) == 2
    with pytest.raises(
        SparseRMError, match="is one object with a list of 2 in each of chosen, rejected, which may be one row or 2"
    ):
        read({"chosen": ["Tell me. Yes.", "Say. No."], "rejected": ["Tell me. No.", "Say. Yes."]})
    _is_read(read({"chosen": _turns(Q, GOOD), "rejected": _turns(Q, BAD)}))
    assert len(read({"prompt": Q, "chosen": [GOOD, "Yes."], "rejected": [BAD, "No."]}).pairs) == 4


# -------------------------------------------------------------------------------------------------------- rows in memory


@pytest.mark.parametrize("values", ["pairs.jsonl", Path("pairs.jsonl"), None, 7])
def test_what_holds_no_rows_is_refused(values: Any) -> None:
    with pytest.raises(
        SparseRMError, match=r"got .*, expected rows, each with prompt, chosen and rejected; read a file with load"
    ):
        parse_pairs(values)


@pytest.mark.parametrize("make", [list, tuple, np.array, pd.Series])
def test_columns_of_any_kind_are_rows(make: Any) -> None:
    columns = {name: make([value, f"{value} 2"]) for name, value in ROW.items()}
    assert [pair.chosen for pair in parse_pairs(columns).pairs] == [GOOD, f"{GOOD} 2"]
    with pytest.raises(
        SparseRMError, match=r"columns of different lengths, prompt \(2\), chosen \(2\), rejected \(1\); expected"
    ):
        parse_pairs({**columns, "rejected": make([BAD])})


def test_one_row_and_a_table_are_rows() -> None:
    _is_read(parse_pairs(ROW))
    _is_read(parse_pairs({"chosen": _turns(Q, GOOD), "rejected": _turns(Q, BAD)}))
    _is_read(parse_pairs(pa.Table.from_pylist([ROW])))  # type: ignore[arg-type]
    turns = {name: [np.array(_turns(Q, text), dtype=object)] for name, text in (("chosen", GOOD), ("rejected", BAD))}
    _is_read(parse_pairs(pd.DataFrame(turns)))


def test_the_order_of_columns_decides_nothing() -> None:
    for names in (("Prompt", "PROMPT"), ("PROMPT", "Prompt")):
        with pytest.raises(SparseRMError, match=f"has the columns '{names[0]}' and '{names[1]}', expected one of them; rename"):
            parse_pairs([{names[0]: Q, names[1]: "Why?", "chosen": GOOD, "rejected": BAD}])
    _is_read(parse_pairs([{"Prompt": "Why?", **ROW}]))


def test_completions_with_scores_go_before_the_answers_that_ultrafeedback_writes_beside_them() -> None:
    completions = [{"response": BAD, "overall_score": 2}, {"response": GOOD, "overall_score": 9}]
    row = {"instruction": Q, "completions": completions, "correct_answers": ["None"], "incorrect_answers": ["None"]}
    _is_read(parse_pairs([row]))


def test_a_history_that_is_the_prompt_is_read_once() -> None:
    (pair,) = parse_pairs([{"history": "Q", "chosen": "a", "rejected": "b"}]).pairs
    assert pair.prompt == (Message("user", "Q"),)
