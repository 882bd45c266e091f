"""The job that audits large preference data; its result is read back by :func:`load_audit`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparserm.audit import Audit, Flag, audit
from sparserm.jobs import Report
from sparserm.sources import DataSource
from sparserm.surface import Surface, SurfaceRule

_RESULT = "audit.json"


def run(spec: dict[str, Any], folder: Path, report: Report) -> None:
    """Audit ``spec["source"]``, against ``spec["against"]`` where that is not None.

    Raises:
        SparseRMError: the pairs cannot be used.
    """
    report.stage(1, 2, "Pairs")
    data = DataSource.from_dict(spec["source"]).load()
    against = DataSource.from_dict(spec["against"]).load() if spec["against"] else None
    report.stage(2, 2, f"Looking through {len(data.pairs):,} pairs")
    found = audit(data, against=against)
    result = {"n": found.n, "flags": [asdict(flag) for flag in found.flags], "surface": asdict(found.surface)}
    (folder / _RESULT).write_text(json.dumps(result))


def load_audit(folder: Path) -> Audit:
    """What :func:`run` wrote into ``folder``."""
    result = json.loads((folder / _RESULT).read_text())
    surface = result["surface"]
    rules = tuple(SurfaceRule(**{**rule, "ci95": tuple(rule["ci95"])}) for rule in surface["rules"])
    return Audit(
        n=result["n"],
        flags=tuple(Flag(**flag) for flag in result["flags"]),
        surface=Surface(rules, surface["accuracy"], tuple(surface["ci95"]), surface["n"]),
    )
