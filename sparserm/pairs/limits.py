"""Limits on the memory that a file may take while it is read, so that a small file cannot use up the machine's.

A compressed file or a Parquet file of a few kB can unpack to many GB, and a byte of JSON can become an object of 40 bytes. What
is kept of a file is therefore measured while it is read, and reading ends with an error at the limit. Files that are read in
parts (:mod:`sparserm.pairs.parts`) have these limits for each part, and none in total.
"""

from __future__ import annotations

from sys import getsizeof
from typing import Any, NamedTuple

from sparserm.types import SparseRMError

#: Bytes of memory that any file may take: UltraFeedback (61,000 pairs with 0.3 GB of text) takes 0.5 GB.
SMALL = 512 << 20
#: A larger file may take this many times its own size: gzip and Parquet shrink text three to six times, and rows of a few words
#: take six times their size in memory.
GROWTH = 8
#: No file that is read whole may take more: half the memory of a common laptop, and the texts of a million pairs.
LARGEST = 4 << 30

#: Bytes of one row: about two million tokens, more than any context. It also bounds what is parsed before it is measured.
MAX_ROW = 8 << 20
#: Columns of a table; the columns of every row are kept for the preview, and their names compared when columns are guessed.
MAX_COLUMNS = 1_000
#: Depth of nested lists and objects in a row; messages take four, and Python's own limit (about 1,000) ends in an error later.
MAX_DEPTH = 100
#: Pairs that the rows with lists of chosen and rejected responses may give together: two lists of 10,000 give 100 million.
MAX_LISTED_PAIRS = 1_000_000
#: Candidate responses of a file, and findings about those that cannot be used.
MAX_CANDIDATES, MAX_FINDINGS = 2_000_000, 100_000

#: Blank lines of a file: they take no memory but time, and a gzip file of 30 kB can hold 30 million of them.
MAX_BLANK_LINES = 5_000_000

#: Bytes of a row beyond its values, measured: the row itself, its number, and the text of its finding if it has one.
_ROW, _FINDING = 200, 400
#: Bytes that a value with its name in a dictionary takes beyond its text, at most; one follows each of these characters.
_VALUE, _MARKS = 160, b",[{;\t"


class Size(NamedTuple):
    """Bytes of memory of a value and of all values in it, and the depth of its nested lists and objects."""

    memory: int
    depth: int


def size_of(value: Any) -> Size:
    """Measure a value made of dictionaries, lists and plain values."""
    memory, depth, level = 0, -1, [value]
    while level:
        memory += sum(map(getsizeof, level))
        depth += 1
        nested = [one for one in level if isinstance(one, (dict, list))]
        level = []
        for one in nested:
            level += one
            if isinstance(one, dict):
                level += one.values()
    return Size(memory, depth)


def most_memory(text: bytes) -> int:
    """Bytes of memory that the rows in a piece of JSON or CSV take, at most; takes a tenth of the time to parse it."""
    width = 1 if text.isascii() else 4  # one character beyond 16 bits makes Python store four bytes for each
    n_marks = len(text) - len(text.translate(None, _MARKS))
    return width * len(text) + _VALUE * n_marks + (_ROW + _FINDING) * text.count(b"\n")


class Budget:
    """Counts the memory that the rows of a source take.

    Measuring every row would take a fifth of the time to read it. Readers therefore first add up what the rows may take, and
    rows are measured only once that exceeds the limit.

    Args:
        name: name of the source, for the error.
        size: size of the file in bytes, as it is stored; None for a source whose rows are measured from the first.
    """

    def __init__(self, name: str, size: int | None = None) -> None:
        self.name = name
        self.limit = LARGEST if size is None else min(max(SMALL, GROWTH * size), LARGEST)
        #: Bytes that what was read so far takes, at most.
        self.possible = 0 if size is not None else self.limit + 1
        self._used = 0

    @property
    def is_safe(self) -> bool:
        """Whether the rows need not be measured."""
        return self.possible <= self.limit

    def add_row(self, values: Size, *, has_finding: bool) -> None:
        """Count the values of a row and the row itself.

        Raises:
            SparseRMError: the rows exceed the limit.
        """
        self._used += values.memory + _ROW + has_finding * _FINDING
        if self._used > self.limit:
            raise too_large(self.name, self.limit)

    def require(self, memory: int) -> None:
        """Check that this many bytes are within the limit.

        Raises:
            SparseRMError: they are not.
        """
        if memory > self.limit - self._used:
            raise too_large(self.name, self.limit)


def too_large(name: str, limit: int) -> SparseRMError:
    """The error for a source that takes more than ``limit`` bytes of memory."""
    return SparseRMError(
        f"{name} takes more than {limit >> 20:,} MB of memory when it is unpacked; expected at most that for a file of its "
        "size; split it into smaller files, or keep only the columns with prompts and responses"
    )


def check_columns(n: int, name: str) -> None:
    """Check the number of columns of a table.

    Raises:
        SparseRMError: there are more than :data:`MAX_COLUMNS`.
    """
    if n > MAX_COLUMNS:
        raise SparseRMError(
            f"{name} has {n:,} columns; expected at most {MAX_COLUMNS:,}; keep only the columns with prompts and responses"
        )


def check_blank_lines(n: int) -> None:
    """Check the number of blank lines of a file.

    Raises:
        SparseRMError: there are more than :data:`MAX_BLANK_LINES`.
    """
    if n > MAX_BLANK_LINES:
        raise SparseRMError(f"the file has more than {MAX_BLANK_LINES:,} blank lines; expected fewer; remove them")
