"""Persistent cache of backbone results, shared by all processes, and preallocated arrays filled from it.

The store is one SQLite file of blobs, keyed by content and fingerprint. SQLite's write-ahead log allows several writers and
keeps the file readable when a process is killed. It contains data only, no pickles.
"""

from __future__ import annotations

import os
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock

from sparserm.support.defaults import home

#: Number of blobs copied into an array at once.
_FILL_BATCH = 1024


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
        for start in range(0, len(self.keys), _FILL_BATCH):
            rows = [row for row in range(start, min(start + _FILL_BATCH, len(self.keys))) if self.keys[row] in blobs]
            if rows:
                self._put(rows, [blobs[self.keys[row]] for row in rows])
                self.filled[rows] = True

    @abstractmethod
    def _put(self, rows: Sequence[int], blobs: Sequence[bytes]) -> None: ...


class ArrayColumn(Column):
    """Column of blobs of equal size, as one array.

    Attributes:
        array: ``[n, ...]``; rows that are not filled are uninitialised.
    """

    def __init__(self, keys: Sequence[bytes], shape: tuple[int, ...], dtype: type) -> None:
        super().__init__(keys)
        self.array: np.ndarray = np.empty((len(keys), *shape), dtype)

    def _put(self, rows: Sequence[int], blobs: Sequence[bytes]) -> None:
        self.array[rows] = np.frombuffer(b"".join(blobs), self.array.dtype).reshape(len(rows), *self.array.shape[1:])


class BlobColumn(Column):
    """Column of blobs of any size.

    Attributes:
        blobs: ``n`` blobs; rows that are not filled are empty.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        super().__init__(keys)
        self.blobs = [b""] * len(keys)

    def _put(self, rows: Sequence[int], blobs: Sequence[bytes]) -> None:
        for row, blob in zip(rows, blobs, strict=True):
            self.blobs[row] = blob


#: Default size limit in bytes; above it the least recently used blobs are evicted.
DEFAULT_LIMIT = 4 << 30

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (key BLOB PRIMARY KEY, value BLOB NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blobs_used ON blobs (used);
CREATE TABLE IF NOT EXISTS total (id INTEGER PRIMARY KEY CHECK (id = 0), bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO total VALUES (0, 0);
CREATE TRIGGER IF NOT EXISTS blobs_in AFTER INSERT ON blobs
  BEGIN UPDATE total SET bytes = bytes + length(new.value); END;
CREATE TRIGGER IF NOT EXISTS blobs_out AFTER DELETE ON blobs
  BEGIN UPDATE total SET bytes = bytes - length(old.value); END;
"""
_BYTES = "SELECT bytes FROM total"
_CHUNK = 500  # keys per statement: SQLite allows at least 999 variables
_T = TypeVar("_T")
_TOUCH_AFTER_S = 3600  # reading updates a blob's time of use at most this often, so that reads rarely write


class Store:
    """Key-value store of blobs in a SQLite file. Safe with several processes; open one per thread.

    Args:
        path: the SQLite file; if damage is detected, at any time, the file is moved aside and a new one is created.
        limit_bytes: size above which the least recently used blobs are evicted.
    """

    def __init__(self, path: Path, limit_bytes: int = DEFAULT_LIMIT) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = self._connect()
        self._retry_if_damaged(self._prepare_locked)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=60, check_same_thread=False)

    def _prepare_locked(self) -> None:
        """Prepare under a lock: when two processes enable the write-ahead log of a new file, SQLite rejects the second."""
        with self._lock():
            self._prepare()

    def _lock(self) -> FileLock:
        return FileLock(self.path.with_suffix(".lock"))

    def _prepare(self) -> None:
        # Pages of 16 KiB hold several blobs: reading in key order is three times as fast as with small pages. The size can only
        # be set on a new file, before the journal mode.
        self._db.execute("PRAGMA page_size=16384")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

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
            self._prepare()

    def _is_sound(self) -> bool:
        try:
            return bool(self._db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                return False
            raise

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The stored blobs among ``keys``, by key; reading marks them as used."""
        return self._retry_if_damaged(lambda: self._get_many(keys))

    def missing(self, keys: Sequence[bytes]) -> set[bytes]:
        """The keys that are not in the store; no blob is read."""
        return self._retry_if_damaged(lambda: set(keys) - self._present(sorted(set(keys))))

    def put_many(self, blobs: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]) -> None:
        """Store blobs in one transaction; existing keys are not overwritten, since equal keys mean equal content."""
        now = int(time.time())
        rows = [(key, value, now) for key, value in (blobs.items() if isinstance(blobs, Mapping) else blobs)]
        self._retry_if_damaged(lambda: self._put_many(rows))

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
        now = int(time.time())
        keys = sorted(set(keys))  # the order in the file
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            for key, value, used in self._db.execute(f"SELECT key, value, used FROM blobs WHERE key IN ({marks})", list(chunk)):
                found[key] = value
                if now - used > _TOUCH_AFTER_S:
                    stale.append(key)
        if stale:
            with self._db:
                self._db.executemany("UPDATE blobs SET used = ? WHERE key = ?", ((now, key) for key in stale))
        return found

    def _put_many(self, rows: Sequence[tuple[bytes, bytes, int]]) -> None:
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)", rows)
            self._evict()

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

    def _evict(self) -> None:
        """If the limit is exceeded, delete the least recently used blobs down to nine tenths of it, so that this is rare."""
        excess = int(self._db.execute(_BYTES).fetchone()[0]) - self.limit_bytes
        if excess <= 0:
            return
        excess += self.limit_bytes // 10
        doomed: list[tuple[bytes]] = []
        for key, size in self._db.execute("SELECT key, length(value) FROM blobs ORDER BY used, key"):
            if excess <= 0:
                break
            doomed.append((key,))
            excess -= size
        self._db.executemany("DELETE FROM blobs WHERE key = ?", doomed)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the error means a damaged file; subclasses of ``DatabaseError`` mean a locked, read-only, full or closed one."""
    return type(error) is sqlite3.DatabaseError


@contextmanager
def stored() -> Iterator[Store | None]:
    """Open the user's store in ``SPARSERM_HOME`` for the block; yields None if ``SPARSERM_STORE=off``."""
    if os.environ.get("SPARSERM_STORE", "").lower() == "off":
        yield None
        return
    store = Store(home() / "representations.sqlite")
    try:
        yield store
    finally:
        store.close()
