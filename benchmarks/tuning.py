"""Learning rate and epochs of fine-tuning, on validation pairs: ``python -m benchmarks.tuning [full|lora|frozen ...]``.

Models are trained on 300 training pairs of truthfulness and validated on 300 pairs of other prompts of the same file, after
every epoch. The best values are in :data:`~sparserm.finetuning.reward_model.TUNED` and are used for all tasks, budgets and
seeds. Learning rates that are in ``benchmarks/results/tuning.json`` are skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.common import read_results, task_pairs, write_results
from benchmarks.frozen import final_states, train_classification_head
from sparserm.backbone.model import Backbone
from sparserm.finetuning.reward_model import FineTunedRewardModel, FineTuningSettings, fine_tune
from sparserm.heads.bradley_terry import bradley_terry_loss
from sparserm.pairs.split import prompt_key
from sparserm.support.defaults import DEFAULT_BACKBONE
from sparserm.types import PreferencePair

TASK, PAIRS, SEED = "truthfulness", 300, 1000
EPOCHS = 3
RATES = {"full": (2e-5, 5e-5, 1e-4), "lora": (1e-4, 3e-4, 1e-3), "frozen": (1e-3, 1e-2, 1e-1)}

#: A head on the frozen backbone is cheap to train and needs more epochs.
FROZEN_EPOCHS = (3, 10, 30)


def validation_split(pairs: Sequence[PreferencePair]) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Split off 300 training pairs, and 300 validation pairs of other prompts."""
    keys = [prompt_key(pair.prompt) for pair in pairs]
    prompts = sorted(set(keys))
    np.random.default_rng(SEED).shuffle(prompts)
    place = {prompt: i for i, prompt in enumerate(prompts)}
    order = np.argsort([place[key] for key in keys], kind="stable")
    last = keys[order[PAIRS - 1]]  # this prompt may be in both parts
    return [pairs[i] for i in order[:PAIRS]], [pairs[i] for i in order[PAIRS:] if keys[i] != last][-PAIRS:]


def try_rate(way: Any, rate: float, train: list[PreferencePair], held_out: list[PreferencePair]) -> dict[str, Any]:
    """Accuracy and loss on the validation pairs after every epoch."""
    epochs = []

    def judge(epoch: int, model: FineTunedRewardModel) -> None:
        margins = model.margins(held_out)
        epochs.append({"epoch": epoch, "accuracy": float((margins > 0).mean()), "loss": bradley_terry_loss(margins)})
        print(way, rate, epochs[-1], flush=True)

    fine_tune(train, FineTuningSettings(way, rate, EPOCHS), after_epoch=judge)
    return {"way": way, "learning_rate": rate, "epochs": epochs}


def try_frozen(rate: float, train: list[PreferencePair], held_out: list[PreferencePair]) -> dict[str, Any]:
    """The same for a classification head on the frozen backbone, with a separate schedule per number of epochs."""
    backbone = Backbone.load(DEFAULT_BACKBONE)
    learn, judge = (final_states(pairs, backbone) for pairs in (train, held_out))
    epochs = []
    for number in FROZEN_EPOCHS:
        margins = (judge[0] - judge[1]) @ train_classification_head(*learn, rate, number)
        epochs.append({"epoch": number, "accuracy": float((margins > 0).mean()), "loss": bradley_terry_loss(margins)})
        print("frozen", rate, epochs[-1], flush=True)
    return {"way": "frozen", "learning_rate": rate, "epochs": epochs}


def main() -> None:
    """Try the learning rates of the methods given on the command line, or of all."""
    found = list(read_results("tuning"))
    train, held_out = validation_split(task_pairs(TASK, "train").pairs)
    for way in sys.argv[1:] or RATES:
        for rate in RATES[way]:
            if not any((one["way"], one["learning_rate"]) == (way, rate) for one in found):
                one = try_frozen(rate, train, held_out) if way == "frozen" else try_rate(way, rate, train, held_out)
                found.append(one)
                write_results("tuning", found)


if __name__ == "__main__":
    main()
