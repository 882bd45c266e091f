"""Atomic writing of files and folders, and rows as JSONL and CSV."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from sparserm.support.defaults import close_to_others, in_home
from sparserm.types import SparseRMError

if TYPE_CHECKING:
    import pandas as pd

#: Name of the lock in a folder that a run writes to; data frames and Parquet readers pass over hidden files.
LOCK = ".lock"

#: Temporary files and folders that a killed process left behind are removed after this many seconds.
LEFTOVER_S = 24 * 3600

#: Beginnings of texts that spreadsheets take for formulas, also in the wide forms of Chinese and Japanese keyboards, and texts
#: that are numbers, which are not.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?%?", re.IGNORECASE | re.ASCII)

#: Endings of hidden names: what is being written, and an old folder while the new one takes its place.
_TEMPORARY, _ASIDE = "tmp", "old"

#: Names that Windows reserves for devices, with any suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])", re.IGNORECASE)

#: Temporary names, those of earlier versions too.
_LEFTOVER = re.compile(rf"\..+\.[0-9a-f]{{32}}(\.{_TEMPORARY})?")

#: Names of up to this many bytes are part of their temporary name; longer ones would exceed the file system's limit of 255.
_MAX_STEM = 150


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; the file written there replaces ``path`` if the block ends without an error.

    Readers see the old file or the new one, never a partial file, also after a crash of the machine; concurrent writers are
    safe. Missing folders are created. The temporary file is removed on every error. In the user's data folder files and folders
    are private from the start.
    """
    _lstat(path)  # a name that is too long is an error now, not after the work
    make_folder(path.parent)
    _remove_leftovers(path.parent)
    temporary = _sibling(path, _TEMPORARY)
    try:
        if in_home(path):
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        _name(error, path)
        raise
    finally:
        _remove(temporary)


@contextmanager
def replacing_folder(path: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a new temporary folder next to ``path``; it becomes ``path`` if the block ends without an error.

    An old folder is moved aside, and removed once the new one is in its place; an error in between moves it back. A process
    killed between the two moves leaves both beside each other: see :func:`interrupted_replacement`. A link is replaced
    itself, what it points to stays.

    Args:
        replace: whether ``path`` may be a folder with files; a missing or an empty one is always fine.

    Raises:
        SparseRMError: ``path`` is a file, or a folder with files and ``replace`` is false.
    """
    path = Path(os.path.abspath(path))  # a relative one may be "."
    _require_free(path, replace)
    make_folder(path.parent)
    _remove_leftovers(path.parent)
    _remove_replaced(path)
    temporary, aside = _sibling(path, _TEMPORARY), _sibling(path, _ASIDE)
    try:
        os.mkdir(temporary, 0o700 if in_home(path) else 0o777)
        yield temporary
        if in_home(path):
            close_to_others(temporary)
        _sync_tree(temporary)
        _move(temporary, path, aside if replace else None)
        _sync(path.parent)
    except BaseException as error:
        # Decided by what is on disk: Ctrl-C may come between a move and any note of it.
        if os.path.lexists(aside) and not os.path.lexists(path):
            os.rename(aside, path)
        if isinstance(error, OSError):
            _name(error, path)
        raise
    finally:
        _remove(temporary)
        if os.path.lexists(path):
            _discard(aside)


def interrupted_replacement(path: Path) -> Path | None:
    """The folder that was at ``path`` before a process was killed while replacing it; None if that did not happen."""
    path = Path(os.path.abspath(path))
    if os.path.lexists(path):
        return None
    found = [one for one in _siblings(path, _ASIDE) if one.is_dir()]
    return max(found, key=_last_change, default=None)


def foreign_entry(folder: Path, names: Sequence[str]) -> Path | None:
    """The first entry in a folder that none of the ``names`` covers; None if there is none.

    Args:
        names: patterns of files such as ``*.json`` and ``head/*.json``; ``layer_*/**`` covers all that is in such folders.
    """
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        if entry.name == ".DS_Store":  # macOS puts that file everywhere
            continue
        split = [name.partition("/") for name in names]
        below = [rest for first, _, rest in split if fnmatchcase(entry.name, first)]
        if not entry.is_dir() or entry.is_symlink():
            found = None if "" in below else entry
        elif not (inner := [rest for rest in below if rest]):
            found = entry
        else:
            found = None if "**" in inner else foreign_entry(entry, inner)
        if found is not None:
            return found
    return None


def require_only(folder: Path, names: Sequence[str], what: str) -> None:
    """Refuse a folder with entries that none of the ``names`` covers (see :func:`foreign_entry`): it would be replaced.

    Args:
        what: what a folder of this kind holds, e.g. ``a head``.

    Raises:
        SparseRMError: there is such an entry.
    """
    if (other := foreign_entry(folder, names)) is not None:
        raise SparseRMError(
            f"{folder} holds {other.relative_to(folder)}, which is no part of {what}; expected a new folder, or one with "
            f"nothing but {what}; give another name"
        )


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Make a folder and hold its lock, so that no other run that asks for it writes there; leftovers of a killed one go.

    Raises:
        SparseRMError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise SparseRMError(
            f"another run is writing to {folder}; expected one at a time; wait for it, or give another folder"
        ) from error
    except NotImplementedError:  # a file system without locks
        pass
    try:
        for path in [path for path in folder.rglob(".*") if _LEFTOVER.fullmatch(path.name)]:
            _remove(path)
        yield
    finally:
        with suppress(OSError):  # Windows keeps open files
            (folder / LOCK).unlink()  # while it is held: others that wait for this file notice that it is gone
        lock.release()


def holds_nothing(folder: Path) -> bool:
    """Whether a folder is missing, or holds nothing but the lock and the leftovers of a run that was killed at once."""
    return not folder.is_dir() or all(one.name == LOCK or _LEFTOVER.fullmatch(one.name) for one in folder.iterdir())


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents; those in the user's data folder are private."""
    if not in_home(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return
    for one in (*reversed(folder.parents), folder):
        if not one.exists():
            one.mkdir(mode=0o700, exist_ok=True)


def is_device_name(name: str) -> bool:
    """Whether Windows reserves the name for a device, such as ``CON`` and ``nul.txt``."""
    return _DEVICES.fullmatch(name.partition(".")[0].strip()) is not None


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; NaN and infinities raise a ValueError."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def to_jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSON Lines: one JSON object per line."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def to_csv(table: pd.DataFrame | Sequence[Mapping[str, Any]]) -> str:
    """A table, or rows, as CSV with a header, safe to open in a spreadsheet; lists, such as messages, are written as JSON.

    A spreadsheet runs a cell that begins with ``=``, ``+``, ``-`` or ``@`` as a formula. A single quote is put before such
    texts and names of columns, and all texts are in double quotes, as OWASP advises; numbers are unchanged, also those written
    as text. The quote is not removed on reading, where it could be part of a text: pairs that are to be read again are
    written by :func:`to_jsonl`.
    """
    import pandas as pd

    found = table if isinstance(table, pd.DataFrame) else pd.DataFrame(table)
    header = io.StringIO()
    csv.writer(header, lineterminator="\r\n").writerow([_no_formula(str(name)) for name in found.columns])
    cells = found.map(_csv_cell)
    first = header.getvalue().removesuffix("\r\n") + "\n"  # names with line breaks are quoted only if these end the line
    return first + cells.to_csv(index=False, header=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list):
        value = json.dumps(value, ensure_ascii=False)
    return _no_formula(value) if isinstance(value, str) else value


def _no_formula(text: str) -> str:
    is_formula = text.startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def one_line(text: object, limit: int = 200) -> str:
    """``text`` on one line, cut to ``limit`` characters."""
    flat = " ".join(str(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _name(error: OSError, path: Path) -> None:
    """Let an error of writing ``path`` name it: that of a full disk names nothing, others the temporary file."""
    named = Path(os.fsdecode(error.filename)).parts if isinstance(error.filename, (str, bytes, os.PathLike)) else ()
    if error.errno is not None and (not named or any(_LEFTOVER.fullmatch(part) for part in named)):
        error.filename = str(path)


def _require_free(path: Path, replace: bool) -> None:
    found = _lstat(path)
    if found is None:
        return
    if not path.is_dir():
        raise SparseRMError(f"{path} is a file, expected a folder; choose another name")
    if not replace and (stat.S_ISLNK(found.st_mode) or any(path.iterdir())):
        raise SparseRMError(f"{path} exists, expected a new or empty folder; choose another name")


def _move(new: Path, path: Path, aside: Path | None) -> None:
    """Move a folder to ``path``. What is there goes ``aside``; where that is None, it may only be an empty folder."""
    while True:
        with suppress(FileNotFoundError):
            if aside is not None:
                os.rename(path, aside)
            else:
                with suppress(OSError):
                    os.rmdir(path)  # succeeds only if empty
        try:
            return os.rename(new, path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            if aside is None:
                raise SparseRMError(f"{path} exists, expected a new or empty folder; choose another name") from error
            _discard(aside)  # another process has put its folder at path, which is now the one to replace


def _sibling(path: Path, ending: str) -> Path:
    """A new hidden name next to ``path``."""
    return path.with_name(f".{_stem(path)}.{uuid.uuid4().hex}.{ending}")


def _siblings(path: Path, ending: str) -> list[Path]:
    """All names that :func:`_sibling` gave and that exist."""
    pattern = re.compile(rf"\.{re.escape(_stem(path))}\.[0-9a-f]{{32}}\.{ending}")
    return [one for one in path.parent.iterdir() if pattern.fullmatch(one.name)] if path.parent.is_dir() else []


def _stem(path: Path) -> str:
    name = path.name.encode(errors="surrogateescape")
    return path.name if len(name) <= _MAX_STEM else f"{path.name[:30]}~{sha256(name).hexdigest()[:16]}"


@lru_cache(maxsize=1024)  # once per folder and process: some folders hold thousands of files
def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders that killed processes left, if nothing has changed in them for a day."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _LEFTOVER.fullmatch(path.name) and _last_change(path) < time.time() - LEFTOVER_S:
                _remove(path)


def _remove_replaced(path: Path) -> None:
    """Remove old folders of a replacement whose process was killed after the new folder was in place, after a day."""
    for aside in _siblings(path, _ASIDE) if path.is_dir() else []:
        if _last_change(aside) < time.time() - LEFTOVER_S:
            _discard(aside)


def _last_change(path: Path) -> float:
    """Time of the last change of a file, or of a folder and its entries; a move counts as one."""
    times = [path.lstat(), *(one.lstat() for one in path.iterdir())] if path.is_dir() else [path.lstat()]
    return max(max(one.st_mtime, one.st_ctime) for one in times)


def _discard(aside: Path) -> None:
    """Remove an old folder. It is first renamed, so that a name which ends in ``old`` is always that of a whole folder."""
    rubbish = aside.with_suffix(f".{_TEMPORARY}")
    with suppress(OSError):
        os.rename(aside, rubbish)
        _remove(rubbish)


def _remove(path: Path) -> None:
    """Remove a file, link or folder, as far as possible: an error here must not hide the one that led here."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _lstat(path: Path) -> os.stat_result | None:
    """The entry at ``path`` itself, None if it is missing; a name that the file system refuses raises an OSError."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk itself."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such call
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot
            raise
    finally:
        os.close(descriptor)
