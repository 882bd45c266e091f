"""Selects preference pairs on a page and loads their representations for the selected head."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from sparserm import jobs
from sparserm.pairs.parsing import PairsError
from sparserm.pairs.sources import DataSource, keep_upload, list_sources
from sparserm.representations.represent import count_missing, pair_texts, represent_pairs
from sparserm.representations.store import stored
from sparserm.representations.values import PairRepresentations
from sparserm.types import PairIssue, PreferenceData, SparseRMError
from sparserm.ui.shared import job_panel
from sparserm.ui.shared.context import Context, current
from sparserm.ui.shared.text import counted, sentence

#: Up to this many tokens are computed on the page (about ten seconds on two cores, enough for the starter pairs of a task);
#: more in a job.
INLINE_TOKENS = 16_000

#: Megabytes; larger files are for the command line. Files up to the second limit are accepted and refused with a message.
MAX_UPLOAD_MB, _MOST_UPLOAD_MB = 100, 500


@dataclass(frozen=True)
class Represented:
    """Preference pairs and their representations for one head, in the same order."""

    data: PreferenceData
    pairs: PairRepresentations


def default_source(context: Context) -> str | None:
    """Label of the starter pairs of the head's task, or of the first source."""
    labels = list(list_sources())
    return next((one for one in labels if one == f"{context.card.name} (starter pairs)"), next(iter(labels), None))


def pick_source(key: str, label: str = "Preference pairs") -> DataSource | None:
    """Select starter pairs, a file under ``SPARSERM_DATA``, an earlier or new upload, or a dataset by name.

    Args:
        key: of the widget; also its query parameter.
    """
    chosen = st.session_state.pop(f"{key} uploaded", None)
    if chosen:
        st.session_state[key] = chosen
    sources = list_sources()
    default = default_source(current())
    picked = st.selectbox(
        label,
        list(sources),
        key=key,
        bind="query-params",
        accept_new_options=True,
        index=list(sources).index(default) if default in sources else None,
        placeholder="Select pairs, or type the name of a dataset",
        help="JSONL, CSV or Parquet with the columns prompt, chosen and rejected, as in TRL; or a Hugging Face dataset.",
    )
    # Hides the widget's own text, which names the larger limit.
    st.html(f"<style>.st-key-{key}-file [data-testid=stFileUploaderDropzoneInstructions] {{ display: none; }}</style>")
    st.file_uploader(
        f"Upload JSONL, CSV, TSV or Parquet, up to {MAX_UPLOAD_MB} MB",
        key=f"{key} file",
        type=["jsonl", "json", "csv", "tsv", "parquet", "gz"],
        max_upload_size=_MOST_UPLOAD_MB,
        on_change=_take_upload,
        args=(key,),
    )
    if problem := st.session_state.get(f"{key} problem"):
        st.error(problem)
    if picked is None:
        return None
    return sources.get(picked, DataSource(picked))


def _take_upload(key: str) -> None:
    """Store the upload and select it. Unusable files are stored too, so that their columns can be chosen."""
    file = st.session_state[f"{key} file"]
    st.session_state.pop(f"{key} problem", None)
    if file is None:
        return
    try:
        if file.size > MAX_UPLOAD_MB << 20:
            raise SparseRMError(
                f"{file.name} has {file.size / (1 << 20):,.0f} MB; uploads are limited to {MAX_UPLOAD_MB} MB. Upload a part of "
                "it, put it into the folder SPARSERM_DATA, or use the command line"
            )
        st.session_state[f"{key} uploaded"], _ = keep_upload(file.getvalue(), file.name)
    except (SparseRMError, OSError) as error:
        st.session_state[f"{key} problem"] = sentence(error)


@st.cache_data(show_spinner="Reading the pairs…", max_entries=16)
def _load(source: DataSource, version: str) -> PreferenceData:
    return source.load()


def load(source: DataSource) -> PreferenceData:
    """The pairs of a source; cached until its file changes.

    Raises:
        SparseRMError: as for :meth:`~sparserm.pairs.sources.DataSource.load`.
    """
    return _load(source, source.version())


def load_or_stop(source: DataSource | None) -> PreferenceData:
    """The pairs of a source; if they cannot be used, shows the problems by row and stops the page."""
    if source is None:
        st.info("Select preference pairs to continue.", icon=":material/table_rows:")
        st.stop()
    try:
        return load(source)
    except PairsError as error:
        st.error(sentence(error))
        show_issues(error.issues, key="unusable")
    except SparseRMError as error:
        st.error(sentence(error))
    st.stop()


def show_issues(issues: tuple[PairIssue, ...], key: str) -> None:
    """Table of findings by row, with a download."""
    table = pd.DataFrame([{"row": i.row, "column": i.column, "problem": i.problem, "severity": i.severity} for i in issues])
    if table.empty:
        return
    st.dataframe(table, hide_index=True, height=min(300, 38 + 35 * len(table)))
    st.download_button(
        f"Download findings (CSV, {counted(len(table))})",
        table.to_csv(index=False),
        "findings.csv",
        "text/csv",
        key=f"findings {key}",
        icon=":material/download:",
    )


def represented(source: DataSource | None) -> Represented:
    """The pairs of a source with their representations and SAE latents for the selected head.

    Stored representations are loaded. A few missing ones are computed on the page; for more, a job is offered and the page
    stops until it has finished.
    """
    context = current()
    data = load_or_stop(source)
    assert source is not None
    _wait_for_job(source, context)
    head, card = context.saved.head, context.card
    try:
        pairs = _represent(
            data.content_hash,
            card.backbone_fingerprint,
            card.sae_fingerprint,
            card.hook,
            head.pooling,
            _context=context,
            _data=data,
        )
    except _TooMuchError as found:
        _offer_job(source, data, context, found.responses)
        st.stop()
    except SparseRMError as error:
        st.error(sentence(error))
        st.stop()
    return Represented(data, pairs)


class _TooMuchError(Exception):
    """Too many representations are missing to compute them on the page."""

    def __init__(self, responses: int) -> None:
        super().__init__(responses)
        self.responses = responses


@st.cache_resource(show_spinner="Loading representations…", max_entries=12)
def _represent(
    content: str, backbone: str, sae: str, hook: str, pooling: str, *, _context: Context, _data: PreferenceData
) -> PairRepresentations:
    """Cached by everything it depends on; exceptions are not cached, so it runs again after the job."""
    model, dictionary = _context.model().backbone, _context.sae()
    saes, place = {dictionary.hook: dictionary}, _context.saved.head.pooling
    with stored() as store:
        responses, tokens = count_missing(pair_texts(_data.pairs), model, saes, place, store, strengths=True)
        if tokens > INLINE_TOKENS:
            raise _TooMuchError(responses)
        return represent_pairs(_data.pairs, model, saes, place, strengths=True, store=store)[dictionary.hook]


def _specification(source: DataSource, context: Context) -> dict[str, object]:
    return {"source": source.to_dict(), "head": context.key}


def _wait_for_job(source: DataSource, context: Context) -> None:
    """If a job for these pairs is unfinished, show it and stop the page."""
    wanted = _specification(source, context)
    job = jobs.find_job("represent", wanted)
    if job is not None and job.state != "done":
        job_panel.show_job(job.id)
        st.stop()


def _offer_job(source: DataSource, data: PreferenceData, context: Context, responses: int) -> None:
    """Say how much has to be computed, with a button that starts the job."""
    st.info(
        f"{responses:,} of {2 * len(data.pairs):,} responses of {data.name} have no stored representations for "
        f"{context.place}. They are computed once; you can close the tab meanwhile.",
        icon=":material/memory:",
    )
    if st.button("Compute representations", type="primary", key="start representing"):
        jobs.start("represent", _specification(source, context), f"Representations of {data.name}")
        st.rerun()
