"""What policies have templated is told apart again into its turns."""

from __future__ import annotations

import contextlib

import pytest

from sparserm.pairs.messages import read_query
from sparserm.pairs.templates import spoken
from sparserm.types import Message, SparseRMError

ASKED = (Message("system", "Be kind."), Message("user", "Hi\nthere"))


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi\nthere<|im_end|>\n<|im_start|>assistant\n",
            "Yes.<|im_end|>",
        ),
        (
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user"
            "<|end_header_id|>\n\nHi\nthere<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "Yes.<|eot_id|>",
        ),
        ("<|system|>\nBe kind.</s>\n<|user|>\nHi\nthere</s>\n<|assistant|>\n", "Yes.</s>"),
        ("<｜begin▁of▁sentence｜>Be kind.<｜User｜>Hi\nthere<｜Assistant｜>", "Yes.<｜end▁of▁sentence｜>"),
        (
            "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be kind.<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|>"
            "<|USER_TOKEN|>Hi\nthere<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
            "Yes.<|END_OF_TURN_TOKEN|>",
        ),
        (
            "<|begin_of_text|><|header_start|>system<|header_end|>\n\nBe kind.<|eot|><|header_start|>user<|header_end|>"
            "\n\nHi\nthere<|eot|><|header_start|>assistant<|header_end|>\n\n",
            "Yes.<|eot|>",
        ),
        ("<|system|>\nBe kind.<|end|>\n<|user|>\nHi\nthere<|end|>\n<|assistant|>\n", "Yes.<|end|>"),
    ],
)
@pytest.mark.parametrize("closed", [True, False])
def test_turns_of_known_templates(prompt, answer, closed):
    assert read_query(prompt + (answer if closed else "Yes.")) == (ASKED, "Yes.")
    assert read_query(prompt + answer + "<|endoftext|>" * 3, prompt) == (ASKED, "Yes.")


def test_gpt_oss_thinks_in_channels_that_are_left_out():
    prompt = "<|start|>developer<|message|>Be kind.<|end|><|start|>user<|message|>Hi\nthere<|end|><|start|>assistant"
    answer = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>"
    for asked, response in (read_query(prompt + answer), read_query(prompt + answer, prompt)):
        assert (asked, spoken(response)) == (ASKED, "Yes.")


def test_gpt_oss_may_have_no_channels():
    text = "<|start|>user<|message|>Hi<|end|><|start|>assistant<|message|>Yes.<|end|>"
    assert read_query(text) == ((Message("user", "Hi"),), "Yes.")


def test_gemma_calls_the_assistant_model():
    text = "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n"
    assert read_query(text) == ((Message("user", "Hi"),), "Yes.")


def test_mistral_marks_what_is_asked():
    text = "<s>[INST] Hi [/INST] Hello.</s>[INST] Again [/INST] Yes.</s>"
    turns = (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Again"))
    assert read_query(text) == (turns, "Yes.")


def test_a_policy_that_says_nothing_has_an_empty_response():
    assert read_query("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<|im_end|>") == ((Message("user", "Hi"),), "")


def test_without_marks_the_prompt_tells_where_the_response_begins():
    assert read_query("Once upon a time there was.</s>", "Once upon a time") == (
        (Message("user", "Once upon a time"),),
        "there was.",
    )
    for prompt in (None, "", "Another"):
        with pytest.raises(SparseRMError, match="send the prompts too"):
            read_query("Once upon a time there was.", prompt)


CHATML = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
HI = (Message("user", "Hi"),)


def test_with_its_prompt_no_mark_in_a_response_is_a_turn():
    said = "Bad.<|im_end|>\n<|im_start|>user\nok<|im_end|>\n<|im_start|>assistant\nLovely."
    assert read_query(CHATML + said + "<|im_end|>", CHATML) == (HI, said)
    assert read_query("[INST] Hi [/INST] a [INST] b [/INST] c", "[INST] Hi [/INST]") == (HI, "a [INST] b [/INST] c")
    begun = CHATML + "Once upon"
    assert read_query(begun + " a time.<|im_end|>", begun) == (HI, "Once upon a time.")


def test_the_template_is_the_one_whose_mark_stands_first():
    prompt = "<|start_header_id|>user<|end_header_id|>\n\nWhat is <|im_start|>user\n?<|eot_id|>"
    text = prompt + "<|start_header_id|>assistant<|end_header_id|>\n\nA mark.<|eot_id|>"
    assert read_query(text) == ((Message("user", "What is <|im_start|>user\n?"),), "A mark.")


def test_llama_2_puts_the_systems_message_into_the_first_turn():
    text = "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi\nthere [/INST] Yes. </s>"
    assert read_query(text) == (ASKED, "Yes.")


def test_what_closes_a_turn_of_zephyr_may_be_said_in_it():
    assert read_query("<|user|>\nHi</s>\n<|assistant|>\nUse <s>x</s> in HTML.</s>") == (HI, "Use <s>x</s> in HTML.")


def test_phi_4_parts_role_and_content_by_a_mark():
    text = "<|im_start|>user<|im_sep|>Hi<|im_end|><|im_start|>assistant<|im_sep|>Yes.<|im_end|>"
    assert read_query(text) == (HI, "Yes.")


@pytest.mark.parametrize(
    "unit",
    [
        " ",
        "</s>",
        "[INST]",
        "<|im_start|>",
        "<|im_start|>user\n",
        "<|user|>\n",
        "<|pad|> ",
        "\n</s>",
        "<｜User｜>",
        "<|start|>a<|message|>",
    ],
)
def test_long_nonsense_takes_no_longer_than_its_length(unit):
    """In quadratic time this would take minutes."""
    for text in (CHATML + unit * 100_000 + "x", unit * 100_000 + "x"):
        read_query(text + "y", text)
        with contextlib.suppress(SparseRMError):
            read_query(text)
