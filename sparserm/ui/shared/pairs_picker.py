"""Preference pairs on a page: which ones, and their representations for the head in view."""

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

#: Pairs with fewer tokens than this are run on the page, more of them in a job: some ten seconds on two cores, and the
#: starter pairs of a task.
INLINE_TOKENS = 16_000

#: Megabytes; a larger preference file belongs to the command line. Up to the second it is taken in to be told so in a sentence.
MAX_UPLOAD_MB, _MOST_UPLOAD_MB = 100, 500


@dataclass(frozen=True)
class Represented:
    """Pairs and their representations for one head, in the same order."""

    data: PreferenceData
    pairs: PairRepresentations


def default_source(context: Context) -> str | None:
    """The label of the starter pairs of the head's task, or of the first ones."""
    labels = list(list_sources())
    return next((one for one in labels if one == f"{context.card.name} (starter pairs)"), next(iter(labels), None))


def pick_source(key: str, label: str = "Preference pairs") -> DataSource | None:
    """Starter pairs, a file under ``SPARSERM_DATA``, an earlier upload, a new one, or a dataset by name.

    Args:
        key: of the widget, and its name in the link.
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
        placeholder="Pick pairs, or type a dataset's name",
        help="JSONL, CSV or Parquet with prompt, chosen and rejected, as in TRL; or the name of a Hugging Face dataset.",
    )
    # The widget's own line names what it takes in, which is more than what is read.
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
    """Keep what was uploaded and pick it; also an unusable file stays, so that its columns can be named."""
    file = st.session_state[f"{key} file"]
    st.session_state.pop(f"{key} problem", None)
    if file is None:
        return
    try:
        if file.size > MAX_UPLOAD_MB << 20:
            raise SparseRMError(
                f"{file.name} has {file.size / (1 << 20):,.0f} MB, and a page reads files of up to {MAX_UPLOAD_MB} MB; upload "
                "a part of it, put it into the folder SPARSERM_DATA, or use `sparserm train` on the command line"
            )
        st.session_state[f"{key} uploaded"], _ = keep_upload(file.getvalue(), file.name)
    except (SparseRMError, OSError) as error:
        st.session_state[f"{key} problem"] = sentence(error)


@st.cache_data(show_spinner="Reading the pairs…", max_entries=16)
def _load(source: DataSource, version: str) -> PreferenceData:
    return source.load()


def load(source: DataSource) -> PreferenceData:
    """The pairs of a source, read again when its file changes.

    Raises:
        SparseRMError: as for :meth:`~sparserm.pairs.sources.DataSource.load`.
    """
    return _load(source, source.version())


def load_or_stop(source: DataSource | None) -> PreferenceData:
    """The pairs of a source; where they cannot be used, the reasons row by row, and the page ends here."""
    if source is None:
        st.info("Pick preference pairs to go on.", icon=":material/table_rows:")
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
    """Findings by row, and the file to take away."""
    table = pd.DataFrame([{"row": i.row, "column": i.column, "problem": i.problem, "severity": i.severity} for i in issues])
    if table.empty:
        return
    st.dataframe(table, hide_index=True, height=min(300, 38 + 35 * len(table)))
    st.download_button(
        f"Findings as CSV ({counted(len(table))})",
        table.to_csv(index=False),
        "findings.csv",
        "text/csv",
        key=f"findings {key}",
        icon=":material/download:",
    )


def represented(source: DataSource | None) -> Represented:
    """The pairs of a source as the head in view sees them, with its SAE's latents.

    What is stored is read at once, a little is computed on the page, and for more a job is offered; until it has ended the
    page ends here.
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
    """More is missing than a page should compute."""

    def __init__(self, responses: int) -> None:
        super().__init__(responses)
        self.responses = responses


@st.cache_resource(show_spinner="Reading the representations…", max_entries=12)
def _represent(
    content: str, backbone: str, sae: str, hook: str, pooling: str, *, _context: Context, _data: PreferenceData
) -> PairRepresentations:
    """Cached by what it depends on. An exception is not cached: after the job it is tried again."""
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
    """Where these pairs are being represented, or were until somebody stopped it, the page shows that and ends."""
    wanted = _specification(source, context)
    job = next((one for one in jobs.list_jobs() if one.kind == "represent" and jobs.spec(one.id) == wanted), None)
    if job is not None and job.state != "done":
        job_panel.show_job(job.id)
        st.stop()


def _offer_job(source: DataSource, data: PreferenceData, context: Context, responses: int) -> None:
    """Say what there is to compute, and the button that starts it."""
    st.info(
        f"{responses:,} of {2 * len(data.pairs):,} responses of {data.name} have not been read by the language model at "
        f"{context.place}. This is done once and kept; you may close the tab meanwhile.",
        icon=":material/memory:",
    )
    if st.button("Read them", type="primary", key="start representing"):
        jobs.start("represent", _specification(source, context), f"Representations of {data.name}")
        st.rerun()
