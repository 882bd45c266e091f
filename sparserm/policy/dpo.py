"""One round of DPO (Rafailov et al., 2023) on pairs of a policy's own samples, with TRL's ``DPOTrainer``.

The trainer gets the sampled token ids, so that a truncated response is not trained to end where it was truncated. Requires the
extra ``trl`` (``pip install "sparserm[trl]"``).
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparserm.finetuning.trl_setup import batch_arguments, import_trl, quietly, silence, trainer_arguments
from sparserm.policy.language_model import Policy, Sample
from sparserm.types import Progress, Prompt

#: Pairs per step, and tokens per forward pass: a step of long pairs is split into several passes.
BATCH_PAIRS = 4
PASS_TOKENS = 6000


@dataclass(frozen=True)
class SampledPair:
    """Two samples for one prompt; ``chosen`` has the higher reward."""

    prompt: Prompt
    chosen: Sample
    rejected: Sample


@dataclass(frozen=True)
class RoundTraining:
    """Statistics of one round of DPO.

    Attributes:
        pairs, steps: number of pairs and optimizer steps.
        loss: mean over the steps, in nats per pair; 0.693 if the policy does not change.
        seconds: training time.
    """

    pairs: int
    steps: int
    loss: float
    seconds: float


def train_dpo(
    policy: Policy,
    start: Policy,
    pairs: Sequence[SampledPair],
    *,
    learning_rate: float,
    beta: float,
    seed: int,
    progress: Progress | None = None,
) -> RoundTraining:
    """Train all weights of ``policy`` in place for one epoch.

    Args:
        start: the reference policy, which is not changed.
        learning_rate: of AdamW, decaying linearly to zero.
        beta: how strongly the policy is kept near the reference.

    Raises:
        SparseRMError: TRL is not installed.
    """
    trl = import_trl()
    rows = _rows(policy, pairs)
    # Copies, since the trainer wraps the model and the reference permanently.
    trained, reference = copy.deepcopy(policy.model).requires_grad_(True), copy.deepcopy(start.model)
    with tempfile.TemporaryDirectory() as work, quietly():
        trainer = trl.DPOTrainer(
            model=trained,
            ref_model=reference,
            args=_arguments(trl, rows, learning_rate, beta, seed, work),
            train_dataset=rows,
            data_collator=_collator(trl, policy.chat.tokenizer.pad_token_id or 0),
            processing_class=policy.chat.tokenizer,
        )
        silence(trainer)
        if progress:
            trainer.add_callback(_step_callback(progress))
        started = time.perf_counter()
        result = trainer.train()
        seconds = time.perf_counter() - started
    policy.model.load_state_dict(trained.state_dict())
    return RoundTraining(len(pairs), result.global_step, float(result.training_loss), seconds)


def _arguments(trl: Any, rows: Any, learning_rate: float, beta: float, seed: int, folder: str) -> Any:
    return trl.DPOConfig(
        learning_rate=learning_rate,
        beta=beta,
        seed=seed,
        num_train_epochs=1,
        **batch_arguments(BATCH_PAIRS, max(rows["length"]), PASS_TOKENS),
        **trainer_arguments(folder),
    )


def _rows(policy: Policy, pairs: Sequence[SampledPair]) -> Any:
    """The sampled tokens, with placeholders for the texts that the trainer requires."""
    from datasets import Dataset

    rows = []
    for pair in pairs:
        prompt, chosen, rejected = policy.chat.prompt_ids(pair.prompt), pair.chosen.ids, pair.rejected.ids
        drawn = {"drawn_prompt": list(prompt), "drawn_chosen": list(chosen), "drawn_rejected": list(rejected)}
        length = len(prompt) + max(len(chosen), len(rejected))
        rows.append({"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", **drawn, "length": length})
    return Dataset.from_list(rows)


def _collator(trl: Any, padding: int) -> Any:
    """TRL's collator, applied to the sampled tokens instead of the tokenised texts."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    class SampledTokensCollator(DataCollatorForPreference):
        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            names = ("prompt", "chosen", "rejected")
            given = [{f"{name}_ids": example[f"drawn_{name}"] for name in names} for example in examples]
            found: dict[str, Any] = super().torch_call(given)
            return found

    return SampledTokensCollator(pad_token_id=padding)


def _step_callback(progress: Progress) -> Any:
    from transformers import TrainerCallback

    class AfterStep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            progress(state.global_step, state.max_steps, "Training (steps)")

    return AfterStep()
