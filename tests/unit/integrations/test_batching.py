"""Waiting requests are computed together, an error fails only its own request, and too much is refused at once."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from sparserm.integrations.server.batching import HEADROOM, Batcher, ClosedError, OverloadedError, TooLongError
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


def make(reader: Reader, seconds: float = 1e-3, wait: float = 10) -> Batcher:
    """A batcher that expects a text of one character to take ``seconds``, and admits what is expected to take ``wait``."""
    return Batcher(
        {"a": reader, "b": reader},
        cost=lambda text: len(text.response),
        seconds_per_cost=seconds,
        max_wait_s=wait * HEADROOM,
        max_batch=4,
    )


@pytest.fixture
def reader():
    return Reader()


@pytest.fixture
def batcher(reader):
    made = make(reader)
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


def test_a_request_that_would_wait_too_long_is_refused_at_once_and_room_comes_back(reader):
    made = make(reader, seconds=1.0)

    async def run():
        first, tasks = await _while_busy(made, reader, ("a", texts(*"1234")))  # 5 s and 4 s are expected
        assert made.waiting == 4
        with pytest.raises(OverloadedError) as refused:
            await made.run("a", texts("12"))
        assert refused.value.retry_s == pytest.approx(1)
        tasks.append(asyncio.create_task(made.run("b", texts("5"))))  # the last that fits
        await asyncio.sleep(0)
        reader.go.set()
        await asyncio.gather(first, *tasks)
        assert made.seconds_per_cost < 1  # measured meanwhile
        return await made.run("a", texts("12"))

    assert asyncio.run(run()) == ["12"]
    made.close()


def test_a_request_that_is_too_long_by_itself_is_refused_even_if_nothing_waits(reader):
    made = make(reader, seconds=1.0)
    with pytest.raises(TooLongError) as refused:
        asyncio.run(made.run("a", texts("123456", "12345")))
    assert refused.value.expected_s == pytest.approx(11)
    made.close()


def test_what_takes_longer_than_the_bound_is_given_up(reader):
    made = make(reader, wait=0.1)

    async def run():
        first, (late,) = await _while_busy(made, reader, ("a", texts("1")))
        for task in (first, late):
            with pytest.raises(OverloadedError):
                await task
        assert made.waiting == 0
        reader.go.set()
        made._max_wait_s = 10
        return await made.run("a", texts("2"))

    assert asyncio.run(run()) == ["2"]
    assert reader.batches == [["first"], ["2"]]
    made.close()


def test_work_of_those_who_have_gone_counts_for_nothing(reader):
    made = make(reader, seconds=1.0)

    async def run():
        first, (gone,) = await _while_busy(made, reader, ("a", texts("1234")))
        gone.cancel()
        await asyncio.sleep(0.01)
        again = asyncio.create_task(made.run("a", texts("5678")))
        await asyncio.sleep(0)
        reader.go.set()
        return await asyncio.gather(first, again)

    assert asyncio.run(run()) == [["FIRST"], ["5678"]]
    made.close()


def test_a_batch_takes_no_longer_than_its_bound(reader):
    made = make(reader, seconds=2.0)  # a batch of 5 s has two characters
    assert asyncio.run(made.run("a", texts(*"abcd"))) == list("ABCD")
    assert reader.batches[0] == list("ab")
    made.close()


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
    made = make(reader)

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


def test_those_who_were_just_answered_are_waited_for_a_moment(reader):
    batcher = make(reader)

    async def client(name: str, requests: int) -> None:
        for number in range(requests):
            await batcher.run("a", texts(f"{name}{number}"))

    def slowly(given):
        time.sleep(0.5)
        return reader(given)

    batcher._compute = {"a": slowly}
    asyncio.run(_all(client("x", 3), client("y", 3)))
    batcher.close()
    assert [len(batch) for batch in reader.batches] in ([2, 2, 2], [1, 2, 2, 1])


async def _all(*work):
    await asyncio.gather(*work)
