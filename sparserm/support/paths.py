"""Paths that people give."""

from __future__ import annotations

from pathlib import Path

from sparserm.support.files import one_line
from sparserm.types import SparseRMError


def given_path(source: str | Path) -> Path:
    """The path of a file or folder that a person named, with ``~`` expanded; it need not exist.

    Raises:
        SparseRMError: no path can be like that, such as one with a name of 300 characters, or it must not be looked up.
    """
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # RuntimeError: a home folder that is not known
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        raise SparseRMError(
            f"{one_line(source)!r} cannot be looked up ({reason}); expected the path of a file or folder, or a name; check it"
        ) from error
    return path
