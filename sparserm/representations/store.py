"""Persistent cache of backbone results, shared by all processes, and preallocated arrays filled from it.

The store is one SQLite file of blobs, keyed by content and fingerprint. SQLite's write-ahead log allows several writers and
keeps the file readable when a process is killed. It contains data only, no pickles.

Everything in it can be computed again. So damage is never an error: every blob has a checksum, and what does not match it is
deleted. A file that cannot be read or written, because the disk is full or another process has locked it, is done without.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import TypeVar
from zlib import crc32

import numpy as np
from filelock import FileLock

from sparserm.support.defaults import home
from sparserm.support.files import make_folder

#: Number of blobs copied into an array at once.
_FILL_BATCH = 1024

#: Maps values ``[m, ...]`` to ``[m]`` bool, whether each can be right.
Check = Callable[[np.ndarray], np.ndarray]

#: Rows of one batch: mostly all of them, which can then be a view.
_Rows = slice | np.ndarray

#: Printed to stderr where nothing else has been set up for logging.
_log = logging.getLogger("sparserm.store")


class Column(ABC):
    """Preallocated column of ``n`` values, one per text, filled from stored or computed blobs.

    Attributes:
        keys: ``n`` keys of the blobs; repeated texts have equal keys.
        filled: ``[n]`` bool, whether each row has been filled.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.keys = keys
        self.filled = np.zeros(len(keys), bool)

    def fill(self, blobs: Mapping[bytes, bytes]) -> None:
        """Fill the rows whose keys are in ``blobs``."""
        for _ in self._fill(blobs):
            pass

    def fill_stored(self, blobs: Mapping[bytes, bytes]) -> set[bytes]:
        """Like :meth:`fill`, but leave rows empty whose blobs have a wrong size or impossible values, and return their keys."""
        unusable = self._misfits(blobs)
        for rows in self._fill({key: blob for key, blob in blobs.items() if key not in unusable} if unusable else blobs):
            impossible = self._impossible(rows)
            if impossible.any():
                wrong = np.arange(len(self.keys))[rows][impossible]
                self.filled[wrong] = False
                unusable.update(self.keys[row] for row in wrong)
        return unusable

    def _fill(self, blobs: Mapping[bytes, bytes]) -> Iterator[_Rows]:
        """Fill rows in batches, and yield the rows of each batch."""
        for start in range(0, len(self.keys), _FILL_BATCH):
            keys = self.keys[start : start + _FILL_BATCH]
            rows: _Rows = slice(start, start + len(keys))
            try:
                found = [blobs[key] for key in keys]  # mostly all of them
            except KeyError:
                rows = np.array([row for row, key in enumerate(keys, start) if key in blobs], np.int64)
                found = [blobs[key] for key in keys if key in blobs]
            if found:
                self._put(rows, found)
                self.filled[rows] = True
                yield rows

    @abstractmethod
    def _put(self, rows: _Rows, blobs: Sequence[bytes]) -> None: ...

    @abstractmethod
    def _misfits(self, blobs: Mapping[bytes, bytes]) -> set[bytes]:
        """The keys of blobs of a size that no value of this column has."""

    @abstractmethod
    def _impossible(self, rows: _Rows) -> np.ndarray:
        """``[m]`` bool, which of the ``m`` filled rows have impossible values."""


class ArrayColumn(Column):
    """Column of blobs of equal size, as one array.

    Attributes:
        array: ``[n, ...]``; rows that are not filled are uninitialised.
        possible: which rows ``[m, ...]`` can be right; all if None.
    """

    def __init__(self, keys: Sequence[bytes], shape: tuple[int, ...], dtype: type, possible: Check | None = None) -> None:
        super().__init__(keys)
        self.array: np.ndarray = np.empty((len(keys), *shape), dtype)
        self.possible = possible

    def _put(self, rows: _Rows, blobs: Sequence[bytes]) -> None:
        self.array[rows] = np.frombuffer(b"".join(blobs), self.array.dtype).reshape(len(blobs), *self.array.shape[1:])

    def _misfits(self, blobs: Mapping[bytes, bytes]) -> set[bytes]:
        size = self.array.itemsize * int(np.prod(self.array.shape[1:]))
        return {key for key, blob in blobs.items() if len(blob) != size}

    def _impossible(self, rows: _Rows) -> np.ndarray:
        return ~self.possible(self.array[rows]) if self.possible else np.zeros(1, bool)


class BlobColumn(Column):
    """Column of blobs of any size.

    Attributes:
        blobs: ``n`` blobs; rows that are not filled are empty.
        record: a blob holds any number of these.
        possible: which records ``[m]`` can be right; all if None.
    """

    def __init__(self, keys: Sequence[bytes], record: np.dtype | None = None, possible: Check | None = None) -> None:
        super().__init__(keys)
        self.blobs = [b""] * len(keys)
        self.record = record or np.dtype(np.uint8)
        self.possible = possible

    def _put(self, rows: _Rows, blobs: Sequence[bytes]) -> None:
        for row, blob in zip(self._numbers(rows), blobs, strict=True):
            self.blobs[row] = blob

    def _misfits(self, blobs: Mapping[bytes, bytes]) -> set[bytes]:
        return {key for key, blob in blobs.items() if len(blob) % self.record.itemsize}

    def _impossible(self, rows: _Rows) -> np.ndarray:
        blobs = [self.blobs[row] for row in self._numbers(rows)]
        impossible = np.zeros(len(blobs), bool)
        if self.possible:
            wrong = np.flatnonzero(~self.possible(np.frombuffer(b"".join(blobs), self.record)))
            ends = np.cumsum([len(blob) // self.record.itemsize for blob in blobs])
            impossible[np.searchsorted(ends, wrong, side="right")] = True
        return impossible

    def _numbers(self, rows: _Rows) -> Sequence[int]:
        return range(len(self.blobs))[rows] if isinstance(rows, slice) else rows.tolist()


class PartColumn(BlobColumn):
    """Column of records of some latents, also found among the records of all latents.

    Args:
        whole_keys: ``n`` keys of the blobs with all latents.
        latents: ids of the wanted latents, the first field of a record.
    """

    def __init__(
        self, keys: Sequence[bytes], whole_keys: Sequence[bytes], latents: np.ndarray, record: np.dtype, possible: Check
    ) -> None:
        super().__init__(keys, record, possible)
        self._whole_keys, self._latents = whole_keys, latents

    def missing(self) -> list[bytes]:
        """Keys of the blobs with all latents, of the rows that are not filled."""
        return [key for key, filled in zip(self._whole_keys, self.filled, strict=True) if not filled]

    def fill_from_whole(self, blobs: Mapping[bytes, bytes]) -> None:
        """Fill rows from blobs with all latents; those that are damaged are left alone."""
        for row, key in enumerate(self._whole_keys):
            blob = blobs.get(key)
            if self.filled[row] or blob is None or len(blob) % self.record.itemsize:
                continue
            records = np.frombuffer(blob, self.record)
            if self.possible is None or self.possible(records).all():
                self.blobs[row] = records[np.isin(records["latent"], self._latents)].tobytes()
                self.filled[row] = True


#: Default size limit in bytes; above it the least recently used blobs are evicted.
DEFAULT_LIMIT = 4 << 30

#: Version of the tables, kept in the file. Version 0 has no checksums; what is in it stays, and its program can go on using the
#: file beside this one. Blobs without a checksum get that of what is found when they are first read.
_VERSION = 1
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS blobs (key BLOB PRIMARY KEY, value BLOB NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blobs_used ON blobs (used);
CREATE TABLE IF NOT EXISTS total (id INTEGER PRIMARY KEY CHECK (id = 0), bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO total VALUES (0, 0);
CREATE TRIGGER IF NOT EXISTS blobs_in AFTER INSERT ON blobs
  BEGIN UPDATE total SET bytes = bytes + length(new.value); END;
CREATE TRIGGER IF NOT EXISTS blobs_out AFTER DELETE ON blobs
  BEGIN UPDATE total SET bytes = bytes - length(old.value); END;
CREATE TABLE IF NOT EXISTS sums (key BLOB PRIMARY KEY, sum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS sums_out AFTER DELETE ON blobs
  BEGIN DELETE FROM sums WHERE key = old.key; END;
PRAGMA user_version={_VERSION};
"""
_BYTES = "SELECT bytes FROM total"
# VALUES is faster than IN: no index of the keys is built.
_READ = """
WITH wanted (key) AS (VALUES {})
SELECT blobs.key, value, used, sum FROM wanted CROSS JOIN blobs USING (key) LEFT JOIN sums ON sums.key = blobs.key
"""
_CHUNK = 500  # keys per statement: SQLite allows at least 999 variables
_T = TypeVar("_T")
_TOUCH_AFTER_S = 3600  # reading updates a blob's time of use at most this often, so that reads rarely write
_WAIT_S = 5.0  # for another process that writes
_PAUSE_S = 30.0  # a file that could not be used is not tried again before

#: What happens when a file cannot be used: locked, read-only, full or closed to this user. A lock's timeout is an OSError.
UNAVAILABLE = (sqlite3.OperationalError, OSError)
#: When to try again, by file and what was tried.
_out_until: dict[tuple[Path, str], float] = {}


class Store:
    """Key-value store of blobs in a SQLite file. Safe with several processes; open one per thread.

    Where the file cannot be used after it was opened, nothing is found and nothing is stored for :data:`_PAUSE_S` seconds; one
    line in the log says so.

    Args:
        path: the SQLite file; if damage is detected, at any time, the file is moved aside and a new one is created.
        limit_bytes: size above which the least recently used blobs are evicted.

    Raises:
        sqlite3.OperationalError, OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, limit_bytes: int = DEFAULT_LIMIT) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        make_folder(path.parent)
        self._db = self._connect()
        self._retry_if_damaged(self._prepare)

    def _connect(self) -> sqlite3.Connection:
        with suppress(OSError):  # SQLite gives its other files the same mode
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        db = sqlite3.connect(self.path, timeout=_WAIT_S, check_same_thread=False)
        db.text_factory = lambda text: text.decode(errors="replace")  # a damaged blob may read as text that is not UTF-8
        return db

    def _lock(self) -> FileLock:
        return FileLock(self.path.with_suffix(".lock"), timeout=_WAIT_S, mode=0o600)

    def _prepare(self) -> None:
        """Create what is missing in the file, under a lock: of two processes that enable the write-ahead log of a new file,
        SQLite rejects the second. A file that is ready is not written to, so that opening it never waits for a writer.
        """
        if self._is_ready():
            self._db.execute("PRAGMA synchronous=NORMAL")
            return
        with self._lock():
            self._create()

    def _create(self) -> None:
        self._db.execute("PRAGMA synchronous=NORMAL")
        if not self._is_ready():
            # Pages of 16 KiB hold several blobs: reading in key order is three times as fast as with small pages. The size can
            # only be set on a new file, before the journal mode.
            self._db.execute("PRAGMA page_size=16384")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(_SCHEMA)

    def _is_ready(self) -> bool:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0]) >= _VERSION

    def _retry_if_damaged(self, work: Callable[[], _T]) -> _T:
        """Call ``work``; if the file turns out to be damaged, replace it and call ``work`` again."""
        try:
            return work()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
        self._replace_damaged()
        return work()

    def _replace_damaged(self) -> None:
        """Move the file aside, unless another process has already done so, and open a new one."""
        with self._lock():
            self._db.close()
            self._db = self._connect()
            if not self._is_sound():
                self._db.close()
                aside = self.path.with_suffix(f".damaged-{int(time.time())}")
                for ending in ("", "-wal", "-shm"):  # a remaining log would be replayed into the new file
                    if (part := Path(f"{self.path}{ending}")).exists():
                        os.replace(part, f"{aside}{ending}")
                self._db = self._connect()
            self._create()

    def _is_sound(self) -> bool:
        try:
            for table in ("SELECT key, value, used FROM blobs", "SELECT key, sum FROM sums", _BYTES):
                if self._is_ready():
                    self._db.execute(f"{table} LIMIT 0")
            return bool(self._db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                return False
            raise

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The stored blobs among ``keys``, by key; reading marks them as used. Those that are damaged are deleted."""
        return self._attempt("read", lambda: self._get_many(keys), {})

    def missing(self, keys: Sequence[bytes]) -> set[bytes]:
        """The keys that are not in the store; no blob is read."""
        return self._attempt("read", lambda: set(keys) - self._present(sorted(set(keys))), set(keys))

    def put_many(self, blobs: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]) -> None:
        """Store blobs in one transaction; existing keys are not overwritten, since equal keys mean equal content."""
        rows = dict(blobs)
        self._attempt("written", lambda: self._put_many(rows), None)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Delete blobs that turned out to be damaged."""
        if doomed := [(key,) for key in keys]:
            _log.warning("warning: %d results in %s are damaged; they are computed again", len(doomed), self.path)
            self._write("DELETE FROM blobs WHERE key = ?", doomed)

    def _attempt(self, what: str, work: Callable[[], _T], otherwise: _T) -> _T:
        """The result of ``work``, or ``otherwise`` where the file cannot be read or written (``what``)."""
        if _is_out(self.path, what):
            return otherwise
        try:
            return self._retry_if_damaged(work)
        except UNAVAILABLE as error:
            _note_outage(self.path, what, error)
            with suppress(sqlite3.Error):
                self._db.rollback()
            return otherwise

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        def write() -> None:
            with self._db:
                self._db.executemany(statement, rows)

        self._attempt("written", write, None)

    def _present(self, keys: Sequence[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            found.update(key for (key,) in self._db.execute(f"SELECT key FROM blobs WHERE key IN ({marks})", list(chunk)))
        return found

    def _get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        stale: list[bytes] = []
        damaged: list[bytes] = []
        unsummed: list[tuple[bytes, int]] = []
        now = int(time.time())
        keys = sorted(set(keys))  # the order in the file
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            for key, value, used, known in self._db.execute(_READ.format(",".join(["(?)"] * len(chunk))), chunk):
                # Damage can change the type of what is stored.
                found_sum = crc32(value, crc32(key)) if type(value) is bytes else None
                if found_sum != known:
                    if found_sum is None or known is not None:
                        damaged.append(key)
                        continue
                    unsummed.append((key, found_sum))
                found[key] = value
                if type(used) is not int or not 0 <= now - used <= _TOUCH_AFTER_S:  # the clock may have been ahead
                    stale.append(key)
        self.drop(damaged)
        if unsummed:
            self._write(
                "INSERT OR IGNORE INTO sums SELECT key, ? FROM blobs WHERE key = ?", [(one, key) for key, one in unsummed]
            )
        if stale:
            self._write("UPDATE blobs SET used = ? WHERE key = ?", [(now, key) for key in stale])
        return found

    def _put_many(self, blobs: Mapping[bytes, bytes]) -> None:
        now = int(time.time())
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            known = self._present(sorted(blobs))
            rows = [(key, value, now) for key, value in blobs.items() if key not in known]
            self._db.executemany("INSERT INTO blobs VALUES (?, ?, ?)", rows)
            self._db.executemany(
                "INSERT OR REPLACE INTO sums VALUES (?, ?)", ((key, crc32(value, crc32(key))) for key, value, _ in rows)
            )
            self._evict(now)

    @property
    def bytes(self) -> int:
        """Total size of all blobs in bytes."""
        return self._number(_BYTES)

    def count(self) -> int:
        """Number of blobs. Not ``__len__``, which would make an empty store falsy."""
        return self._number("SELECT COUNT(*) FROM blobs")

    def close(self) -> None:
        """Close the file. The store cannot be used afterwards."""
        self._db.close()

    def _number(self, query: str) -> int:
        return self._retry_if_damaged(lambda: int(self._db.execute(query).fetchone()[0]))

    def _evict(self, now: int) -> None:
        """If the limit is exceeded, delete the least recently used blobs down to nine tenths of it, so that this is rare."""
        excess = int(self._db.execute(_BYTES).fetchone()[0]) - self.limit_bytes
        if excess <= 0:
            return
        excess += self.limit_bytes // 10
        # Used when the clock was ahead, nobody knows when: they must neither outlive nor push out what is used now.
        self._db.execute("UPDATE blobs SET used = 0 WHERE used > ?", (now,))
        doomed: list[tuple[bytes]] = []
        for key, size in self._db.execute("SELECT key, length(value) FROM blobs ORDER BY used, key"):
            if excess <= 0:
                break
            doomed.append((key,))
            excess -= size
        self._db.executemany("DELETE FROM blobs WHERE key = ?", doomed)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the error means a damaged file. Other subclasses of ``DatabaseError`` mean a locked, read-only or closed one.

    The statements here fit the tables: where one is missing, or a constraint is violated, the file is not as it was written.
    """
    return type(error) in (sqlite3.DatabaseError, sqlite3.IntegrityError) or str(error).startswith("no such ")


def _is_out(path: Path, what: str) -> bool:
    return monotonic() < _out_until.get((path, what), 0.0)


def _note_outage(path: Path, what: str, error: Exception) -> None:
    _out_until[path, what] = monotonic() + _PAUSE_S
    _say_outage(path, what, str(error) or type(error).__name__)


@lru_cache(maxsize=64)
def _say_outage(path: Path, what: str, reason: str) -> None:
    """Log the first outage of a kind; the rest of its process would repeat it."""
    _log.warning("warning: %s cannot be %s (%s); going on without it, results are not stored", path, what, reason)


@contextmanager
def stored() -> Iterator[Store | None]:
    """Open the user's store in ``SPARSERM_HOME`` for the block.

    Yields None if ``SPARSERM_STORE=off``, and, with a line in the log, if the store cannot be opened.
    """
    if os.environ.get("SPARSERM_STORE", "").lower() == "off":
        yield None
        return
    store = _open(home() / "representations.sqlite")
    try:
        yield store
    finally:
        if store is not None:
            store.close()


def _open(path: Path) -> Store | None:
    if _is_out(path, "opened"):
        return None
    try:
        return Store(path)
    except UNAVAILABLE as error:
        _note_outage(path, "opened", error)
        return None
