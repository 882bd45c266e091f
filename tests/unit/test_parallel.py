"""Independent work in threads."""

import threading

import pytest
from threadpoolctl import threadpool_info

from sparserm import parallel
from sparserm.parallel import in_threads


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(parallel, "_cores", lambda: 2)


def test_results_come_in_the_order_of_the_items_whichever_ends_first():
    second_is_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_is_done.wait(10)  # only a second thread can say so
        else:
            second_is_done.set()
        return item * 10

    assert list(in_threads(work, range(5))) == [0, 10, 20, 30, 40]


def test_an_exception_comes_out_where_its_result_would():
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("the third")
        return item

    found = in_threads(work, range(4))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(found)


def test_what_is_not_begun_when_the_consumer_stops_is_left_undone():
    begun, stopped = [], threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        assert item == 0 or stopped.wait(10)
        return item

    found = in_threads(work, range(100))
    assert next(found) == 0
    threading.Timer(0.2, stopped.set).start()
    found.close()
    assert len(begun) <= 3


def test_blas_has_one_thread_until_the_last_is_done():
    before = [one["num_threads"] for one in threadpool_info()]

    def blas_threads(_item: int) -> set[int]:
        return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}

    assert list(in_threads(blas_threads, range(4))) == [{1}] * 4
    assert [one["num_threads"] for one in threadpool_info()] == before
