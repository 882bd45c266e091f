"""Baseline reward models: fine-tuned by TRL's ``RewardTrainer`` on the same backbone and pairs as a head.

Trains all weights (``full``) or low-rank adapters (``lora``, Hu et al., 2021), on the same tokens that representations are
computed from. Requires the extra ``trl`` (``pip install "sparserm[trl]"``).
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from sparserm.backbone.device import fast_dtype, usable_device
from sparserm.backbone.model import Backbone, context_length, load_tokenizer, resolve
from sparserm.backbone.tokenization import ChatTokenizer
from sparserm.finetuning.trl_setup import batch_arguments, import_trl, quietly, silence, trainer_arguments
from sparserm.support.defaults import DEFAULT_BACKBONE, default_device
from sparserm.support.quiet import without_bars
from sparserm.types import HookPoint, PreferencePair, Progress, SparseRMError, Text

Way = Literal["full", "lora"]

#: Pairs per step, and tokens per forward pass: a step of long pairs is split into several passes.
BATCH_PAIRS = 8
PASS_TOKENS = 6000

#: Learning rate and epochs of each way of training, tuned on validation pairs (``python -m benchmarks.tuning``); ``frozen`` is
#: the classification head of ``benchmarks.frozen``.
TUNED: dict[str, tuple[float, int]] = {"full": (5e-5, 2), "lora": (1e-3, 3), "frozen": (1e-2, 10)}


@dataclass(frozen=True)
class FineTuningSettings:
    """Hyperparameters of fine-tuning.

    Attributes:
        way: ``full``, or ``lora`` (rank 16 on all linear layers).
        learning_rate: of AdamW, decaying linearly to zero.
        epochs: passes over the pairs.
        seed: of the score head's initialisation and the order of pairs.
    """

    way: Way
    learning_rate: float
    epochs: int
    seed: int = 0

    @classmethod
    def tuned(cls, way: Way, seed: int = 0) -> FineTuningSettings:
        """The tuned learning rate and epochs from :data:`TUNED`."""
        return cls(way, *TUNED[way], seed)


class FineTunedRewardModel:
    """A fine-tuned reward model for scoring.

    Args:
        model: a sequence classifier of transformers with one label.
        chat: tokenises conversations as in training.
        n_parameters: number of trained parameters.
        seconds: wall-clock time of ``RewardTrainer.train``; ``cpu_seconds``: its processor time.
    """

    def __init__(
        self, model: Any, chat: ChatTokenizer, n_parameters: int, seconds: float = 0.0, cpu_seconds: float = 0.0
    ) -> None:
        self.n_parameters = n_parameters
        self.seconds, self.cpu_seconds = seconds, cpu_seconds
        self._model = model
        self._backbone = Backbone(model.model, chat.tokenizer, name="fine-tuned", fingerprint="")
        self.chat = chat

    def rewards(self, texts: Sequence[Text], progress: Progress | None = None) -> np.ndarray:
        """``[n]`` float64 logits of the classifier; responses to the same prompt share one pass over it."""
        tokenized = self.chat.many(texts)
        hook = HookPoint(self._backbone.n_layers - 1)
        found = np.zeros(len(texts))
        device = self._backbone.device.type
        with torch.autocast(device, torch.bfloat16, enabled=fast_dtype(device) == torch.bfloat16):
            for i, states in self._backbone.hidden_states(tokenized, [hook], progress=progress):
                with torch.inference_mode():
                    found[i] = float(self._model.score(self._model.model.norm(states[hook][-1:])))
        return found

    def margins(self, pairs: Sequence[PreferencePair], progress: Progress | None = None) -> np.ndarray:
        """``[n]`` float64 rewards of chosen minus rejected."""
        texts = [Text(pair.prompt, response) for pair in pairs for response in (pair.chosen, pair.rejected)]
        rewards = self.rewards(texts, progress)
        return rewards[0::2] - rewards[1::2]

    @classmethod
    def load(cls, folder: Path) -> FineTunedRewardModel:
        """Load a folder written by :meth:`save` or by TRL's ``RewardTrainer``.

        Raises:
            SparseRMError: the folder does not exist, or does not hold a decoder with a score head of one label.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        if not folder.is_dir():
            raise SparseRMError(f"no fine-tuned model in {folder}: expected a folder; train and save a model first")
        with without_bars():
            try:
                model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
                tokenizer = AutoTokenizer.from_pretrained(folder)
            except (OSError, ValueError, KeyError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise SparseRMError(
                    f"{folder} cannot be loaded as a classifier ({reason}); expected a reward model and its tokenizer as "
                    "save_pretrained writes them"
                ) from error
        _check_classifier(model, str(folder))
        chat = ChatTokenizer(tokenizer, context_length(model.config))
        model.to(usable_device(default_device()))
        return cls(model, chat, sum(weight.numel() for weight in model.parameters()))

    def save(self, folder: Path) -> None:
        """Save the classifier in transformers format, with weights in bfloat16."""
        with without_bars():
            copy.deepcopy(self._model).to(torch.bfloat16).save_pretrained(folder)
        self._backbone.chat.tokenizer.save_pretrained(folder)


def fine_tune(
    pairs: Sequence[PreferencePair],
    settings: FineTuningSettings,
    backbone: str = DEFAULT_BACKBONE,
    after_epoch: Callable[[int, FineTunedRewardModel], None] | None = None,
) -> FineTunedRewardModel:
    """Fine-tune a reward model on pairs.

    Args:
        backbone: as for :meth:`~sparserm.backbone.model.Backbone.load`.
        after_epoch: called after every epoch with its number, from 1, and a copy of the model.

    Raises:
        SparseRMError: TRL is not installed, or the backbone's classifier has another structure than expected.
    """
    trl = import_trl()
    from transformers import AutoModelForSequenceClassification, set_seed

    set_seed(settings.seed)
    folder, _ = resolve(backbone)
    with trl.trainer.reward_trainer.suppress_seqcls_warning(), without_bars():
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    _check_classifier(model, backbone)
    chat = ChatTokenizer(load_tokenizer(backbone), context_length(model.config))
    with tempfile.TemporaryDirectory() as work, quietly():
        rows = tokenized_rows([(chat(pair.prompt, pair.chosen).ids, chat(pair.prompt, pair.rejected).ids) for pair in pairs])
        trainer = trl.RewardTrainer(
            model=model,
            args=training_arguments(trl, rows, settings.learning_rate, settings.epochs, settings.seed, work),
            train_dataset=rows,
            processing_class=chat.tokenizer,
            peft_config=_lora() if settings.way == "lora" else None,
        )
        silence(trainer)
        n_parameters = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
        if after_epoch is not None:
            trainer.add_callback(_epoch_callback(chat, n_parameters, after_epoch))
        started, processor = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - processor
    return FineTunedRewardModel(_merged(trainer.model), chat, n_parameters, seconds, cpu_seconds)


def _check_classifier(model: Any, name: str) -> None:
    if not hasattr(model, "score") or not hasattr(getattr(model, "model", None), "norm") or model.config.num_labels != 1:
        raise SparseRMError(
            f"{name!r} loads as a {type(model).__name__} with {model.config.num_labels} labels, expected a decoder with a "
            "final norm and a score head of one label, as in the Llama, Qwen and Gemma families; choose another model"
        )


def training_arguments(trl: Any, rows: Any, learning_rate: float, epochs: int, seed: int, folder: str) -> Any:
    """TRL's ``RewardConfig`` for one training run."""
    return trl.RewardConfig(
        learning_rate=learning_rate,
        num_train_epochs=epochs,
        seed=seed,
        train_sampling_strategy="group_by_length",  # less padding
        length_column_name="length",
        **batch_arguments(BATCH_PAIRS, max(rows["length"]), PASS_TOKENS),
        **trainer_arguments(folder),
    )


def tokenized_rows(ids: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Any:
    """Token ids of chosen and rejected in the columns that RewardTrainer accepts without tokenising."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {"chosen_ids": list(chosen), "rejected_ids": list(rejected), "length": max(len(chosen), len(rejected))}
            for chosen, rejected in ids
        ]
    )


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules="all-linear", modules_to_save=["score"])


def _merged(model: Any) -> Any:
    """The classifier, with adapters (if any) merged into its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def _epoch_callback(chat: ChatTokenizer, n_parameters: int, after_epoch: Callable[[int, FineTunedRewardModel], None]) -> Any:
    from transformers import TrainerCallback

    class AfterEpoch(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            # A copy: scoring freezes the weights.
            after_epoch(round(state.epoch), FineTunedRewardModel(_merged(copy.deepcopy(given["model"])), chat, n_parameters))

    return AfterEpoch()
