"""Shared setup of training with TRL: the import, trainer arguments, and suppressing output."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sparserm.backbone.device import fast_dtype, usable_device
from sparserm.support.defaults import default_device
from sparserm.support.quiet import without_bars
from sparserm.types import SparseRMError


def import_trl() -> Any:
    """Import the package ``trl``.

    Raises:
        SparseRMError: it is not installed.
    """
    try:
        import trl
    except ImportError as error:
        raise SparseRMError(
            f'training with TRL needs the packages trl and peft ({error}); install them with `pip install "sparserm[trl]"`'
        ) from error
    return trl


def trainer_arguments(folder: str) -> dict[str, Any]:
    """Arguments shared by all trainers: run on the backbones' device, save, log and report nothing, keep all columns.

    Raises:
        SparseRMError: there are several GPUs, over which trainers would spread the model.
    """
    device = usable_device(default_device())
    if device != "cpu" and torch.cuda.device_count() > 1:
        raise SparseRMError(
            f"training on {device} sees {torch.cuda.device_count()} GPUs; expected one; choose one with "
            "CUDA_VISIBLE_DEVICES, and set SPARSERM_DEVICE to cuda"
        )
    return {
        "output_dir": folder,
        "max_length": None,
        "bf16": trains_in_bfloat16(),
        "use_cpu": device == "cpu",
        "gradient_checkpointing": False,  # memory suffices, and it takes a third more time
        "remove_unused_columns": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }


def batch_arguments(pairs: int, longest: int, pass_tokens: int) -> dict[str, int]:
    """Batch size and gradient accumulation for steps of ``pairs`` pairs.

    Args:
        longest: tokens of the longest response with its prompt.
        pass_tokens: maximum number of tokens per forward pass, unless a single pair has more.
    """
    at_once = pairs
    while at_once > 1 and 2 * at_once * longest > pass_tokens:
        at_once //= 2
    return {"per_device_train_batch_size": at_once, "gradient_accumulation_steps": pairs // at_once}


def trains_in_bfloat16() -> bool:
    """Whether training passes run in bfloat16 (with float32 weights)."""
    return fast_dtype(default_device()) == torch.bfloat16


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress the progress bars of transformers and datasets (ours are shown), and warnings about renamed arguments."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    with without_bars(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            if shown:
                datasets.enable_progress_bars()


def silence(trainer: Any) -> None:
    """Stop the trainer from printing metrics to stdout, which transformers does if progress bars are off."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
