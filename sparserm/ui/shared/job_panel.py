"""Background jobs on a page: their progress, redrawn while they run, and buttons to cancel and resume them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from sparserm import jobs
from sparserm.types import SparseRMError
from sparserm.ui.shared.text import plain, sentence


def active_jobs() -> None:
    """Progress of running and waiting jobs, for the sidebar."""
    if any(one.active for one in jobs.list_jobs()):
        _active_jobs()


@st.fragment(run_every=2)
def _active_jobs() -> None:
    for one in jobs.list_jobs():
        if one.active:
            st.progress(one.share, text=plain(f"{one.title}: {one.text}"))


def show_job(job: str, awaited: Path | None = None) -> jobs.JobStatus | None:
    """Show a job with its progress bar and buttons, redrawn while it runs. When it ends, the whole page is run again.

    Args:
        awaited: run the whole page again also when this file is there.

    Returns:
        The current status, or None if the job does not exist.
    """
    try:
        found = jobs.status(job)
    except SparseRMError:
        return None
    if found.active:
        _watch(job, awaited)
    else:
        _draw(found)
    return found


@st.fragment(run_every=0.7)
def _watch(job: str, awaited: Path | None) -> None:
    try:
        found = jobs.status(job)
    except SparseRMError:
        st.rerun()
    _draw(found)
    if not found.active or (awaited and awaited.exists()):
        st.rerun()


def _draw(found: jobs.JobStatus) -> None:
    left, right = st.columns([5, 1], vertical_alignment="center")
    with left:
        if found.state == "failed":
            st.error(f"{plain(found.title)}: {sentence(found.text)}")
        elif found.state in ("cancelled", "interrupted"):
            st.warning(f"{plain(found.title)} was {found.state}. Its finished steps are kept.")
        elif found.active:
            st.progress(found.share, text=plain(f"{found.title}: {found.text}"))
        else:
            st.success(f"{plain(found.title)}: done.")
    with right:
        if found.active:
            st.button(
                "Cancelling…" if found.cancelling else "Cancel",
                key=f"cancel {found.id}",
                on_click=_ask,
                args=(jobs.cancel, found.id),
                disabled=found.cancelling,
                width="stretch",
            )
        elif found.state != "done":
            st.button("Resume", key=f"resume {found.id}", on_click=_ask, args=(jobs.resume, found.id), width="stretch")


def _ask(what: Callable[[str], None], job: str) -> None:
    """Cancel or resume a job, which somebody else may have deleted meanwhile."""
    try:
        what(job)
    except SparseRMError as error:
        st.toast(plain(sentence(error)), icon=":material/error:")
