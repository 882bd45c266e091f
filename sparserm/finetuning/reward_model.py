"""What people do without SparseRM: a reward model trained by TRL's ``RewardTrainer`` on the same backbone and pairs.

Three ways of it: every weight (``full``), low-rank adapters (``lora``, Hu et al., 2021), or a classification head on the frozen
backbone (:func:`train_classification_head`). All see the very tokens that our own representations are computed from. Needs
the extra ``trl`` (``pip install "sparserm[trl]"``).
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
from sparserm.finetuning.trl_setup import import_trl, quietly, silence, trainer_arguments
from sparserm.support.defaults import DEFAULT_BACKBONE, default_device
from sparserm.support.quiet import without_bars
from sparserm.types import HookPoint, PreferencePair, Progress, SparseRMError, Text

Way = Literal["full", "lora"]

#: Pairs a step, and tokens that go through the model at once: a step of long pairs is made of several passes.
BATCH_PAIRS = 8
PASS_TOKENS = 6000

#: Learning rate and epochs of each way, tuned on validation pairs (``python -m benchmarks.tuning``).
TUNED: dict[str, tuple[float, int]] = {"full": (5e-5, 2), "lora": (1e-3, 3), "frozen": (1e-2, 10)}


@dataclass(frozen=True)
class FineTuningSettings:
    """How a reward model is trained.

    Attributes:
        way: ``full``, or ``lora`` (rank 16 on all linear layers).
        learning_rate: of AdamW, falling linearly to zero.
        epochs: passes over the pairs.
        seed: of the classification head's start and of the order of pairs.
    """

    way: Way
    learning_rate: float
    epochs: int
    seed: int = 0

    @classmethod
    def tuned(cls, way: Way, seed: int = 0) -> FineTuningSettings:
        """The settings of :data:`TUNED`."""
        return cls(way, *TUNED[way], seed)


class FineTunedRewardModel:
    """A trained model, ready to score; ``chat`` tokenises as it was trained.

    Args:
        model: a sequence classifier of Transformers with one label.
        chat: how the backbone's conversations are tokenised.
        n_parameters: how many were trained.
        seconds: how long ``RewardTrainer.train`` took, and ``cpu_seconds`` of how much processor time.
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
        """``[n]`` float64: the classifier's logits; responses to one prompt read it once."""
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
        """What :meth:`save`, or TRL's ``RewardTrainer``, wrote.

        Raises:
            SparseRMError: there is no such folder, or what is there is no decoder with a score head of one label.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        if not folder.is_dir():
            raise SparseRMError(f"there is no fine-tuned model in {folder}; train and save one first")
        with without_bars():
            try:
                model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
                tokenizer = AutoTokenizer.from_pretrained(folder)
            except (OSError, ValueError, KeyError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise SparseRMError(
                    f"{folder} cannot be loaded as a classifier ({reason}); expected what save_pretrained writes of a reward "
                    "model and its tokenizer"
                ) from error
        _check_classifier(model, str(folder))
        chat = ChatTokenizer(tokenizer, context_length(model.config))
        model.to(usable_device(default_device()))
        return cls(model, chat, sum(weight.numel() for weight in model.parameters()))

    def save(self, folder: Path) -> None:
        """Write the classifier as Transformers does, weights in bfloat16."""
        with without_bars():
            copy.deepcopy(self._model).to(torch.bfloat16).save_pretrained(folder)
        self._backbone.chat.tokenizer.save_pretrained(folder)


def fine_tune(
    pairs: Sequence[PreferencePair],
    settings: FineTuningSettings,
    backbone: str = DEFAULT_BACKBONE,
    after_epoch: Callable[[int, FineTunedRewardModel], None] | None = None,
) -> FineTunedRewardModel:
    """Train on pairs.

    Args:
        backbone: as for :meth:`~sparserm.backbone.model.Backbone.load`.
        after_epoch: told of the end of every epoch, counted from 1, with a copy of the model as it then is.

    Raises:
        SparseRMError: TRL is not installed, or the backbone is not one whose classifier can be read.
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
        rows = _rows([(chat(pair.prompt, pair.chosen).ids, chat(pair.prompt, pair.rejected).ids) for pair in pairs])
        trainer = trl.RewardTrainer(
            model=model,
            args=_arguments(trl, rows, settings.learning_rate, settings.epochs, settings.seed, work),
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
            f"{name!r} makes a {type(model).__name__} of {model.config.num_labels} labels, expected a decoder with a final "
            "norm and a score head of one label, as models of the Llama, Qwen and Gemma families have; leave it out"
        )


def _arguments(trl: Any, rows: Any, learning_rate: float, epochs: int, seed: int, folder: str) -> Any:
    at_once = BATCH_PAIRS
    while at_once > 1 and 2 * at_once * max(rows["length"]) > PASS_TOKENS:
        at_once //= 2
    return trl.RewardConfig(
        learning_rate=learning_rate,
        num_train_epochs=epochs,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=BATCH_PAIRS // at_once,
        seed=seed,
        train_sampling_strategy="group_by_length",  # less padding
        length_column_name="length",
        **trainer_arguments(folder),
    )


def _rows(ids: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Any:
    """Token ids of chosen and rejected in the columns that RewardTrainer takes as they are."""
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
    """The classifier, with adapters, where it has such, added to its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def _epoch_callback(chat: ChatTokenizer, n_parameters: int, after_epoch: Callable[[int, FineTunedRewardModel], None]) -> Any:
    from transformers import TrainerCallback

    class AfterEpoch(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            # Scoring freezes what it scores with.
            after_epoch(round(state.epoch), FineTunedRewardModel(_merged(copy.deepcopy(given["model"])), chat, n_parameters))

    return AfterEpoch()
