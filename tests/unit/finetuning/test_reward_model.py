"""Reward models as TRL trains them: they score what Transformers scores, learn what is there, and train what they say."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch

from benchmarks.frozen import train_classification_head
from sparserm.finetuning.reward_model import FineTuningSettings, fine_tune
from sparserm.types import Message, PreferencePair, SparseRMError


def _pairs(n: int) -> list[PreferencePair]:
    return [
        PreferencePair((Message("user", f"What is {i}?"),), f"good answer number {i}", f"a bad one {i} and some more")
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def tuned(tiny_folder):
    epochs: list[tuple[int, float]] = []

    def judge(epoch, model) -> None:
        epochs.append((epoch, float((model.margins(_pairs(16)) > 0).mean())))

    model = fine_tune(_pairs(16), FineTuningSettings("full", 1e-3, 3), str(tiny_folder), after_epoch=judge)
    return model, epochs


def test_a_difference_that_is_there_is_learned(tuned) -> None:
    model, epochs = tuned
    assert (model.margins(_pairs(40)[20:]) > 0).mean() > 0.9
    assert [epoch for epoch, _ in epochs] == [1, 2, 3]
    assert model.seconds > 0 and model.cpu_seconds > 0


def test_margins_are_the_differences_of_the_classifiers_logits(tuned, tmp_path) -> None:
    from transformers import AutoModelForSequenceClassification

    model, _ = tuned
    model.save(tmp_path)
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    chat = model.chat

    def logit(prompt, response: str) -> float:
        with torch.inference_mode():
            return reloaded(input_ids=torch.tensor([chat(prompt, response).ids])).logits.item()

    expected = [logit(pair.prompt, pair.chosen) - logit(pair.prompt, pair.rejected) for pair in _pairs(5)]
    # Weights are saved in bfloat16.
    assert np.allclose(model.margins(_pairs(5)), expected, rtol=0.05, atol=0.05)


def test_every_weight_but_the_unembedding_is_trained(tuned, tiny_folder) -> None:
    from transformers import AutoModel

    body = AutoModel.from_pretrained(tiny_folder)
    assert tuned[0].n_parameters == sum(weight.numel() for weight in body.parameters()) + body.config.hidden_size


def test_adapters_train_far_fewer_numbers_and_learn_too(tiny_folder) -> None:
    epochs = []

    def judge(epoch, model) -> None:
        epochs.append((epoch, model.margins(_pairs(16))))

    model = fine_tune(_pairs(16), FineTuningSettings("lora", 1e-2, 4), str(tiny_folder), after_epoch=judge)
    assert (model.margins(_pairs(16)) > 0).mean() > 0.9
    assert [epoch for epoch, _ in epochs] == [1, 2, 3, 4]
    assert np.allclose(epochs[-1][1], model.margins(_pairs(16)), atol=1e-4)  # training goes on unharmed by the look at it
    # Rank 16 on q, k, v, o, gate, up and down of 4 layers, and the head of 32.
    widths = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32)]
    assert model.n_parameters == 4 * sum(16 * (a + b) for a, b in widths) + 32


def test_a_head_on_a_frozen_backbone_learns_a_direction() -> None:
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(size=(2, 200, 8)).astype(np.float32)
    chosen[:, 2] += 1.5
    weights = train_classification_head(chosen, rejected, learning_rate=1e-2, epochs=4)
    assert weights.shape == (8,) and int(np.argmax(np.abs(weights))) == 2 and weights[2] > 0
    assert ((chosen - rejected) @ weights > 0).mean() > 0.8
    assert np.array_equal(weights, train_classification_head(chosen, rejected, 1e-2, 4))


def test_without_trl_it_says_what_to_install(monkeypatch, tiny_folder) -> None:
    real = builtins.__import__

    def no_trl(name, *given, **more):
        if name.split(".")[0] == "trl":
            raise ModuleNotFoundError("No module named 'trl'")
        return real(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", no_trl)
    with pytest.raises(SparseRMError, match=r"sparserm\[trl\]"):
        fine_tune(_pairs(2), FineTuningSettings.tuned("full"), str(tiny_folder))


def test_a_backbone_that_cannot_be_classified_with_is_refused(tmp_path) -> None:
    from tests.unit.tiny import save_tiny

    folder = save_tiny(tmp_path / "gpt2", "gpt2")
    with pytest.raises(SparseRMError, match="final norm and a score head"):
        fine_tune(_pairs(2), FineTuningSettings.tuned("full"), str(folder))


def test_long_pairs_take_several_passes_a_step_and_learn_the_same(tuned, tiny_folder, monkeypatch) -> None:
    from sparserm.finetuning import reward_model

    monkeypatch.setattr(reward_model, "PASS_TOKENS", 2 * 2 * 60)
    parts = fine_tune(_pairs(16), FineTuningSettings("full", 1e-3, 3), str(tiny_folder))
    assert np.allclose(parts.margins(_pairs(16)), tuned[0].margins(_pairs(16)), rtol=0.05, atol=0.05)
