"""SparseRM: interpretable reward models from a frozen language model and a sparse autoencoder (arXiv 2511.07896).

Importing the package is cheap: torch, transformers and SAELens are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["SparseRM", "SparseRMError", "__version__"]

if TYPE_CHECKING:
    from sparserm.model import SparseRM
    from sparserm.types import SparseRMError


def __getattr__(name: str) -> Any:
    if name == "SparseRM":
        from sparserm.model import SparseRM

        return SparseRM
    if name == "SparseRMError":
        from sparserm.types import SparseRMError

        return SparseRMError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
