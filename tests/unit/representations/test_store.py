"""The store keeps bytes across processes, kills and damage, and stays below its limit."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from sparserm.representations import store as store_module
from sparserm.representations.store import Store, stored

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "store.sqlite"


@pytest.fixture
def store(path):
    store = Store(path)
    yield store
    store.close()


@pytest.fixture
def clock(monkeypatch):
    """The time as the store sees it, in ``clock.now``."""
    clock = SimpleNamespace(now=1_000_000)
    monkeypatch.setattr(store_module, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def value_of(key):
    return key * 100


def write_until_killed(path):
    store = Store(path)
    for i in itertools.count():
        keys = [b"%d-%d" % (i, j) for j in range(10)]
        store.put_many({key: value_of(key) for key in keys})


def write_some(path, prefix, n):
    store = Store(path)
    for i in range(n):
        store.put_many({b"shared-%d" % i: value_of(b"shared-%d" % i), b"%s-%d" % (prefix, i): value_of(prefix)})
    store.close()


def kill_a_writer(path):
    """Have a process write to the store, and kill it in the midst of that."""
    writer = SPAWN.Process(target=write_until_killed, args=(path,))
    writer.start()
    store = Store(path)
    try:
        deadline = time.monotonic() + 60
        while store.count() < 500 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        writer.kill()
        writer.join(60)
        store._db.execute("PRAGMA wal_autocheckpoint=0")  # closing must not tidy up what the kill left
    assert writer.exitcode == -signal.SIGKILL


def keys_of(store):
    return [key for (key,) in store._db.execute("SELECT key FROM blobs")]


def test_what_was_put_is_got_and_the_rest_is_absent(store):
    store.put_many({b"a": b"1", b"empty": b"", b"\x00\xff": bytes(range(256))})
    assert store.get_many([b"a", b"missing", b"empty", b"\x00\xff"]) == {
        b"a": b"1",
        b"empty": b"",
        b"\x00\xff": bytes(range(256)),
    }
    assert store.get_many([]) == {}
    assert (store.count(), store.bytes) == (3, 257)


def test_a_new_store_is_empty(store):
    assert (store.count(), store.bytes, store.get_many([b"a"])) == (0, 0, {})


def test_many_keys_are_found_in_one_call(store):
    blobs = {b"%d" % i: value_of(b"%d" % i) for i in range(1234)}
    store.put_many(blobs.items())
    assert store.get_many(list(blobs)) == blobs


def test_blobs_outlive_the_store(path):
    Store(path).put_many({b"a": b"1"})
    again = Store(path)
    assert again.get_many([b"a"]) == {b"a": b"1"}
    assert again.bytes == 1


def test_a_key_that_is_there_keeps_its_value_and_counts_once(store):
    store.put_many({b"a": b"first"})
    store.put_many({b"a": b"second, longer"})
    assert store.get_many([b"a"]) == {b"a": b"first"}
    assert (store.count(), store.bytes) == (1, 5)


def test_blobs_are_put_all_or_none(store):
    def broken():
        yield b"a", b"1"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        store.put_many(broken())
    assert (store.count(), store.bytes) == (0, 0)
    store.put_many({b"b": b"2"})
    assert store.count() == 1


def test_a_new_file_is_opened_by_many_at_once(tmp_path):
    for number in range(20):
        with ThreadPoolExecutor(8) as many:
            stores = list(many.map(Store, [tmp_path / f"{number}.sqlite"] * 8))
        for one in stores:
            one.close()


def test_two_processes_write_at_once(path):
    writers = [SPAWN.Process(target=write_some, args=(path, prefix, 100)) for prefix in (b"one", b"two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    store = Store(path)
    assert store.count() == 300
    assert store.bytes == sum(len(value) for value in store.get_many(keys_of(store)).values())
    assert store.get_many([b"shared-7", b"one-99", b"two-0"]) == {
        b"shared-7": value_of(b"shared-7"),
        b"one-99": value_of(b"one"),
        b"two-0": value_of(b"two"),
    }


def test_a_killed_writer_leaves_whole_blobs_and_a_store_that_works(path):
    kill_a_writer(path)
    store = Store(path)
    keys = keys_of(store)
    assert len(keys) >= 500
    assert len(keys) % 10 == 0  # puts are all or none
    assert store.get_many(keys) == {key: value_of(key) for key in keys}
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.put_many({b"new": b"1"})
    assert store.get_many([b"new"]) == {b"new": b"1"}
    assert not list(path.parent.glob("*damaged*"))


def test_what_was_used_longest_ago_is_dropped_to_below_the_limit(path, clock):
    store = Store(path, limit_bytes=1000)
    for i in range(10):
        store.put_many({b"%d" % i: bytes(100)})
        clock.now += 10_000
    assert store.count() == 10
    assert set(store.get_many([b"0", b"2"])) == {b"0", b"2"}
    clock.now += 10_000
    store.put_many({b"new": bytes(100)})
    assert sorted(keys_of(store)) == [b"0", b"2", b"4", b"5", b"6", b"7", b"8", b"9", b"new"]
    assert store.bytes == 900


def test_reading_renews_a_blob_seldom(path, clock):
    store = Store(path)
    store.put_many({b"a": b"1"})
    used = []
    for step in (10, 10_000, 10):
        clock.now += step
        store.get_many([b"a"])
        used.append(clock.now - store._db.execute("SELECT used FROM blobs").fetchone()[0])
    assert used == [10, 0, 10]


def test_more_than_the_limit_at_once_still_ends_below_it(path):
    store = Store(path, limit_bytes=1000)
    store.put_many({b"%d" % i: bytes(100) for i in range(50)})
    assert 0 < store.bytes <= 1000


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\x00" + b"x" * 5000])
def test_a_damaged_file_is_moved_aside_and_a_new_store_begun(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    store = Store(path)
    store.put_many({b"a": b"1"})
    assert Store(path).get_many([b"a"]) == {b"a": b"1"}
    (aside,) = path.parent.glob("*.damaged-*")
    assert aside.read_bytes() == content


def test_damage_after_a_kill_does_not_stop_the_next_store(path):
    kill_a_writer(path)
    with path.open("rb+") as file:
        file.write(b"x" * 100)
    store = Store(path)
    store.put_many({b"new": b"1"})
    assert store.get_many([b"new"]) == {b"new": b"1"}
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_damaged_in_its_middle_does_not_stop_the_work(path):
    blobs = {b"%d" % i: bytes(3000) for i in range(100)}
    store = Store(path)
    store.put_many(blobs)
    store.close()
    with path.open("rb+") as file:
        file.seek(4096 * 4)
        file.write(b"x" * 4096 * 20)
    store = Store(path)
    store.get_many(list(blobs))
    store.put_many({b"new": b"1"})
    assert store.get_many([b"new"]) == {b"new": b"1"}


@pytest.mark.parametrize(
    "use", [Store.count, lambda store: store.put_many({b"x": bytes(9)}), lambda store: store.get_many([b"7"])]
)
def test_whoever_notices_the_damage_mends_it_for_other_open_stores(path, use):
    store, other = Store(path), Store(path)
    store.put_many({b"%d" % i: bytes(3000) for i in range(100)})
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("rb+") as file:
        file.seek(4096)
        file.write(b"x" * (path.stat().st_size - 4096))
    store._db.execute("PRAGMA shrink_memory")  # forget the pages it remembers
    use(store)
    store.put_many({b"new": b"1"})
    use(other)
    assert len(list(path.parent.glob("*.damaged-*[0-9]"))) == 1
    assert other.get_many([b"new"]) == {b"new": b"1"}
    other.put_many({b"newer": b"2"})
    assert store.get_many([b"newer"]) == {b"newer": b"2"}
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_path_that_cannot_be_opened_is_not_taken_for_damage(path):
    path.mkdir(parents=True)
    with pytest.raises(sqlite3.OperationalError):
        Store(path)
    assert path.is_dir()


def test_the_users_store_lies_in_the_data_folder_and_is_closed_after_use(sparserm_home):
    with stored() as store:
        store.put_many({b"a": b"1"})
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        store.count()
    with pytest.raises(ZeroDivisionError), stored() as again:
        assert again.get_many([b"a"]) == {b"a": b"1"}
        raise ZeroDivisionError
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        again.count()
    assert (sparserm_home / "representations.sqlite").is_file()


@pytest.mark.parametrize("value", ["off", "OFF"])
def test_sparserm_store_off_keeps_nothing(sparserm_home, monkeypatch, value):
    monkeypatch.setenv("SPARSERM_STORE", value)
    with stored() as store:
        assert store is None
    assert list(sparserm_home.iterdir()) == []


class Trap:
    def __reduce__(self):
        return os.mkdir, (os.environ["SPARSERM_HOME"] + "/sprung",)


def test_a_pickle_in_the_store_stays_bytes(store, sparserm_home):
    trap = pickle.dumps(Trap())
    store.put_many({b"a": trap})
    assert store.get_many([b"a"]) == {b"a": trap}
    assert not (sparserm_home / "sprung").exists()


def test_the_file_is_plain_sqlite(path):
    store = Store(path)
    store.put_many({b"a": b"value"})
    store.close()
    assert path.read_bytes().startswith(b"SQLite format 3\x00")
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT key, value FROM blobs").fetchall() == [(b"a", b"value")]


def test_missing_keys_are_told_without_reading(store):
    store.put_many({b"a": b"1", b"b": b"2"})
    assert store.missing([b"a", b"b", b"c", b"c"]) == {b"c"}
    assert store.missing([]) == set()
