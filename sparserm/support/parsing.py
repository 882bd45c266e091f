"""Parsing of JSON, numbers and paths that people give: what cannot be meant, or would fail later, is refused."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparserm.support.files import one_line
from sparserm.types import SparseRMError

#: Maximum depth of nested objects and lists; an edit of an edit of a head nests its lineage by one.
MAX_DEPTH = 100


def parse_json(data: bytes | str, *, nan: bool = False) -> Any:
    """Parse UTF-8 JSON: numbers must be finite and fit in 64 bits, keys must be unique, and texts must be valid Unicode.

    Args:
        nan: accept ``NaN`` and ``Infinity``, which are not JSON but which Python writes.

    Raises:
        ValueError: it is not such JSON, or nested more than :data:`MAX_DEPTH` levels deep.
    """
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    try:
        value = json.loads(
            text,
            parse_constant=float if nan else _not_a_number,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_unique_keys,
        )
    except RecursionError:
        raise _too_deep() from None
    _check_depth(value)
    if "\\u" in text:  # an escape can stand for half of a character
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def whole_number(text: str) -> int | None:
    """The number written by 1 to 10 digits from 0 to 9; None for any other text, such as ``²``."""
    return int(text) if re.fullmatch("[0-9]{1,10}", text) else None


def decimal_number(text: str) -> float | None:
    """The number written in decimal, such as ``-0.5`` or ``2e3``; None for any other text, such as ``1_0`` or ``nan``."""
    return float(text) if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", text, re.IGNORECASE) else None


def given_path(source: str | Path) -> Path:
    """The path of a file or folder that a person named, with ``~`` expanded; it need not exist.

    Raises:
        SparseRMError: no path can be like that, such as one with a name of 300 characters, or it must not be looked up.
    """
    try:
        path = Path(source).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a home folder that is not known
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        raise SparseRMError(
            f"{one_line(source)!r} cannot be looked up ({reason}); expected the path of a file or folder, or a name; check it"
        ) from error
    return path


def _not_a_number(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is too large for a number")
    return value


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**63:
        raise ValueError(f"{digits[:20]}… is too large for a whole number")
    return value


def _unique_keys(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(entries)
    if len(value) < len(entries):
        twice = Counter(key for key, _ in entries).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:100]!r} occurs more than once")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        nested = [one for one in level if isinstance(one, (dict, list))]
        level = [child for one in nested for child in (one.values() if isinstance(one, dict) else one)]
        if not nested:
            return
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"objects and lists are nested more than {MAX_DEPTH} levels deep")
