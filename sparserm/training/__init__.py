"""Training pipelines: train a head, sweep settings, gather evidence, edit a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["train_head"]

if TYPE_CHECKING:
    from sparserm.training.train import train_head


def __getattr__(name: str) -> Any:
    # Lazily: the room's other modules are imported before torch may be.
    if name in __all__:
        from sparserm.training.train import train_head

        return train_head
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
