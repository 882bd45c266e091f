"""The job queue: start, list, cancel, resume and delete jobs.

A job runs in a separate process, so it outlives a closed tab and a restart of the app. It has a folder
``SPARSERM_HOME/jobs/<id>`` with its specification, its status and its results. The worker holds a lock while it is alive, so
a job whose process was killed is detected as interrupted. One job runs at a time; the others wait. A job that a page started
of its own accord gives way to one that somebody asked for, and goes on after it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from sparserm.support.defaults import home
from sparserm.support.files import make_folder, one_line, write_text
from sparserm.support.parsing import parse_json
from sparserm.support.processes import python
from sparserm.types import SparseRMError

#: The kinds of job; ``sparserm.jobs.kinds`` has the function that runs each.
KINDS = ("represent", "train", "features", "labels", "best_of_n", "audit")

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
_WRITE_EVERY_S = 0.25
#: How often a job that nobody asked for looks whether another one waits.
_LOOK_EVERY_S = 1.0
_STAMP = "%Y%m%d-%H%M%S"
_workers: list[subprocess.Popen[bytes]] = []


class JobCancelled(Exception):
    """Raised inside a job that the user has cancelled."""


class JobGivesWay(Exception):
    """Raised inside a job that nobody asked for, as soon as another one waits that somebody did."""


@dataclass(frozen=True)
class JobStatus:
    """State and progress of a job.

    Attributes:
        id: name of the job's folder. It begins with when the job was started, later than those of all jobs before it.
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
        asked: whether somebody asked for it; otherwise it gives way to jobs that somebody did.
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
    asked: bool = True

    @property
    def active(self) -> bool:
        """Whether the job is running or queued."""
        return self.state in ("queued", "running")

    @property
    def cancelling(self) -> bool:
        """Whether it was cancelled and has not stopped yet: it does at its next progress report."""
        return self.active and (self.folder / "cancel").exists()

    @property
    def share(self) -> float:
        """Completed share of the current stage, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def text(self) -> str:
        """One line for the user, e.g. ``2 of 4: representations, 312 of 1,000 responses, about 3 min left``."""
        if self.cancelling:
            return "cancelling, once the current step is finished"
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
        self._written = self._looked = 0.0
        self._since: tuple[float, int] = (time.monotonic(), 0)

    def stage(self, number: int, of: int, what: str) -> None:
        """Start a new stage.

        Raises:
            JobCancelled: the user cancelled the job.
            JobGivesWay: nobody asked for this one, and another waits.
        """
        self._status = replace(self._status, state="running", stage=number, stages=of, what=what, done=0, total=0, eta_s=None)
        self._since = (time.monotonic(), 0)
        self._write()
        self._check()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Report progress within the stage; a :data:`~sparserm.types.Progress`.

        Raises:
            JobCancelled: the user cancelled the job.
            JobGivesWay: nobody asked for this one, and another waits.
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
        if not self._status.asked and time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._looked = time.monotonic()
            if asked_job_waits():
                raise JobGivesWay

    def _write(self) -> None:
        self._written = time.monotonic()
        with suppress(OSError):  # a full disk must not stop the job here: what it computes may need no space
            write_status(self._status)


def start(kind: str, spec: Mapping[str, Any], title: str, *, asked: bool = True) -> str:
    """Start a job in a separate process and return its id.

    Args:
        asked: whether somebody asked for it; otherwise it gives way to jobs that somebody did.

    Raises:
        SparseRMError: the kind is unknown, or the job cannot be written to the disk.
    """
    if kind not in KINDS:
        raise SparseRMError(f"there is no job of kind {kind!r}; expected one of {', '.join(KINDS)}")
    identity = _new_id()
    folder = jobs_dir() / identity
    try:
        make_folder(folder)
        write_text(folder / "spec.json", json.dumps(dict(spec)))
        write_status(JobStatus(identity, kind, title, folder, time.time(), asked=asked))
        _spawn(folder)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise SparseRMError(
            f"the job cannot be started ({error.strerror or error}); expected space and permission to write in the data folder"
        ) from error
    return identity


def _new_id() -> str:
    """An id that sorts after those of all jobs, also if the clock was ahead when they were started or has been put back."""
    stamps = [datetime.now()]
    for folder in jobs_dir().iterdir() if jobs_dir().is_dir() else ():
        with suppress(ValueError, OverflowError):
            stamps.append(datetime.strptime(folder.name[:15], _STAMP) + timedelta(seconds=1))
    return f"{max(stamps).strftime(_STAMP)}-{uuid.uuid4().hex[:6]}"


def status(job: str) -> JobStatus:
    """Read the status of a job; a job whose process has died is ``interrupted``.

    Raises:
        SparseRMError: the job does not exist.
    """
    found = read_status(_folder(job))
    if found.active and not _is_alive(found.folder):
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


def asked_job_waits() -> bool:
    """Whether a job waits for its turn that somebody asked for."""
    return any(one.asked and one.state == "queued" for one in list_jobs())


def find_job(kind: str, wanted: Mapping[str, Any]) -> JobStatus | None:
    """The newest job of this kind and specification, or None."""
    for one in list_jobs():
        with suppress(SparseRMError):  # one that cannot be read is none that was looked for
            if one.kind == kind and spec(one.id) == wanted:
                return one
    return None


def spec(job: str) -> dict[str, Any]:
    """The specification of a job.

    Raises:
        SparseRMError: the job does not exist, or its specification is damaged.
    """
    return read_spec(_folder(job))


def read_spec(folder: Path) -> dict[str, Any]:
    """Read ``spec.json`` in a job's folder.

    Raises:
        SparseRMError: the file is missing or damaged.
    """
    try:
        value = parse_json((folder / "spec.json").read_bytes())
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise SparseRMError(f"the settings of job {folder.name} are damaged; expected a JSON object; delete the job")
    return value


def cancel(job: str) -> None:
    """Cancel a job; it stops at its next progress report. Results in the store are kept, and a job that has ended stays so."""
    folder = _folder(job)
    (folder / "cancel").touch(mode=0o600)
    found = status(job)
    if found.state == "interrupted":
        write_status(replace(found, state="cancelled", eta_s=None))


def resume(job: str) -> None:
    """Resume a job that was cancelled, was interrupted or has failed."""
    found = status(job)
    if found.active or found.state == "done":
        return
    (found.folder / "cancel").unlink(missing_ok=True)
    write_status(replace(found, state="queued", error="", eta_s=None))
    _spawn(found.folder)


def delete(job: str) -> None:
    """Delete a job that has ended, with its results; also one whose files are damaged.

    Raises:
        SparseRMError: the job is still running or queued, or does not exist.
    """
    folder = _folder(job)
    try:
        active = status(job).active
    except SparseRMError:
        active = _is_alive(folder)
    if active:
        raise SparseRMError(f"job {job} is still running; expected a job that has ended; cancel it first")
    shutil.rmtree(folder)


def _spawn(folder: Path) -> None:
    with open(folder / "log.txt", "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
        process = subprocess.Popen(
            python("from sparserm.jobs.worker import main; main()", str(folder)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _workers[:] = [worker for worker in _workers if worker.poll() is None]  # drop those that have ended
    _workers.append(process)


def _is_alive(folder: Path) -> bool:
    """Whether a worker holds the job's lock, or was just started and does not hold it yet."""
    if any(str(folder) in worker.args and worker.poll() is None for worker in _workers):  # type: ignore[operator]
        return True
    try:
        with worker_lock(folder, timeout=0):
            return False
    except Timeout:
        return True


def worker_lock(folder: Path, timeout: float) -> FileLock:
    """The lock that the worker of a job holds while it is alive."""
    return FileLock(folder / "worker.lock", timeout=timeout, mode=0o600)


def jobs_dir() -> Path:
    """The folder of all jobs."""
    return home() / "jobs"


def _folder(job: str) -> Path:
    if not re.fullmatch(r"[\w-]{1,100}", job) or not (jobs_dir() / job / "status.json").is_file():
        raise SparseRMError(f"there is no job {job!r}; it may have been deleted")
    return jobs_dir() / job


def read_status(folder: Path) -> JobStatus:
    """Read ``status.json`` in a job's folder.

    Raises:
        SparseRMError: the file is missing or damaged.
    """
    try:
        value = parse_json((folder / "status.json").read_bytes())
        found = JobStatus(**{**value, "id": folder.name, "folder": folder})
        _check(found)
    except (OSError, ValueError, TypeError) as error:
        raise SparseRMError(
            f"job {folder.name} cannot be read ({one_line(error)}); expected the status that the job wrote; delete the job"
        ) from error
    return replace(found, created=min(found.created, time.time()))  # the clock may have been ahead


def _check(found: JobStatus) -> None:
    """Raise a TypeError or ValueError for values that no job writes."""
    texts = (found.kind, found.title, found.what, found.error)
    counts = (found.stage, found.stages, found.done, found.total)
    seconds = (found.created, *(() if found.eta_s is None else (found.eta_s,)))
    if not all(isinstance(one, str) for one in (*texts, found.state)) or not all(type(one) is int for one in counts):
        raise TypeError("a value has another type")
    if not all(type(one) in (int, float) for one in seconds):
        raise TypeError("a time is not a number")
    if type(found.asked) is not bool:
        raise TypeError("asked is neither true nor false")
    if found.state not in get_args(State) or not all(0 <= one < 2**53 for one in (*counts, *seconds)):
        raise ValueError("a value is out of range")


def write_status(found: JobStatus) -> None:
    """Write the job's ``status.json``."""
    value = {name: entry for name, entry in asdict(found).items() if name != "folder"}
    write_text(found.folder / "status.json", json.dumps(value))


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"
