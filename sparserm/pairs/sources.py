"""Named sources of preference pairs: starter sets, files under ``SPARSERM_DATA``, stored uploads and datasets."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparserm.pairs.files import list_data_files
from sparserm.pairs.load import load_pairs
from sparserm.support.defaults import TASKS, assets_dir, home
from sparserm.support.files import make_folder, write_bytes
from sparserm.types import PreferenceData, SparseRMError

_SIDECAR = ".source.json"


@dataclass(frozen=True)
class DataSource:
    """Arguments for loading preference pairs, as plain data for job specifications and cache keys.

    Attributes:
        name: a source for :func:`~sparserm.pairs.load.load_pairs`: a path, a starter set or a dataset name.
        columns: pairs ``(ours, theirs)`` for columns with other names.
        skip_bad: whether to leave out rows that cannot be used.
    """

    name: str
    columns: tuple[tuple[str, str], ...] = ()
    skip_bad: bool = False

    def load(self) -> PreferenceData:
        """Load the pairs.

        Raises:
            SparseRMError: as for :func:`~sparserm.pairs.load.load_pairs`.
        """
        return load_pairs(self.name, columns=dict(self.columns), skip_bad=self.skip_bad)

    def version(self) -> str:
        """Modification time of the file, for cache keys; empty if the source is not a file."""
        path = Path(self.name)
        return str(path.stat().st_mtime_ns) if path.is_file() else ""

    def to_dict(self) -> dict[str, Any]:
        """Convert to a JSON-serialisable dictionary; the inverse of :meth:`from_dict`."""
        return {"name": self.name, "columns": dict(self.columns), "skip_bad": self.skip_bad}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> DataSource:
        """Restore a source from :meth:`to_dict`."""
        return cls(str(value["name"]), tuple(dict(value.get("columns") or {}).items()), bool(value.get("skip_bad", False)))


def uploads_dir() -> Path:
    """The folder of stored uploads."""
    return home() / "pairs"


def list_sources() -> dict[str, DataSource]:
    """The sources offered for selection, by label: stored uploads, starter sets, files under ``SPARSERM_DATA``."""
    found: dict[str, DataSource] = {}
    for path in sorted(uploads_dir().glob("*")) if uploads_dir().is_dir() else ():
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(_SIDECAR):
            found[f"{path.name} (uploaded)"] = _stored_source(path)
    for task in TASKS:
        found[f"{task} (starter pairs)"] = DataSource(str(assets_dir() / "pairs" / f"{task}.jsonl"))
    for name, path in list_data_files().items():
        found[name] = DataSource(str(path))
    return found


def keep_upload(
    data: bytes, filename: str, *, columns: Mapping[str, str] | None = None, skip_bad: bool = False
) -> tuple[str, DataSource]:
    """Store an uploaded file and its reading options, so that it outlives the browser session.

    A file with the same name but other content gets a suffix instead of replacing the first.

    Returns:
        The label of the upload in :func:`list_sources`, and the source.

    Raises:
        SparseRMError: the file name has no letters or digits.
    """
    safe = re.sub(r"[^\w.()-]+", "_", Path(filename.replace("\\", "/")).name).strip("._")
    if not safe:
        raise SparseRMError(f"the file name {filename!r} has no letters or digits; rename it and upload it again")
    folder = uploads_dir()
    make_folder(folder)
    path = folder / safe
    if path.is_file() and path.read_bytes() != data:
        stem, dot, suffix = safe.partition(".")
        path = folder / f"{stem}-{hashlib.sha256(data).hexdigest()[:6]}{dot}{suffix}"
    source = DataSource(str(path), tuple((columns or {}).items()), skip_bad)
    write_bytes(path, data)
    write_bytes(path.with_name(path.name + _SIDECAR), json.dumps(source.to_dict()).encode())
    return f"{path.name} (uploaded)", source


def remember_reading(source: DataSource) -> None:
    """Save the reading options of an upload, for :func:`list_sources`; does nothing for other sources."""
    path = Path(source.name)
    if path.parent == uploads_dir() and path.is_file():
        write_bytes(path.with_name(path.name + _SIDECAR), json.dumps(source.to_dict()).encode())


def is_upload(source: DataSource) -> bool:
    """Whether a source is a stored upload, which :func:`forget_upload` deletes."""
    return Path(source.name).parent == uploads_dir()


def forget_upload(source: DataSource) -> None:
    """Delete a stored upload.

    Raises:
        SparseRMError: the source is not an upload.
    """
    path = Path(source.name)
    if not is_upload(source):
        raise SparseRMError(f"{path.name} is not an uploaded file and was not deleted; choose an upload")
    path.unlink(missing_ok=True)
    path.with_name(path.name + _SIDECAR).unlink(missing_ok=True)


def _stored_source(path: Path) -> DataSource:
    try:
        value = json.loads(path.with_name(path.name + _SIDECAR).read_text())
        return DataSource.from_dict({**value, "name": str(path)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return DataSource(str(path))  # the reading options are optional
