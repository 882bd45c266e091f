"""The frozen language model: loading, tokenization, batching and reading hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Backbone"]

if TYPE_CHECKING:
    from sparserm.backbone.model import Backbone


def __getattr__(name: str) -> Any:
    # Lazy, so that importing another module of this package does not import torch.
    if name in __all__:
        from sparserm.backbone.model import Backbone

        return Backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
