"""Background jobs: long computations in separate processes, which outlive a browser tab and can be cancelled and resumed."""

from sparserm.jobs.queue import (
    JobCancelled,
    JobStatus,
    Report,
    cancel,
    delete,
    find_job,
    list_jobs,
    resume,
    spec,
    start,
    status,
)

__all__ = [
    "JobCancelled",
    "JobStatus",
    "Report",
    "cancel",
    "delete",
    "find_job",
    "list_jobs",
    "resume",
    "spec",
    "start",
    "status",
]
