"""Work in threads: results in order, one error for all, and libraries that get their threads back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from sparserm.support import threads
from sparserm.support.threads import in_threads, one_thread

CORES = 3


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def several(monkeypatch) -> Iterator[None]:
    """On a machine of one core, too; what is to be given back is more than one thread."""
    monkeypatch.setattr(threads, "_cores", lambda: CORES)
    with threadpool_limits(2, user_api="blas"):
        assert blas_threads() == {2}
    with ThreadPoolExecutor(1) as pool:  # so that it is not this thread that has the limit to itself
        pool.submit(threadpool_limits, 2, user_api="blas").result()
    assert blas_threads() == {2}
    yield
    assert blas_threads() == {2}


def test_results_come_in_the_order_of_the_items() -> None:
    last = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert last.wait(30)  # until a later one is done
        if item == 2:
            last.set()
        return item * item

    assert list(in_threads(work, range(6))) == [0, 1, 4, 9, 16, 25]


def test_no_items_give_no_results() -> None:
    assert list(in_threads(str, [])) == []


def test_an_error_comes_in_its_place_and_stops_what_was_not_begun() -> None:
    begun = []
    seen = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("two")
        assert item == 0 or seen.wait(30)
        return item

    def stop() -> None:
        with pytest.raises(ValueError, match="two"):
            next(results)

    results = in_threads(work, range(1000))
    assert next(results) == 0
    timer = threading.Timer(0.5, seen.set)  # what had begun may end
    timer.start()
    stop()
    timer.join()
    assert len(begun) <= 2 + CORES


def test_when_the_results_are_closed_no_more_is_begun() -> None:
    begun = []
    gate = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        assert item == 0 or gate.wait(30)
        return item

    results = in_threads(work, range(1000))
    assert next(results) == 0
    timer = threading.Timer(0.5, gate.set)
    timer.start()
    results.close()
    timer.join()
    assert len(begun) <= 1 + CORES


def test_matrices_are_multiplied_on_one_thread_within() -> None:
    assert all(found == {1} for found in in_threads(lambda _: blas_threads(), range(4)))


def test_work_inside_work_comes_one_after_another() -> None:
    def names(_: int) -> set[str]:
        return set(in_threads(lambda _: threading.current_thread().name, range(5)))

    assert all(len(found) == 1 for found in in_threads(names, range(4)))


def test_the_last_to_leave_gives_the_threads_back() -> None:
    before = blas_threads()
    inside, out = threading.Event(), threading.Event()

    def other() -> None:
        with one_thread():
            inside.set()
            assert out.wait(30)

    with ThreadPoolExecutor(1) as pool:
        with one_thread():
            waiting = pool.submit(other)
            assert inside.wait(30)
        assert blas_threads() == {1}  # the other is still inside
        out.set()
        waiting.result(30)
    assert blas_threads() == before


def test_it_is_all_the_same_in_which_thread_work_is_done() -> None:
    before = blas_threads()
    with ThreadPoolExecutor(2) as pool:  # threads that live on
        for _ in range(3):
            assert list(pool.map(lambda _: list(in_threads(lambda _: blas_threads(), range(2))), range(4))) == [[{1}] * 2] * 4
        with one_thread():
            assert blas_threads() == {1}
        assert blas_threads() == before


def test_an_error_gives_the_threads_back() -> None:
    before = blas_threads()
    with pytest.raises(ValueError), one_thread():
        raise ValueError
    assert blas_threads() == before
