"""Reads and tokenises the parts of a source; for a GPU in a process of its own, one part ahead of those that it works on."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sparserm.pairs.columns import FoundColumns
from sparserm.pairs.parts import Part, PartedSource
from sparserm.pairs.reading import read_rows
from sparserm.pairs.rows import RawRow
from sparserm.pairs.warnings import pair_warnings, source_warnings, text_warnings
from sparserm.support.processes import python
from sparserm.types import PairIssue, PreferencePair, SparseRMError, Text, TokenizedText, pair_texts

#: Rows that are read in this process, while the other one starts, which takes about a second.
ROWS_HERE = 2048

#: What the other process runs. What a library prints must not get among the parts.
_SERVE = f"""
import os
output = os.dup(1)
os.dup2(2, 1)
from {__name__} import serve
serve(output)
"""

#: ``tokenize(texts)`` tokenises many texts.
Tokenize = Callable[[Sequence[Text]], Sequence[TokenizedText]]


@dataclass(frozen=True)
class ReadPart:
    """What was read of a part.

    Attributes:
        part: the part.
        pairs: its pairs.
        issues: why other rows cannot be used.
        warnings: warnings about its rows.
        tokenized: the pairs' texts, in the order of :func:`~sparserm.types.pair_texts`; None if one cannot be tokenised.
    """

    part: Part
    pairs: Sequence[PreferencePair]
    issues: Sequence[PairIssue]
    warnings: Sequence[PairIssue]
    tokenized: Sequence[TokenizedText] | None


@dataclass(frozen=True)
class PartReader:
    """Reads the parts of a source.

    Attributes:
        source: the rows.
        columns: column names of the source.
        tokenize: tokenises texts; it has to pickle if parts are read ahead.
        ahead: whether parts are read ahead.
    """

    source: PartedSource
    columns: FoundColumns
    tokenize: Tokenize
    ahead: bool = False

    def read(self, part: Part) -> ReadPart:
        """Read one part.

        Raises:
            SparseRMError: the file is missing, has changed since it was split, or this part is unreadable or too large.
        """
        pairs, issues, warnings = read_part(self.source.read(part), self.columns)
        tokenized = None
        with suppress(SparseRMError):  # said of the one pair when the pairs are represented
            tokenized = self.tokenize(pair_texts(pairs))
        return ReadPart(part, pairs, issues, warnings, tokenized)

    def each(self, parts: Sequence[Part]) -> Generator[ReadPart, None, None]:
        """Read the parts in order.

        Raises:
            SparseRMError: as :meth:`read`, or the process that reads ahead was ended.
        """
        rows, here = 0, 0
        while here < len(parts) and (rows < ROWS_HERE or not self.ahead):
            rows += parts[here].n_rows
            here += 1
        if here == len(parts):
            yield from map(self.read, parts)
            return
        with _started(self, parts[here:]) as process:
            try:
                yield from map(self.read, parts[:here])
                yield from (_received(process, part) for part in parts[here:])
            finally:
                process.kill()


def read_part(
    rows: Sequence[RawRow], columns: FoundColumns
) -> tuple[Sequence[PreferencePair], list[PairIssue], list[PairIssue]]:
    """The pairs of a part's rows, why the other rows cannot be used, and warnings about the rows."""
    pairs, issues = read_rows(rows, columns)
    usable = [row for row in rows if row.values is not None]
    doubts = [
        *(row.issue for row in usable if row.issue is not None),
        *text_warnings(usable, pairs, columns),
        *source_warnings(usable, pairs, columns),
        *pair_warnings(usable, pairs, columns),
        *(issue for issue in issues if issue.severity == "warning"),
    ]
    left = [issue for issue in issues if issue.severity != "warning"]
    return pairs, left, sorted(doubts, key=lambda one: one.row)


def _started(reader: PartReader, parts: Sequence[Part]) -> subprocess.Popen[bytes]:
    """A process that reads the parts: it waits with each until the one before has been taken from its pipe."""
    with tempfile.TemporaryFile() as file:  # into a pipe this process could not write more than the other one has read
        pickle.dump((reader, parts), file)
        file.seek(0)
        return subprocess.Popen(python(_SERVE), stdin=file, stdout=subprocess.PIPE)


def _received(process: subprocess.Popen[bytes], part: Part) -> ReadPart:
    assert process.stdout is not None
    try:  # the pipe is of this process's own child: nobody else can write what is unpickled
        found = pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError):
        raise SparseRMError(
            f"the process that reads and tokenises ended (exit {process.wait()}) before row {part.first_row:,}; if it was "
            "killed, check that there is enough memory; run the same command to resume"
        ) from None
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, ReadPart)
    return found


def serve(output: int) -> None:
    """Read the parts that come from standard input, in the process that :meth:`PartReader.each` starts."""
    with suppress(BrokenPipeError), os.fdopen(output, "wb") as pipe:
        reader, parts = pickle.load(sys.stdin.buffer)  # a nameless file of the process that started this one
        for part in parts:
            try:
                found = pickle.dumps(reader.read(part))
            except SparseRMError as error:
                found = pickle.dumps(error)
            except Exception as error:  # not all errors of libraries can be pickled
                found = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
            pipe.write(found)
            pipe.flush()
