"""The user's own heads, in ``SPARSERM_HOME/heads``: kept, renamed, deleted, packed to take away and taken in again.

A shipped head is never replaced or removed, and a name is never taken twice. A head appears under its name all at once:
it is written aside and moved there.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

from sparserm.heads.saved import HeadCard, SavedHead, list_heads, load_head, parse_head, save_head
from sparserm.support.defaults import home
from sparserm.types import SparseRMError

FILES = ("config.json", "head.safetensors")
#: A head has at most 32 directions: the widest language models need a few MB.
MAX_BYTES = 64 << 20
_MENDED = "pack the folder again that `sparserm train` wrote, or download the head anew"


def heads_dir() -> Path:
    """Where the user's own heads lie, a folder for each."""
    return home() / "heads"


def own_heads() -> dict[str, Path]:
    """The user's own heads by name."""
    return {name: folder for name, folder in list_heads().items() if folder.parent == heads_dir()}


def check_name(name: str) -> None:
    """Whether a new head may be called so.

    Raises:
        SparseRMError: it would not do as a folder's name everywhere, or is taken.
    """
    if not re.fullmatch(r"[^\W_][\w.-]{0,62}[\w-]|[^\W_]", name):
        raise SparseRMError(
            f"{name!r} cannot be a head's name: expected 1 to 64 letters, digits, dots, hyphens or underscores that begin "
            "with a letter or digit and do not end with a dot, such as my-head"
        )
    taken = next((one for one in list_heads() if one.casefold() == name.casefold()), None)
    if taken is not None or (heads_dir() / name).exists():
        what = "a shipped head" if taken is not None and taken not in own_heads() else "a head of yours"
        raise SparseRMError(f"{taken or name!r} is {what} already; choose another name, such as {free_name(name)}")


def free_name(wanted: str) -> str:
    """``wanted`` as a head's name, with a number where it is taken."""
    base = re.sub(r"[^\w.-]+", "-", wanted).strip("._-")[:56].rstrip(".") or "head"
    taken = {name.casefold() for name in list_heads()}
    return next(name for n in count(1) if (name := base if n == 1 else f"{base}-{n}").casefold() not in taken)


def keep_head(saved: SavedHead, name: str) -> Path:
    """Save a head under a name, which its card then says too.

    Raises:
        SparseRMError: the name cannot be used, or is taken.
    """
    check_name(name)
    heads_dir().mkdir(parents=True, exist_ok=True)
    with _aside() as folder:
        save_head(replace(saved, card=replace(saved.card, name=name)), folder)
        return _move(folder, name)


def rename_head(old: str, new: str) -> Path:
    """Give a head of the user's another name.

    Raises:
        SparseRMError: it is shipped or not there, or the new name cannot be used.
    """
    folder = _own(old)
    kept = keep_head(load_head(folder), new)
    shutil.rmtree(folder)
    return kept


def delete_head(name: str) -> None:
    """Remove a head of the user's.

    Raises:
        SparseRMError: it is shipped, or not there.
    """
    shutil.rmtree(_own(name))


def pack_head(saved: SavedHead) -> bytes:
    """A zip of ``config.json`` and ``head.safetensors``; the same head gives the same bytes."""
    packed = io.BytesIO()
    with _aside() as folder, zipfile.ZipFile(packed, "w") as archive:
        save_head(saved, folder)
        for name in FILES:  # ZipInfo's own date is 1980: no clock in the bytes
            archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def read_head(files: Mapping[str, bytes]) -> SavedHead:
    """A head from uploaded files by name: one zip, or ``config.json`` and ``head.safetensors``.

    Browsers number what they download twice, so the two files are told apart by their suffix. Nothing is unpacked to disk,
    so that no path in an archive can lead anywhere.

    Raises:
        SparseRMError: other files, too large ones, or not those of a sound head.
    """
    label, got = "the upload", ", ".join(files) or "nothing"
    if len(files) == 1 and got.lower().endswith(".zip"):
        label = got
        found = _from_zip(files[got], label)
    else:
        found = {name: data for name in FILES for file, data in files.items() if Path(file).suffix == Path(name).suffix}
    if len(files) > len(FILES) or (missing := [name for name in FILES if name not in found]):
        what = f" without {' and '.join(missing)}" if len(files) <= len(FILES) else ""
        raise SparseRMError(f"got {got}{what}; expected a zip of {' and '.join(FILES)}, or these two files")
    for name, data in found.items():
        _check_size(len(data), f"{label}, {name}")
    return parse_head(found["config.json"], found["head.safetensors"], Path(label))


def require_backbone(card: HeadCard, backbone: str, fingerprint: str) -> None:
    """Refuse a head that was trained on another language model: its rewards would mean nothing.

    Raises:
        SparseRMError: the fingerprints differ.
    """
    if card.backbone_fingerprint != fingerprint:
        raise SparseRMError(
            f"head {card.name!r} was trained on backbone {card.backbone} ({card.backbone_fingerprint}), but {backbone} "
            f"({fingerprint}) is in use; choose that backbone, or train a head on this one"
        )


def _own(name: str) -> Path:
    own = own_heads()
    if name not in own:
        what = "is a shipped head, and stays" if name in list_heads() else "is no head of yours"
        raise SparseRMError(f"{name!r} {what}; expected one of {', '.join(own) or '(you have saved none)'}")
    return own[name]


@contextmanager
def _aside() -> Iterator[Path]:
    """A folder on the same file system, outside the one whose folders are heads."""
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home(), prefix="head-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "head"


def _move(folder: Path, name: str) -> Path:
    target = heads_dir() / name
    try:
        return folder.rename(target)
    except OSError as error:  # another session has taken the name in between
        raise SparseRMError(f"{name!r} was taken a moment ago; choose another name, such as {free_name(name)}") from error


def _from_zip(data: bytes, label: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inside = [entry for entry in archive.infolist() if "__MACOSX" not in entry.filename]
            return {name: _member(archive, inside, name, label) for name in FILES if _named(inside, name)}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise SparseRMError(f"{label} cannot be read as a zip ({error}); {_MENDED}") from error


def _named(inside: list[zipfile.ZipInfo], name: str) -> list[zipfile.ZipInfo]:
    return [entry for entry in inside if entry.filename.rpartition("/")[2] == name]


def _member(archive: zipfile.ZipFile, inside: list[zipfile.ZipInfo], name: str, label: str) -> bytes:
    entries = _named(inside, name)
    if len(entries) > 1:
        raise SparseRMError(f"{label} holds {len(entries)} files called {name}; expected one head in a zip; {_MENDED}")
    with archive.open(entries[0]) as file:
        data = file.read(MAX_BYTES + 1)  # what the directory says of its size need not be true
    _check_size(len(data), f"{label}, {name}")
    return data


def _check_size(size: int, what: str) -> None:
    if size > MAX_BYTES:
        raise SparseRMError(f"{what} is larger than {MAX_BYTES >> 20} MB, which no head is; {_MENDED}")
