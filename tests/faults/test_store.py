"""The store of representations is a cache: what is damaged in it is computed again, and where it cannot be used, all is."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparserm.backbone.model import Backbone, folder_fingerprint
from sparserm.pairs.candidates import keep_candidates, kept_candidates, read_candidates
from sparserm.representations import store as store_module
from sparserm.representations.represent import represent
from sparserm.representations.store import Store, stored
from sparserm.support.defaults import home, noted_folder
from sparserm.types import Message, SparseRMError, Text
from tests.unit.tiny import HOOK, firing_sae

TEXTS = [Text((Message("user", f"Question {i}?"),), f"The answer is {i}.") for i in range(6)]
#: As programs without checksums create the file.
BEFORE = """
PRAGMA page_size=16384;
PRAGMA journal_mode=WAL;
CREATE TABLE IF NOT EXISTS blobs (key BLOB PRIMARY KEY, value BLOB NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blobs_used ON blobs (used);
CREATE TABLE IF NOT EXISTS total (id INTEGER PRIMARY KEY CHECK (id = 0), bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO total VALUES (0, 0);
CREATE TRIGGER IF NOT EXISTS blobs_in AFTER INSERT ON blobs
  BEGIN UPDATE total SET bytes = bytes + length(new.value); END;
CREATE TRIGGER IF NOT EXISTS blobs_out AFTER DELETE ON blobs
  BEGIN UPDATE total SET bytes = bytes - length(old.value); END;
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.sqlite"


@pytest.fixture
def runs(monkeypatch):
    """The texts that went through the backbone since the test began."""
    seen, run = [], Backbone.run

    def counted(self, batch, hooks):
        seen.extend(span for row in batch.rows for span in row.spans)
        return run(self, batch, hooks)

    monkeypatch.setattr(Backbone, "run", counted)
    return seen


@pytest.fixture
def impatient(monkeypatch):
    """Waits for a lock are short."""
    monkeypatch.setattr(store_module, "_WAIT_S", 0.2)


@pytest.fixture
def clock(monkeypatch):
    """The time as the store sees it, in ``clock.now``."""
    clock = SimpleNamespace(now=1_000_000)
    monkeypatch.setattr(store_module, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def compute(backbone, store, *, strengths=False):
    return represent(TEXTS, backbone, {HOOK: firing_sae(HOOK)}, "mean", strengths=strengths, store=store)[HOOK]


def assert_same(one, other):
    np.testing.assert_allclose(one.h, other.h, atol=1e-5)
    np.testing.assert_array_equal(one.n_tokens, other.n_tokens)
    if hasattr(one.latents, "bits"):
        np.testing.assert_array_equal(one.latents.bits, other.latents.bits)
    else:
        np.testing.assert_array_equal(one.latents.indices, other.latents.indices)


def change(path, damage, *, sums=True):
    """Change every stored blob by ``damage(blob)``, without the store; without ``sums``, as in a file without checksums."""
    with sqlite3.connect(path) as db:
        for key, value in db.execute("SELECT key, value FROM blobs").fetchall():
            db.execute("UPDATE blobs SET value = ? WHERE key = ?", (damage(value), key))
        if not sums:
            db.execute("DELETE FROM sums")


def flipped(blob):
    return bytes([blob[0] ^ 1]) + blob[1:] if blob else b"x"


@pytest.mark.parametrize("strengths", [False, True])
@pytest.mark.parametrize("damage", [flipped, lambda blob: blob[:-1], lambda blob: blob + b"x", bytes.hex])
def test_a_damaged_blob_is_computed_again(tiny_backbone, path, runs, caplog, damage, strengths) -> None:
    store = Store(path)
    first = compute(tiny_backbone, store, strengths=strengths)
    change(path, damage)
    runs.clear()
    assert_same(compute(tiny_backbone, store, strengths=strengths), first)
    assert len(runs) == len(TEXTS)
    assert all("computed again" in line for line in caplog.messages)
    runs.clear()
    assert_same(compute(tiny_backbone, Store(path), strengths=strengths), first)
    assert not runs


@pytest.mark.parametrize("strengths", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        lambda blob: blob[:-1],
        lambda blob: blob + b"x",
        lambda blob: np.full(len(blob) // 4, np.nan, np.float32).tobytes(),
        lambda blob: b"\xff" * len(blob),
    ],
)
def test_what_cannot_be_right_is_computed_again_without_a_checksum_too(tiny_backbone, path, damage, strengths) -> None:
    store = Store(path)
    first = compute(tiny_backbone, store, strengths=strengths)
    # Every pattern of bits is one of active latents: only a checksum tells it from another.
    bits = -(-firing_sae(HOOK).d_sae // 8) * 2
    change(path, lambda blob: blob if len(blob) == bits and len(damage(blob)) == bits else damage(blob), sums=False)
    assert_same(compute(tiny_backbone, store, strengths=strengths), first)


@pytest.mark.parametrize("seed", range(12))
def test_flips_anywhere_in_the_file_change_no_result(tiny_backbone, path, seed) -> None:
    store = Store(path)
    first = compute(tiny_backbone, store)
    store.close()
    data, dice = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(1 + seed % 4):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)
    store = Store(path)
    assert_same(compute(tiny_backbone, store), first)
    assert_same(compute(tiny_backbone, store), first)


@pytest.mark.parametrize("table", ["blobs", "sums", "total"])
def test_a_table_that_is_missing_is_damage(path, table) -> None:
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"DROP TABLE {table}")
    store = Store(path)
    store.put_many({b"a": b"1"})
    assert store.get_many([b"a"]) == {b"a": b"1"}


def test_the_store_of_before_keeps_its_blobs_and_its_program_works_beside_this_one(path) -> None:
    before = sqlite3.connect(path)
    before.executescript(BEFORE)
    with before:
        before.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)", (b"a", b"1", int(time.time())))
    store = Store(path)
    assert store.get_many([b"a"]) == {b"a": b"1"}
    with before:
        before.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)", (b"b", b"2", int(time.time())))
    store.put_many({b"b": b"other", b"c": b"3"})
    assert store.get_many([b"a", b"b", b"c"]) == {b"a": b"1", b"b": b"2", b"c": b"3"}
    assert dict(before.execute("SELECT key, value FROM blobs")) == {b"a": b"1", b"b": b"2", b"c": b"3"}
    with before:
        before.execute("UPDATE blobs SET value = 'x' WHERE key = ?", (b"a",))
        before.execute("DELETE FROM blobs WHERE key = ?", (b"b",))
    assert store.get_many([b"a", b"b", b"c"]) == {b"c": b"3"}  # what was read once has a checksum
    before.executescript(BEFORE)
    assert store.bytes == 1


def test_a_store_locked_by_another_process_is_done_without(tiny_backbone, path, runs, caplog, impatient) -> None:
    store, other = Store(path), sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    first = compute(tiny_backbone, store)
    assert store.count() == 0
    started = time.monotonic()
    assert_same(compute(tiny_backbone, store), first)
    assert time.monotonic() - started < 10
    (line,) = caplog.messages
    assert line.endswith("(database is locked); going on without it, results are not stored")
    with stored() as another:  # another file is not affected
        another.put_many({b"a": b"1"})


def test_a_writer_does_not_keep_others_from_opening_and_reading(path) -> None:
    Store(path).put_many({b"a": b"1"})
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    assert Store(path).get_many([b"a"]) == {b"a": b"1"}
    assert time.monotonic() - started < 3


def test_a_store_that_another_process_keeps_for_itself_is_not_opened(sparserm_home, caplog, impatient) -> None:
    path = sparserm_home / "representations.sqlite"
    Store(path).close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    for _ in range(3):
        with stored() as store:
            assert store is None or store.get_many([b"a"]) == {}
    assert len(caplog.messages) == 1 and "database is locked" in caplog.text


def test_a_full_disk_is_done_without_and_what_is_stored_can_be_read(tiny_backbone, path, runs, caplog) -> None:
    store = Store(path)
    store.put_many({b"a": b"1"})
    store._db.execute(f"PRAGMA max_page_count={store._db.execute('PRAGMA page_count').fetchone()[0]}")
    store.put_many({b"%d" % i: bytes(3000) for i in range(100)})
    assert (store.count(), store.get_many([b"a"])) == (1, {b"a": b"1"})
    assert_same(compute(tiny_backbone, store), compute(tiny_backbone, None))
    (line,) = caplog.messages
    assert "cannot be written (database or disk is full)" in line


def test_what_failed_is_tried_again_later(path, monkeypatch, impatient) -> None:
    store, other = Store(path), sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    store.put_many({b"a": b"1"})
    other.rollback()
    store.put_many({b"b": b"2"})
    now = store_module.monotonic()
    monkeypatch.setattr(store_module, "monotonic", lambda: now + 60)
    store.put_many({b"c": b"3"})
    assert store.get_many([b"a", b"b", b"c"]) == {b"c": b"3"}


def test_a_home_that_cannot_be_used_is_done_without(tmp_path, monkeypatch, caplog) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path / "file" / "home"))
    for _ in range(2):
        with stored() as store:
            assert store is None
    (line,) = caplog.messages
    assert "cannot be opened" in line and "Not a directory" in line


def test_a_command_goes_on_without_a_home(parts, run, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.chdir(parts.backbone.parent)  # where the head's name of its backbone is a folder
    monkeypatch.setattr("sparserm.backbone.device.fast_dtype", lambda device: torch.float32)
    arguments = ("evaluate", parts.head, parts.test, "--json")
    expected = run(*arguments).json
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path / "file" / "home"))
    assert run(*arguments).json == expected
    assert len(caplog.messages) == 1


def test_blobs_of_a_clock_that_was_ahead_neither_outlive_new_ones_nor_push_them_out(path, clock) -> None:
    store = Store(path, limit_bytes=1000)
    clock.now += 10**9
    store.put_many({b"future %d" % i: bytes(100) for i in range(9)})
    clock.now -= 10**9
    for i in range(5):
        store.put_many({b"new %d" % i: bytes(100)})
        assert b"new %d" % i in store.get_many([b"new %d" % i])
        clock.now += 10
    kept = store.get_many([b"new %d" % i for i in range(5)])
    assert len(kept) == 5


def test_reading_a_blob_of_the_future_dates_it_to_now(path, clock) -> None:
    store = Store(path)
    clock.now += 10**9
    store.put_many({b"a": b"1"})
    clock.now -= 10**9
    store.get_many([b"a"])
    assert store._db.execute("SELECT used FROM blobs").fetchone() == (clock.now,)


@pytest.mark.parametrize("damage", [lambda text: text[:7], lambda text: "0" + text[1:], lambda text: "", lambda text: "\xff\0"])
def test_a_kept_fingerprint_or_folder_that_is_damaged_is_found_again(tiny_folder, sparserm_home, damage) -> None:
    backbone = Backbone.load(tiny_folder, dtype="float32")
    for path in [*sparserm_home.glob("fingerprints/*"), *sparserm_home.glob("folders/*")]:
        path.write_bytes(damage(path.read_text()).encode("latin-1"))
    assert folder_fingerprint(tiny_folder) == backbone.fingerprint
    assert noted_folder(backbone.fingerprint) is None
    Backbone.load(tiny_folder, dtype="float32")
    assert noted_folder(backbone.fingerprint) == tiny_folder.resolve()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], flipped, lambda data: data.replace(b"yes", b"yet"), lambda data: b""]
)
def test_kept_candidates_that_are_damaged_are_not_scored(damage) -> None:
    key = keep_candidates(read_candidates(b'{"prompt": "Hi", "responses": ["yes", "no"]}', "a.jsonl"))
    assert kept_candidates(key).n_responses == 2
    path = home() / "candidates" / f"{key}.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    for one in (key, hashlib.sha256(b"").hexdigest()[:16]):
        with pytest.raises(SparseRMError, match="upload the candidates again"):
            kept_candidates(one)
