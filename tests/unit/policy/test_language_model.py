"""A policy answers each prompt as often as asked, the same again, and its divergence is what its distributions say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparserm.backbone.model import load_language_model
from sparserm.policy.language_model import Policy, Sample, divergence
from sparserm.types import Message, SparseRMError

PROMPTS = [(Message("user", text),) for text in ("What is the sum of these long and many words?", "Hi", "Tell me")]


@pytest.fixture(scope="module")
def policy(tiny_folder) -> Policy:
    return Policy.load(tiny_folder)


def test_every_prompt_has_its_responses_and_the_seed_decides_them(policy) -> None:
    seen = []
    first = policy.sample(PROMPTS, n=3, max_new_tokens=5, progress=lambda *step: seen.append(step[:2]))
    assert [len(samples) for samples in first] == [3, 3, 3]
    assert seen[-1] == (9, 9)
    assert first == policy.sample(PROMPTS, n=3, max_new_tokens=5)
    assert first != policy.sample(PROMPTS, n=3, max_new_tokens=5, seed=1)


def test_company_and_padding_do_not_reach_a_prompts_own_responses(policy, monkeypatch) -> None:
    """As good as greedy: at a temperature near zero the response depends on the prompt alone."""
    monkeypatch.setattr(policy.model.generation_config, "temperature", 1e-4)
    together = policy.sample(PROMPTS, max_new_tokens=6)
    assert together == [policy.sample([prompt], max_new_tokens=6)[0] for prompt in PROMPTS]


def test_a_prompt_without_room_is_refused(policy) -> None:
    with pytest.raises(SparseRMError, match=r"prompt 2 of 2 \('word .* leaves no room"):
        policy.sample([PROMPTS[0], (Message("user", "word " * 600),)])


def test_a_sample_ends_with_its_turn_and_says_whether_it_did(policy) -> None:
    end = policy.chat.tokenizer.eos_token_id
    word = policy.chat.tokenizer("word", add_special_tokens=False)["input_ids"]
    assert policy._as_sample([*word, end, end, end]) == Sample("word", (*word, end), True)
    assert policy._as_sample(word) == Sample("word", tuple(word), False)
    assert policy._as_sample([end, end]) == Sample("", (end,), True)


def test_it_samples_from_its_own_distribution_whatever_else_is_configured(policy, tiny_folder) -> None:
    other = load_language_model(tiny_folder)
    other.generation_config.update(repetition_penalty=5.0, no_repeat_ngram_size=1, temperature=0.1, top_p=0.3)
    assert Policy(other, policy.chat).sample(PROMPTS, n=2, max_new_tokens=8) == policy.sample(PROMPTS, n=2, max_new_tokens=8)


def test_a_turn_ends_with_whatever_ends_one(policy, tiny_folder, tmp_path) -> None:
    """The configuration's token, the tokenizer's and the template's; the same before and after training."""
    other = load_language_model(tiny_folder)
    other.generation_config.eos_token_id = [7]
    made = Policy(other, policy.chat)
    tokenizer = policy.chat.tokenizer
    ends = {7, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert set(made.model.generation_config.eos_token_id) == ends
    made.save(tmp_path)
    assert set(Policy.load(tmp_path).model.generation_config.eos_token_id) == ends == set(made.copy()._ends)


def test_memory_is_bounded_by_tokens_and_not_by_texts(policy, monkeypatch) -> None:
    sizes, generate = [], policy._generate
    monkeypatch.setattr(policy, "_generate", lambda ids, *given: sizes.append(len(ids)) or generate(ids, *given))
    monkeypatch.setattr("sparserm.policy.language_model.BATCH_TOKENS", 100)
    widths = [len(policy.chat.prompt_ids(prompt)) + 4 for prompt in PROMPTS]
    policy.sample(PROMPTS, n=4, max_new_tokens=4)
    assert sum(sizes) == 12 and sizes[0] == max(1, 100 // max(widths))


def test_a_tokenizer_without_an_end_is_refused(tmp_path) -> None:
    from transformers import AutoTokenizer

    from tests.unit.tiny import save_tiny

    folder = save_tiny(tmp_path / "endless")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(SparseRMError, match="has no eos_token"):
        Policy.load(folder)


def test_a_policy_has_not_moved_from_itself(policy) -> None:
    samples = [one for (one,) in policy.sample(PROMPTS, max_new_tokens=6)]
    assert np.allclose(divergence(policy, policy.copy(), PROMPTS, samples), 0, atol=1e-6)


def test_divergence_is_the_sum_over_tokens_of_that_of_both_distributions(policy) -> None:
    moved = policy.copy()
    torch.manual_seed(0)
    for weight in moved.model.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    samples = [one for (one,) in moved.sample(PROMPTS, max_new_tokens=6)]
    found = divergence(moved, policy, PROMPTS, samples)
    for value, prompt, sample in zip(found, PROMPTS, samples, strict=True):
        expected, ids = 0.0, list(policy.chat.prompt_ids(prompt))
        for token in sample.ids:
            with torch.no_grad():
                p, q = (one.model(torch.tensor([ids])).logits[0, -1].double().softmax(-1) for one in (moved, policy))
            expected += float((p * (p / q).log()).sum())
            ids.append(token)
        assert value == pytest.approx(expected, rel=1e-3)
        assert value > 0


def test_what_is_saved_is_loaded_to_the_bit(policy, tmp_path) -> None:
    policy.save(tmp_path)
    again = Policy.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(policy.model.parameters(), again.model.parameters(), strict=True))
    assert again.sample(PROMPTS, max_new_tokens=5) == policy.sample(PROMPTS, max_new_tokens=5)
