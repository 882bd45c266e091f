"""Training pipelines: train a head, sweep settings, compute evidence, edit a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["train_head"]

if TYPE_CHECKING:
    from sparserm.training.train import train_head


def __getattr__(name: str) -> Any:
    # Imported lazily: other modules of this package are used without importing torch.
    if name in __all__:
        from sparserm.training.train import train_head

        return train_head
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
