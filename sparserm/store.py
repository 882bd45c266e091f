"""What the backbone computed once is kept here and never computed again, across processes.

One SQLite file of blobs, keyed by content and fingerprint. SQLite's write-ahead log makes it safe with several writers
and leaves it readable when a process is killed; nothing in it is executable.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sparserm.defaults import home

#: Blobs beyond this many bytes push out those that were used longest ago.
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
_CHUNK = 500  # keys per statement: SQLite allows at least 999 variables
_TOUCH_AFTER_S = 3600  # reading renews a blob's time of use at most this often, so that reading rarely writes


class Store:
    """Blobs by key. Safe with several processes; open one per thread.

    Args:
        path: the SQLite file; a file that is not one is moved aside and a new one begun.
        limit_bytes: size above which the least recently used blobs are dropped.
    """

    def __init__(self, path: Path, limit_bytes: int = DEFAULT_LIMIT) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, read-only, full: the file is sound
                raise
            os.replace(path, path.with_suffix(f".damaged-{int(time.time())}"))
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(_SCHEMA)
        return db

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The blobs that are there, by key; reading them marks them as used."""
        found: dict[bytes, bytes] = {}
        stale: list[bytes] = []
        now = int(time.time())
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

    def put_many(self, blobs: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]) -> None:
        """Keep the blobs, all or none; a key that is there already keeps its value, which by content is the same."""
        items = blobs.items() if isinstance(blobs, Mapping) else blobs
        now = int(time.time())
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)", ((k, v, now) for k, v in items))
            self._evict()

    @property
    def bytes(self) -> int:
        """Bytes of all blobs."""
        return int(self._db.execute("SELECT bytes FROM total").fetchone()[0])

    def count(self) -> int:
        """Number of blobs. Not ``__len__``: an empty store would be false, and be taken for none."""
        return int(self._db.execute("SELECT COUNT(*) FROM blobs").fetchone()[0])

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        self._db.close()

    def _evict(self) -> None:
        """Drop the least recently used blobs down to nine tenths of the limit, so that this is seldom done."""
        excess = self.bytes - self.limit_bytes
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
