"""TRL's own trainers, with the default backbone as policy, take a head's rewards and pairs for a few steps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sparserm.backbone.model import Backbone, resolve
from sparserm.integrations.hf import export_classifier
from sparserm.integrations.trl import SparseRMReward, preference_dataset
from sparserm.model import SparseRM
from sparserm.pairs.load import load_pairs
from sparserm.support.defaults import DEFAULT_BACKBONE, assets_dir

pytestmark = pytest.mark.backbone

PROMPTS = [[{"role": "user", "content": f"Is {number} an even number?"}] for number in (3, 8)]
FOR_A_TEST = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "gradient_checkpointing": False,
}


@pytest.mark.parametrize("algorithm", ["GRPO", "RLOO"])
def test_a_policy_is_trained_on_rewards_and_shows_which_features_it_climbs(
    algorithm: str, head: SparseRM, tmp_path: Path
) -> None:
    import trl

    folder, _ = resolve(DEFAULT_BACKBONE)
    config = getattr(trl, f"{algorithm}Config")(
        output_dir=str(tmp_path), num_generations=2, max_completion_length=8, **FOR_A_TEST
    )
    trainer = getattr(trl, f"{algorithm}Trainer")(
        model=str(folder), reward_funcs=SparseRMReward(head), args=config, train_dataset=Dataset.from_dict({"prompt": PROMPTS})
    )
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(steps) == 2
    for step in steps:
        parts = {name: value for name, value in step.items() if name.startswith("sparserm_truthfulness/")}
        assert len(parts) == len(head.head.features)
        assert sum(parts.values()) + head.head.bias == pytest.approx(step["rewards/sparserm_truthfulness/mean"], abs=1e-4)


def test_an_exported_head_gives_the_same_rewards_and_is_trls_reward_model(head: SparseRM, tmp_path: Path) -> None:
    import trl

    export_classifier("truthfulness", tmp_path / "exported")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    pairs = load_pairs(assets_dir() / "pairs" / "truthfulness.jsonl").pairs[:8]
    rewards = SparseRM.from_pretrained("truthfulness", backbone=Backbone.load(through_layer=15, dtype="float32"))
    for pair in pairs:
        messages = [*map(vars, pair.prompt), {"role": "assistant", "content": pair.chosen}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        with torch.no_grad():
            logits = classifier(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits
        assert logits.item() == pytest.approx(rewards.score([pair.prompt], [pair.chosen])[0], abs=1e-4)

    folder, _ = resolve(DEFAULT_BACKBONE)
    config = trl.GRPOConfig(output_dir=str(tmp_path / "run"), num_generations=2, max_completion_length=8, **FOR_A_TEST)
    trainer = trl.GRPOTrainer(
        model=str(folder),
        reward_funcs=str(tmp_path / "exported"),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
    )
    trainer.train()
    assert all(math.isfinite(entry["reward"]) for entry in trainer.state.log_history if "reward" in entry)


def test_a_policy_is_trained_on_pairs_of_its_samples(head: SparseRM, tmp_path: Path) -> None:
    import trl

    samples = [["No, three is odd.", "Everybody knows that it is."], ["Yes, half of it is four.", "Nobody knows."]]
    said = [[[{"role": "assistant", "content": text}] for text in own] for own in samples]
    pairs = preference_dataset(head, PROMPTS, said)
    folder, _ = resolve(DEFAULT_BACKBONE)
    trainer = trl.DPOTrainer(model=str(folder), args=trl.DPOConfig(output_dir=str(tmp_path), **FOR_A_TEST), train_dataset=pairs)
    trainer.train()
    assert any("rewards/margins" in entry for entry in trainer.state.log_history)
