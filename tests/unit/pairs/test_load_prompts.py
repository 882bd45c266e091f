"""Prompts of a file: each once, in order, whatever else the file holds; and parts that share none."""

from __future__ import annotations

import json

import pytest

from sparserm.pairs.load import load_prompts, split_prompts
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
