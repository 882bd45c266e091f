"""The method ``frozen`` of the quality benchmark: TRL's classification head, trained on the frozen backbone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparserm.backbone.model import Backbone
from sparserm.benchmark.results import Cell, Results, Task
from sparserm.benchmark.run import BUDGETS, SEEDS, draw, fitting_budgets, measured_cell
from sparserm.finetuning.reward_model import TUNED, tokenized_rows, training_arguments
from sparserm.finetuning.trl_setup import import_trl, quietly, silence
from sparserm.pairs.split import prompt_groups
from sparserm.representations.represent import represent_pairs
from sparserm.representations.store import stored
from sparserm.representations.values import Representations
from sparserm.types import HookPoint, PreferencePair, Progress


def frozen_cells(
    results: Results,
    task: Task,
    backbone: Backbone,
    *,
    budgets: Sequence[int | None] = BUDGETS,
    seeds: int = SEEDS,
    progress: Progress | None = None,
) -> Iterator[Cell]:
    """Train and test a classification head on the frozen backbone, for every budget and seed without a result.

    Args:
        backbone: the backbone with all of its layers.
    """
    train, test = (final_states(pairs, backbone, progress) for pairs in (task.train.pairs, task.test.pairs))
    groups, test_groups = prompt_groups(task.train.pairs), prompt_groups(task.test.pairs)
    done = {cell.key for cell in results.cells()}
    for budget in fitting_budgets(budgets, len(groups)):
        for seed in range(seeds):
            if (task.name, "frozen", budget, seed) in done:
                continue
            rows = draw(groups, budget, seed)
            started, processor = time.perf_counter(), time.process_time()
            weights = train_classification_head(train[0][rows], train[1][rows], *TUNED["frozen"], seed)
            seconds, cpu = time.perf_counter() - started, time.process_time() - processor
            margins = (test[0] - test[1]) @ weights
            cell = measured_cell(task.name, "frozen", budget, seed, margins, test_groups, len(rows), len(weights), seconds, cpu)
            results.add(cell)
            yield cell


def final_states(
    pairs: Sequence[PreferencePair], backbone: Backbone, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Input of a transformers classification head: hidden states of the last token after the final norm.

    Args:
        backbone: the backbone with all of its layers. Its states are computed once and stored.

    Returns:
        ``[n, d]`` float32 of the chosen and of the rejected responses.
    """
    hook = HookPoint(backbone.n_layers - 1)
    with stored() as store:
        last = represent_pairs(pairs, backbone, {hook: None}, "last", store=store, progress=progress)[hook]

    def normed(side: Representations) -> np.ndarray:
        with torch.inference_mode():
            states = backbone.model.norm(torch.tensor(side.h, dtype=backbone.dtype, device=backbone.device))
        return np.asarray(states.float().cpu().numpy())

    return normed(last.chosen), normed(last.rejected)


def train_classification_head(
    chosen: np.ndarray, rejected: np.ndarray, learning_rate: float, epochs: int, seed: int = 0
) -> np.ndarray:
    """Train a classification head on the frozen backbone with TRL's ``RewardTrainer``.

    A frozen backbone gives the same final states in every epoch, so they are computed once and looked up. Loss, steps and
    result are the same as when running the backbone each time.

    Args:
        chosen, rejected: ``[n, d]`` float32 hidden states of the last token after the final norm.

    Returns:
        ``[d]`` float64 weights; the reward of a text is their dot product with its state.
    """
    trl = import_trl()
    from transformers import set_seed

    set_seed(seed)
    model = _look_up_model(torch.from_numpy(np.concatenate([chosen, rejected])))
    with tempfile.TemporaryDirectory() as work, quietly():
        rows = tokenized_rows([([i + 1], [len(chosen) + i + 1]) for i in range(len(chosen))])
        trainer = trl.RewardTrainer(
            model=model,
            args=training_arguments(trl, rows, learning_rate, epochs, seed, work),
            train_dataset=rows,
            processing_class=_no_tokenizer(),
        )
        silence(trainer)
        trainer.train()
    return np.asarray(model.score.weight.detach()[0].double().cpu().numpy())


def _look_up_model(states: Tensor) -> Any:
    """A classifier whose "token" ``i`` is the state ``i - 1``; 0 is the padding token, which never occurs."""
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import SequenceClassifierOutput

    class LookUp(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.states: Tensor
            self.register_buffer("states", states)
            self.score = nn.Linear(states.shape[1], 1, bias=False)
            nn.init.normal_(self.score.weight, std=0.02)  # transformers' initialisation of classification heads

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **given: Any) -> Any:
            return SequenceClassifierOutput(logits=self.score(self.states[input_ids[:, 0] - 1]))

    config = PretrainedConfig()
    config.num_labels = 1
    return LookUp(config)


def _no_tokenizer() -> Any:
    """A tokenizer with only a padding token: ``RewardTrainer`` needs one even for tokenised data."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"pad": 0}, "pad")), pad_token="pad")
