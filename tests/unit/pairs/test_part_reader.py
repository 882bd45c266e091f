"""Parts that a process of its own reads and tokenises ahead are those that would be read here."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sparserm.backbone.model import Backbone
from sparserm.pairs import part_reader
from sparserm.pairs.part_reader import PartReader
from sparserm.pairs.parts import cut
from sparserm.pairs.runs import find_source_columns
from sparserm.support.threads import in_order
from sparserm.types import SparseRMError, pair_texts
from tests.unit.pairs_data import preference_rows

ROWS = [
    *preference_rows(4, 3, seed=1),
    {"prompt": "a long one", "chosen": "please " * 20_000, "rejected": "go away"},  # more than a pipe holds
    {"prompt": "no answer", "chosen": "same", "rejected": "same"},
    "not an object",
    *preference_rows(9, 3, seed=2),
]


@pytest.fixture(autouse=True)
def from_the_second_part(monkeypatch):
    monkeypatch.setattr(part_reader, "ROWS_HERE", 1)


@pytest.fixture
def reader(tmp_path, tiny_backbone) -> PartReader:
    """Of a file that is read part by part."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return _reader(path, tiny_backbone)


def _reader(path: Path, backbone: Backbone) -> PartReader:
    source = cut(path, 4)
    return PartReader(source, find_source_columns(source, {}), backbone.chat.many, ahead=True)


@pytest.fixture(autouse=True)
def started(monkeypatch):
    """The processes that were started."""
    found = []
    start = part_reader._started
    monkeypatch.setattr(part_reader, "_started", lambda *given: found.append(start(*given)) or found[-1])
    return found


def test_parts_read_ahead_are_those_read_here(reader, started):
    parts = reader.source.parts
    here = list(replace(reader, ahead=False).each(parts))
    assert not started
    assert list(reader.each(parts)) == here
    assert len(started) == 1 and started[0].poll() is not None
    assert [one.part for one in here] == list(parts)
    assert sum(len(one.issues) for one in here) == 2
    for one in here:
        assert one.tokenized == reader.tokenize(pair_texts(one.pairs))


def test_rows_that_are_held_in_memory_are_read_ahead_too(tmp_path, tiny_backbone, started):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(ROWS))
    reader = _reader(path, tiny_backbone)
    parts = reader.source.parts
    assert list(reader.each(parts)) == list(replace(reader, ahead=False).each(parts))
    assert len(started) == 1


def test_few_rows_are_read_here(reader, started, monkeypatch):
    monkeypatch.setattr(part_reader, "ROWS_HERE", len(ROWS) - 3)
    assert len(list(reader.each(reader.source.parts))) == len(reader.source.parts)
    assert not started


def test_a_pair_that_cannot_be_tokenised_leaves_the_part_to_the_model(reader):
    def refuse(texts):
        raise SparseRMError("the template refuses the conversation")

    (found,) = PartReader(reader.source, reader.columns, refuse).each(reader.source.parts[:1])
    assert found.tokenized is None and len(found.pairs) == 4


def test_a_file_that_changes_is_refused_as_here(tmp_path, tiny_backbone):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preference_rows(40, 3, seed=1)))
    reader = _reader(path, tiny_backbone)
    path.write_text("")
    parts = reader.source.parts
    with pytest.raises(SparseRMError, match="has changed since it was first read"):
        list(replace(reader, ahead=False).each(parts))
    with (
        part_reader._started(reader, parts) as process,
        pytest.raises(SparseRMError, match="has changed since it was first read"),
    ):
        part_reader._received(process, parts[0])


class _Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, texts):
        raise self.error


@pytest.mark.parametrize("error", [OverflowError("int too big"), OSError(5, "I/O error")])
def test_what_goes_wrong_in_the_process_is_said(reader, error):
    reader = replace(reader, tokenize=_Failing(error))
    said = f"{type(error).__name__}: .*{error.args[-1]}"
    with part_reader._started(reader, reader.source.parts) as process, pytest.raises(RuntimeError, match=said):
        part_reader._received(process, reader.source.parts[0])


def test_a_process_that_is_killed_is_said_so(reader, started):
    with closing(reader.each(reader.source.parts)) as parts:
        next(parts)
        os.kill(started[0].pid, signal.SIGKILL)
        with pytest.raises(SparseRMError, match=r"ended \(exit -9\) before row 5; .*run the same command to resume"):
            next(parts)


def test_the_process_ends_with_the_work(reader, started):
    with closing(reader.each(reader.source.parts)) as parts:
        next(parts)
        assert started[0].poll() is None
    assert started[0].poll() is not None


def _two_at_a_time(work, items):
    """As parts are worked on for a GPU."""
    with ThreadPoolExecutor(2) as pool, closing(in_order(pool, work, items, ahead=1)) as results:
        yield from results


def test_parts_in_progress_are_yielded_in_order_and_none_is_left_when_it_ends():
    begun, running = [], []
    both = threading.Barrier(2, timeout=30)

    def work(item):
        begun.append(item)
        running.append(item)
        if item < 2:
            both.wait()  # the second is begun before the first has ended
        running.remove(item)
        return item

    assert list(_two_at_a_time(work, range(5))) == list(range(5))
    begun.clear()
    with closing(_two_at_a_time(work, range(100))) as results:
        assert next(results) == 0
    assert not running and len(begun) <= 4


def test_a_part_that_is_done_does_not_wait_for_those_that_are_read_later():
    finished, seen, held_back = threading.Semaphore(0), [], []

    def items():
        for item in range(6):
            if item:
                finished.acquire(timeout=30)  # the work on the one before has ended
                time.sleep(0.05)
            held_back.append(item - len(seen))
            yield item

    def work(item):
        finished.release()
        return item

    for found in _two_at_a_time(work, items()):
        seen.append(found)
    assert seen == list(range(6))
    assert max(held_back) <= 1  # the one whose work ended just now


def test_an_error_in_one_part_ends_the_work():
    def work(item):
        if item == 1:
            raise SparseRMError("this part is unreadable")
        return item

    results = _two_at_a_time(work, range(100))
    assert next(results) == 0
    with pytest.raises(SparseRMError, match="unreadable"):
        list(results)
