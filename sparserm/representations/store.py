"""What the backbone computed once is kept here and never computed again, across processes.

One SQLite file of blobs, keyed by content and fingerprint. SQLite's write-ahead log makes it safe with several writers
and leaves it readable when a process is killed; nothing in it is executable.
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

#: Blobs joined at a time.
_SOME = 1024


class Column(ABC):
    """One blob for each text.

    Attributes:
        keys: ``n`` of them, of the texts' blobs; some may be equal.
        there: ``[n]`` bool, of which texts there is one yet.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.keys = keys
        self.there = np.zeros(len(keys), bool)

    def fill(self, blobs: Mapping[bytes, bytes]) -> None:
        """Keep those of its blobs that are among these."""
        for start in range(0, len(self.keys), _SOME):
            rows = [row for row in range(start, min(start + _SOME, len(self.keys))) if self.keys[row] in blobs]
            if rows:
                self._put(rows, [blobs[self.keys[row]] for row in rows])
                self.there[rows] = True

    @abstractmethod
    def _put(self, rows: Sequence[int], blobs: Sequence[bytes]) -> None: ...


class ArrayColumn(Column):
    """Blobs of one size, which make up an array.

    Attributes:
        array: ``[n, ...]``; what it holds of texts that are not there yet means nothing.
    """

    def __init__(self, keys: Sequence[bytes], shape: tuple[int, ...], dtype: type) -> None:
        super().__init__(keys)
        self.array: np.ndarray = np.empty((len(keys), *shape), dtype)

    def _put(self, rows: Sequence[int], blobs: Sequence[bytes]) -> None:
        self.array[rows] = np.frombuffer(b"".join(blobs), self.array.dtype).reshape(len(rows), *self.array.shape[1:])


class BlobColumn(Column):
    """Blobs of any size.

    Attributes:
        blobs: ``n`` of them, empty where one is not there yet.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        super().__init__(keys)
        self.blobs = [b""] * len(keys)

    def _put(self, rows: Sequence[int], blobs: Sequence[bytes]) -> None:
        for row, blob in zip(rows, blobs, strict=True):
            self.blobs[row] = blob


#: Blobs beyond this many bytes push out those that were used longest ago.
DEFAULT_LIMIT = 4 << 30

# Pages of 16 KiB hold several blobs each: read in the order of their keys they come three times as fast as from small ones.
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
_TOUCH_AFTER_S = 3600  # reading renews a blob's time of use at most this often, so that reading rarely writes


class Store:
    """Blobs by key. Safe with several processes; open one per thread.

    Args:
        path: the SQLite file; one that is damaged is moved aside, whenever that is noticed, and a new one begun.
        limit_bytes: size above which the least recently used blobs are dropped.
    """

    def __init__(self, path: Path, limit_bytes: int = DEFAULT_LIMIT) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = self._connect()
        self._despite_damage(self._prepare_alone)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=60, check_same_thread=False)

    def _prepare_alone(self) -> None:
        """One at a time: SQLite does not wait where two turn on the write-ahead log of a new file, but refuses the second."""
        with self._lock():
            self._prepare()

    def _lock(self) -> FileLock:
        return FileLock(self.path.with_suffix(".lock"))

    def _prepare(self) -> None:
        self._db.execute("PRAGMA page_size=16384")  # of a new file; before its journal's mode is set
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

    def _despite_damage(self, work: Callable[[], _T]) -> _T:
        """Do the work, and once more with a new file where this one proves to be damaged."""
        try:
            return work()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
        self._begin_anew()
        return work()

    def _begin_anew(self) -> None:
        """Move the file aside, unless another process has done so since, and open a new one."""
        with self._lock():
            self._db.close()
            self._db = self._connect()
            if not self._is_sound():
                self._db.close()
                aside = self.path.with_suffix(f".damaged-{int(time.time())}")
                for ending in ("", "-wal", "-shm"):  # a log left behind would be played into the new file
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
        """The blobs that are there, by key; reading them marks them as used."""
        return self._despite_damage(lambda: self._get_many(keys))

    def missing(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of the keys that are not there; no blob is read."""
        return self._despite_damage(lambda: set(keys) - self._present(sorted(set(keys))))

    def put_many(self, blobs: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]) -> None:
        """Keep the blobs, all or none; a key that is there already keeps its value, which by content is the same."""
        now = int(time.time())
        rows = [(key, value, now) for key, value in (blobs.items() if isinstance(blobs, Mapping) else blobs)]
        self._despite_damage(lambda: self._put_many(rows))

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
        keys = sorted(set(keys))  # in the order of the file
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
        """Bytes of all blobs."""
        return self._number(_BYTES)

    def count(self) -> int:
        """Number of blobs. Not ``__len__``: an empty store would be false, and be taken for none."""
        return self._number("SELECT COUNT(*) FROM blobs")

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        self._db.close()

    def _number(self, query: str) -> int:
        return self._despite_damage(lambda: int(self._db.execute(query).fetchone()[0]))

    def _evict(self) -> None:
        """Drop the least recently used blobs down to nine tenths of the limit, so that this is seldom done."""
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
    """Its subclasses say that a file is locked, read-only, full or closed; that file is sound."""
    return type(error) is sqlite3.DatabaseError


@contextmanager
def stored() -> Iterator[Store | None]:
    """The user's store in ``SPARSERM_HOME`` for one piece of work, or None where ``SPARSERM_STORE=off``."""
    if os.environ.get("SPARSERM_STORE", "").lower() == "off":
        yield None
        return
    store = Store(home() / "representations.sqlite")
    try:
        yield store
    finally:
        store.close()
