"""The content of files as streams: unpacked, within a limit of memory, and checked to be text."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import shutil
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from sparserm.pairs.limits import MAX_ROW, Budget, most_memory
from sparserm.support.files import one_line
from sparserm.types import SparseRMError

#: Endings of the files that are read.
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
#: The UTF-8 byte order mark that some editors write.
BOM = b"\xef\xbb\xbf"

#: Bytes that are read at once, and looked at to detect the format.
BLOCK = 1 << 20
#: First bytes of compressed files.
_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
COMPRESSED = (_GZIP, _BZIP2, _XZ, _ZSTD)
#: Endings of compressed files.
PACKED = (".gz", ".bz2", ".xz", ".zst")
UTF16 = (b"\xff\xfe", b"\xfe\xff")
_LFS_POINTER = b"version https://git-lfs.github.com/spec"
#: Other file types that users upload by mistake, by their first bytes.
_OTHER_KINDS = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive, such as an Excel workbook",
    b"ARROW1": "an Arrow (Feather) file",
    b"\xff\xff\xff\xff": "a stream of Arrow, such as datasets keeps in its folders (give the folder instead)",
}
_NARROW = "save the file as UTF-8, e.g. `iconv -f UTF-16LE -t UTF-8 old > new`"
SAVE_AS_UTF8 = "save the file as UTF-8, e.g. `iconv -f WINDOWS-1252 -t UTF-8 old > new`, or as 'CSV UTF-8' in Excel"


class _Limited(io.RawIOBase):
    """A file, unpacked if it is compressed, that ends with an error at the limit of a budget."""

    def __init__(self, file: BinaryIO, budget: Budget) -> None:
        start = file.read(6)
        file.seek(0)
        self._packed = next((kind for mark, kind in _UNPACK.items() if start.startswith(mark)), "")
        self._file = _opened(file, self._packed, budget)
        self._budget = budget

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            if not self._packed:
                raise
            raise SparseRMError(
                f"{self._budget.name} is a broken {self._packed} file ({one_line(error)}): copy or compress it again"
            ) from error
        self._budget.require(self._file.tell())
        self._budget.possible += most_memory(data)
        buffer[: len(data)] = data
        return len(data)


#: Kinds of compressed files by their first bytes.
_UNPACK = {_GZIP: "gzip", _BZIP2: "bzip2", _XZ: "xz", _ZSTD: "Zstandard"}


def _opened(file: BinaryIO, packed: str, budget: Budget) -> BinaryIO:
    """The content of a file that is compressed in this way."""
    if packed == "Zstandard":
        return _zstandard(file, budget)
    readers: dict[str, Any] = {"gzip": partial(gzip.open, mode="rb"), "bzip2": bz2.open, "xz": lzma.open}
    return cast(BinaryIO, readers[packed](file)) if packed else file


def _zstandard(file: BinaryIO, budget: Budget) -> BinaryIO:
    """The whole content: pyarrow's stream cannot go back to its beginning."""
    import pyarrow as pa

    data = io.BytesIO()
    try:
        with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as stream:
            while block := stream.read(BLOCK):
                budget.require(data.tell() + len(block))
                data.write(block)
    except (OSError, pa.ArrowException) as error:
        raise SparseRMError(
            f"{budget.name} is a broken Zstandard file ({one_line(error)}): copy or compress it again"
        ) from error
    data.seek(0)
    return data


def from_utf16(stream: io.BufferedReader, filename: str) -> io.BufferedReader:
    """The same text in UTF-8."""
    try:
        data = stream.read().decode("utf-16").encode("utf-8")
    except UnicodeError as error:
        raise SparseRMError(f"{filename} begins as UTF-16 text and is none ({one_line(error)}); {SAVE_AS_UTF8}") from error
    return io.BufferedReader(io.BytesIO(data))


def unpacked(file: BinaryIO, budget: Budget) -> io.BufferedReader:
    """A stream of the content of a file at its beginning, decompressed if it is a gzip, bzip2, xz or Zstandard file.

    Raises:
        SparseRMError: here or while reading, the compressed file is broken, or the content exceeds the budget.
    """
    if not file.seekable():  # a pipe
        file = io.BytesIO(file.read(budget.limit + 1))
    return io.BufferedReader(_Limited(file, budget), BLOCK)


def check_text(data: bytes, filename: str) -> None:
    """Check that the first bytes of a file can be UTF-8 text.

    Raises:
        SparseRMError: they belong to another type of file.
    """
    for beginning, kind in _OTHER_KINDS.items():
        if data.startswith(beginning):
            raise SparseRMError(
                f"{filename} is {kind}: expected a table of preference pairs as {', '.join(SUFFIXES)}; "
                "export it as one of these"
            )
    if data.startswith(_LFS_POINTER):
        raise SparseRMError(
            f"{filename} is a Git LFS pointer, not the data: expected the file that it stands for; run `git lfs pull` in its "
            "repository, or download the file"
        )
    if b"\0" in data:
        wide = b"\0" in data[:4]  # a header in Latin letters
        where = f"NUL at byte offset {data.index(0)}{', as in UTF-16 or UTF-32 without its mark' if wide else ''}"
        raise SparseRMError(f"{filename} is not UTF-8 text ({where}): expected UTF-8; {SAVE_AS_UTF8 if not wide else _NARROW}")


def whole(stream: BinaryIO) -> io.BytesIO:
    """The rest of a stream, in memory."""
    data = io.BytesIO()
    shutil.copyfileobj(stream, data, BLOCK)
    data.seek(0)
    return data


def lines(stream: BinaryIO, end: int | None = None) -> Iterator[tuple[bytes, int]]:
    """The lines of a stream with their line ends and lengths, from its position to the byte ``end``.

    Of a line longer than :data:`~sparserm.pairs.limits.MAX_ROW` only the beginning is read into memory.
    """
    left = math.inf if end is None else end - stream.tell()
    while left > 0 and (line := stream.readline(MAX_ROW + 1)):
        length = len(line)
        if length > MAX_ROW:
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = stream.readline(MAX_ROW)
                length += len(rest)
        left -= length
        yield line, length


def not_utf8(byte: int, offset: int) -> str:
    """The problem of a byte that is not UTF-8."""
    return f"not UTF-8 (byte 0x{byte:02X} at offset {offset} of the file): {SAVE_AS_UTF8}"


def suffix_of(filename: str) -> str:
    """The ending of a file's name in lower case, without that of a compressed file."""
    return Path(unpacked_name(filename.lower())).suffix


def unpacked_name(name: str) -> str:
    """A file's name without the ending of a compressed file."""
    return name.removesuffix(next((ending for ending in PACKED if name.endswith(ending)), ""))
