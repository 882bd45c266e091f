"""Devices: checking them, choosing a dtype, and copying tensors between host memory and a GPU without blocking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparserm.types import SparseRMError


def usable_device(name: str) -> str:
    """Return the device name if PyTorch can put a model there.

    Raises:
        SparseRMError: it is not a device, or this machine or this build of PyTorch does not have it.
    """
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SparseRMError(
            f"the device is {name!r}, which PyTorch {torch.__version__} cannot use on this machine ({reason}); expected cpu, "
            "cuda or another device that PyTorch supports; set SPARSERM_DEVICE to one of these, or unset it to use the CPU"
        ) from error
    return name


def fast_dtype(device: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively (CUDA compute capability 8 or higher, Intel AMX), else float32.

    A CPU without such units converts every operand: measured 140 times slower than float32 on one with AVX2 only.
    """
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float32
    return torch.bfloat16 if _cpu_has("amx_tile") else torch.float32


def weights_dtype(device: str, stored: torch.dtype) -> torch.dtype:
    """The dtype to hold weights in: :func:`fast_dtype`, and bfloat16 for weights stored in it on a CPU with AVX512-BF16.

    There 13 layers of the shape of Gemma 2 2B take half the memory, all of it pages of the file, and on two cores 81 tokens a
    second instead of 30. Weights that are stored in float32 stay so: rounding them would change rewards in the third digit.
    """
    fast = fast_dtype(device)
    return torch.bfloat16 if device == "cpu" and stored == torch.bfloat16 and _cpu_has("avx512_bf16") else fast


def _cpu_has(units: str) -> bool:
    """Whether this CPU has these units, as far as this PyTorch can say."""
    return bool(getattr(torch.cpu, f"_is_{units}_supported", lambda: False)())


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from host memory to a device; to a GPU from pinned memory, without waiting for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class OnHost:
    """Copies of one device's tensors in host memory; on a GPU the constructor starts the copies and does not wait."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        on_gpu = tensors[0].is_cuda
        self._tensors = [tensor.to("cpu", non_blocking=on_gpu) for tensor in tensors]
        # The stream of the tensors' own device, which may not be PyTorch's current device.
        self._copied = torch.cuda.current_stream(tensors[0].device).record_event() if on_gpu else None

    def arrays(self) -> list[np.ndarray]:
        """The copies as arrays; waits until they are complete."""
        if self._copied:
            self._copied.synchronize()
        return [tensor.numpy() for tensor in self._tensors]
