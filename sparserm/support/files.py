"""Writing and reading of small files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def to_jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a header; messages stand in their cell as JSON."""
    import pandas as pd

    cells = [{name: json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for name, v in row.items()} for row in rows]
    return pd.DataFrame(cells).to_csv(index=False)


def one_line(text: object, limit: int = 200) -> str:
    """``text`` on one line, cut to ``limit`` characters."""
    flat = " ".join(str(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
