"""Between the host's memory and a device's, so that neither waits for the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


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
