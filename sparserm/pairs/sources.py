"""Where preference pairs come from, by name: starter sets, files under ``SPARSERM_DATA``, kept uploads, datasets."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparserm.pairs.files import STARTER_SETS, list_data_files
from sparserm.pairs.load import load_pairs
from sparserm.support.defaults import assets_dir, home
from sparserm.support.files import write_bytes
from sparserm.types import PreferenceData, SparseRMError

_SIDECAR = ".source.json"


@dataclass(frozen=True)
class DataSource:
    """How to get at preference pairs: plain data, so that it can stand in a job's specification and in a cache's key.

    Attributes:
        name: what :func:`~sparserm.pairs.load.load_pairs` takes: a path, a starter set or a dataset name.
        columns: ``(ours, theirs)`` for columns of other names.
        skip_bad: leave out rows that cannot be used.
    """

    name: str
    columns: tuple[tuple[str, str], ...] = ()
    skip_bad: bool = False

    def load(self) -> PreferenceData:
        """The pairs.

        Raises:
            SparseRMError: as for :func:`~sparserm.pairs.load.load_pairs`.
        """
        return load_pairs(self.name, columns=dict(self.columns), skip_bad=self.skip_bad)

    def version(self) -> str:
        """Changes when the file behind it does; for caches."""
        path = Path(self.name)
        return str(path.stat().st_mtime_ns) if path.is_file() else ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` reads it back."""
        return {"name": self.name, "columns": dict(self.columns), "skip_bad": self.skip_bad}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> DataSource:
        """What :meth:`to_dict` wrote."""
        return cls(str(value["name"]), tuple(dict(value.get("columns") or {}).items()), bool(value.get("skip_bad", False)))


def uploads_dir() -> Path:
    """Where kept uploads lie."""
    return home() / "pairs"


def list_sources() -> dict[str, DataSource]:
    """What can be picked by name: kept uploads, starter sets, files under ``SPARSERM_DATA``."""
    found: dict[str, DataSource] = {}
    for path in sorted(uploads_dir().glob("*")) if uploads_dir().is_dir() else ():
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(_SIDECAR):
            found[f"{path.name} (uploaded)"] = _kept(path)
    for task in STARTER_SETS:
        found[f"{task} (starter pairs)"] = DataSource(str(assets_dir() / "pairs" / f"{task}.jsonl"))
    for name, path in list_data_files().items():
        found[name] = DataSource(str(path))
    return found


def keep_upload(
    data: bytes, filename: str, *, columns: Mapping[str, str] | None = None, skip_bad: bool = False
) -> tuple[str, DataSource]:
    """Keep an uploaded file under its name, with how it is to be read; the same name with other content gets a number of its
    own. A browser's session ends, the file stays.

    Returns:
        The name under which :func:`list_sources` offers it, and the source.

    Raises:
        SparseRMError: the name has no letters or digits.
    """
    safe = re.sub(r"[^\w.()-]+", "_", Path(filename.replace("\\", "/")).name).strip("._")
    if not safe:
        raise SparseRMError(f"the file's name {filename!r} has no letters or digits; rename it and upload it again")
    folder = uploads_dir()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / safe
    if path.is_file() and path.read_bytes() != data:
        stem, dot, suffix = safe.partition(".")
        path = folder / f"{stem}-{hashlib.sha256(data).hexdigest()[:6]}{dot}{suffix}"
    source = DataSource(str(path), tuple((columns or {}).items()), skip_bad)
    write_bytes(path, data)
    write_bytes(path.with_name(path.name + _SIDECAR), json.dumps(source.to_dict()).encode())
    return f"{path.name} (uploaded)", source


def remember_reading(source: DataSource) -> None:
    """Keep how an upload is read, so that :func:`list_sources` offers it so from now on; other sources are left alone."""
    path = Path(source.name)
    if path.parent == uploads_dir() and path.is_file():
        write_bytes(path.with_name(path.name + _SIDECAR), json.dumps(source.to_dict()).encode())


def forget_upload(source: DataSource) -> None:
    """Remove a kept upload.

    Raises:
        SparseRMError: it is not one.
    """
    path = Path(source.name)
    if path.parent != uploads_dir():
        raise SparseRMError(f"{path.name} is not an uploaded file, and is left where it is")
    path.unlink(missing_ok=True)
    path.with_name(path.name + _SIDECAR).unlink(missing_ok=True)


def _kept(path: Path) -> DataSource:
    try:
        value = json.loads(path.with_name(path.name + _SIDECAR).read_text())
        return DataSource.from_dict({**value, "name": str(path)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return DataSource(str(path))  # the file itself is what counts
