"""Jobs: what they tell of themselves, and that cancelling, failing, dying and going on each leave a state that is true."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from sparserm.jobs import kinds, queue
from sparserm.jobs.worker import work
from sparserm.types import SparseRMError

COUNTED: list[int] = []


def count(spec: dict[str, Any], folder: Path, report: queue.Report) -> None:
    """Counts to three, and writes what it came to."""
    report.stage(1, 2, "Getting ready")
    report.stage(2, 2, "Counting")
    for n in range(1, 4):
        if n == spec.get("cancel_at"):
            queue.cancel(folder.name)
        if n == spec.get("fail_at"):
            raise SparseRMError("three is too many; count less")
        if n == spec.get("crash_at"):
            raise RuntimeError("no more fingers")
        report(n, 3, "Counting (sheep)")
        COUNTED.append(n)
    (folder / "result.json").write_text("3")


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch):
    """Start a counting job without a process, and do its work here."""
    COUNTED.clear()
    monkeypatch.setattr(queue, "KINDS", (*queue.KINDS, "count"))
    monkeypatch.setitem(kinds.JOBS, "count", count)
    monkeypatch.setattr(queue, "_spawn", lambda folder: None)
    monkeypatch.setattr("os.nice", lambda n: 0)

    def begin(**spec: int) -> queue.JobStatus:
        identity = queue.start("count", spec, "Counting sheep")
        work(queue.status(identity).folder)
        return queue.status(identity)

    return begin


def test_a_job_that_ends_well_has_its_results_and_its_last_figures(job) -> None:
    done = job()
    assert (done.state, done.done, done.total, done.stage, done.stages) == ("done", 3, 3, 2, 2)
    assert (done.folder / "result.json").read_text() == "3"
    assert [one.id for one in queue.list_jobs()] == [done.id]


def test_a_cancelled_job_stops_at_its_next_report_and_can_go_on(job) -> None:
    cancelled = job(cancel_at=2)
    assert cancelled.state == "cancelled" and COUNTED == [1]
    queue.resume(cancelled.id)
    (cancelled.folder / "spec.json").write_text("{}")
    work(cancelled.folder)
    assert queue.status(cancelled.id).state == "done" and COUNTED == [1, 1, 2, 3]


def test_a_failed_job_says_why_in_a_sentence(job) -> None:
    failed = job(fail_at=3)
    assert (failed.state, failed.text) == ("failed", "three is too many; count less")


def test_a_crash_is_told_with_where_to_read_more(job, capsys: pytest.CaptureFixture[str]) -> None:
    crashed = job(crash_at=1)
    assert crashed.state == "failed"
    assert crashed.text == f"an unexpected error stopped the job; the details are in the log of job {crashed.id}"
    logged = capsys.readouterr().err
    assert "Traceback" in logged and "RuntimeError: no more fingers" in logged


def test_a_job_whose_process_died_is_interrupted_and_not_at_work_forever(job) -> None:
    done = job()
    value = json.loads((done.folder / "status.json").read_text())
    (done.folder / "status.json").write_text(json.dumps({**value, "state": "running"}))
    assert queue.status(done.id).state == "interrupted"
    assert not queue.status(done.id).active


def test_a_waiting_job_can_be_cancelled(job, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = queue.start("count", {}, "Counting sheep")
    queue.cancel(identity)
    work(queue.status(identity).folder)
    assert queue.status(identity).state == "cancelled" and COUNTED == []


def test_only_ended_jobs_are_deleted(job) -> None:
    done = job()
    queue.delete(done.id)
    assert queue.list_jobs() == []
    with pytest.raises(SparseRMError, match="no job"):
        queue.status(done.id)


@pytest.mark.parametrize("name", ["../elsewhere", "", "a/b"])
def test_a_name_that_leaves_the_folder_is_no_job(name: str) -> None:
    with pytest.raises(SparseRMError, match="no job"):
        queue.status(name)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SparseRMError, match="represent"):
        queue.start("knit", {}, "Knitting")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({}, "starting"),
        ({"stage": 1, "stages": 4, "what": "Pairs"}, "1 of 4: pairs"),
        (
            {"stage": 2, "stages": 4, "what": "Representations (responses)", "done": 312, "total": 1000, "eta_s": 170.0},
            "2 of 4: representations, 312 of 1,000 responses, about 3 min left",
        ),
    ],
)
def test_a_running_job_says_where_it_is(status: dict[str, Any], text: str, tmp_path: Path) -> None:
    assert queue.JobStatus("a", "count", "A", tmp_path, 0.0, "running", **status).text == text


def test_a_real_process_fails_with_the_sentence_that_the_engine_gave() -> None:
    source = {"name": "no-such-file.jsonl", "columns": {}, "skip_bad": False}
    identity = queue.start("represent", {"source": source, "backbone": "smollm2", "sae": "smollm2/layer_15"}, "Representations")
    deadline = time.monotonic() + 120
    while queue.status(identity).active and time.monotonic() < deadline:
        time.sleep(0.2)
    found = queue.status(identity)
    assert found.state == "failed" and "no-such-file.jsonl" in found.text


def test_a_job_that_nobody_asked_for_gives_way_and_goes_on_after(job, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    waits = iter([False, True, False, False, False])  # another job waits once, at the first report

    def told(spec: dict[str, Any], folder: Path, report: queue.Report) -> None:
        order.append("begun")
        report(1, 3, "Counting (sheep)")
        order.append("ended")

    monkeypatch.setattr(queue, "_LOOK_EVERY_S", -1.0)
    monkeypatch.setattr(queue, "asked_job_waits", lambda: next(waits))
    monkeypatch.setattr("sparserm.jobs.worker.asked_job_waits", lambda: next(waits))
    monkeypatch.setitem(kinds.JOBS, "count", told)
    identity = queue.start("count", {}, "Counting sheep", asked=False)
    work(queue.status(identity).folder)
    assert order == ["begun", "begun", "ended"]
    assert queue.status(identity).state == "done"


def test_who_waits_is_known_from_the_jobs_themselves(job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_is_alive", lambda folder: True)
    queue.start("count", {}, "Counting sheep", asked=False)
    assert not queue.asked_job_waits()
    queue.start("count", {}, "Counting goats")
    assert queue.asked_job_waits()
