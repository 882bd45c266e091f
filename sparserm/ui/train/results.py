"""Parts of the Train page that come after a job: its head with the evidence beside it, and other settings tried at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from sparserm import jobs
from sparserm.heads.fitting import FitSettings, FittedHead, fit_settings
from sparserm.heads.labels import labels_of
from sparserm.heads.library import free_name, keep_head, own_heads, pack_head
from sparserm.heads.saved import SavedHead
from sparserm.model import shared_backbone
from sparserm.sae.autoencoder import load_sae
from sparserm.support.defaults import MAX_FEATURES
from sparserm.training.evidence import Measured
from sparserm.training.sweep import SweepCell, choose, describe
from sparserm.training.train import (
    Prepared,
    TrainResult,
    finish_head,
    fit_again,
    measure_random,
    read_prepared,
    read_result,
    split_again,
)
from sparserm.types import Pooling, SparseRMError
from sparserm.ui.shared import job_panel
from sparserm.ui.shared.components import download_table
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.text import plain, sentence
from sparserm.ui.train import charts, heads, tables
from sparserm.ui.train.setup import AVOID_LENGTH, L2_STRENGTHS, METHODS, as_l2, forget_controls, start


@dataclass(frozen=True)
class Tried:
    """A head of the settings on the page: the job's own, or one fitted just now."""

    result: TrainResult
    sae: str
    settings: FitSettings
    measured: Measured
    l2: float
    train_accuracy: float

    @property
    def is_trained(self) -> bool:
        """Whether it is the job's own."""
        return (self.sae, self.settings) == (self.result.sae, self.result.spec.settings)


def pick_job() -> jobs.JobStatus:
    """One of the training jobs, the newest first; while it works, or has not ended well, the page ends here."""
    found = {job.id: job for job in jobs.list_jobs() if job.kind == "train"}
    if not found:
        st.info("No head has been trained here yet. Begin with **New head**.", icon=":material/model_training:")
        st.stop()
    if "job" not in st.session_state and (linked := st.query_params.get("job")):
        if linked not in found:
            st.warning("This link names a job that is no longer here.", icon=":material/link_off:")
        st.session_state["job"] = linked if linked in found else next(iter(found))
    left, right = st.columns([5, 1], vertical_alignment="bottom")
    picked = left.selectbox(
        "Job", list(found), key="job", on_change=forget_controls, format_func=lambda one: _job_title(found[one])
    )
    if st.query_params.get("job") != picked:  # not bound: the newest one is the default today, and another one tomorrow
        st.query_params["job"] = picked
    job = found[picked]
    with right.popover("Delete", icon=":material/delete:", width="stretch", disabled=job.active):
        st.text(f"Delete this job and its results? Heads that were saved from it stay.\n\n{job.title}")
        st.button("Delete the job", type="primary", on_click=_delete, args=(job.id,))
    if job.state != "done":
        job_panel.show_job(job.id)
        st.stop()
    return job


def _job_title(job: jobs.JobStatus) -> str:
    when = pd.Timestamp(job.created, unit="s").tz_localize("UTC").tz_convert(None).strftime("%d %b, %H:%M UTC")
    return f"{job.title} · {when}"


def _delete(job: str) -> None:
    jobs.delete(job)
    st.session_state.pop("job", None)
    forget_controls()


@st.cache_resource(max_entries=16, show_spinner=False)
def _read(folder: Path, changed: int) -> TrainResult:
    return read_result(jobs.spec(folder.name), folder)


def open_result(job: jobs.JobStatus) -> TrainResult:
    """What the job left; where that is damaged, why, and the page ends here."""
    try:
        return _read(job.folder, (job.folder / "status.json").stat().st_mtime_ns)
    except SparseRMError as error:
        st.error(sentence(error))
        st.stop()


@st.cache_resource(max_entries=6, show_spinner="Reading the stored representations…")
def _prepared(job: str, sae: str, pooling: Pooling, _result: TrainResult) -> Prepared:
    spec = _result.spec
    dictionary = load_sae(sae)
    backbone = shared_backbone(spec.backbone, dictionary.hook.layer)
    return read_prepared(split_again(_result), backbone, dictionary, pooling)


@st.cache_resource(max_entries=256, show_spinner=False)
def _fitted(job: str, sae: str, settings: FitSettings, _result: TrainResult) -> tuple[FittedHead, Measured]:
    return fit_again(_prepared(job, sae, settings.pooling, _result), settings)


def controls(result: TrainResult) -> tuple[str, FitSettings]:
    """The settings of the head in view: at first the job's, then whatever is tried."""
    spec = result.spec
    layer_of = {cell.sae: f"layer {cell.layer}" for cell in result.evidence.cells}
    own = "auto" if spec.settings.l2 is None else f"{spec.settings.l2:g}"
    strengths = L2_STRENGTHS if own in L2_STRENGTHS else (*L2_STRENGTHS, own)
    one, two, three, four, five, six = st.columns([2, 2.4, 2.6, 2, 1.8, 2.4], vertical_alignment="bottom")
    sae = one.selectbox(
        "Layer",
        list(spec.saes),
        index=spec.saes.index(result.sae),
        key="sae",
        bind="query-params",
        format_func=lambda name: layer_of.get(name, name),
    )
    k = two.slider("Features (K)", 1, MAX_FEATURES, spec.settings.k, key="k", bind="query-params")
    method = three.selectbox(
        "Selection",
        list(METHODS),
        index=list(METHODS).index(spec.settings.selection),
        key="method",
        bind="query-params",
        format_func=lambda name: METHODS[name],
    )
    pooling = four.segmented_control(
        "Pooling", ["mean", "last"], default=spec.settings.pooling, key="pooling", bind="query-params", required=True
    )
    l2 = five.select_slider("L2 penalty", strengths, own, key="l2", bind="query-params")
    avoid = six.checkbox("Avoid length", spec.settings.avoid_length, key="length", bind="query-params", help=AVOID_LENGTH)
    tried = {"k": k, "selection": method, "pooling": pooling, "l2": as_l2(l2), "avoid_length": avoid}
    return sae, fit_settings(**{**vars(spec.settings), **tried})


def try_settings(job: str, result: TrainResult, sae: str, settings: FitSettings) -> Tried:
    """The head of these settings; where it cannot be fitted, why, and the page ends here."""
    if (sae, settings) == (result.sae, result.spec.settings):
        training = result.saved.card.training
        return Tried(result, sae, settings, result.evidence.baselines[0], training["settings"]["l2"], training["accuracy"])
    try:
        fitted, measured = _fitted(job, sae, settings, result)
    except SparseRMError as error:
        st.error(sentence(error))
        st.stop()
    return Tried(result, sae, settings, measured, fitted.l2, fitted.accuracy)


def figures(tried: Tried) -> None:
    """What counts, in large."""
    by_name = {row.name: row for row in tried.result.evidence.baselines}
    now, low, high = tried.measured.accuracy, *tried.measured.ci95
    one, two, three, four, five = st.columns(5)
    one.metric(
        "Test accuracy",
        f"{now:.1%}",
        f"{low:.1%} to {high:.1%}",
        delta_color="off",
        delta_arrow="off",
        border=True,
        help=f"On {tried.result.n_test:,} pairs of prompts that training has not seen, with the 95 % interval (bootstrap over "
        "prompts).",
    )
    name, title, short = ("random", "Over random", "random") if tried.is_trained else ("head", "Over the trained", "as trained")
    other = by_name[name]
    two.metric(
        title,
        f"{100 * (now - other.accuracy):+.1f}",
        f"{other.accuracy:.1%} {short}",
        delta_color="off",
        delta_arrow="off",
        border=True,
        help=f"Points of accuracy, on the same test pairs; mean of {other.heads} heads.",
    )
    cell = _cell(tried)
    three.metric(
        "Cross-validated",
        f"{cell.accuracy:.1%}" if cell else "–",
        f"{cell.ci95[0]:.1%} to {cell.ci95[1]:.1%}" if cell else "not for these settings",
        delta_color="off",
        delta_arrow="off",
        border=True,
        help="Over the training prompts. Choose by this figure, so that the test pairs stay a test.",
    )
    four.metric(
        "On its training pairs",
        f"{tried.train_accuracy:.1%}",
        f"L2 penalty {tried.l2:.3g}",
        delta_color="off",
        delta_arrow="off",
        border=True,
        help="Far above the test accuracy: too few pairs for so many features.",
    )
    longer, follows = by_name["longer"].accuracy, tried.measured.length_correlation
    five.metric(
        "Length correlation",
        "–" if follows is None else f"{follows:+.2f}",
        f"longer wins {longer:.1%}",
        delta_color="off",
        delta_arrow="off",
        border=True,
        help="Spearman correlation of margins with differences of log length on the test pairs; beside it how often the "
        "longer response is the chosen one. “Avoid length” above brings it near zero.",
    )


def _cell(tried: Tried) -> SweepCell | None:
    """The sweep's cell for the settings in view, where they differ from the job's in layer, size and method alone."""
    now = tried.settings
    same = now == replace(tried.result.spec.settings, k=now.k, selection=now.selection)
    wanted = (tried.sae, now.selection, now.k)
    return next((c for c in tried.result.evidence.cells if same and (c.sae, c.method, c.k) == wanted), None)


def take_away(job: str, tried: Tried) -> None:
    """Save the head under a name, download it, or gather evidence for other settings."""
    spec = tried.result.spec
    one, two, three = st.columns([1, 1, 3], vertical_alignment="center")
    with one.popover("Save head", icon=":material/save:", type="primary", width="stretch"):
        name = st.text_input("Name", free_name(spec.name), key=f"save as {job}")
        if st.button("Save", type="primary", width="stretch"):
            try:
                keep_head(_finished(job, tried), name.strip())
                st.session_state["saved head"] = name.strip()
                st.rerun()
            except SparseRMError as error:
                st.error(sentence(error))
    two.download_button(
        "Download zip",
        lambda: pack_head(_finished(job, tried)),
        f"{spec.name}.zip",
        "application/zip",
        width="stretch",
        icon=":material/download:",
        on_click="ignore",
        help="config.json and head.safetensors.",
    )
    saved = st.session_state.get("saved head")
    if saved in own_heads() and three.button(
        f"Saved as {plain(saved)}. Use it",
        type="tertiary",
        icon=":material/check_circle:",
        on_click=heads.use,
        args=(saved,),
        help="Chooses it in the sidebar, for every page.",
    ):
        st.rerun()  # the sidebar is outside the part that is redrawn by itself
    if not tried.is_trained:
        st.info(
            "Tried just now. Random features, shuffled labels, the learning curve and the stability below belong to the head "
            "as the job trained it.",
            icon=":material/science:",
        )
        wanted = replace(spec, saes=(tried.sae,), settings=tried.settings)
        if st.button("Gather the evidence for these settings", icon=":material/play_arrow:"):
            start(wanted)


def _finished(job: str, tried: Tried) -> SavedHead:
    if tried.is_trained:
        return tried.result.saved
    fitted, _ = _fitted(job, tried.sae, tried.settings, tried.result)
    prepared = _prepared(job, tried.sae, tried.settings.pooling, tried.result)
    backbone = shared_backbone(tried.result.spec.backbone, prepared.sae.hook.layer)
    random = measure_random(prepared, tried.settings)
    return finish_head(fitted, prepared, backbone, tried.settings, random, tried.result.spec.name)


def baselines(tried: Tried) -> None:
    """The head between what it has to beat and what it can hope for, and the learning curve."""
    evidence = tried.result.evidence
    by_name = {row.name: row for row in evidence.baselines}
    rows = [by_name[name] for name in ("head", "dense", "random", "longer", "shuffled")]
    if not tried.is_trained:
        rows = [tried.measured, replace(rows[0], name="trained"), *rows[1:]]
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Beside its baselines", anchor=False)
        st.plotly_chart(charts.baselines_figure(rows), config=CONFIG, key="baselines")
        table = tables.baselines_table(rows)
        with st.expander("As a table"):
            st.dataframe(tables.percentages(table), hide_index=True)
        download_table(table, "Baselines", "baselines.csv")
    with right:
        st.subheader("Learning curve", anchor=False)
        st.plotly_chart(charts.curve_figure(evidence.curve, by_name["dense"].accuracy), config=CONFIG, key="curve")
        st.caption(
            "Mean over draws of the training prompts, smaller ones inside larger ones. Where it still rises, more pairs help."
        )
        download_table(tables.evidence_tables(evidence)["learning curve"], "Learning curve", "learning-curve.csv")


def cells(tried: Tried) -> None:
    """Layers by sizes for one method at a time; a click opens that head."""
    found = tried.result.evidence.cells
    st.subheader("Layers, sizes and methods", anchor=False)
    if not found:
        st.caption("Too few pairs to cross-validate.")
        return
    offered = [method for method in METHODS if any(cell.method == method for cell in found)]
    own = tried.settings.selection
    method = st.segmented_control(
        "Selection",
        offered,
        default=own if own in offered else offered[0],
        required=True,
        key=f"swept {own}",
        format_func=lambda one: METHODS[one].partition(":")[0],
        label_visibility="collapsed",
    )
    chosen = (tried.sae, own, tried.settings.k)
    key = f"cells {method} {chosen}"  # a new chart has nothing selected, so that any cell can be clicked again
    st.plotly_chart(
        charts.cells_figure(found, method, chosen),
        config=CONFIG,
        key=key,
        on_select=lambda: _open_cell(key),
        selection_mode="points",
    )
    choice = choose(found)
    said = f" Best: {describe(choice.best)}. Simplest within its interval: {describe(choice.simplest)}." if choice else ""
    st.caption(f"Accuracy cross-validated over the training prompts. Click a cell to open that head.{said}")
    table = tables.evidence_tables(tried.result.evidence)["sweep"]
    with st.expander("As a table"):
        st.dataframe(tables.percentages(table.drop(columns="sae")), hide_index=True)
    download_table(table, "Sweep", "sweep.csv")


def _open_cell(key: str) -> None:
    event: Any = st.session_state[key]
    points = event["selection"]["points"]
    if points:
        sae, method, k, *_ = points[0]["customdata"]
        if k:  # the dense probe is no head
            st.session_state["sae"], st.session_state["method"], st.session_state["k"] = sae, method, int(k)


def stability(tried: Tried) -> None:
    """Which features are selected again when the prompts are drawn anew."""
    evidence = tried.result.evidence
    st.subheader("Stability of the selection", anchor=False)
    st.caption(tables.stability_sentence(evidence.stability))
    labels = labels_of(tried.result.saved.card)
    st.plotly_chart(charts.stability_figure(evidence.stability, labels), config=CONFIG, key="stability")
    download_table(tables.evidence_tables(evidence)["stability"], "Stability", "stability.csv")
