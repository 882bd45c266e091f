"""Named sources of preference pairs: starter sets, files under ``SPARSERM_DATA``, stored uploads and datasets."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from sparserm.pairs.files import has_data_suffix, list_data_files
from sparserm.pairs.load import load_pairs
from sparserm.support.defaults import TASKS, assets_dir, home
from sparserm.support.files import LOCK, is_device_name, make_folder, one_line, write_bytes
from sparserm.types import PreferenceData, SparseRMError

#: Folder of the reading options, in the folder of uploads. Earlier versions wrote them next to each upload.
_OPTIONS, _OLD_OPTIONS = ".reading", ".source.json"
#: Bytes of a stored name: file systems allow 255, and temporary names are longer.
_MAX_NAME = 150


@dataclass(frozen=True)
class DataSource:
    """Arguments for loading preference pairs, as plain data for job specifications and cache keys.

    Attributes:
        name: a source for :func:`~sparserm.pairs.load.load_pairs`: a path, a starter set or a dataset name.
        columns: pairs ``(ours, theirs)`` for columns with other names.
        skip_bad: whether to leave out rows that cannot be used.
        split, config: the part of a dataset that is read; see :func:`~sparserm.pairs.load.load_pairs`.
    """

    name: str
    columns: tuple[tuple[str, str], ...] = ()
    skip_bad: bool = False
    split: str | None = None
    config: str | None = None

    def load(self) -> PreferenceData:
        """Load the pairs.

        Raises:
            SparseRMError: as for :func:`~sparserm.pairs.load.load_pairs`, or an upload is no longer what was uploaded.
        """
        where = self.where()
        if is_upload(self):
            _check_unchanged(Path(where))
        return load_pairs(where, columns=dict(self.columns), skip_bad=self.skip_bad, split=self.split, config=self.config)

    def where(self) -> str:
        """What to load: the name, or for an upload that was renamed since, its path now."""
        path = Path(self.name)
        if is_upload(self) and not path.exists():
            renamed = (one for one in _uploads() if path.name in _former_names(one))
            return str(next(renamed, path))
        return self.name

    def names(self) -> set[str]:
        """What its pairs may have been called when they were loaded, e.g. in the card of a head: also former names."""
        path = Path(self.name)
        starter = {path.stem} if path.parent == assets_dir() / "pairs" else set()
        return {self.name, path.name} | starter | (set(_former_names(path)) if is_upload(self) else set())

    def version(self) -> str:
        """Modification time of the file, for cache keys; empty if the source is not a file."""
        path = Path(self.where())
        return str(path.stat().st_mtime_ns) if path.is_file() else ""

    def to_dict(self) -> dict[str, Any]:
        """Convert to a JSON-serialisable dictionary; the inverse of :meth:`from_dict`."""
        part = {key: value for key, value in (("split", self.split), ("config", self.config)) if value is not None}
        return {"name": self.name, "columns": dict(self.columns), "skip_bad": self.skip_bad, **part}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> DataSource:
        """Restore a source from :meth:`to_dict`."""
        columns, skip_bad = tuple(dict(value.get("columns") or {}).items()), bool(value.get("skip_bad", False))
        return cls(str(value["name"]), columns, skip_bad, value.get("split"), value.get("config"))


def uploads_dir() -> Path:
    """The folder of stored uploads."""
    return home() / "pairs"


def list_sources() -> dict[str, DataSource]:
    """The sources offered for selection, by label: stored uploads, starter sets, files under ``SPARSERM_DATA``."""
    found = {f"{path.name} (uploaded)": _stored_source(path) for path in _uploads()}
    for task in TASKS:
        found[f"{task} (starter pairs)"] = DataSource(str(assets_dir() / "pairs" / f"{task}.jsonl"))
    for name, path in list_data_files().items():
        found[name] = DataSource(str(path))
    return found


def find_sources(recorded: str, sources: Mapping[str, DataSource]) -> list[str]:
    """Labels of the sources whose pairs, or a part of them such as ``mine.jsonl (train)``, were recorded under a name."""
    return [
        label
        for label, source in sources.items()
        if any(recorded == name or recorded.startswith((f"{name} (", f"{name}, ")) for name in source.names())
    ]


def _uploads() -> list[Path]:
    """The files of the stored uploads, by name."""
    paths = sorted(uploads_dir().glob("*")) if uploads_dir().is_dir() else []
    return [path for path in paths if path.is_file() and not path.name.startswith(".") and not _is_old_options(path)]


def keep_upload(
    data: bytes, filename: str, *, columns: Mapping[str, str] | None = None, skip_bad: bool = False
) -> tuple[str, DataSource]:
    """Store an uploaded file and its reading options, so that it outlives the browser session.

    The file is stored under a name that is safe on every system. One with the same name but other content gets a suffix
    instead of replacing the first, also if both arrive at once.

    Returns:
        The label of the upload in :func:`list_sources`, and the source.

    Raises:
        SparseRMError: the file name has no letters or digits.
    """
    stem, suffix = _safe_name(filename)
    folder = uploads_dir()
    make_folder(folder)
    with FileLock(folder / LOCK, mode=0o600):
        path = folder / f"{stem}{suffix}"
        if os.path.lexists(path) and not (path.is_file() and path.read_bytes() == data):
            path = folder / f"{stem}-{hashlib.sha256(data).hexdigest()[:6]}{suffix}"
        source = DataSource(str(path), tuple((columns or {}).items()), skip_bad)
        write_bytes(path, data)
        _write_options(source, hashlib.sha256(data).hexdigest())
    return f"{path.name} (uploaded)", source


def _safe_name(filename: str) -> tuple[str, str]:
    """Stem and suffix of the name to store an upload under: short, without separators, marks or a name that is reserved."""
    name = unicodedata.normalize("NFC", Path(filename.replace("\\", "/")).name)
    name = re.sub(r"[^\w.()-]+", "_", name).strip("._")
    if not name:
        raise SparseRMError(
            f"the file name {one_line(ascii(filename), 100)} has no letters or digits; rename it and upload it again"
        )
    whole = Path(name)
    suffix = "".join(whole.suffixes[-2:] if whole.suffix.lower() == ".gz" else whole.suffixes[-1:])
    suffix = suffix if has_data_suffix(name) else ""
    stem = name.removesuffix(suffix)
    stem = stem.encode()[: _MAX_NAME - len(suffix)].decode(errors="ignore")
    if is_device_name(stem):
        stem = f"upload_{stem}"
    return stem, suffix


def remember_reading(source: DataSource) -> None:
    """Save the reading options of an upload, for :func:`list_sources`; does nothing for other sources."""
    path = Path(source.name)
    if is_upload(source) and path.is_file():
        _write_options(source, _recorded_hash(path), _former_names(path))


def is_upload(source: DataSource) -> bool:
    """Whether a source is a stored upload, which :func:`forget_upload` deletes."""
    path = Path(source.name)
    return path.parent == uploads_dir() and path.name != ".." and not path.name.startswith(".")


def rename_upload(source: DataSource, name: str) -> tuple[str, DataSource]:
    """Rename a stored upload, which keeps its reading options and its ending. Jobs and heads find it by its former names.

    Returns:
        The label of the upload in :func:`list_sources`, and the source.

    Raises:
        SparseRMError: the source is not an upload, or the name has no letters or digits or is taken.
    """
    old = Path(source.name)
    if not is_upload(source) or not old.is_file():
        raise SparseRMError(f"{old.name} is not an uploaded file and was not renamed; choose an upload")
    _, ending = _safe_name(old.name)
    new = old.with_name("".join(_safe_name(name.strip().removesuffix(ending))) + ending)
    if new == old:
        return f"{old.name} (uploaded)", source
    with FileLock(old.parent / LOCK, mode=0o600):
        if os.path.lexists(new):
            raise SparseRMError(
                f"there is an upload called {new.name} already, so {old.name} was not renamed; give another name"
            )
        former = [one for one in (*_former_names(old), old.name) if one != new.name]
        renamed = DataSource(str(new), source.columns, source.skip_bad)
        stale = [_options(old), *([_old_options(old)] if _is_old_options(_old_options(old)) else [])]
        _write_options(renamed, _recorded_hash(old), former)
        old.rename(new)
        for options in stale:
            options.unlink(missing_ok=True)
    return f"{new.name} (uploaded)", renamed


def forget_upload(source: DataSource) -> None:
    """Delete a stored upload; of a link, the link and not the file that it points to.

    Raises:
        SparseRMError: the source is not an upload.
    """
    path = Path(source.name)
    if not is_upload(source) or (path.is_dir() and not path.is_symlink()):
        raise SparseRMError(f"{path.name} is not an uploaded file and was not deleted; choose an upload")
    path.unlink(missing_ok=True)
    for options in (_options(path), _old_options(path)):
        options.unlink(missing_ok=True)


def _options(path: Path) -> Path:
    return path.parent / _OPTIONS / f"{path.name}.json"


def _old_options(path: Path) -> Path:
    return path.with_name(path.name + _OLD_OPTIONS)


def _write_options(source: DataSource, content_hash: str | None, former: Sequence[str] = ()) -> None:
    """Write reading options next to the hash of the upload's bytes, which uploads of earlier versions do not have."""
    path = Path(source.name)
    kept = {**source.to_dict(), "sha256": content_hash} | ({"former": list(former)} if former else {})
    write_bytes(_options(path), json.dumps(kept).encode())
    if _is_old_options(_old_options(path)):
        _old_options(path).unlink(missing_ok=True)


def _recorded(path: Path, what: str) -> object:
    """An entry of an upload's reading options; None where there is none that can be read."""
    try:
        return json.loads(_options(path).read_bytes())[what]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _recorded_hash(path: Path) -> str | None:
    found = _recorded(path, "sha256")
    return found if isinstance(found, str) else None


def _former_names(path: Path) -> tuple[str, ...]:
    """Names that an upload had before it was renamed."""
    found = _recorded(path, "former")
    return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()


def _check_unchanged(path: Path) -> None:
    """Refuse an upload that was damaged or changed on the disk."""
    recorded = _recorded_hash(path)
    if recorded is not None and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != recorded:
        raise SparseRMError(
            f"the upload {path.name} is not as it was uploaded: the file was damaged or changed; delete it and upload it again"
        )


def _is_old_options(path: Path) -> bool:
    """Whether a file has the reading options of the upload next to it, and is not an upload that is called like that."""
    upload = path.with_name(path.name.removesuffix(_OLD_OPTIONS))
    if not path.name.endswith(_OLD_OPTIONS) or not upload.is_file() or _options(path).is_file():
        return False
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.keys() == {"name", "columns", "skip_bad"}


def _stored_source(path: Path) -> DataSource:
    """An upload with its reading options; they are left out if they cannot be read, since they can be chosen again."""
    old = _old_options(path)
    for options in (_options(path), *([old] if _is_old_options(old) else [])):
        try:
            source = DataSource.from_dict({**json.loads(options.read_bytes()), "name": str(path)})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        if all(isinstance(text, str) for column in source.columns for text in column):
            return source
    return DataSource(str(path))
