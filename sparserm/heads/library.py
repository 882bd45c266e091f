"""The user's library of heads in ``SPARSERM_HOME/heads``: save, rename, delete, export and import heads.

Shipped heads are never replaced or removed, and no two heads share a name. A head never appears incomplete.
"""

from __future__ import annotations

import io
import re
import shutil
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

from sparserm.heads.checks import texts_in
from sparserm.heads.saved import FILES, HeadCard, SavedHead, head_files, list_heads, load_head, parse_head, read_files
from sparserm.support.defaults import home
from sparserm.support.files import is_device_name, one_line, replacing_folder
from sparserm.types import SparseRMError

#: Maximum size of a file. A head has at most 32 directions, a few MB for the widest language models.
MAX_BYTES = 64 << 20
#: Maximum number of files in a zip.
MAX_ENTRIES = 1000
#: Maximum length of a head's name in bytes, which leaves room for the name of a temporary folder, and of a name or label in an
#: uploaded head in characters.
MAX_NAME, MAX_SHOWN = 200, 200
#: Categories of Unicode that are not seen or not on one line, and the invisible characters that scripts and emoji need.
_UNSEEN, _JOINERS = ("Cc", "Cf", "Cs", "Zl", "Zp"), "\u200c\u200d"
_FIX = "zip the folder that `sparserm train` wrote again, or download the head again"


def heads_dir() -> Path:
    """The folder of the user's own heads, one subfolder each."""
    return home() / "heads"


def own_heads() -> dict[str, Path]:
    """Folders of the user's own heads by name."""
    return {name: folder for name, folder in list_heads().items() if folder.parent == heads_dir()}


def own_folders() -> dict[str, Path]:
    """All folders of the library by name, also those that hold no readable head; without those hidden by a shipped name."""
    shipped = list_heads().keys() - own_heads().keys()
    folders = sorted(heads_dir().glob("[!.]*")) if heads_dir().is_dir() else []
    return {folder.name: folder for folder in folders if folder.is_dir() and folder.name not in shipped}


def own_entries() -> dict[str, SavedHead | SparseRMError]:
    """The head in every folder of :func:`own_folders`, or why it cannot be read; :func:`delete_head` deletes either."""
    return {name: _read(name, folder) for name, folder in own_folders().items()}


def check_name(name: str) -> None:
    """Check that ``name`` can be given to a new head.

    Raises:
        SparseRMError: it is not a valid folder name on every system, or is taken.
    """
    if not re.fullmatch(r"[^\W_][\w.-]{0,62}[\w-]|[^\W_]", name) or not _is_portable(name):
        raise SparseRMError(
            f"{one_line(name, 80)!r} cannot be a head's name: expected 1 to 64 letters, digits, dots, hyphens or underscores "
            "that begin with a letter or digit, do not end with a dot and are not reserved by Windows (CON, NUL, COM1, ...), "
            "such as my-head"
        )
    taken = next((one for one in list_heads() if one.casefold() == name.casefold()), None)
    if taken is not None or (heads_dir() / name).exists():
        what = "a shipped head" if taken is not None and taken not in own_heads() else "one of your heads"
        raise SparseRMError(f"{taken or name!r} is already {what}; choose another name, such as {free_name(name)}")


def free_name(wanted: str) -> str:
    """``wanted`` as a valid head name, with a number appended where it is taken."""
    base = re.sub(r"[^\w.-]+", "-", wanted).strip("._-")[:56].encode()[:160].decode(errors="ignore").rstrip(".") or "head"
    base = base if _is_portable(base) else f"head-{base}"
    taken = {name.casefold() for name in (*list_heads(), *own_folders())}
    return next(name for n in count(1) if (name := base if n == 1 else f"{base}-{n}").casefold() not in taken)


def keep_head(saved: SavedHead, name: str) -> Path:
    """Save a head in the library under a name, which is also written to its card.

    Raises:
        SparseRMError: the name is invalid or taken.
    """
    check_name(name)
    files = head_files(replace(saved, card=replace(saved.card, name=name)))
    try:
        with replacing_folder(heads_dir() / name, replace=False) as folder:
            for file, data in files.items():
                (folder / file).write_bytes(data)
    except SparseRMError as error:  # another session took the name after it was checked
        raise SparseRMError(f"{name!r} was taken in the meantime; choose another name, such as {free_name(name)}") from error
    return heads_dir() / name


def rename_head(old: str, new: str) -> Path:
    """Rename one of the user's heads.

    Raises:
        SparseRMError: the head is shipped or does not exist, or the new name is invalid or taken.
    """
    folder = _own(old)
    kept = keep_head(load_head(folder), new)
    shutil.rmtree(folder)
    return kept


def delete_head(name: str) -> None:
    """Delete one of the user's heads, or a folder of the library that cannot be read as a head.

    Raises:
        SparseRMError: the head is shipped or does not exist.
    """
    folder = _own(name)
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def pack_head(saved: SavedHead) -> bytes:
    """A zip of ``config.json`` and ``head.safetensors``; the same head gives the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in head_files(saved).items():  # ZipInfo's default date is 1980, so the bytes do not depend on the time
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def read_head(files: Mapping[str, bytes]) -> SavedHead:
    """Read a head from uploaded files by name: one zip, or ``config.json`` and ``head.safetensors``.

    The two files are recognised by their suffix, since browsers add numbers to names that are downloaded twice. Nothing is
    unpacked to disk, so paths inside an archive have no effect.

    Raises:
        SparseRMError: other files, files that are too large, or an invalid head.
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
    saved = parse_head(found["config.json"], found["head.safetensors"], Path(label))
    _check_shown(saved.card, label)
    return saved


def _check_shown(card: HeadCard, label: str) -> None:
    """Refuse an upload with texts that would not be shown as they are: with control or invisible characters, or too long."""
    for text in texts_in(asdict(replace(card, labels={})) | {"labels": [*card.labels.values()]}):
        if any(unicodedata.category(sign) in _UNSEEN and sign not in _JOINERS for sign in text):
            raise SparseRMError(
                f"{label}: config.json holds the text {one_line(text, 60)!a} with control or invisible characters; "
                "expected visible characters on one line; change it and upload the head again"
            )
    for what, text in (("its name", card.name), *((f"the label of feature {id_}", one) for id_, one in card.labels.items())):
        if len(text) > MAX_SHOWN:
            raise SparseRMError(
                f"{label}: {what} has {len(text):,} characters, expected at most {MAX_SHOWN}; shorten it in config.json and "
                "upload the head again"
            )


def _is_portable(name: str) -> bool:
    """Whether file systems have room for the name, and Windows does not reserve it for a device, whatever follows a dot."""
    return len(name.encode()) <= MAX_NAME and not is_device_name(name)


def _read(name: str, folder: Path) -> SavedHead | SparseRMError:
    try:
        return read_files(folder, Path(name))
    except SparseRMError as error:
        return error


def _own(name: str) -> Path:
    own = own_folders()
    if name not in own:
        what = "is a shipped head and cannot be changed" if name in list_heads() else "is not one of your heads"
        raise SparseRMError(
            f"{one_line(name, 80)!r} {what}; expected one of {', '.join(own) or '(you have not saved a head yet)'}"
        )
    return own[name]


def _from_zip(data: bytes, label: str) -> dict[str, bytes]:
    if data.count(b"PK\1\2") > MAX_ENTRIES:  # the mark of an entry in the directory; reading a million takes half a minute
        raise SparseRMError(f"{label} contains more than {MAX_ENTRIES:,} files; expected one head in a zip; {_FIX}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inside = [entry for entry in archive.infolist() if "__MACOSX" not in entry.filename]
            return {name: _member(archive, inside, name, label) for name in FILES if _named(inside, name)}
    except SparseRMError:
        raise
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise SparseRMError(f"{label} cannot be read as a zip ({one_line(error)}); {_FIX}") from error


def _named(inside: list[zipfile.ZipInfo], name: str) -> list[zipfile.ZipInfo]:
    return [entry for entry in inside if entry.filename.rpartition("/")[2] == name]


def _member(archive: zipfile.ZipFile, inside: list[zipfile.ZipInfo], name: str, label: str) -> bytes:
    entries = _named(inside, name)
    if len(entries) > 1:
        raise SparseRMError(f"{label} contains {len(entries)} files named {name}; expected one head in a zip; {_FIX}")
    if entries[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may ask for gigabytes of memory
        raise SparseRMError(f"{label} is compressed in a way that few programs read; expected an ordinary zip; {_FIX}")
    with archive.open(entries[0]) as file:
        data = file.read(MAX_BYTES + 1)  # the size stated in the archive may be wrong
    _check_size(len(data), f"{label}, {name}")
    return data


def _check_size(size: int, what: str) -> None:
    if size > MAX_BYTES:
        raise SparseRMError(f"{what} is too large; expected at most {MAX_BYTES >> 20} MB; {_FIX}")
