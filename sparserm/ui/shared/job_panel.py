"""Jobs on a page: where each stands, redrawn while it works, and how to stop it and go on."""

from __future__ import annotations

import streamlit as st

from sparserm import jobs
from sparserm.types import SparseRMError
from sparserm.ui.shared.text import plain


def active_jobs() -> None:
    """The jobs at work or waiting, for the sidebar; nothing where there are none."""
    if any(one.active for one in jobs.list_jobs()):
        _active_jobs()


@st.fragment(run_every=2)
def _active_jobs() -> None:
    for one in jobs.list_jobs():
        if one.active:
            st.progress(one.share, text=plain(f"{one.title}: {one.text}"))


def show_job(job: str) -> jobs.JobStatus | None:
    """One job with its bar and buttons, redrawn while it works; when it ends the whole page is run again.

    Returns:
        Where it stands now, or None where it is gone.
    """
    try:
        found = jobs.status(job)
    except SparseRMError:
        return None
    if found.active:
        _watch(job)
    else:
        _draw(found)
    return found


@st.fragment(run_every=0.7)
def _watch(job: str) -> None:
    try:
        found = jobs.status(job)
    except SparseRMError:
        st.rerun()
    _draw(found)
    if not found.active:
        st.rerun()


def _draw(found: jobs.JobStatus) -> None:
    left, right = st.columns([5, 1], vertical_alignment="center")
    with left:
        if found.state == "failed":
            st.error(plain(f"{found.title}: {found.text}"))
        elif found.state in ("cancelled", "interrupted"):
            st.warning(f"{plain(found.title)} was {found.state}. What it has computed is kept.")
        elif found.active:
            st.progress(found.share, text=plain(f"{found.title}: {found.text}"))
        else:
            st.success(f"{plain(found.title)}: done.")
    with right:
        if found.active:
            st.button("Cancel", key=f"cancel {found.id}", on_click=jobs.cancel, args=(found.id,), width="stretch")
        elif found.state != "done":
            st.button("Go on", key=f"resume {found.id}", on_click=jobs.resume, args=(found.id,), width="stretch")
