"""Prompts of a file: each once, in order, whatever else the file holds; and parts that share none."""

from __future__ import annotations

import json

import pytest

from sparserm.pairs.load import load_prompts, read_prompts, split_prompts
from sparserm.pairs.parsing import parse_pairs
from sparserm.types import Message, SparseRMError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def user(text):
    return (Message("user", text),)


def test_prompts_alone_are_enough_and_each_is_taken_once(tmp_path) -> None:
    path = write(tmp_path / "p.jsonl", [{"prompt": "b"}, {"prompt": [{"role": "user", "content": "a"}]}, {"prompt": "b"}])
    assert load_prompts(path) == (user("b"), user("a"))


def test_prompts_of_pairs_are_found_in_both_forms(tmp_path) -> None:
    explicit = [{"prompt": "a", "chosen": "yes", "rejected": "no"}]
    assert load_prompts(write(tmp_path / "e.jsonl", explicit)) == (user("a"),)
    implied = [{"chosen": "\n\nHuman: a\n\nAssistant: yes", "rejected": "\n\nHuman: a\n\nAssistant: no"}]
    assert load_prompts(write(tmp_path / "i.jsonl", implied)) == (user("a"),)


TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q"}]
SAID = (Message("system", "Be brief."), Message("user", "Q"))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"system": "Be brief.", "prompt": "Q"}, SAID),
        ({"prompt": "Q", "input": "Good day"}, user("Q\n\nGood day")),
        ({"context": "A passage.", "prompt": "Q"}, user("A passage.\n\nQ")),
        ({"instruction": "Q", "input": ""}, user("Q")),
        ({"question": "Q"}, user("Q")),
        ({"Prompt": "Q"}, user("Q")),
        ({"messages": TURNS}, SAID),
        ({"prompt": "Q", "messages": TURNS}, SAID),
        ({"prompt": '["Q"]'}, user("Q")),
        ({"prompt": "Q", "responses": ["a", "b"]}, user("Q")),
    ],
)
@pytest.mark.parametrize("responses", [{}, {"chosen": "yes", "rejected": "no"}])
def test_a_prompt_is_read_as_that_of_pairs(tmp_path, row, prompt, responses) -> None:
    found = read_prompts(write(tmp_path / "p.jsonl", [{**row, **responses}]))
    assert found.prompts == (prompt,)
    in_pairs = parse_pairs([{**row, "chosen": "yes", "rejected": "no"}])
    assert in_pairs.pairs[0].prompt == prompt
    assert [one.problem for one in found.issues] == [one.problem for one in in_pairs.issues]


def test_the_prompt_of_a_layout_is_found(tmp_path) -> None:
    told = [[{"role": "user", "content": "Q"}, {"role": "assistant", "content": one}] for one in "ab"]
    rows = [{"conversation_a": told[0], "conversation_b": told[1], "winner": "model_a"}]
    assert load_prompts(write(tmp_path / "p.jsonl", rows)) == (user("Q"),)
    rows = [{"history": "Q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}]
    assert load_prompts(write(tmp_path / "p.jsonl", rows)) == (user("Q"),)


def test_a_missing_value_as_a_prompt_is_warned_of(tmp_path) -> None:
    (issue,) = read_prompts(write(tmp_path / "p.jsonl", [{"prompt": "nan"}, {"prompt": "Q"}])).issues
    assert (issue.row, issue.column) == (1, "prompt") and "may be a missing value" in issue.problem


def test_a_source_without_prompts_is_told_its_columns(tmp_path) -> None:
    with pytest.raises(SparseRMError, match="has the columns 'text'; expected 'prompt', or another name for it"):
        load_prompts(write(tmp_path / "p.jsonl", [{"text": "a"}]))


@pytest.mark.parametrize("bad", [{"prompt": ""}, {"prompt": None}, {"text": "a"}, {"prompt": 3}])
def test_a_row_without_a_prompt_is_named(tmp_path, bad) -> None:
    with pytest.raises(SparseRMError, match=r"row 2, column prompt"):
        load_prompts(write(tmp_path / "p.jsonl", [{"prompt": "a"}, bad]))


def test_held_out_prompts_are_others_and_at_most_a_third() -> None:
    prompts = [user(str(i)) for i in range(9)]
    split = split_prompts(prompts, 64, 0)
    assert len(split.held_out) == 3 and sorted((*split.train, *split.held_out), key=str) == sorted(prompts, key=str)
    assert split_prompts(prompts, 2, 0).held_out == split.held_out[:2]
    assert split != split_prompts(prompts, 64, 1)
    with pytest.raises(SparseRMError, match="at least six"):
        split_prompts(prompts[:5], 2, 0)
