"""Between the host's memory and a device's, so that neither waits for the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparserm.types import SparseRMError


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """What lies in the host's memory, on a device; a GPU takes it from pinned memory while the host goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class OnHost:
    """Tensors of one device on their way to the host's memory."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        on_gpu = tensors[0].is_cuda
        self._tensors = [tensor.to("cpu", non_blocking=on_gpu) for tensor in tensors]
        # Of the tensors' own device, which need not be the one that PyTorch takes where none is named.
        self._arrived = torch.cuda.current_stream(tensors[0].device).record_event() if on_gpu else None

    def arrays(self) -> list[np.ndarray]:
        """The tensors, once they are all there."""
        if self._arrived:
            self._arrived.synchronize()
        return [tensor.numpy() for tensor in self._tensors]


def usable_device(name: str) -> str:
    """The name, where PyTorch can put a model there.

    Raises:
        SparseRMError: it is no device, or this machine or this build of PyTorch has none such.
    """
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SparseRMError(
            f"the device is {name!r}, which PyTorch {torch.__version__} cannot use here ({reason}); expected cpu, cuda or "
            "another that it lists; set SPARSERM_DEVICE to that, or leave it out for the CPU"
        ) from error
    return name


def fast_dtype(device: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively (CUDA of compute capability 8, Intel AMX), float32 elsewhere.

    A CPU without such units converts every operand: measured 140 times slower than float32 on one with AVX2 alone.
    """
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float32
    supported = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return torch.bfloat16 if supported() else torch.float32
