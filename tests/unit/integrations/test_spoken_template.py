"""Exported tokenizers write what assistants say as the engine reads it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserm.integrations.hf import spoken_template
from sparserm.pairs.templates import BLOCKS, ENDS, OPENINGS, THINKING, spoken, thinks
from tests.unit.tiny import tiny_tokenizer

#: What the template leaves where it stands: a mark of an assistant's turn at the beginning of a response.
ASSISTANT = ("<|im_start|>assistant", "<|start|>assistant")
MARKS = st.sampled_from([*(mark for pair in (*THINKING, *BLOCKS) for mark in pair), *OPENINGS, *ENDS])
OTHERS = st.sampled_from(
    [
        *("<|channel|>", "<|channel|>analysis<|message|>", "<|channel|>commentary", "<|message|>", "<response>", "</response>"),
        *(
            "a",
            " ",
            ".",
            "\t",
            "\n",
            "\r\n",
            "\u2003",
            "\x1c",
            ">",
            "]",
            "'",
            '"',
            "\\",
            "{{ 1 }}",
            "{% if %}",
            "<",
            "<s>",
            "ü",
            *ASSISTANT,
        ),
    ]
)


def _templated(*turns: dict[str, Any], before: str = spoken_template()) -> list[str]:
    """The contents of turns that a chat template writes behind what is put before it in exported tokenizers."""
    template = before + "{% for message in messages %}{{ message['content'] }}\x00{% endfor %}"
    text = tiny_tokenizer().apply_chat_template(list(turns), chat_template=template, tokenize=False)
    return text.split("\x00")[:-1]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(MARKS, OTHERS), max_size=12).map("".join))
def test_an_exported_template_writes_what_is_spoken_as_the_engine_reads_it(text: str) -> None:
    asked, turn = {"role": "user", "content": text}, {"role": "assistant", "content": text}
    last, earlier = _templated(asked, turn), _templated(asked, turn, asked, turn)
    assert last[0] == earlier[2] == text
    if not last[1].startswith(ASSISTANT):
        assert (last[1], earlier[1]) == (spoken(text).strip(), (spoken(text) if thinks(text) else "") or text)


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>No.",
        "<|channel|>final<|message|>Yes.<|return|>",
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        "<think>Hm.</think>\n<response>Yes.</response>",
        "<response>Yes.</response>",
        "<|channel>thought\nHm.<channel|>Yes.<turn|>",
        "<|channel|>of water<|message|>Yes.",
        "Yes.[|endofturn|]\n[|endofturn|]",
        "<|im_end|>\n",
    ],
)
def test_what_models_write_is_written_as_the_engine_reads_it(text: str) -> None:
    assert _templated({"role": "assistant", "content": text}) == [spoken(text).strip()]


@pytest.mark.parametrize("mark", ASSISTANT)
def test_a_mark_of_an_assistants_turn_at_the_beginning_is_left(mark: str) -> None:
    text = f"<think>Hm.</think>{mark}\nYes.<|im_end|>"
    assert _templated({"role": "assistant", "content": text}) == [f"{mark}\nYes."]


def test_a_long_answer_with_many_tags_is_written_at_once() -> None:
    text = f"<think>{'<p>Hm.</p>' * 5_000}</think>{'<p>Yes.</p> ' * 20_000}"
    start = time.perf_counter()
    assert _templated({"role": "assistant", "content": text}) == [spoken(text).strip()]
    assert time.perf_counter() - start < 2


def test_a_turn_without_text_is_written_as_it_is() -> None:
    turn = {"role": "assistant", "content": None, "tool_calls": []}
    turns = ({"role": "user", "content": "<think>"}, turn, {"role": "assistant", "content": [{"type": "text", "text": " a "}]})
    assert _templated(*turns) == _templated(*turns, before="")
