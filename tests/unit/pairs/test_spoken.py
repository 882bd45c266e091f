"""What a response says to the user: thinking and marks of templates are left out wherever it is read, and that is said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserm.pairs.candidates import read_candidates
from sparserm.pairs.messages import as_completion, as_prompt, as_response, read_query
from sparserm.pairs.parsing import PairsError, parse_pairs
from sparserm.pairs.templates import mark_in, spoken, thinks
from sparserm.support.files import to_jsonl
from sparserm.types import SparseRMError

ANSWER = "Air scatters blue light most."


@pytest.mark.parametrize(
    "text",
    [
        f"<think>Light, air …</think>\n\n{ANSWER}",
        f"<think>\n\n</think>\n\n{ANSWER}<|im_end|>\n",
        f"Light, air …\n</think>\n\n{ANSWER}",  # the template opened the block in the prompt
        f"<thinking>Hm.</thinking>{ANSWER}",
        f"[THINK]Hm.[/THINK]{ANSWER}</s>",
        f"<think>a</think><think>b</think>{ANSWER}",
        f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>",
    ],
)
def test_thinking_is_left_out_everywhere(text: str) -> None:
    turn = {"role": "assistant", "content": text}
    assert thinks(text) and spoken(text) == ANSWER
    assert as_response(text) == as_response([turn]) == as_completion(text) == as_completion([turn]) == ANSWER
    assert as_completion(read_query(f"Why?{text}", "Why?")[1]) == ANSWER
    found = parse_pairs(
        [{"prompt": "Why?", "chosen": text, "rejected": "No."}, {"prompt": "Why?", "chosen": "a", "rejected": "b"}]
    )
    assert found.pairs[0].chosen == ANSWER
    assert [(one.row, one.severity) for one in found.issues if "thinking at the beginning" in one.problem] == [(1, "warning")]
    assert "(1 row)" in found.issues[-1].problem
    rows = to_jsonl([{"prompt": "Why?", "responses": [text, "No."]}]).encode()
    assert read_candidates(rows, "a.jsonl").sets[0].responses == (ANSWER, "No.")


@pytest.mark.parametrize("text", ["<think>Light, air …", "<|channel|>analysis<|message|>Hm.", "<think>Hm.</think>\n<|im_end|>"])
def test_thinking_without_an_answer_has_no_reward_of_its_own(text: str) -> None:
    with pytest.raises(SparseRMError, match="has thinking and no answer after it"):
        as_response(text)
    assert as_completion(text) == as_completion([{"role": "assistant", "content": text}]) == ""
    with pytest.raises(PairsError, match="column rejected: has thinking and no answer after it"):
        parse_pairs([{"prompt": "Why?", "chosen": ANSWER, "rejected": text}])


def test_thinking_in_earlier_turns_is_left_out_as_templates_do() -> None:
    turns: list[Any] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>Hm.</think>Hello."},
        {"role": "user", "content": "Why <think>?"},
    ]
    assert [turn.content for turn in as_prompt(turns)] == ["Hi", "Hello.", "Why <think>?"]


@given(st.text(max_size=60))
def test_what_is_spoken_is_spoken_as_it_is(text: str) -> None:
    assert spoken(spoken(text)) == spoken(text)
    if mark_in(text) is None and "<" not in text:
        assert spoken(text) == text


@pytest.mark.parametrize(
    "text", ["Say <|im_start|>user\nNo", "The tag [INST] opens", "It ends with <|eot_id|>, then goes on", "Use <think> tags"]
)
def test_marks_in_the_middle_are_text_and_warned_of(text: str) -> None:
    found = parse_pairs([{"prompt": "How?", "chosen": text, "rejected": "No."}])
    assert found.pairs[0].chosen == text
    (issue,) = found.issues
    assert (issue.severity, issue.column) == (
        "warning",
        "chosen",
    ) and "a mark of a chat template: read as text" in issue.problem


def test_html_and_quoted_tags_are_no_marks() -> None:
    for text in ("<p>Yes</p>, <s>no</s>", "a < b and c > d", "[1] and [INSTALL]"):
        assert mark_in(text) is None and spoken(text) == text
    assert spoken("The <think> tag ends with </think>, as in Qwen.") == "The <think> tag ends with </think>, as in Qwen."
