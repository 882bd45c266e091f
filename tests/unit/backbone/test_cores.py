"""Passes in threads of their own: in order, in the caller's context, and without a trace in its settings."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest
import torch

from sparserm.backbone.cores import on_cores
from sparserm.backbone.model import Backbone
from sparserm.types import HookPoint, Message

ASKED: ContextVar[str] = ContextVar("asked")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def elsewhere(item):
    return item, threading.current_thread().name, torch.get_num_threads()


def test_results_come_in_order_from_threads_in_which_pytorch_has_one(two_threads):
    found = list(on_cores(elsewhere, range(20), 2))
    assert [item for item, _, _ in found] == list(range(20))
    assert {threads for _, _, threads in found} == {1}
    assert threading.current_thread().name not in {name for _, name, _ in found}


def test_the_callers_threads_and_those_of_others_stay_as_they_were(two_threads):
    list(on_cores(elsewhere, range(4), 2))
    others = []
    thread = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (torch.get_num_threads(), others) == (2, [2])


def test_one_core_or_such_a_thread_works_by_itself(two_threads):
    own = threading.current_thread().name
    assert list(on_cores(elsewhere, range(3), 1)) == [(i, own, 2) for i in range(3)]
    ((first, _),) = on_cores(lambda _: (threading.current_thread().name, 0), [0], 2)
    nested = list(on_cores(lambda _: list(on_cores(elsewhere, [0, 1], 2)), [0], 2))
    assert {name for _, name, _ in nested[0]} <= {"sparserm-core_0", "sparserm-core_1"}
    assert first.startswith("sparserm-core")


def test_threads_see_the_callers_context(two_threads):
    token = ASKED.set("here")
    assert list(on_cores(lambda _: ASKED.get(), range(5), 2)) == ["here"] * 5
    ASKED.reset(token)


def test_an_error_reaches_the_caller_and_work_that_nobody_asks_for_is_not_begun(two_threads):
    begun = []

    def work(item):
        begun.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    found = []
    with pytest.raises(ValueError, match="three"):
        for item in on_cores(work, range(100), 2):
            found.append(item)
    assert found == [0, 1, 2]
    assert len(begun) < 20


def test_states_do_not_depend_on_the_threads(tiny_folder, two_threads):
    backbone = Backbone.load(tiny_folder, dtype="float32")
    texts = [
        backbone.tokenize((Message("user", f"Question {i // 3}"),), f"the answer with number {i} and so on" * (1 + i % 3))
        for i in range(24)
    ]
    hooks = [HookPoint(1), HookPoint(2, "resid_pre")]
    names = set()
    found = {}
    for states in backbone.each_pass(texts, hooks, lambda one: (threading.current_thread().name, one)):
        names.add(states[0])
        for place, i in enumerate(states[1].texts):
            found[i] = {hook: state.split(states[1].lengths)[place] for hook, state in states[1].states.items()}
    assert all(name.startswith("sparserm-core") for name in names)
    torch.set_num_threads(1)
    for i, alone in backbone.hidden_states(texts, hooks):
        for hook in hooks:
            torch.testing.assert_close(found[i][hook], alone[hook], atol=1e-5, rtol=0)


def test_steering_reaches_passes_in_threads_and_no_others(tiny_folder, two_threads):
    backbone = Backbone.load(tiny_folder, dtype="float32")
    texts = [backbone.tokenize((Message("user", f"Question {i}"),), "the answer " * 9) for i in range(12)]
    hook, step = HookPoint(1), torch.full((backbone.d_model,), 0.5)
    plain = dict(backbone.hidden_states(texts, [hook]))
    with backbone.steering(hook, step):
        steered = dict(backbone.hidden_states(texts, [hook]))
        others = []
        thread = threading.Thread(target=lambda: others.append(dict(backbone.hidden_states(texts, [hook]))))
        thread.start()
        thread.join()
    again = dict(backbone.hidden_states(texts, [hook]))
    for i in range(len(texts)):
        torch.testing.assert_close(steered[i][hook], plain[i][hook] + step, atol=1e-5, rtol=0)
        torch.testing.assert_close(others[0][i][hook], plain[i][hook], atol=1e-5, rtol=0)
        torch.testing.assert_close(again[i][hook], plain[i][hook], atol=1e-5, rtol=0)
