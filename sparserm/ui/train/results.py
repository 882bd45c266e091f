"""The Results view of the Train page: a job's head with its baselines, and heads refitted with other settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from sparserm import jobs
from sparserm.evaluation.baselines import of_size
from sparserm.heads.fitting import MOST_FEATURES, SELECTIONS, FitSettings, FittedHead, fit_settings
from sparserm.heads.held_out import HeldOut
from sparserm.heads.labels import auto_labels, labels_of, names_of
from sparserm.heads.learned import Learned
from sparserm.heads.library import free_name, keep_head, own_heads, pack_head
from sparserm.heads.saved import HeadCard, SavedHead
from sparserm.model import shared_backbone
from sparserm.sae.autoencoder import load_sae
from sparserm.training.evidence import Measured
from sparserm.training.sweep import SweepCell, choose, describe
from sparserm.training.train import (
    Prepared,
    TrainResult,
    finish_head,
    fit_again,
    measure_random,
    measure_surface,
    read_prepared,
    read_result,
    split_again,
)
from sparserm.types import Score, SparseRMError
from sparserm.ui.shared import job_panel
from sparserm.ui.shared.components import download_table
from sparserm.ui.shared.context import use_link
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.text import plain, sentence
from sparserm.ui.train import charts, heads, learned, tables
from sparserm.ui.train.charts import NAMES
from sparserm.ui.train.setup import (
    ABOUT_SCORES,
    AVOID_LENGTH,
    L2_STRENGTHS,
    METHODS,
    NAMED,
    SCORES,
    about_l2,
    allowed_scores,
    as_l2,
    forget_controls,
    size_label,
    start,
)


@dataclass(frozen=True)
class Tried:
    """A head with the settings on the page: the job's own or one refitted just now."""

    result: TrainResult
    sae: str
    settings: FitSettings
    measured: Measured
    l2: float
    train_accuracy: float
    learned: Learned

    @property
    def is_trained(self) -> bool:
        """Whether it is the head trained by the job."""
        return (self.sae, self.settings) == (self.result.sae, own_settings(self.result))


def own_settings(result: TrainResult) -> FitSettings:
    """The settings of a job with what the SAE filled in, read from the head that it trained; older jobs state no score."""
    given, filled = result.spec.settings, result.saved.card.training["settings"]
    return replace(
        given,
        score=result.saved.head.score,
        k=given.k or int(filled["k"]),
        selection=given.selection or str(filled["selection"]),
    )


def pick_job() -> jobs.JobStatus:
    """Let the user choose a training job, newest first; stop the page unless the job is done."""
    found = {job.id: job for job in jobs.list_jobs() if job.kind == "train"}
    if not found:
        st.info("No head has been trained here yet. Start with **New head**.", icon=":material/model_training:")
        st.stop()
    if "job" not in st.session_state and (linked := st.query_params.get("job")):
        if linked not in found:
            st.warning("The job in this link no longer exists.", icon=":material/link_off:")
        st.session_state["job"] = linked if linked in found else next(iter(found))
    row = st.container(horizontal=True, vertical_alignment="bottom")
    picked = row.selectbox(
        "Job", list(found), key="job", on_change=forget_controls, format_func=lambda one: _job_title(found[one])
    )
    if st.query_params.get("job") != picked:  # not bound: the default, the newest job, would be left out of the link
        st.query_params["job"] = picked
    job = found[picked]
    with row.popover("Delete", icon=":material/delete:", disabled=job.active):
        st.text(f"Delete this job and its results? Heads saved from it are kept.\n\n{job.title}")
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
    """Result of a job; if it is damaged, show the error and stop the page."""
    try:
        return _read(job.folder, (job.folder / "status.json").stat().st_mtime_ns)
    except SparseRMError as error:
        st.error(sentence(error))
        st.stop()


@st.cache_resource(max_entries=6, show_spinner="Loading stored representations…")
def _prepared(job: str, sae: str, settings: FitSettings, _result: TrainResult) -> Prepared:
    spec = _result.spec
    dictionary = load_sae(sae)
    backbone = shared_backbone(spec.backbone, dictionary.hook.layer)
    return read_prepared(split_again(_result), backbone, dictionary, settings)


@st.cache_resource(max_entries=256, show_spinner=False)
def _fitted(job: str, sae: str, settings: FitSettings, _result: TrainResult) -> tuple[FittedHead, Measured]:
    return fit_again(_prepared(job, sae, _what_is_read(settings), _result), settings)


def _what_is_read(settings: FitSettings) -> FitSettings:
    """The settings on which the representations depend; the others are left out, so that they are read once."""
    return FitSettings(score=settings.score, pooling=settings.pooling)


def controls(result: TrainResult) -> tuple[str, FitSettings]:
    """Draw the settings and return them; they start from the job's own."""
    own = own_settings(result)
    layer_of = {cell.sae: f"layer {cell.layer}" for cell in result.evidence.cells}
    l2_own = "auto" if own.l2 is None else f"{own.l2:g}"
    strengths = L2_STRENGTHS if l2_own in L2_STRENGTHS else (*L2_STRENGTHS, l2_own)
    one, two, three = st.columns([1.2, 2.4, 2.4], vertical_alignment="bottom")
    four, five, six, seven = st.columns([2.4, 1.4, 1.8, 1.6], vertical_alignment="bottom")
    sae = one.selectbox(
        "Layer",
        list(result.spec.saes),
        index=result.spec.saes.index(result.sae),
        key="sae",
        bind="query-params",
        format_func=lambda name: layer_of.get(name, name),
    )
    with two:
        score = _pick_score(own.score or "projection", result.spec.saes)
    methods, most = list(SELECTIONS[score]), MOST_FEATURES[score]
    method = three.selectbox(
        "Selection",
        methods,
        index=methods.index(own.selection) if own.selection in methods else 0,
        key="method",
        bind="query-params",
        format_func=lambda name: METHODS[name],
    )
    k = four.slider(
        size_label(score), 1, most, min(own.k or most, most) if score == own.score else most, key="k", bind="query-params"
    )
    pooling = five.segmented_control(
        "Pooling", ["mean", "last"], default=own.pooling, key="pooling", bind="query-params", required=True
    )
    l2 = six.select_slider("L2 penalty", strengths, l2_own, key="l2", bind="query-params", help=about_l2(score))
    avoid = seven.checkbox("Avoid length", own.avoid_length, key="length", bind="query-params", help=AVOID_LENGTH)
    named = score == "gated" and seven.checkbox("Prefer labelled", own.named, key="named", bind="query-params", help=NAMED)
    tried = {
        "score": score,
        "k": k,
        "selection": method,
        "pooling": pooling,
        "l2": as_l2(l2),
        "avoid_length": avoid,
        "named": named,
    }
    return sae, fit_settings(**{**vars(own), **tried})


def _pick_score(own: Score, saes: Sequence[str]) -> Score:
    """Let the user choose the score; size and selection in the session become ones that it has."""
    allowed = tuple(dict.fromkeys([own, *allowed_scores(saes)]))
    score: Score = st.selectbox(
        "Score",
        allowed,
        key="score",
        bind="query-params",
        on_change=_forget_size,
        format_func=lambda one: SCORES[one],
        help=ABOUT_SCORES,
    )
    if st.session_state.get("k", 1) > MOST_FEATURES[score]:
        st.session_state["k"] = MOST_FEATURES[score]
    if st.session_state.get("method", SELECTIONS[score][0]) not in SELECTIONS[score]:
        st.session_state["method"] = SELECTIONS[score][0]
    return score


def _forget_size() -> None:
    """Another score starts with its own size and selection; for callbacks."""
    for name in ("k", "method"):
        st.session_state.pop(name, None)
        st.query_params.pop(name, None)


def try_settings(job: str, result: TrainResult, sae: str, settings: FitSettings) -> Tried:
    """The head with these settings; if it cannot be fitted, show why and stop the page."""
    if (sae, settings) == (result.sae, own_settings(result)):
        training = result.saved.card.training
        found, penalty = result.evidence.baselines[0], training["settings"]["l2"]
        learned = Learned.of_saved(result.saved, result.sure, _names(result, sae))
        return Tried(result, sae, settings, found, penalty, training["accuracy"], learned)
    try:
        fitted, measured = _fitted(job, sae, settings, result)
    except SparseRMError as error:
        st.error(sentence(error))
        st.stop()
    others = {row.name: row.accuracy for row in result.evidence.baselines if row.name in ("longer", "surface")}
    held_out = HeldOut(measured.accuracy, measured.ci95, result.n_test, **others)
    learned = Learned.of_fitted(fitted, _names(result, sae), held_out)
    return Tried(result, sae, settings, measured, fitted.l2, fitted.accuracy, learned)


def _names(result: TrainResult, sae: str) -> Mapping[int, str]:
    """What the features of one of the job's SAEs are called."""
    return names_of(_card(result, sae))


def _card(result: TrainResult, sae: str) -> HeadCard:
    """The card of the job's head, with another of its SAEs: labels belong to the SAE."""
    card = result.saved.card
    return card if sae == result.sae else replace(card, sae_fingerprint=load_sae(sae).fingerprint, labels={})


def figures(tried: Tried) -> None:
    """The main figures of the head."""
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
        help=f"On {tried.result.n_test:,} pairs of prompts not used in training, with a 95% bootstrap interval over prompts.",
    )
    name, short = ("random", "random") if tried.is_trained else ("head", "trained")
    other = by_name[name]
    two.metric(
        "Gain (points)",
        f"{100 * (now - other.accuracy):+.1f}",
        f"vs. {short} {other.accuracy:.1%}",
        delta_color="off",
        delta_arrow="off",
        border=True,
        help="Gain in test accuracy over "
        + (f"the mean of {other.heads} heads of random latents." if tried.is_trained else "the head trained by the job."),
    )
    cell = _cell(tried)
    three.metric(
        "CV accuracy",
        f"{cell.accuracy:.1%}" if cell else "–",
        f"{cell.ci95[0]:.1%} to {cell.ci95[1]:.1%}" if cell else "not computed",
        delta_color="off",
        delta_arrow="off",
        border=True,
        help="Cross-validated over the training prompts. Choose settings by this figure, so that the test pairs stay unused.",
    )
    four.metric(
        "Training accuracy",
        f"{tried.train_accuracy:.1%}",
        f"L2 penalty {tried.l2:.3g}",
        delta_color="off",
        delta_arrow="off",
        border=True,
        help="If it is far above the test accuracy, there are too few pairs for this many features.",
    )
    longer, follows = by_name["longer"].accuracy, tried.measured.length_correlation
    five.metric(
        "Length correlation",
        "–" if follows is None else f"{follows:+.2f}",
        f"longer wins {longer:.1%}",
        delta_color="off",
        delta_arrow="off",
        border=True,
        help="Spearman correlation of margins with differences in log length on the test pairs; below, how often the longer "
        "response is the chosen one. “Avoid length” above brings the correlation near zero.",
    )


def _cell(tried: Tried) -> SweepCell | None:
    """Sweep cell of these settings, or None if more than layer, size and method differ from the job's."""
    now, own = tried.settings, own_settings(tried.result)
    same = own == replace(now, k=own.k, selection=own.selection) if now.score == own.score else False
    wanted = (tried.sae, now.selection, now.k)
    return next((c for c in tried.result.evidence.cells if same and (c.sae, c.method, c.k) == wanted), None)


def take_away(job: str, tried: Tried) -> None:
    """Save the head under a name, download it, or train with the settings on the page."""
    spec = tried.result.spec
    row = st.container(horizontal=True, vertical_alignment="center")
    with row.popover("Save head", icon=":material/save:", type="primary"):
        name = st.text_input("Name", free_name(spec.name), key=f"save as {job}")
        if st.button("Save", type="primary", width="stretch"):
            try:
                keep_head(_finished(job, tried), name.strip())
                st.session_state["saved head"] = name.strip()
                st.rerun()
            except SparseRMError as error:
                st.error(sentence(error))
    row.download_button(
        "Download zip",
        lambda: pack_head(_finished(job, tried)),
        f"{spec.name}.zip",
        "application/zip",
        icon=":material/download:",
        on_click="ignore",
        help="config.json and head.safetensors.",
    )
    with row:
        learned.insights_link(spec.source)
        _offer_use()
    if not tried.is_trained:
        st.info(
            "Refitted just now with these settings. The other baselines, the learning curve and the stability below are those "
            "of the trained head.",
            icon=":material/science:",
        )
        wanted = replace(spec, saes=(tried.sae,), settings=tried.settings)
        if st.button("Train with these settings", icon=":material/play_arrow:"):
            start(wanted)


def _offer_use() -> None:
    """Select the head that was just saved, here or on the Score page."""
    saved = st.session_state.get("saved head")
    if saved not in own_heads():
        return
    if st.button(
        f"Saved as {plain(saved)}. Use it",
        type="tertiary",
        icon=":material/check_circle:",
        on_click=heads.use,
        args=(saved,),
        help="Selects it in the sidebar, for every page.",
    ):
        st.rerun()  # the sidebar is outside this fragment
    use_link("pages/score.py", "Score with it", ":material/speed:", saved)


def _finished(job: str, tried: Tried) -> SavedHead:
    if tried.is_trained:
        return tried.result.saved
    fitted, _ = _fitted(job, tried.sae, tried.settings, tried.result)
    prepared = _prepared(job, tried.sae, _what_is_read(tried.settings), tried.result)
    backbone = shared_backbone(tried.result.spec.backbone, prepared.sae.hook.layer)
    random, surface = measure_random(prepared, of_size(tried.settings, fitted)), measure_surface(prepared)
    return finish_head(fitted, prepared, backbone, tried.settings, random, surface, tried.result.spec.name)


def baselines(tried: Tried) -> None:
    """The head compared with its baselines, and the learning curve."""
    evidence = tried.result.evidence
    by_name = {row.name: row for row in evidence.baselines}
    rows = [by_name[name] for name in NAMES if name in by_name]  # earlier versions have not measured all of them
    if not tried.is_trained:
        rows = [tried.measured, replace(rows[0], name="trained"), *rows[1:]]
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Comparison with baselines", anchor=False)
        st.plotly_chart(charts.baselines_figure(rows), config=CONFIG, key="baselines")
        table = tables.baselines_table(rows)
        with st.expander("Show as table"):
            st.dataframe(tables.percentages(table), hide_index=True, column_config=tables.titles(table))
        download_table(table, "Baselines", "baselines.csv")
    with right:
        st.subheader("Learning curve", anchor=False)
        st.plotly_chart(charts.curve_figure(evidence.curve, by_name["dense"].accuracy), config=CONFIG, key="curve")
        st.caption("Mean over random nested subsets of the training prompts. If it is still rising, more pairs would help.")
        download_table(tables.evidence_tables(evidence)["learning curve"], "Learning curve", "learning-curve.csv")


def cells(tried: Tried) -> None:
    """Accuracy by layer and size for one selection method; clicking a cell opens that head."""
    found = tried.result.evidence.cells
    st.subheader("Layers, sizes and methods", anchor=False)
    if not found:
        st.caption("Too few pairs to cross-validate.")
        return
    offered = [method for method in METHODS if any(cell.method == method for cell in found)]
    own, size = tried.settings.selection or "", tried.settings.k or 0
    method = st.segmented_control(
        "Selection",
        offered,
        default=own if own in offered else offered[0],
        required=True,
        key=f"swept {own}",
        format_func=lambda one: METHODS[one].partition(":")[0],
        label_visibility="collapsed",
    )
    chosen = (tried.sae, own, size)
    key = f"cells {method} {chosen}"  # a new chart has nothing selected, so that any cell can be clicked again
    st.plotly_chart(
        charts.cells_figure(found, method, chosen),
        config=CONFIG,
        key=key,
        on_select=lambda: _open_cell(key, own_settings(tried.result).score),
        selection_mode="points",
    )
    choice = choose(found)
    summary = f" Best: {describe(choice.best)}. Simplest within its interval: {describe(choice.simplest)}." if choice else ""
    most = " K is the most that was allowed; the pairs may choose fewer." if tried.settings.score == "gated" else ""
    st.caption(f"Cross-validated accuracy on the training prompts.{most} Click a cell to open that head.{summary}")
    table = tables.evidence_tables(tried.result.evidence)["sweep"]
    with st.expander("Show as table"):
        st.dataframe(tables.percentages(table.drop(columns="sae")), hide_index=True, column_config=tables.titles(table))
    download_table(table, "Sweep", "sweep.csv")


def _open_cell(key: str, score: Score | None) -> None:
    """Show the head of the clicked cell, whose score is that of the job; for callbacks."""
    event: Any = st.session_state[key]
    points = event["selection"]["points"]
    if points:
        sae, method, k, *_ = points[0]["customdata"]
        if k:  # the dense probe is not a head
            st.session_state.update(sae=sae, score=score, method=method, k=int(k))


def what_it_learned(tried: Tried) -> None:
    """The verdict on the head, with plain warnings where it has learned little or a shortcut."""
    st.subheader("What it learned", anchor=False)
    learned.verdict(tried.learned)


def features(tried: Tried) -> None:
    """The features of the head by family, each with its label, or with the words at which it fires."""
    card = _card(tried.result, tried.sae)
    evidence = {feature: one.evidence for feature, one in auto_labels(card.sae_fingerprint).items() if one.evidence}
    learned.features(tried.learned, {**evidence, **labels_of(card)})


def stability(tried: Tried) -> None:
    """How stable the selection of features is when the training prompts are resampled.

    Of gated heads as a whole only: for single features it would stand beside the share of halves in which each is selected,
    which a refitted head has too.
    """
    evidence = tried.result.evidence
    st.subheader("Stability of feature selection", anchor=False)
    if tried.result.saved.head.score == "gated":
        st.caption(tables.overlap_sentence(evidence.stability))
        return
    st.caption(tables.stability_sentence(evidence.stability))
    labels = labels_of(tried.result.saved.card)
    st.plotly_chart(charts.stability_figure(evidence.stability, labels), config=CONFIG, key="stability")
    download_table(tables.evidence_tables(evidence)["stability"], "Stability", "stability.csv")
