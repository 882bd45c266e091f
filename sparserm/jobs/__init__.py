"""Background jobs: long work in processes of its own, which outlive a browser tab and can be cancelled and resumed."""

from sparserm.jobs.queue import JobCancelled, JobStatus, Report, cancel, delete, list_jobs, resume, spec, start, status

__all__ = ["JobCancelled", "JobStatus", "Report", "cancel", "delete", "list_jobs", "resume", "spec", "start", "status"]
