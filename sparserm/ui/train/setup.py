"""Parts of the Train page that come before a job: the pairs and what is wrong with them, and the settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import streamlit as st

from sparserm import jobs
from sparserm.heads.fitting import FitSettings, fit_settings
from sparserm.heads.inputs import load_saes
from sparserm.heads.library import check_name, free_name
from sparserm.heads.selection import SELECTORS
from sparserm.pairs.sources import DataSource, remember_reading
from sparserm.pairs.validation import Validation, issue_rows, validate
from sparserm.sae.autoencoder import list_saes
from sparserm.support.defaults import MAX_FEATURES
from sparserm.training.train import TrainSpec, split_pairs
from sparserm.types import Pooling, SparseRMError
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.text import counted, sentence

#: With more pairs a sample is suggested: these take some minutes on two cores.
MANY = 5_000
#: Findings shown on the page; the file holds all.
SHOWN = 500
L2_STRENGTHS = ("auto", "0.0001", "0.0003", "0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1", "3")
AVOID_LENGTH = (
    "Keeps the margins of the training pairs from following differences of length. Where long responses are better it costs "
    "accuracy; what it gains is a head that says something else."
)
METHODS = {
    "sparse": "sparse: imitates a dense probe",
    "frequency": "frequency: the paper's gap of firing rates",
    "effect_size": "effect size: paired, Cohen's d_z",
    "random": "random: a baseline",
}


@st.cache_resource(show_spinner="Reading the pairs…", max_entries=8)
def _validate(source: DataSource, version: str) -> Validation:
    return validate(source)


def validated(source: DataSource | None) -> Validation:
    """What a source holds; where it cannot be read at all, why, and the page ends here."""
    if source is None:
        st.info("Pick or upload preference pairs to go on.", icon=":material/table_rows:")
        st.stop()
    try:
        return _validate(source, source.version())
    except SparseRMError as error:
        st.error(sentence(error))
        st.stop()


def name_columns(found: Validation) -> Validation:
    """Which column is which: as found, and as the user says; what an upload's columns are is remembered."""
    used = {ours: ours for ours in ("prompt", "chosen", "rejected") if ours in found.columns} | dict(found.source.columns)
    with st.expander("Columns", icon=":material/view_column:", expanded=found.guessed or bool(found.problem)):
        if found.guessed:
            st.caption("Recognised by what the columns are called. Change them where this is wrong.")
        picked = {
            ours: place.selectbox(
                ours.capitalize(),
                found.columns,
                key=f"{ours} of {found.source.name}",
                placeholder="none",
                index=found.columns.index(used[ours]) if used.get(ours) in found.columns else None,
            )
            for ours, place in zip(("prompt", "chosen", "rejected"), st.columns(3), strict=True)
        }
    columns = tuple((ours, theirs) for ours, theirs in picked.items() if theirs is not None and theirs != ours)
    if dict(columns) != dict(found.source.columns):
        found = validated(replace(found.source, columns=columns, skip_bad=False))
    if found.data is not None:
        remember_reading(found.source)
    return found


def report(found: Validation) -> None:
    """The first rows, and every finding by row; where no row can be used, the page ends here."""
    n_usable = len({pair.row for pair in found.data.pairs}) if found.data else 0
    st.caption(
        f"{found.n_rows:,} rows, {n_usable:,} usable, {found.n_errors:,} left out, {found.n_warnings:,} with a warning. "
        f"The first {len(found.preview)}:"
    )
    widths = {name: st.column_config.TextColumn(width="medium") for name in found.columns}
    rows = pd.DataFrame(found.preview)
    st.dataframe(rows, hide_index=True, height=38 + 35 * min(5, len(rows)), column_config=widths)
    if found.problem:
        st.error(sentence(SparseRMError(found.problem)))
    if found.issues:
        title = f"Validation report: {len(found.issues):,} finding{'s' * (len(found.issues) != 1)}"
        with st.expander(title, icon=":material/rule:", expanded=bool(found.n_errors)):
            if len(found.issues) > SHOWN:
                st.caption(f"The first {SHOWN}; the file holds all.")
            shown = pd.DataFrame(issue_rows(found.issues[:SHOWN]))
            st.dataframe(shown, hide_index=True, height=38 + 35 * min(5, len(shown)))
            st.download_button(
                f"Report as CSV ({counted(len(found.issues))})",
                lambda: pd.DataFrame(issue_rows(found.issues)).to_csv(index=False),
                f"{Path(found.name).stem}-report.csv",
                "text/csv",
                icon=":material/download:",
                on_click="ignore",
            )
    if found.data is None:
        st.stop()


def layers(context: Context) -> tuple[str, ...]:
    """The SAEs to train on, one for each layer; the one in the sidebar to begin with."""
    known = {info.name: info.layer for info in list_saes()} | {context.card.sae: context.card.hook_point.layer}
    times = Counter(known.values())
    picked = st.pills(
        "Layers",
        sorted(known, key=lambda name: (known[name], name)),
        selection_mode="multi",
        default=[context.card.sae],
        format_func=lambda name: f"layer {known[name]}" + (f" · {name}" if times[known[name]] > 1 else ""),
        key="train layers",
        persist_state="session",
        help="Each with its sparse autoencoder (SAE). All are read in one pass of the language model; the head is of the layer "
        "that ranks best in cross-validation.",
    )
    other = st.text_input(
        "Another SAE",
        key="train sae",
        persist_state="session",
        placeholder="optional: a folder, or release:sae_id",
        help="A folder with cfg.json and sae_weights.safetensors, or an id of SAELens's registry.",
    )
    return (*picked, *([other.strip()] if other.strip() else []))


def fit_controls() -> FitSettings:
    """How a head is fitted."""
    default = FitSettings()
    k = st.slider(
        "Features (K)",
        1,
        MAX_FEATURES,
        default.k,
        key="train k",
        persist_state="session",
        help="At most 32: with more, random directions do as well, and nothing is explained.",
    )
    method = st.selectbox(
        "Selection",
        list(SELECTORS),
        key="train method",
        persist_state="session",
        format_func=lambda one: METHODS.get(one, one),
        help="Which latents of the SAE become the head's features.",
    )
    left, right = st.columns(2)
    pooling = left.segmented_control(
        "Pooling",
        list(reversed(get_args(Pooling))),
        default=default.pooling,
        required=True,
        key="train pooling",
        persist_state="session",
        help="How the representation is pooled over the response: its mean, or its last token.",
    )
    l2 = right.select_slider(
        "L2 penalty",
        L2_STRENGTHS,
        key="train l2",
        persist_state="session",
        help="Ridge penalty of the Bradley-Terry fit. auto: chosen by cross-validation over prompts.",
    )
    avoid = st.checkbox("Avoid length", key="train length", persist_state="session", help=AVOID_LENGTH)
    return fit_settings(k=k, selection=method, pooling=pooling, l2=as_l2(l2), avoid_length=avoid)


def as_l2(strength: str) -> float | None:
    """The number that a slider's text means."""
    return None if strength == "auto" else float(strength)


def specification(found: Validation, context: Context) -> TrainSpec:
    """The settings, drawn and read."""
    assert found.data is not None
    saes, settings = layers(context), fit_controls()
    left, right = st.columns(2)
    share = left.slider(
        "Test share",
        5,
        50,
        20,
        5,
        format="%d%%",
        key="train share",
        persist_state="session",
        help="Of the prompts, held out. All pairs of a prompt are on one side.",
    )
    n = len(found.data.pairs)
    most = None
    if n > MANY:
        most = right.number_input(
            "Pairs to use",
            100,
            n,
            MANY,
            1000,
            key=f"most of {found.source.name}",
            help=f"A sample by prompt. All {n:,} can take hours without a GPU; the job shows the time left.",
        )
    name = st.text_input("Name of the head", free_name(f"my-{Path(found.name).stem}"), key=f"name for {found.source.name}")
    return TrainSpec(found.source, saes, settings, share / 100, most, backbone=context.card.backbone_source, name=name.strip())


@dataclass(frozen=True)
class _Plan:
    """Sizes of both parts of a split."""

    pairs: tuple[int, int]
    prompts: tuple[int, int]


@st.cache_data(show_spinner=False, max_entries=32)
def _plan(source: DataSource, version: str, share: float, most: int | None) -> _Plan:
    data = _validate(source, version).data
    assert data is not None
    parts = split_pairs(data, TrainSpec(source, (), FitSettings(), share, most))
    train, test = ((len(part.pairs), len({pair.prompt for pair in part.pairs})) for part in parts)
    return _Plan((train[0], test[0]), (train[1], test[1]))


def start_button(spec: TrainSpec) -> None:
    """What will be trained on what, and the button; where it cannot be, why."""
    try:
        check_name(spec.name)
        plan = _plan(spec.source, spec.source.version(), spec.test_share, spec.max_pairs)
    except SparseRMError as error:
        st.error(sentence(error))
        st.button("Start training", type="primary", disabled=True, width="stretch")
        return
    (train, test), (prompts, others) = plan.pairs, plan.prompts
    st.caption(f"Trains on {train:,} pairs of {prompts:,} prompts, and tests on {test:,} pairs of {others:,} other prompts.")
    if test < 100:
        st.caption(":material/info: So few test pairs leave a wide interval; some hundreds of pairs tell more.")
    # Not a callback: its arguments would be those of the last run, without what was typed just before the click.
    if st.button("Start training", type="primary", width="stretch", icon=":material/play_arrow:"):
        start(spec)


def start(spec: TrainSpec) -> None:
    """Begin the job and look at it; what is wrong with the SAEs is said before."""
    try:
        load_saes(spec.saes)
    except SparseRMError as error:
        st.error(sentence(error))
        return
    st.session_state["started job"] = jobs.start("train", spec.to_dict(), title(spec))
    st.rerun()


def forget_controls() -> None:
    """Another job's results begin with its own settings."""
    for name in ("sae", "k", "method", "pooling", "l2", "length"):
        st.session_state.pop(name, None)


def title(spec: TrainSpec) -> str:
    """What the job's list calls it."""
    layer = f"{len(spec.saes)} layers" if len(spec.saes) > 1 else spec.saes[0].strip("/").rpartition("/")[2].replace("_", " ")
    length = ", avoids length" if spec.settings.avoid_length else ""
    return f"{spec.name} ({layer}, K = {spec.settings.k}, {spec.settings.selection}{length})"


NEW, RESULTS, HEADS = VIEWS = ("New head", "Results", "Heads")


def pick_view() -> str:
    """Which part of the page; in the link. A job that was just started is looked at."""
    if started := st.session_state.pop("started job", None):
        st.session_state["job"], st.session_state["view"] = started, RESULTS
        forget_controls()
    options: Sequence[Any] = VIEWS
    return str(
        st.segmented_control(
            "View", options, default=NEW, required=True, key="view", bind="query-params", label_visibility="collapsed"
        )
    )
