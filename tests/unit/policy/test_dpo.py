"""DPO on drawn tokens: the loss is DPO's, the policy learns what was preferred, and nothing else is taught."""

from __future__ import annotations

import pytest
import torch
import trl

from sparserm.policy.dpo import SampledPair, _collator, _rows, train_dpo
from sparserm.policy.language_model import Policy, Sample
from sparserm.types import Message

PROMPT = (Message("user", "Hi"),)


@pytest.fixture(scope="module")
def start(tiny_folder) -> Policy:
    return Policy.load(tiny_folder)


def sample(policy: Policy, text: str, finished: bool = True) -> Sample:
    ids = policy.chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Sample(text, (*ids, *[policy.chat.tokenizer.eos_token_id] * finished), finished)


def log_prob(policy: Policy, one: Sample) -> float:
    prompt = policy.chat.prompt_ids(PROMPT)
    ids = torch.tensor([[*prompt, *one.ids]])
    with torch.no_grad():
        logits = policy.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(logits[range(len(one.ids)), one.ids].sum())


def test_the_trainer_sees_the_tokens_that_were_drawn(start) -> None:
    pair = SampledPair(PROMPT, sample(start, "good", False), sample(start, "worse"))
    batch = _collator(trl, 0)(list(_rows(start, [pair])))
    prompt = list(start.chat.prompt_ids(PROMPT))
    for row, one in enumerate((pair.chosen, pair.rejected)):
        seen = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
        assert seen == prompt + list(one.ids)
        assert batch["input_ids"][row][batch["completion_mask"][row].bool()].tolist() == list(one.ids)


def test_preferred_samples_become_likelier_and_the_start_stays(start) -> None:
    chosen, rejected = sample(start, "a good answer"), sample(start, "bad")
    before = log_prob(start, chosen) - log_prob(start, rejected)
    weights = [weight.clone() for weight in start.model.parameters()]
    policy, steps = start.copy(), []
    done = train_dpo(
        policy,
        start,
        [SampledPair(PROMPT, chosen, rejected)] * 40,
        learning_rate=1e-3,
        beta=0.1,
        seed=0,
        progress=lambda *step: steps.append(step[:2]),
    )
    assert log_prob(policy, chosen) - log_prob(policy, rejected) > before + 1
    assert (done.pairs, done.steps) == (40, 10) and steps[-1] == (10, 10)
    assert done.loss < 0.69
    assert all(torch.equal(a, b) for a, b in zip(weights, start.model.parameters(), strict=True))
    assert not policy.model.training


def test_the_first_steps_loss_is_that_of_a_coin(start) -> None:
    """A policy that is its own reference has margin zero: log 2, whatever beta is."""
    pairs = [SampledPair(PROMPT, sample(start, "a good answer"), sample(start, "bad"))] * 8
    done = train_dpo(start.copy(), start, pairs, learning_rate=0.0, beta=3.0, seed=0)
    assert done.loss == pytest.approx(0.6931, abs=1e-4)


def test_policy_and_start_stay_as_they_were_made(start, monkeypatch) -> None:
    """Trainers wrap models for good: the next samples would be drawn in another precision than the first ones."""
    monkeypatch.setattr("sparserm.finetuning.trl_setup.trains_in_bfloat16", lambda: True)
    policy = start.copy()
    pairs = [SampledPair(PROMPT, sample(start, "a good answer"), sample(start, "bad"))] * 4
    prompts = [PROMPT, (Message("user", "Tell me"),)]
    before = start.sample(prompts, max_new_tokens=4)
    train_dpo(policy, start, pairs, learning_rate=1e-3, beta=0.1, seed=0)
    for one in (policy, start):
        assert "forward" not in vars(one.model)
        assert all(weight.dtype == torch.float32 and not weight.requires_grad for weight in one.model.parameters())
    assert start.sample(prompts, max_new_tokens=4) == before
    assert not all(torch.equal(a, b) for a, b in zip(policy.model.parameters(), start.model.parameters(), strict=True))


def test_long_pairs_are_read_in_several_passes_to_the_same_end(start, monkeypatch) -> None:
    pairs = [SampledPair(PROMPT, sample(start, f"a good answer {i}"), sample(start, "bad")) for i in range(4)]
    whole, parts = start.copy(), start.copy()
    train_dpo(whole, start, pairs, learning_rate=1e-3, beta=0.1, seed=0)
    monkeypatch.setattr("sparserm.policy.dpo.PASS_TOKENS", 1)
    train_dpo(parts, start, pairs, learning_rate=1e-3, beta=0.1, seed=0)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4)
