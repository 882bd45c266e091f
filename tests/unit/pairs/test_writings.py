"""Texts that are read as they stand, and may be written for another program: each kind is named in a warning."""

from __future__ import annotations

import json

import pytest

from sparserm.pairs.candidates import read_candidates
from sparserm.pairs.files import read_bytes
from sparserm.pairs.parsing import parse_pairs, parse_rows
from sparserm.types import PreferenceData
from tests.unit.pairs.forms import BAD, GOOD, Q

ROW = {"prompt": Q, "chosen": GOOD, "rejected": BAD}
#: An ordinary pair of texts with line breaks.
LONG = {"prompt": "Why?\nIn short.", "chosen": "Yes.\nIt is.", "rejected": "No."}


def _said(found: PreferenceData) -> str:
    return " | ".join(issue.problem for issue in found.issues)


def _read(text: str, name: str) -> PreferenceData:
    return parse_rows(read_bytes(text.encode(), name), name, columns=None, skip_bad=False)


# ---------------------------------------------------------------------------------------------------- line breaks as \n


def test_line_breaks_written_as_two_characters_are_warned_of() -> None:
    found = _read("prompt\tchosen\trejected\nWhy?\tOne.\\nTwo.\tNo.\nHow?\tSo.\\n\\nThus.\tNo.\n", "a.tsv")
    assert found.pairs[0].chosen == "One.\\nTwo."
    assert [(issue.row, issue.severity) for issue in found.issues] == [(1, "warning")]
    assert r"\n is written as two characters in 2 of 6 texts, none of which has a line break" in _said(found)


@pytest.mark.parametrize(
    "rows",
    [
        [{**ROW, "prompt": r"What does \n mean in C?"}, {**ROW, "chosen": "Yes."}],  # a text about it
        [{**ROW, "prompt": r"Is it C:\new?"}, {**ROW, "chosen": r"It is in C:\news."}],
        [{**ROW, "chosen": r"One.\nTwo."}, {**ROW, "chosen": r"Three.\nFour."}, LONG],  # others have line breaks
    ],
)
def test_texts_about_line_breaks_are_not_warned_of(rows: list[dict[str, str]]) -> None:
    assert "two characters" not in _said(parse_pairs(rows))


# ------------------------------------------------------------------------------------------------------ images in texts


@pytest.mark.parametrize(
    "text", ["<image>\nWhat is it?", "What is it?\n<image>", "Look.\n\n<image> What is it?", "<image1>\nWhy?"]
)
@pytest.mark.parametrize("turns", [False, True])
def test_places_of_images_in_prompts_are_warned_of(text: str, turns: bool) -> None:
    asked = [{"role": "user", "content": text}, *_ANSWERED] if turns else text
    found = parse_pairs([{**ROW, "prompt": asked}, LONG])
    assert found.pairs[0].prompt[0].content == text
    mark = "<image1>" if "1" in text else "<image>"
    assert f"prompt: has {mark} or the like in 1 of 2 pairs, where an image" in str(found.issues[0])


_ANSWERED = [{"role": "assistant", "content": "A cat."}, {"role": "user", "content": "Sure?"}]


@pytest.mark.parametrize(
    "text", ["What does <image> do in SVG?", "<video>\n<source src='a'>\n</video>\nWhy?", "Is 1 <image of f?", "<images>"]
)
def test_texts_about_images_are_not_warned_of(text: str) -> None:
    assert not parse_pairs([{**ROW, "prompt": text}]).issues


# ---------------------------------------------------------------------------------------- responses that repeat prompts


def test_responses_that_repeat_their_prompt_in_most_rows_are_warned_of_with_the_others() -> None:
    rows = [{"prompt": f"{Q} {i}", "chosen": f"{Q} {i}\n{GOOD}", "rejected": f"{Q} {i}\n{BAD}"} for i in range(6)]
    rows[3] = {**rows[3], "rejected": BAD}
    found = parse_pairs(rows)
    assert found.pairs[0].chosen == f"{Q} 0\n{GOOD}"
    (issue,) = found.issues
    assert "responses begin with their prompt in 5 of 6 pairs, and not in row 4: read with it" in issue.problem


def test_messages_that_repeat_their_prompt_in_all_rows_are_warned_of() -> None:
    chosen, rejected = ([{"role": "assistant", "content": f"{Q} {text}"}] for text in (GOOD, BAD))
    assert "begin with their prompt in 1 of 1 pairs: read with it" in _said(
        parse_pairs([{"prompt": Q, "chosen": chosen, "rejected": rejected}])
    )


def test_responses_that_go_on_with_few_prompts_are_not_warned_of() -> None:
    story = {"prompt": "Once upon a time", "chosen": "Once upon a time, so.", "rejected": "Once upon a time, no."}
    assert not parse_pairs([story, ROW, LONG]).issues


def test_candidates_that_repeat_their_prompt_are_warned_of() -> None:
    rows = [{"prompt": Q, "responses": [f"{Q} {GOOD}", f"{Q} {BAD}"]}, {"prompt": "Why not?", "responses": ["Yes.", "No."]}]
    found = read_candidates("".join(json.dumps(row) + "\n" for row in rows).encode(), "a.jsonl")
    assert any("begin with their prompt in 2 of 4" in issue.problem for issue in found.issues)


# ------------------------------------------------------------------------------------------------------ a second table

TABLE = "prompt,chosen,rejected\nWhy?,Yes,No\nHow?,So,Not so\n"


@pytest.mark.parametrize("between", ["\n", "\n\n", " \n", ",,\n"])
@pytest.mark.parametrize("header", ["name,value,note", "question,good answer,bad answer"])
def test_a_second_table_below_the_first_is_warned_of(between: str, header: str) -> None:
    text = f"{TABLE}{between}{header}\na,b,c\n"
    found = parse_rows(read_bytes(text.encode(), "a.csv"), "a.csv", columns=None, skip_bad=True)
    (issue,) = [one for one in found.issues if one.severity == "warning"]
    assert "may be the header of a second table" in issue.problem
    (pair,) = [pair for pair in found.pairs if pair.row == issue.row]
    assert pair.rejected == header.split(",")[2]


def test_names_of_columns_among_the_rows_are_warned_of_without_a_blank_line() -> None:
    found = _read(f"{TABLE}question,good answer,bad answer\na,b,c\n", "a.csv")
    assert [(issue.row, issue.column) for issue in found.issues] == [(3, "chosen")]
    assert "the row may be the header of a second table" in _said(found)


@pytest.mark.parametrize(
    "text",
    [
        "prompt,chosen,rejected\n\nWhy,Yes,No\n\nHow,So,Not\n",  # as Python writes on Windows without newline=""
        f'{TABLE}\n"Why is it so, then?",Since it is.,No\n',
        f"{TABLE}\n\n",
        f"{TABLE}Name a good question,A good answer,A bad answer\n",
    ],
)
def test_blank_lines_and_ordinary_rows_are_not_warned_of(text: str) -> None:
    assert "second table" not in _said(_read(text, "a.csv"))


# ------------------------------------------------------------------------------------------------ lists that never end


def test_texts_that_begin_like_lists_in_all_rows_and_never_end_are_text() -> None:
    rows = [{**ROW, "chosen": '["'}, {"prompt": "Why?", "chosen": "['a', which", "rejected": "No."}]
    assert [pair.chosen for pair in parse_pairs(rows).pairs] == ['["', "['a', which"]


def test_texts_as_long_as_a_cell_of_excel_may_be_are_warned_of() -> None:
    found = parse_pairs([{**ROW, "chosen": "a" * 32_767}, LONG])
    assert "chosen: has 32,767 characters in 1 of 2 pairs, the most that a cell of Excel holds: it may be cut" in str(
        found.issues[0]
    )
    assert not parse_pairs([{**ROW, "chosen": "a" * 32_768}]).issues
