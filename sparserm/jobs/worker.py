"""The worker process of a job: waits for its turn, runs the job and records how it ended."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from sparserm.jobs.queue import (
    JobCancelled,
    JobGivesWay,
    Report,
    State,
    asked_job_waits,
    jobs_dir,
    read_spec,
    read_status,
    worker_lock,
    write_status,
)
from sparserm.types import SparseRMError


def main() -> None:
    """Run the job in the folder that is the argument of this process."""
    os.umask(0o077)  # what a job writes is private to the user
    work(Path(sys.argv[1]))


def work(folder: Path) -> None:
    """Run the job in ``folder`` with the function of its kind, and record how it ended."""
    if hasattr(os, "nice"):
        os.nice(10)  # the app stays responsive
    with worker_lock(folder, timeout=30):
        try:
            while not _run(folder):
                _end(folder, "queued")
            _end(folder, "done")
        except JobCancelled:
            _end(folder, "cancelled")
        except SparseRMError as error:
            _end(folder, "failed", str(error))
        except Exception:  # the page says that there was one; its text, which may have paths, is in the log
            traceback.print_exc()
            _end(folder, "failed", f"an unexpected error stopped the job; the details are in the log of job {folder.name}")


def _run(folder: Path) -> bool:
    """Run the job when it is its turn; False if it gave way to another, and has to go on later."""
    with _turn(folder):
        from sparserm.jobs.kinds import JOBS  # imported here so that a failing import fails the job

        try:
            JOBS[read_status(folder).kind](read_spec(folder), folder, Report(folder))
        except JobGivesWay:
            return False
    return True


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Hold the lock that lets one job run at a time; waiting for it ends if the job is cancelled."""
    lock, asked = FileLock(jobs_dir() / "turn.lock", mode=0o600), read_status(folder).asked
    while True:
        if (folder / "cancel").exists():
            raise JobCancelled
        if not asked and asked_job_waits():
            time.sleep(0.5)
            continue
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()


def _end(folder: Path, state: State, error: str = "") -> None:
    write_status(replace(read_status(folder), state=state, error=error, eta_s=None))
