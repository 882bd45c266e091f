"""Selects preference pairs on a page and loads their representations for the selected head."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

from sparserm import jobs
from sparserm.pairs.parsing import PairsError
from sparserm.pairs.sources import DataSource, forget_upload, is_upload, keep_upload, list_sources
from sparserm.representations.represent import count_missing, pair_texts, represent_pairs
from sparserm.representations.store import stored
from sparserm.representations.values import PairRepresentations
from sparserm.support.files import to_csv
from sparserm.types import PairIssue, PreferenceData, SparseRMError
from sparserm.ui.shared import access, job_panel
from sparserm.ui.shared.context import Context, current
from sparserm.ui.shared.text import counted, plain, sentence

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
    """Select starter pairs, a file under ``SPARSERM_DATA``, an earlier or new upload, or pairs opened by name in this session.

    A link opens only what is in the list.

    Args:
        key: of the widget; also its query parameter.
    """
    if chosen := st.session_state.pop(f"{key} chosen", None):
        st.session_state[key] = chosen
    sources = list_sources() | _opened()
    unknown = link_is_unknown(key, sources)
    default = default_source(current())
    picked = st.selectbox(
        label,
        list(sources),
        key=key,
        bind="query-params",
        index=list(sources).index(default) if default in sources and not unknown else None,
        on_change=_forget_problems,
        args=(key,),
        placeholder="Select pairs",
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
    with st.container(horizontal=True):
        _open_by_name(key)
        if picked is not None and is_upload(sources[picked]):
            _offer_deletion(key, picked, sources[picked])
    if problem := st.session_state.get(f"{key} problem"):
        st.error(problem)
    return None if picked is None else sources[picked]


def link_is_unknown(key: str, sources: Collection[str]) -> bool:
    """Whether the opened link names pairs that are not in the list; says so until others are chosen."""
    asked = st.query_params.get(key)
    if asked and asked not in sources and st.session_state.get(key) not in sources:
        st.session_state[f"{key} unknown"] = True
        st.session_state.pop(key, None)
    unknown = bool(st.session_state.get(f"{key} unknown"))
    if unknown:
        st.warning(
            "The link names pairs that are not in the list of this app, so they were not opened. Select others, or upload the "
            "file.",
            icon=":material/link_off:",
        )
    return unknown


def _forget_problems(key: str) -> None:
    for what in ("unknown", "problem"):
        st.session_state.pop(f"{key} {what}", None)


def _choose(key: str, label: str) -> None:
    """Select a source in the next run; for callbacks."""
    _forget_problems(key)
    st.session_state[f"{key} chosen"] = label


def _opened() -> dict[str, DataSource]:
    """Pairs opened by name in this session, by what was typed."""
    found: dict[str, DataSource] = st.session_state.setdefault("opened by name", {})
    return found


def _open_by_name(key: str) -> None:
    """A field for the name of a dataset, and on this computer's own app for a path; nothing is read before the button."""
    paths = not access.others_can_reach()
    with st.popover("Open by name or path" if paths else "Open by name", icon=":material/database:"):
        st.text_input(
            "Dataset of the Hugging Face Hub, or path of a file" if paths else "Dataset of the Hugging Face Hub",
            key=f"{key} name",
            placeholder="owner/name",
        )
        st.button("Open these pairs", key=f"{key} open", on_click=_take_name, args=(key,))


def _take_name(key: str) -> None:
    typed = st.session_state[f"{key} name"].strip()
    if not typed:
        return
    try:
        access.check_dataset(typed)
    except SparseRMError as error:
        st.session_state[f"{key} problem"] = sentence(error)
        return
    if typed not in list_sources():
        _opened()[typed] = DataSource(typed)
    _choose(key, typed)


def _offer_deletion(key: str, label: str, source: DataSource) -> None:
    with st.popover("Delete upload", icon=":material/delete:"):
        st.text(f"Delete {Path(source.name).name} from this app for everyone? Heads trained on it and stored results are kept.")
        for title in _jobs_reading(source):
            st.warning(f"{plain(title)} is reading it, and will fail without it.")
        st.button("Delete the file", key=f"{key} delete {label}", type="primary", on_click=_delete, args=(key, source))


def _jobs_reading(source: DataSource) -> list[str]:
    """Titles of the running and waiting jobs whose specification names an upload."""
    found = []
    for one in jobs.list_jobs():
        with suppress(SparseRMError):  # one that cannot be read
            if one.active and source.name in _strings(jobs.spec(one.id)):
                found.append(one.title)
    return found


def _strings(value: object) -> set[str]:
    """All texts in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return set().union(*map(_strings, value))
    return {value} if isinstance(value, str) else set()


def _delete(key: str, source: DataSource) -> None:
    _forget_problems(key)
    try:
        forget_upload(source)
    except (SparseRMError, OSError) as error:
        st.session_state[f"{key} problem"] = sentence(error)
        return
    if label := default_source(current()):
        _choose(key, label)


def _take_upload(key: str) -> None:
    """Store the upload and select it. Unusable files are stored too, so that their columns can be chosen."""
    file = st.session_state[f"{key} file"]
    _forget_problems(key)
    if file is None:
        return
    try:
        if file.size > MAX_UPLOAD_MB << 20:
            raise SparseRMError(
                f"{file.name} has {file.size / (1 << 20):,.0f} MB; uploads are limited to {MAX_UPLOAD_MB} MB. Upload a part of "
                "it, put it into the folder SPARSERM_DATA, or use the command line"
            )
        label, _ = keep_upload(file.getvalue(), file.name)
        _choose(key, label)
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
    except (SparseRMError, OSError) as error:
        st.error(unreadable(source, error))
    st.stop()


def unreadable(source: DataSource, error: Exception) -> str:
    """Why a source cannot be read; where others can reach the app, without what was looked for on this computer."""
    if source.name in _opened() and access.others_can_reach():
        return plain(f"{source.name} could not be read from the Hugging Face Hub. Check its name, or upload a file instead.")
    return sentence(error)


def show_issues(issues: tuple[PairIssue, ...], key: str) -> None:
    """Table of findings by row, with a download."""
    table = pd.DataFrame([{"row": i.row, "column": i.column, "problem": i.problem, "severity": i.severity} for i in issues])
    if table.empty:
        return
    st.dataframe(table, hide_index=True, height=min(300, 38 + 35 * len(table)))
    st.download_button(
        f"Download findings (CSV, {counted(len(table))})",
        to_csv(table),
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
