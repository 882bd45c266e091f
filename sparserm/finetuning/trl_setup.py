"""What every training with TRL's trainers shares here: the import with its error, the arguments, silence."""

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
    """The package ``trl``.

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
    """Arguments of every trainer: it runs where backbones do, nothing is saved, reported or drawn, and examples keep their own
    columns.

    Raises:
        SparseRMError: the device is one of several GPUs, over which trainers would spread a model.
    """
    device = usable_device(default_device())
    if device != "cpu" and torch.cuda.device_count() > 1:
        raise SparseRMError(
            f"training on {device} sees {torch.cuda.device_count()} GPUs; expected one; choose it with CUDA_VISIBLE_DEVICES, "
            "and set SPARSERM_DEVICE to cuda"
        )
    return {
        "output_dir": folder,
        "max_length": None,
        "bf16": trains_in_bfloat16(),
        "use_cpu": device == "cpu",
        "gradient_checkpointing": False,  # saves memory that is not short here, and costs a third more time
        "remove_unused_columns": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }


def trains_in_bfloat16() -> bool:
    """Whether passes run in bfloat16, with weights in float32."""
    return fast_dtype(default_device()) == torch.bfloat16


@contextmanager
def quietly() -> Iterator[None]:
    """No bars of Transformers and datasets, whose place ours take, and no word on arguments that will have other names."""
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
    """Without progress bars Transformers prints its figures on stdout, which is not its own."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
