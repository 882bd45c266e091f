"""Files of a run that are checked when they are read: JSON files with their round and a checksum, and notes of other files.

A record is a JSON object. ``sha256`` is the checksum of the rest, ``round`` the round it is of, and ``files`` the checksums of
files that were written before it. Records of earlier versions have none of these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparserm.support.files import one_line, write_json
from sparserm.support.parsing import parse_json
from sparserm.types import SparseRMError

AGAIN = "delete it and repeat the command"


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write a record with its checksum."""
    write_json(path, {**values, "sha256": _digest(values)})


def read_record(path: Path, number: int | None = None, *, fix: str = AGAIN) -> dict[str, Any]:
    """The values of a record.

    Args:
        number: the round that it must be of.
        fix: what to do if it is damaged.

    Raises:
        SparseRMError: it is no record, was changed after it was written, or is of another round.
        FileNotFoundError: it does not exist.
    """
    try:
        found = parse_json(path.read_bytes())
    except ValueError as error:
        raise damaged(path, str(error), fix) from error
    if not isinstance(found, dict):
        raise damaged(path, "it is not a JSON object", fix)
    if "sha256" in found and found.pop("sha256") != _digest(found):
        raise damaged(path, "its checksum is another", fix)
    if found.get("round", number) != number:
        raise damaged(path, f"it is of round {one_line(found['round'], 20)}, not {number}", fix)
    return found


def file_checksums(folder: Path, pattern: str) -> dict[str, str]:
    """SHA-256 of the files in a folder that match a pattern, by their path within the folder."""
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): _file_digest(path) for path in paths}


def check_files(folder: Path, pattern: str, noted: Mapping[str, Any], fix: str = AGAIN) -> None:
    """Check the files in a folder that match a pattern against noted checksums; others that match may be there too.

    Raises:
        SparseRMError: one is missing or was changed after it was noted.
    """
    found = file_checksums(folder, pattern)
    for name, checksum in noted.items():
        if found.get(name) != checksum:
            raise damaged(folder / name, "its checksum is another" if name in found else "it is missing", fix)


def damaged(path: Path, reason: str, fix: str = AGAIN) -> SparseRMError:
    """The error for a file of a run that is not as the run wrote it."""
    return SparseRMError(f"{path} is damaged ({one_line(reason)}); expected it as the run wrote it; {fix}")


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
