"""Jobs whose files are damaged, that end while they are cancelled, or that meet a full disk or a changing clock."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparserm import jobs
from sparserm.jobs import kinds, queue
from sparserm.jobs.worker import work
from sparserm.types import SparseRMError


@pytest.fixture(autouse=True)
def _without_processes(monkeypatch) -> None:
    monkeypatch.setattr(queue, "_spawn", lambda folder: None)
    monkeypatch.setattr("os.nice", lambda n: 0)
    monkeypatch.setitem(kinds.JOBS, "audit", lambda spec, folder, report: report.stage(1, 1, "Counting (sheep)"))


def start(**spec: object) -> queue.JobStatus:
    return jobs.status(jobs.start("audit", spec, "Audit"))


def finished(**spec: object) -> queue.JobStatus:
    job = start(**spec)
    work(job.folder)
    return jobs.status(job.id)


def test_a_job_that_ends_while_it_is_cancelled_stays_done(monkeypatch) -> None:
    job = finished()
    jobs.cancel(job.id)
    assert jobs.status(job.id).state == "done"
    running = start()
    write = queue.write_status
    write(replace(running, state="running"))
    monkeypatch.setattr(queue, "_is_alive", lambda folder: (write(replace(running, state="done")), False)[1])
    jobs.cancel(running.id)  # it ends after the first look at its status
    assert jobs.status(running.id).state == "done"


def test_a_job_whose_process_died_is_cancelled() -> None:
    job = start()
    queue.write_status(replace(job, state="running"))
    jobs.cancel(job.id)
    assert jobs.status(job.id).state == "cancelled"


@pytest.mark.parametrize(
    "change",
    [
        {"done": "x"},
        {"done": None},
        {"total": True},
        {"stage": -1},
        {"state": 5},
        {"state": "asleep"},
        {"title": ["a"]},
        {"kind": {}},
        {"created": "now"},
        {"created": 10**400},
        {"created": float("nan")},
        {"eta_s": "soon"},
        {"error": 3},
        {"surprise": 1},
        [],
        "[" * 100_000,
        "{",
        "",
        b"\xff\xfe",
    ],
)
def test_a_damaged_status_hides_no_other_job_and_can_be_deleted(change) -> None:
    good, bad = finished(), finished()
    path = bad.folder / "status.json"
    if isinstance(change, dict):
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    else:
        path.write_bytes(change if isinstance(change, bytes) else str(change).encode())
    assert [one.id for one in jobs.list_jobs()] == [good.id]
    assert jobs.find_job("audit", {}).id == good.id
    with pytest.raises(SparseRMError, match="cannot be read"):
        jobs.status(bad.id)
    jobs.delete(bad.id)
    assert not bad.folder.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"a": NaN}', None])
def test_a_damaged_specification_is_one_line_and_can_be_deleted(content: bytes | None, capsys) -> None:
    good, bad = finished(a=1), start(a=1)
    path = bad.folder / "spec.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert jobs.find_job("audit", {"a": 1}).id == good.id
    with pytest.raises(SparseRMError, match=r"settings .* damaged; .* delete the job"):
        jobs.spec(bad.id)
    work(bad.folder)
    failed = jobs.status(bad.id)
    assert failed.state == "failed" and "are damaged" in failed.text and capsys.readouterr().err == ""
    jobs.delete(bad.id)
    assert [one.id for one in jobs.list_jobs()] == [good.id]


def test_the_newest_job_is_first_also_after_the_clock_was_ahead(monkeypatch) -> None:
    now = queue.datetime.now()

    class Clock(queue.datetime):
        year_ahead = True

        @classmethod
        def now(cls):
            return now.replace(year=now.year + 1) if cls.year_ahead else now

    monkeypatch.setattr(queue, "datetime", Clock)
    monkeypatch.setattr(queue.time, "time", lambda: now.timestamp() + (366 * 86400 if Clock.year_ahead else 0))
    first = start()
    Clock.year_ahead = False
    later = [start().id for _ in range(3)]
    assert [one.id for one in jobs.list_jobs()] == [*reversed(later), first.id]
    assert jobs.find_job("audit", {}).id == later[-1]
    assert jobs.status(first.id).created <= now.timestamp()


def test_a_folder_with_a_strange_date_is_no_obstacle() -> None:
    for name in ("99991231-235959-aaaaaa", "99999999-999999-aaaaaa", "notes"):
        (queue.jobs_dir() / name).mkdir(parents=True)
    assert start().state == "interrupted"


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("function", ["make_folder", "write_text", "_spawn"])
def test_a_job_that_cannot_be_written_is_one_line_and_leaves_nothing(monkeypatch, function: str) -> None:
    monkeypatch.setattr(queue, function, full)
    with pytest.raises(SparseRMError, match=r"cannot be started \(No space left on device\); expected space"):
        start()
    assert jobs.list_jobs() == [] and list(Path(queue.jobs_dir()).glob("*")) == []


def test_progress_that_cannot_be_written_does_not_stop_the_job(monkeypatch) -> None:
    job = start()
    report = queue.Report(job.folder)
    with monkeypatch.context() as patch:
        patch.setattr(queue, "write_text", full)
        report.stage(1, 2, "Counting (sheep)")
    assert jobs.status(job.id).stage == 0
    report.stage(2, 2, "Counting (sheep)")
    assert jobs.status(job.id).stage == 2
