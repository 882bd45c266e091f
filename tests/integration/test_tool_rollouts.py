"""TRL's GRPO trainer with tools, and a tiny policy that calls them in Qwen 3's template: what of its rollouts is scored."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from sparserm.integrations.trl import SparseRMReward
from sparserm.model import SparseRM
from tests.unit.tiny import tiny_tokenizer

pytestmark = pytest.mark.backbone

ANSWERS, CHATS, NEVER_ENDS = "What is 6 times 7?", "Say hello.", "Multiply until I stop you."


def multiply(a: int, b: int) -> int:
    """
    Multiplies two integers.

    Args:
        a: The first factor.
        b: The second factor.

    Returns:
        The product.
    """
    return a * b


def _call(a: int, b: int) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "multiply", "arguments": {"a": a, "b": b}}}
    return [{"role": "assistant", "content": "", "tool_calls": [call]}]


def _returned(a: int, b: int) -> list[dict[str, Any]]:
    return [{"role": "tool", "name": "multiply", "content": str(a * b)}]


def _says(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


ROLLOUTS = {
    ANSWERS: [*_call(6, 7), *_returned(6, 7), *_says("It is 42.")],
    CHATS: _says("Hello there."),
    NEVER_ENDS: [*_call(2, 3), *_returned(2, 3), *_call(6, 6), *_returned(6, 6), *_call(9, 9)],
}


def _asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def policy() -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerBase]:
    """A policy that has learned these rollouts by heart, with Qwen 3's template."""
    from trl.chat_template_utils import qwen3_chat_template, qwen3_training_chat_template

    tokenizer = tiny_tokenizer(qwen3_chat_template)
    tokenizer.pad_token, tokenizer.eos_token = "<|endoftext|>", "<|im_end|>"
    conversations = [_asked(prompt) + turns for prompt, turns in ROLLOUTS.items()]
    written = {"tools": [multiply], "chat_template": qwen3_training_chat_template}
    texts = tokenizer.apply_chat_template(conversations, tokenize=False, **written)
    tokenizer = tokenizer.train_new_from_iterator(texts, 600)  # few tokens, so that it learns in seconds
    tokenizer.chat_template = qwen3_chat_template
    tokenizer.add_tokens([mark for name in ("think", "tool_call", "tool_response") for mark in (f"<{name}>", f"</{name}>")])
    batch = tokenizer.apply_chat_template(
        conversations, padding=True, return_tensors="pt", return_dict=True, return_assistant_tokens_mask=True, **written
    )
    own = torch.as_tensor(batch.pop("assistant_masks")) == 1
    labels = batch["input_ids"].masked_fill(~own, -100)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(300):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            break
    assert loss < 0.01
    return model, tokenizer


class _Recorded(SparseRMReward):
    """The reward function, which keeps what it got and gave."""

    def __init__(self, head: SparseRM) -> None:
        super().__init__(head)
        self.seen: list[tuple[str, list[dict[str, Any]], float | None]] = []

    def __call__(self, prompts, completions, log_metric=None, **columns):
        rewards = super().__call__(prompts, completions, log_metric, **columns)
        self.seen += [(prompt[-1]["content"], turns, r) for prompt, turns, r in zip(prompts, completions, rewards, strict=True)]
        return rewards


def test_the_last_answer_of_a_rollout_with_tools_is_scored_and_one_without_an_answer_is_left_out(
    policy, head: SparseRM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import trl

    model, tokenizer = policy
    reward = _Recorded(head)
    config = trl.GRPOConfig(
        output_dir=str(tmp_path),
        num_generations=2,
        per_device_train_batch_size=6,
        max_completion_length=1024,
        max_tool_calling_iterations=2,
        temperature=0.1,
        max_steps=1,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        gradient_checkpointing=False,
    )
    trainer = trl.GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": [_asked(text) for text in ROLLOUTS]}),
        tools=[multiply],
    )
    with caplog.at_level(logging.WARNING, "sparserm.trl"):
        trainer.train()

    assert sorted(prompt for prompt, _, _ in reward.seen) == sorted([*ROLLOUTS, *ROLLOUTS])
    for prompt, turns, given in reward.seen:
        assert [turn["role"] for turn in turns] == [turn["role"] for turn in ROLLOUTS[prompt]]
        if prompt == NEVER_ENDS:
            assert given is None
        else:
            assert turns[-1]["content"] == ROLLOUTS[prompt][-1]["content"]
            assert given == pytest.approx(head.score(prompt, turns[-1]["content"])[0], abs=1e-3)
    assert "2 of 6 rollouts end before an answer (2 with a call of a tool) and get no reward" in caplog.text
    (step,) = [entry for entry in trainer.state.log_history if "reward" in entry]
    scored = [given for _, _, given in reward.seen if given is not None]
    assert step["reward"] == pytest.approx(sum(scored) / len(scored), abs=1e-3)
    assert math.isfinite(step["grad_norm"]) and step["tools/call_frequency"] > 0
