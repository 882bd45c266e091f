"""What waits is computed together, no fault touches a neighbour, and too much is refused at once."""

from __future__ import annotations

import asyncio
import threading

import pytest

from sparserm.integrations.server.batching import Batcher, ClosedError, OverloadedError
from sparserm.types import Message, Text


def texts(*responses: str) -> list[Text]:
    return [Text((Message("user", "?"),), response) for response in responses]


class Reader:
    """Tells what it was given together; waits where it is told to; chokes on "bad"."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go, self.entered = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, given):
        self.entered.set()
        self.go.wait(10)
        self.batches.append([text.response for text in given])
        if any(text.response == "bad" for text in given):
            raise ValueError("bad")
        return [text.response.upper() for text in given]


@pytest.fixture
def reader():
    return Reader()


@pytest.fixture
def batcher(reader):
    made = Batcher({"a": reader, "b": reader}, max_waiting=6, max_batch=4)
    yield made
    reader.go.set()
    made.close()


async def _while_busy(batcher, reader, *work):
    """Start the works while another is being done."""
    reader.go.clear()
    first = asyncio.create_task(batcher.run("a", texts("first")))
    await asyncio.to_thread(reader.entered.wait, 10)
    tasks = []
    for kind, given in work:
        tasks.append(asyncio.create_task(batcher.run(kind, given)))
        await asyncio.sleep(0)
    return first, tasks


def test_what_waits_is_done_together_by_kind_and_up_to_the_batchs_size(batcher, reader):
    async def run():
        first, tasks = await _while_busy(
            batcher, reader, ("a", texts("1", "2")), ("b", texts("3")), ("a", texts("4")), ("a", texts("5", "6"))
        )
        reader.go.set()
        return await asyncio.gather(first, *tasks)

    assert asyncio.run(run()) == [["FIRST"], ["1", "2"], ["3"], ["4"], ["5", "6"]]
    assert reader.batches == [["first"], ["1", "2", "4"], ["3"], ["5", "6"]]


def test_one_bad_text_is_its_own_requests_fault(batcher, reader):
    async def run():
        first, tasks = await _while_busy(batcher, reader, ("a", texts("1")), ("a", texts("bad")), ("a", texts("2")))
        reader.go.set()
        return await asyncio.gather(first, *tasks, return_exceptions=True)

    _, one, bad, two = asyncio.run(run())
    assert (one, two) == (["1"], ["2"])
    assert isinstance(bad, ValueError)


def test_too_much_is_refused_at_once_and_room_comes_back(batcher, reader):
    async def run():
        first, tasks = await _while_busy(batcher, reader, ("a", texts(*"123456")))
        assert batcher.waiting == 6
        with pytest.raises(OverloadedError):
            await batcher.run("a", texts("7"))
        reader.go.set()
        await asyncio.gather(first, *tasks)
        return await batcher.run("a", texts("8"))

    assert asyncio.run(run()) == ["8"]


def test_a_request_larger_than_a_batch_is_done_in_several(batcher, reader):
    assert asyncio.run(batcher.run("a", texts(*"abcdefghij"))) == list("ABCDEFGHIJ")
    assert reader.batches == [list("abcd"), list("efgh"), list("ij")]


def test_work_whose_caller_has_gone_is_not_begun(batcher, reader):
    async def run():
        first, (gone,) = await _while_busy(batcher, reader, ("a", texts("gone")))
        gone.cancel()
        await asyncio.sleep(0.01)
        reader.go.set()
        await first
        await batcher.run("a", texts("last"))

    asyncio.run(run())
    assert reader.batches == [["first"], ["last"]]


def test_closing_does_what_waits_and_takes_nothing_more(reader):
    made = Batcher({"a": reader}, max_waiting=6, max_batch=4)

    async def run():
        first, tasks = await _while_busy(made, reader, ("a", texts("1")))
        closing = asyncio.create_task(asyncio.to_thread(made.close))
        await asyncio.sleep(0.05)
        with pytest.raises(ClosedError):
            await made.run("a", texts("2"))
        reader.go.set()
        await closing
        return await asyncio.gather(first, *tasks)

    assert asyncio.run(run()) == [["FIRST"], ["1"]]
    assert not made.alive


def test_nothing_is_nothing(batcher):
    assert asyncio.run(batcher.run("a", [])) == []
