"""What policies have templated is told apart again into its turns."""

from __future__ import annotations

import pytest

from sparserm.integrations.server.dialogue import read_query
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
        ("<|system|>\nBe kind.<|end|>\n<|user|>\nHi\nthere<|end|>\n<|assistant|>\n", "Yes.<|end|>"),
    ],
)
@pytest.mark.parametrize("closed", [True, False])
def test_turns_of_known_templates(prompt, answer, closed):
    assert read_query(prompt + (answer if closed else "Yes.")) == (ASKED, "Yes.")
    assert read_query(prompt + answer + "<|endoftext|>" * 3, prompt) == (ASKED, "Yes.")


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
