"""Selects preference pairs on a page and loads their representations where the sidebar says."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparserm import jobs
from sparserm.pairs.datasets import ChoiceError
from sparserm.pairs.parsing import PairsError
from sparserm.pairs.sources import DataSource, forget_upload, is_upload, keep_upload, list_sources, rename_upload
from sparserm.pairs.streams import PACKED
from sparserm.representations.represent import count_missing, represent_pairs
from sparserm.representations.sample import SAMPLE_FILE, sample_rows
from sparserm.representations.store import stored
from sparserm.representations.values import PairRepresentations
from sparserm.support.files import to_csv
from sparserm.types import PairIssue, PreferenceData, SparseRMError, pair_texts
from sparserm.ui.shared import access, job_panel
from sparserm.ui.shared.context import place, selected
from sparserm.ui.shared.default_pairs import Part, default_pairs, read_pairs
from sparserm.ui.shared.links import keep_in_link, link_to
from sparserm.ui.shared.place import Place
from sparserm.ui.shared.text import counted, plain, sentence

#: Up to this many tokens are computed on the page (about ten seconds on two cores, enough for the starter pairs of a task);
#: more in a job.
INLINE_TOKENS = 16_000
#: Up to this many tokens are read without asking where a page has nothing else to show: a quarter of an hour or so.
UNASKED_TOKENS = 2_000_000

#: Parameter of a link to a page of pairs that selects them there.
_OFFERED = "open"

#: Megabytes; larger files are for the command line. Files up to the second limit are accepted and refused with a message.
MAX_UPLOAD_MB, _MOST_UPLOAD_MB = 100, 500


@dataclass(frozen=True)
class Represented:
    """Preference pairs and their representations at one place, in the same order.

    Attributes:
        sampled_of: number of all pairs where these are a random sample of them, else None.
    """

    data: PreferenceData
    pairs: PairRepresentations
    sampled_of: int | None = None


def pick_source(
    key: str,
    label: str = "Preference pairs",
    part: Part = "training",
    *,
    to_insights: bool = True,
    note_in: DeltaGenerator | None = None,
) -> DataSource | None:
    """Select starter pairs, a file under ``SPARSERM_DATA``, an earlier or new upload, or pairs opened by name in this session.

    What was selected stays so on the other pages. Until then the pairs are those of the selected head. A link opens only what
    is in the list.

    Args:
        key: of the widget, and its query parameter.
        part: which pairs of the head are the default; ``none`` for pairs of a new head.
        to_insights: whether to offer a link to what the pairs reward.
        note_in: where to say that the pairs are not the head's own, if not below the selection.
    """
    sources = list_sources() | _opened()
    offered = st.query_params.pop(_OFFERED, None)
    if offered in sources:
        choose(key, offered)
    unknown = link_is_unknown(key, sources)
    default = default_pairs(selected(), part, sources)
    _write_selection(key, sources, None if unknown else default.label)
    picked = st.selectbox(
        label,
        list(sources),
        key=key,
        index=list(sources).index(default.label) if default.label in sources and not unknown else None,
        on_change=_picked,
        args=(key,),
        placeholder="Select pairs",
        help="JSONL, CSV or Parquet with the columns prompt, chosen and rejected, as in TRL; or a Hugging Face dataset.",
    )
    if not unknown:  # not bound to the link: on the way back Streamlit would drop what a widget of another page is bound to
        keep_in_link({key: [] if picked is None or picked == default.label else [picked]})
    if default.note and picked is not None and f"{key} picked" not in st.session_state:
        (note_in or st).caption(f":material/info: {plain(default.note)}")
    # Hides the widget's own text, which names the larger limit.
    st.html(f"<style>.st-key-{key}-file [data-testid=stFileUploaderDropzoneInstructions] {{ display: none; }}</style>")
    st.file_uploader(
        f"Upload JSONL, CSV, TSV or Parquet, up to {MAX_UPLOAD_MB} MB",
        key=f"{key} file",
        type=["jsonl", "json", "csv", "tsv", "parquet", *(ending[1:] for ending in PACKED)],
        max_upload_size=_MOST_UPLOAD_MB,
        on_change=_take_upload,
        args=(key,),
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        _open_by_name(key)
        if picked is not None and is_upload(sources[picked]):
            _offer_renaming(key, picked, sources[picked])
            _offer_deletion(key, picked, sources[picked])
        if picked is not None and to_insights:
            link_to_insights(picked)
    if problem := st.session_state.get(f"{key} problem"):
        st.error(problem)
    return None if picked is None else sources[picked]


def link_to_insights(label: str) -> None:
    """A link to what the pairs of a source reward."""
    link_with_pairs("pages/insights.py", "See what these pairs reward", ":material/insights:", label)


def link_with_pairs(page: str, text: str, icon: str, label: str) -> None:
    """A link to a page that selects the pairs of a source there."""
    # Not the parameter of the selection there: that counts only where nothing was selected in this session.
    link_to(page, text, icon, **{_OFFERED: label})


def _write_selection(key: str, sources: Collection[str], default: str | None) -> None:
    """Select what was chosen on any page or is named by the link, else the default, which depends on page and head."""
    state, linked = st.session_state, st.query_params.get(key)
    kept = f"{key} picked"
    if kept not in state and linked in sources and key not in state:
        state[kept] = linked
    if state.get(kept) not in sources:
        state.pop(kept, None)
    wanted = state.get(kept, default)
    if wanted is not None:  # also if it is there: the value of another page's widget is not this one's
        state[key] = wanted


def link_is_unknown(key: str, sources: Collection[str]) -> bool:
    """Whether the opened link names pairs that are not in the list; says so until others are chosen."""
    asked = st.query_params.get(key)
    if asked and asked not in sources and st.session_state.get(key) not in sources:
        st.session_state[f"{key} unknown"] = True
        st.session_state.pop(key, None)
        st.session_state.pop(f"{key} picked", None)
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


def _picked(key: str) -> None:
    """Keep what was selected, for all pages; for callbacks."""
    choose(key, st.session_state[key])


def choose(key: str, label: str) -> None:
    """Select a source in this or the next run; for callbacks."""
    _forget_problems(key)
    st.session_state[key] = st.session_state[f"{key} picked"] = label


def _opened() -> dict[str, DataSource]:
    """Pairs opened by name in this session, by what was typed."""
    found: dict[str, DataSource] = st.session_state.setdefault("opened by name", {})
    return found


def _open_by_name(key: str) -> None:
    """A field for the name of a dataset, and on this computer's own app for a path; nothing is read before the button."""
    paths = not access.others_can_reach()
    times = st.session_state.get(f"{key} opened", 0)  # a new popover is closed, and does not cover what was opened
    title = "Open by name or path" if paths else "Open by name"
    with st.popover(title, icon=":material/database:", key=f"{key} popover {times}"):
        st.text_input(
            "Dataset of the Hugging Face Hub, or path of a file" if paths else "Dataset of the Hugging Face Hub",
            key=f"{key} name",
            placeholder="owner/name or owner/name@revision",
        )
        split, config = st.columns(2)
        split.text_input("Split", key=f"{key} split", placeholder="train, or the only one")
        config.text_input("Configuration", key=f"{key} config", placeholder="its default")
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
    split, config = (st.session_state[f"{key} {part}"].strip() or None for part in ("split", "config"))
    label = f"{typed} ({', '.join(filter(None, (config, split)))})" if split or config else typed
    if label not in list_sources():
        _opened()[label] = DataSource(typed, split=split, config=config)
    st.session_state[f"{key} opened"] = st.session_state.get(f"{key} opened", 0) + 1
    choose(key, label)


def _offer_renaming(key: str, label: str, source: DataSource) -> None:
    with st.popover("Rename upload", icon=":material/edit:"):
        st.text_input(
            "New name",
            Path(source.name).name,
            key=f"{key} new name of {label}",
            help="The ending stays. Heads and jobs that used the old name find the pairs under the new one.",
        )
        st.button("Rename the file", key=f"{key} rename {label}", type="primary", on_click=_rename, args=(key, label, source))


def _rename(key: str, label: str, source: DataSource) -> None:
    _forget_problems(key)
    try:
        renamed, _ = rename_upload(source, st.session_state[f"{key} new name of {label}"])
        choose(key, renamed)
    except (SparseRMError, OSError) as error:
        st.session_state[f"{key} problem"] = sentence(error)


def _offer_deletion(key: str, label: str, source: DataSource) -> None:
    with st.popover("Delete upload", icon=":material/delete:"):
        st.text(f"Delete {Path(source.name).name} from this app for everyone? Heads trained on it and stored results are kept.")
        for title in _jobs_reading(source):
            st.warning(f"{plain(title)} is reading it, and will fail without it.")
        st.button("Delete the file", key=f"{key} delete {label}", type="primary", on_click=_delete, args=(key, source))


def _jobs_reading(source: DataSource) -> list[str]:
    """Titles of the running and waiting jobs whose specification names an upload."""
    found, path = [], Path(source.name)
    names = {str(path.with_name(name)) for name in source.names() if "/" not in name}
    for one in jobs.list_jobs():
        with suppress(SparseRMError):  # one that cannot be read
            if one.active and names & _strings(jobs.spec(one.id)):
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
    st.session_state[key] = next(iter(list_sources()))  # until the default is: the link is not unknown


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
        choose(key, label)
    except (SparseRMError, OSError) as error:
        st.session_state[f"{key} problem"] = sentence(error)


def load_or_stop(source: DataSource | None) -> PreferenceData:
    """The pairs of a source; if they cannot be used, shows the problems by row and stops the page."""
    if source is None:
        st.info("Select preference pairs to continue.", icon=":material/table_rows:")
        st.stop()
    try:
        return read_pairs(source)
    except PairsError as error:
        st.error(sentence(error))
        show_issues(error.issues, key="unusable")
    except (SparseRMError, OSError) as error:
        show_unreadable(source, error)
    st.stop()


def show_unreadable(source: DataSource, error: Exception) -> None:
    """Say why a source cannot be read; where a part of a dataset has to be chosen, offer the choice.

    Where others can reach the app, what was looked for on this computer is not said.
    """
    label = next((label for label, one in _opened().items() if one == source), None)
    if isinstance(error, ChoiceError) and label is not None:
        title, key = {"split": "Split", "config": "Configuration"}[error.what], f"part of {label}"
        st.info(plain(f"{label} has {len(error.options)} {error.what}s. Choose one."), icon=":material/call_split:")
        st.selectbox(title, error.options, index=None, key=key, on_change=_take_part, args=(label, error.what, key))
    elif label is not None and access.others_can_reach():
        st.error(plain(f"{source.name} could not be read from the Hugging Face Hub. Check its name, or upload a file instead."))
    else:
        st.error(sentence(error))


def _take_part(label: str, part: str, key: str) -> None:
    """Read the chosen split or configuration of a dataset from now on; for callbacks."""
    _opened()[label] = replace(_opened()[label], **{part: st.session_state[key]})


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
    """The pairs of a source with their representations and SAE latents at the selected place.

    Stored representations are loaded. A few missing ones are computed on the page; for more, a job is offered and the page
    stops until it has finished.
    """
    here = place()
    data = load_or_stop(source)
    assert source is not None
    _wait_for_job(source, here)
    try:
        pairs = _represent(data.content_hash, here, _data=data)
    except _TooMuchError as found:
        _offer_job(source, data, here, found.responses)
        st.stop()
    except SparseRMError as error:
        st.error(sentence(error))
        st.stop()
    return Represented(data, pairs)


def represented_so_far(source: DataSource | None) -> Represented:
    """Like :func:`represented`, but what takes a job starts at once, and a random sample is there while it runs."""
    here, data = place(), load_or_stop(source)
    assert source is not None
    job = jobs.find_job("represent", _specification(source, here))
    if job is None or job.state == "done":
        try:
            return Represented(data, _represent(data.content_hash, here, _data=data))
        except _TooMuchError as found:
            if found.tokens > UNASKED_TOKENS:
                _offer_job(source, data, here, found.responses)
                st.stop()
            _start_job(source, data, here, asked=False)
        except SparseRMError as error:
            st.error(sentence(error))
            st.stop()
    assert job is not None
    size = _sampled(job.folder / SAMPLE_FILE)
    job_panel.show_job(job.id, None if size else job.folder / SAMPLE_FILE)
    if not size:
        st.caption(f"A first answer, from a random sample of the {len(data.pairs):,} pairs, is here within a minute or so.")
        st.stop()
    return _sample(data, size, here)


def _sampled(file: Path) -> int:
    """Size of a job's sample, 0 if it has none yet."""
    try:
        return max(0, int(json.loads(file.read_bytes())["pairs"]))
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _sample(data: PreferenceData, size: int, here: Place) -> Represented:
    """A random sample of pairs, which the job has represented."""
    rows = sample_rows(len(data.pairs), size)
    content = f"{data.content_hash} {size} of {len(data.pairs)}"
    sample = replace(data, pairs=tuple(data.pairs[i] for i in rows.tolist()), content_hash=content)
    try:
        return Represented(sample, _represent(content, here, _data=sample), len(data.pairs))
    except (_TooMuchError, SparseRMError):  # the store was emptied meanwhile
        st.stop()


class _TooMuchError(Exception):
    """Too many representations are missing to compute them on the page."""

    def __init__(self, responses: int, tokens: int) -> None:
        super().__init__(responses)
        self.responses, self.tokens = responses, tokens


@st.cache_resource(show_spinner="Loading representations…", max_entries=12)
def _represent(content: str, here: Place, *, _data: PreferenceData) -> PairRepresentations:
    """Cached by everything it depends on; exceptions are not cached, so it runs again after the job."""
    model, dictionary = here.load_backbone(), here.sae()
    saes = {dictionary.hook: dictionary}
    with stored() as store:
        responses, tokens = count_missing(pair_texts(_data.pairs), model, saes, here.pooling, store, strengths=True)
        if tokens > INLINE_TOKENS:
            raise _TooMuchError(responses, tokens)
        return represent_pairs(_data.pairs, model, saes, here.pooling, strengths=True, store=store)[dictionary.hook]


def _specification(source: DataSource, here: Place) -> dict[str, object]:
    return {"source": source.to_dict(), "backbone": here.backbone_source, "sae": here.sae_name}


def _wait_for_job(source: DataSource, here: Place) -> None:
    """If a job for these pairs is unfinished, show it and stop the page."""
    job = jobs.find_job("represent", _specification(source, here))
    if job is not None and job.state != "done":
        job_panel.show_job(job.id)
        st.stop()


def _offer_job(source: DataSource, data: PreferenceData, here: Place, responses: int) -> None:
    """Say how much has to be computed, with a button that starts the job."""
    st.info(
        f"{responses:,} of {2 * len(data.pairs):,} responses of {data.name} have no stored representations for "
        f"{here.title}. They are computed once; you can close the tab meanwhile.",
        icon=":material/memory:",
    )
    if st.button("Compute representations", type="primary", key="start representing"):
        _start_job(source, data, here)


def _start_job(source: DataSource, data: PreferenceData, here: Place, *, asked: bool = True) -> NoReturn:
    """Start the job and run the page again.

    Args:
        asked: whether somebody asked for it; otherwise it gives way to jobs that somebody did.
    """
    jobs.start("represent", _specification(source, here), f"Representations of {data.name}", asked=asked)
    st.rerun()
