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


@pytest.mark.parametrize(
    "text",
    [
        f"<reasoning>Hm.</reasoning>\n{ANSWER}",
        f"<reflection>Hm.</reflection>{ANSWER}",
        f"<THINK>Hm.</THINK>\n\n{ANSWER}",
        f"<Thinking>Hm.</Thinking>{ANSWER}",
        f"<scratchpad>\nHm.\n</scratchpad>\n{ANSWER}",
        f"<analysis>Hm.</analysis>\n{ANSWER}",
        f"◁think▷Hm.◁/think▷{ANSWER}",
        f"<|begin_of_thought|>Hm.<|end_of_thought|>\n{ANSWER}",
        f"Hm.</think>{ANSWER}",
        f"</think>{ANSWER}",
    ],
)
def test_a_whole_block_of_thinking_is_left_out_with_other_marks_too(text: str) -> None:
    assert thinks(text) and spoken(text) == ANSWER


@pytest.mark.parametrize(
    "text",
    [
        "In Qwen, the tag </think> closes the thinking. Then comes the answer.",
        "Close it with `</think>`, then answer.",
        "To end thinking, models print </think>",
        "See </thinking> in XML: it must close <thinking> first.",
        "I'd write [/THINK] here",
        "Two tags:\n</think> closes and\n<think> opens",
        "<analysis>All of it is the answer.</analysis>",
        "<scratchpad> is a tag",
    ],
)
def test_a_text_about_thinking_is_kept_and_warned_of(text: str) -> None:
    found = parse_pairs([{"prompt": "How?", "chosen": text, "rejected": "No."}])
    assert found.pairs[0].chosen == spoken(text) == text
    assert [one.column for one in found.issues] == ["chosen"] and "read as text" in found.issues[0].problem
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}, {"role": "user", "content": "Why?"}]
    assert as_prompt(turns)[1].content == text


def test_thinking_that_a_templated_prompt_opens_ends_wherever_it_is_closed() -> None:
    prompt = "<|user|>Why?<|assistant|><think>"
    found = parse_pairs([{"prompt": prompt, "chosen": f"so it is</think>{ANSWER}", "rejected": "No."}])
    assert (found.pairs[0].chosen, found.pairs[0].rejected) == (ANSWER, "No.")
    assert "thinking at the beginning of responses was left out (1 row)" in found.issues[0].problem


ABOUT = ["The EOS token of Llama 2 is </s>", "Llama 3 ends a turn with <|eot_id|>", "It is <end_of_turn>", "Pad with <pad>"]


@pytest.mark.parametrize("text", [*ABOUT, "<|im_start|>assistant\nbegins an answer", "<|channel|>final<|message|> marks it"])
def test_marks_that_few_responses_have_are_said_to_be_left_out(text: str) -> None:
    rows = [{"prompt": "How?", "chosen": text, "rejected": "No."}, {"prompt": "Why?", "chosen": "a", "rejected": "b"}]
    (issue,) = parse_pairs(rows).issues
    assert (issue.row, issue.column) == (1, "(whole row)")
    assert issue.problem.endswith("were left out of 1 of 4 responses: check that none of these is about the mark")
    assert "were left out of 1 of 2 responses" in parse_pairs(rows[:1]).issues[0].problem
    labelled = [{"prompt": "How?", "response_a": one, "response_b": "No.", "winner": "a", "id": "x"} for one in (text, "a")]
    assert any("were left out of 1 of 2 responses" in one.problem for one in parse_pairs(labelled).issues)


def test_marks_that_all_responses_have_are_left_out_without_a_word() -> None:
    rows = [{"prompt": f"{i}?", "chosen": f"a{i}</s>", "rejected": f"b{i}</s>" if i else "b"} for i in range(3)]
    found = parse_pairs(rows)
    assert [pair.chosen for pair in found.pairs] == ["a0", "a1", "a2"] and not found.issues


@pytest.mark.parametrize("text", ABOUT)
def test_an_earlier_turn_keeps_the_mark_it_ends_with(text: str) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}, {"role": "user", "content": "Why?"}]
    assert as_prompt(turns)[1].content == text


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
