"""Runs over the parts of a source, into a folder: what is done is kept, and a run that was interrupted goes on with the rest.

A part is written atomically and only by the run that claimed the folder, so no row is lost or duplicated. The engine says
where: here (:func:`run_here`), or on a cluster (:class:`sparserm.integrations.ray.RayEngine`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from sparserm.pairs.columns import FoundColumns, find_columns
from sparserm.pairs.part_reader import PartReader, ReadPart
from sparserm.pairs.parts import Part, PartedSource
from sparserm.pairs.rows import RawRow
from sparserm.pairs.verdicts import check_both_responses
from sparserm.support.files import holds_nothing, one_line, write_json
from sparserm.support.parsing import parse_json
from sparserm.support.threads import in_order
from sparserm.types import Progress, SparseRMError


class PartWork(Protocol):
    """What is to be done with each part: everything that a worker on any machine needs, as plain data."""

    @property
    def source(self) -> PartedSource:
        """The rows."""

    def is_done(self, part: Part) -> bool:
        """Whether the results of a part are there; their content is not looked at."""

    def load(self) -> Any:
        """Load, once for each worker, what all parts are worked on with."""

    def reader(self, loaded: Any) -> PartReader:
        """Reads the parts, ahead if the model is on a GPU."""

    def run(self, read: ReadPart, loaded: Any) -> None:
        """Work on one part and write its results; while a GPU works on one part, another thread works on the next."""


#: ``engine(work, parts, finished)`` works on the parts and calls ``finished`` after each.
Engine = Callable[[PartWork, Sequence[Part], Callable[[Part], None]], None]


def run_here(work: PartWork, parts: Sequence[Part], finished: Callable[[Part], None]) -> None:
    """Engine that works on the parts in this process: on a CPU one by one, on a GPU two at a time."""
    if not parts:
        return
    loaded = work.load()
    reader = work.reader(loaded)

    def run(read: ReadPart) -> Part:
        work.run(read, loaded)
        return read.part

    with closing(reader.each(parts)) as read:
        if not reader.ahead:
            for one in read:
                finished(run(one))
            return
        # Two threads: while one waits for the GPU or for the disk, the other has work for it.
        with ThreadPoolExecutor(2) as pool, closing(in_order(pool, run, read, ahead=1)) as done:
            for part in done:
                finished(part)


def run_parts(work: PartWork, todo: Sequence[Part], engine: Engine, progress: Progress | None, what: str) -> None:
    """Work on some parts; ``progress`` is called with the rows that are done, those of earlier runs among them."""
    n_rows = work.source.n_rows
    done = n_rows - sum(part.n_rows for part in todo)

    def finished(part: Part) -> None:
        nonlocal done
        done += part.n_rows
        if progress:
            progress(done, n_rows, what)

    engine(work, todo, finished)


@dataclass(frozen=True)
class RunFolder:
    """A folder with a note of what its results are of.

    Attributes:
        path: the folder.
        what: what the results are called, in messages.
        again: what it is called to compute them, in messages.
        note: file name of the note; Parquet readers ignore files that begin with an underscore.
    """

    path: Path
    what: str
    again: str
    note: str

    def read(self) -> dict[str, Any] | None:
        """The note; None if it is missing or empty.

        Raises:
            SparseRMError: the folder holds other files, or the note cannot be read.
        """
        note = self.path / self.note
        try:
            found = parse_json(note.read_bytes())
            if isinstance(found, dict):
                return found
            reason = "no JSON object"
        except FileNotFoundError:
            if not holds_nothing(self.path):
                raise SparseRMError(
                    f"{self.path} is not empty and holds no {self.what}; expected a new folder; choose another one"
                ) from None
            return None
        except (OSError, ValueError) as error:
            reason = one_line(error)
        raise SparseRMError(f"{note} cannot be read ({reason}); delete {self.path} to {self.again} again")

    def check(self, of: Mapping[str, Any]) -> None:
        """Refuse results of something else.

        Raises:
            SparseRMError: the folder holds other files or other results.
        """
        found = self.read()
        if not any(self.path.rglob("part-*.parquet")):  # nothing is there yet that could be mixed up
            return
        for name, value in of.items():
            if found is None or found.get(name) != value:
                raise SparseRMError(
                    f"{self.path} holds {self.what} of {name.replace('_', ' ')} {one_line((found or {}).get(name))}, expected "
                    f"{value!r}; choose another folder, or delete this one to {self.again} again"
                )

    def claim(self, of: Mapping[str, Any]) -> None:
        """Write down what the results are of.

        Raises:
            SparseRMError: the folder holds other files or other results.
        """
        self.check(of)
        write_json(self.path / self.note, of)

    def refuse_others(self, source: PartedSource) -> None:
        """Refuse parts that the source does not have: they would be read with the others.

        Raises:
            SparseRMError: there is such a part.
        """
        names = {part_name(part) for part in source.parts}
        if others := sorted(path for path in self.path.rglob("*.parquet") if path.name not in names):
            raise SparseRMError(
                f"{self.path} holds {others[0].relative_to(self.path)}, which is no part of these {self.what}; expected "
                f"{len(names):,} parts; remove it, or choose another folder"
            )


def part_name(part: Part) -> str:
    """Name of the file of a part's results."""
    return f"part-{part.index:06}.parquet"


def read_whole(file: Path) -> pa.Table | None:
    """The rows of a file with the metadata of its schema; None if it is missing or damaged."""
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            return opened.read()
    except (pa.ArrowException, OSError, ValueError):
        return None


def describe_source(source: PartedSource, columns: FoundColumns) -> dict[str, Any]:
    """What the results of a source are of: two runs with the same description have the same rows in the same parts."""
    return {
        "source": source.name,
        "content_hash": source.content_hash,
        "rows": source.n_rows,
        "part_rows": max(part.n_rows for part in source.parts),
        "columns": columns.to_dict(),
    }


def find_source_columns(source: PartedSource, columns: Mapping[str, str]) -> FoundColumns:
    """Find the columns of a whole source, in which a later row may have others than the first, or other cells.

    In memory are one part at a time and those that changed what was found.

    Raises:
        SparseRMError: no row can be read, columns are missing, or each row has only one of the responses of a pair.
    """
    rows: list[RawRow] = []
    found = None
    for part in source.parts:
        if here := [row for row in source.read(part) if row.values is not None]:
            check_both_responses(here, source.name)
            changed = find_columns([*rows, *here], columns, source.name)
            if changed != found:
                found, rows = changed, [*rows, *here]
    if found is None:
        first = source.read(source.parts[0])[0].issue
        raise SparseRMError(f"{source.name}: none of {source.n_rows} rows can be read ({first}); fix the file")
    return found
