"""The job queue: start, list, cancel, resume and delete jobs.

A job runs in a separate process, so it outlives a closed tab and a restart of the app. It has a folder
``SPARSERM_HOME/jobs/<id>`` with its specification, its status and its results. The worker holds a lock while it is alive, so
a job whose process was killed is detected as interrupted. One job runs at a time; the others wait.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from sparserm.support.defaults import home
from sparserm.support.files import write_text
from sparserm.types import SparseRMError

#: The kinds of job; ``sparserm.jobs.kinds`` has the function that runs each.
KINDS = ("represent", "train", "features", "labels", "best_of_n", "audit")

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
_WRITE_EVERY_S = 0.25
_workers: list[subprocess.Popen[bytes]] = []


class JobCancelled(Exception):
    """Raised inside a job that the user has cancelled."""


@dataclass(frozen=True)
class JobStatus:
    """State and progress of a job.

    Attributes:
        id: name of the job's folder.
        kind: one of :data:`KINDS`.
        title: shown to the user.
        folder: the job's folder, with its results.
        created: seconds since the epoch.
        state: ``interrupted`` means that the process exited without reporting a result.
        stage, stages: 1-based number of the current stage, 0 before the first, and the number of stages.
        what: the current stage and the unit of its progress, e.g. ``Representations (responses)``.
        done, total: progress within the stage, in that unit.
        eta_s: estimated seconds left in this stage; None if unknown.
        error: why the job failed.
    """

    id: str
    kind: str
    title: str
    folder: Path
    created: float
    state: State = "queued"
    stage: int = 0
    stages: int = 0
    what: str = ""
    done: int = 0
    total: int = 0
    eta_s: float | None = None
    error: str = ""

    @property
    def active(self) -> bool:
        """Whether the job is running or queued."""
        return self.state in ("queued", "running")

    @property
    def share(self) -> float:
        """Completed share of the current stage, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def text(self) -> str:
        """One line for the user, e.g. ``2 of 4: representations, 312 of 1,000 responses, about 3 min left``."""
        if self.state == "queued":
            return "waiting for its turn"
        if self.state == "failed":
            return self.error
        if self.state != "running" or not self.stage:
            return {"running": "starting"}.get(self.state, self.state)
        name, _, unit = self.what.partition(" (")
        parts = [f"{self.stage} of {self.stages}: {name.lower()}"]
        if self.total:
            parts.append(f"{self.done:,} of {self.total:,} {unit.rstrip(')')}".rstrip())
        if self.eta_s is not None:
            parts.append(f"about {_duration(self.eta_s)} left")
        return ", ".join(parts)


class Report:
    """Progress reporting from inside a job; every call also raises if the job was cancelled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._status = read_status(folder)
        self._written = 0.0
        self._since: tuple[float, int] = (time.monotonic(), 0)

    def stage(self, number: int, of: int, what: str) -> None:
        """Start a new stage.

        Raises:
            JobCancelled: the user cancelled the job.
        """
        self._status = replace(self._status, state="running", stage=number, stages=of, what=what, done=0, total=0, eta_s=None)
        self._since = (time.monotonic(), 0)
        self._write()
        self._check()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Report progress within the stage; a :data:`~sparserm.types.Progress`.

        Raises:
            JobCancelled: the user cancelled the job.
        """
        self._check()
        now = time.monotonic()
        if done < self._status.done or what != self._status.what:
            self._since = (now, done)
        seconds, advanced = now - self._since[0], done - self._since[1]
        eta = seconds / advanced * (total - done) if advanced > 0 and seconds > 2 else None
        self._status = replace(self._status, what=what, done=done, total=total, eta_s=eta)
        if now - self._written > _WRITE_EVERY_S or done == total:
            self._write()

    def _check(self) -> None:
        if (self._folder / "cancel").exists():
            raise JobCancelled

    def _write(self) -> None:
        self._written = time.monotonic()
        write_status(self._status)


def start(kind: str, spec: Mapping[str, Any], title: str) -> str:
    """Start a job in a separate process and return its id.

    Raises:
        SparseRMError: the kind is unknown.
    """
    if kind not in KINDS:
        raise SparseRMError(f"there is no job of kind {kind!r}; expected one of {', '.join(KINDS)}")
    identity = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder = jobs_dir() / identity
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps(dict(spec)))
    write_status(JobStatus(identity, kind, title, folder, time.time()))
    _spawn(folder)
    return identity


def status(job: str) -> JobStatus:
    """Read the status of a job; a job whose process has died is ``interrupted``.

    Raises:
        SparseRMError: the job does not exist.
    """
    found = read_status(_folder(job))
    if found.active and not _is_alive(found):
        found = read_status(found.folder)  # it may have ended since the first read
        if found.active:
            found = replace(found, state="interrupted", eta_s=None)
    return found


def list_jobs() -> list[JobStatus]:
    """All jobs, newest first; folders without a readable job are skipped."""
    found = []
    for folder in sorted(jobs_dir().glob("*/status.json"), reverse=True) if jobs_dir().is_dir() else ():
        try:
            found.append(status(folder.parent.name))
        except SparseRMError:
            continue
    return found


def find_job(kind: str, wanted: Mapping[str, Any]) -> JobStatus | None:
    """The newest job of this kind and specification, or None."""
    return next((one for one in list_jobs() if one.kind == kind and spec(one.id) == wanted), None)


def spec(job: str) -> dict[str, Any]:
    """The specification of a job."""
    value: dict[str, Any] = json.loads((_folder(job) / "spec.json").read_text())
    return value


def cancel(job: str) -> None:
    """Cancel a job; it stops at its next progress report. Results in the store are kept."""
    folder = _folder(job)
    (folder / "cancel").touch()
    if not status(job).active:
        write_status(replace(read_status(folder), state="cancelled", eta_s=None))


def resume(job: str) -> None:
    """Resume a job that was cancelled, was interrupted or has failed."""
    found = status(job)
    if found.active or found.state == "done":
        return
    (found.folder / "cancel").unlink(missing_ok=True)
    write_status(replace(found, state="queued", error="", eta_s=None))
    _spawn(found.folder)


def delete(job: str) -> None:
    """Delete a job that has ended, with its results.

    Raises:
        SparseRMError: the job is still running or queued.
    """
    if status(job).active:
        raise SparseRMError(f"job {job} is still running; expected a job that has ended; cancel it first")
    shutil.rmtree(_folder(job))


def _spawn(folder: Path) -> None:
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sparserm.jobs", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _workers[:] = [worker for worker in _workers if worker.poll() is None]  # drop those that have ended
    _workers.append(process)


def _is_alive(found: JobStatus) -> bool:
    """Whether a worker holds the job's lock, or was just started and does not hold it yet."""
    if any(str(found.folder) in worker.args and worker.poll() is None for worker in _workers):  # type: ignore[operator]
        return True
    try:
        with FileLock(found.folder / "worker.lock", timeout=0):
            return False
    except Timeout:
        return True


def jobs_dir() -> Path:
    """The folder of all jobs."""
    return home() / "jobs"


def _folder(job: str) -> Path:
    if not re.fullmatch(r"[\w-]+", job) or not (jobs_dir() / job / "status.json").is_file():
        raise SparseRMError(f"there is no job {job!r}; it may have been deleted")
    return jobs_dir() / job


def read_status(folder: Path) -> JobStatus:
    """Read ``status.json`` in a job's folder.

    Raises:
        SparseRMError: the file is missing or damaged.
    """
    try:
        value = json.loads((folder / "status.json").read_text())
        return JobStatus(**{**value, "folder": folder})
    except (OSError, ValueError, TypeError) as error:
        raise SparseRMError(f"the job in {folder} cannot be read ({error}); delete the folder") from error


def write_status(found: JobStatus) -> None:
    """Write the job's ``status.json``."""
    value = {name: entry for name, entry in asdict(found).items() if name != "folder"}
    write_text(found.folder / "status.json", json.dumps(value))


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"
