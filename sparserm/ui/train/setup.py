"""The New head view of the Train page: preference pairs with their validation report, and training settings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import streamlit as st

from sparserm import jobs
from sparserm.backbone.model import look_for
from sparserm.heads.fitting import MOST_FEATURES, SELECTIONS, FitSettings, fit_settings, require_suited
from sparserm.heads.inputs import load_saes
from sparserm.heads.library import check_name, free_name
from sparserm.heads.signed_weights import RIDGE
from sparserm.pairs.sources import DataSource, remember_reading
from sparserm.pairs.validation import Validation, issue_rows, validate
from sparserm.sae.autoencoder import describe_sae, find_saes, list_saes
from sparserm.support.files import to_csv
from sparserm.training.train import TrainSpec, split_pairs
from sparserm.types import Pooling, Score, SparseRMError
from sparserm.ui.shared import access, pairs_picker
from sparserm.ui.shared.place import Place
from sparserm.ui.shared.sae_facts import ABOUT_SAE, sae_facts
from sparserm.ui.shared.text import counted, plain, sentence

#: With more pairs a sample is suggested. This many take some minutes on two cores.
MANY = 5_000
#: Findings shown on the page; the CSV has all of them.
SHOWN = 500
L2_STRENGTHS = ("auto", "0.0001", "0.0003", "0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1", "3")
NAMED = (
    "About five in six features have a label, so that nearly every bar can be checked against the text. The head says less "
    "of what is particular to these pairs and not labelled yet."
)
AVOID_LENGTH = (
    "Decorrelates the margins of the training pairs from differences in length. This costs accuracy where longer responses are "
    "better, but the head then measures something other than length."
)
METHODS = {
    "stable": "stable: chosen again on other prompts",
    "sparse": "sparse: approximates a dense probe",
    "frequency": "frequency: firing-rate gap, as in the paper",
    "effect_size": "effect size: paired, Cohen's d_z",
    "random": "random: a baseline",
}
SCORES: dict[Score, str] = {
    "gated": "Gated: counts a feature only where it fires",
    "projection": "Projection: the paper's, never zero",
}
ABOUT_SCORES = (
    "The alignment score of a feature is the projection of the representation onto its direction. Gated, it is counted only at "
    "the tokens where the feature fires, so that a feature that is silent in a text contributes nothing. Counted everywhere, "
    "it is never zero, and a bar may belong to a feature that the text does not have."
)
ONLY_PROJECTION = (
    "Score: projection, the paper's. In a TopK autoencoder whether a feature fires depends on all others, so it cannot be "
    "counted only where it fires. Choose autoencoders with a threshold for each feature to count it so."
)


@st.cache_resource(show_spinner="Reading the pairs…", max_entries=8)
def _validate(source: DataSource, version: str) -> Validation:
    return validate(source)


def validated(source: DataSource | None) -> Validation:
    """Validation of a source; if it cannot be read at all, show the error and stop the page."""
    if source is None:
        st.info("Choose or upload preference pairs.", icon=":material/table_rows:")
        st.stop()
    try:
        return _validate(source, source.version())
    except (SparseRMError, OSError) as error:
        pairs_picker.show_unreadable(source, error)
        st.stop()


def name_columns(found: Validation) -> Validation:
    """Let the user choose the columns, starting from those found; the choice is remembered for uploads."""
    used = dict(found.used)
    with st.expander("Columns", icon=":material/view_column:", expanded=found.guessed or bool(found.problem)):
        if found.guessed:
            read = next((one.problem for one in found.issues if one.problem.startswith("read ")), "")
            read = re.sub("`([^`]*)`", "“\\1”", read)
            st.caption(plain(f"Matched by column name{f': {read}' if read else ''}. Change any that are wrong."))
        picked = {
            ours: place.selectbox(
                ours.capitalize(),
                found.columns,
                key=f"{ours} of {found.source.name}",
                placeholder="as said above" if found.guessed and not used else "none",
                index=found.columns.index(used[ours]) if used.get(ours) in found.columns else None,
            )
            for ours, place in zip(("prompt", "chosen", "rejected"), st.columns(3), strict=True)
        }
    columns = tuple((ours, theirs) for ours, theirs in picked.items() if theirs is not None)
    if dict(columns) != used:
        found = validated(replace(found.source, columns=columns, skip_bad=False))
    if found.data is not None:
        remember_reading(found.source)
    return found


def report(found: Validation) -> None:
    """Show the first rows and all findings; stop the page if no row can be used."""
    n_usable = len({pair.row for pair in found.data.pairs}) if found.data else 0
    st.caption(
        f"{found.n_rows:,} rows, {n_usable:,} usable, {found.n_errors:,} left out"
        f"{f', {found.n_ties:,} without a preference' if found.n_ties else ''}, {found.n_warnings:,} with a warning. "
        f"The first {len(found.preview)} rows:"
    )
    widths = {name: st.column_config.TextColumn(width="medium") for name in found.columns}
    rows = pd.DataFrame(found.preview)
    st.dataframe(rows, hide_index=True, height=38 + 35 * min(5, len(rows)), column_config=widths)
    if found.problem:
        st.error(_problem(found))
    if found.issues:
        title = f"Validation report: {len(found.issues):,} finding{'s' * (len(found.issues) != 1)}"
        with st.expander(title, icon=":material/rule:", expanded=bool(found.n_errors)):
            if len(found.issues) > SHOWN:
                st.caption(f"The first {SHOWN} findings; the CSV has all of them.")
            shown = pd.DataFrame(issue_rows(found.issues[:SHOWN]))
            titles = {name: name.capitalize() for name in shown}
            st.dataframe(shown, hide_index=True, height=38 + 35 * min(5, len(shown)), column_config=titles)
            st.download_button(
                f"Download report (CSV, {counted(len(found.issues))})",
                lambda: to_csv(issue_rows(found.issues)),
                f"{Path(found.name).stem}-report.csv",
                "text/csv",
                icon=":material/download:",
                on_click="ignore",
            )
    if found.data is None:
        st.stop()


def _problem(found: Validation) -> str:
    """Why no row can be used, with the fix in terms of this page."""
    used = {"chosen": "chosen", "rejected": "rejected"} | dict(found.source.columns)
    missing = [theirs for theirs in used.values() if theirs not in found.columns]
    if missing:
        return plain(f"{found.name} has no column {' or '.join(missing)}. Choose its columns above.")
    errors = [str(one) for one in found.issues if one.severity == "error"][:3]
    bad = f"{found.n_errors:,} of {found.n_rows:,} rows cannot be used ({'; '.join(errors)})"
    return plain(f"{found.name}: {bad}. Fix the file, or choose other columns above.")


def backbone_and_saes(place: Place) -> tuple[str, tuple[str, ...]]:
    """The language model and SAEs to train on, one per layer; the default are those in the sidebar."""
    folders, above = not access.others_can_reach(), st.container()
    typed = st.text_input(
        "Another language model (optional)",
        key="train backbone",
        persist_state="session",
        placeholder=f"{'folder or ' * folders}owner/name",
        help=f"{'A folder with config.json, tokenizer and safetensors, or a' if folders else 'A'} model of the Hugging Face "
        "Hub (owner/name, or owner/name@revision). It needs an SAE that was trained on it, and is opened when training starts.",
    ).strip()
    with above:  # seldom another model is wanted
        picked = () if typed else layers(place)
    other = st.text_input(
        "SAE of this language model" if typed else "Another SAE (optional)",
        key="train sae",
        persist_state="session",
        placeholder=f"{'folder or ' * folders}release:sae_id",
        help=f"{'A folder with cfg.json and sae_weights.safetensors, or one' if folders else 'One'} of the SAELens registry "
        "(release:sae_id) or of a repository of the Hugging Face Hub (owner/name:folder, or owner/name@revision:folder). It is "
        "opened when training starts.",
    ).strip()
    return typed or place.backbone_source, (*picked, *([other] if other else []))


def layers(place: Place) -> tuple[str, ...]:
    """Those of the SAEs of the language model in the sidebar that the user picks."""
    own = {info.name: info.layer for info in list_saes() if info.model_name == place.backbone}
    known = own | {place.sae_name: place.layer}
    times = Counter(known.values())
    picked = st.pills(
        "Layers",
        sorted(known, key=lambda name: (known[name], name)),
        selection_mode="multi",
        default=[place.sae_name],
        format_func=lambda name: f"layer {known[name]}" + (f" · {name}" if times[known[name]] > 1 else ""),
        key=f"train layers of {place.backbone_fingerprint}",
        persist_state="session",
        help="Each layer has its own sparse autoencoder (SAE). One pass of the language model covers them all; the head uses "
        "the layer with the best cross-validated accuracy.",
    )
    for about in filter(None, map(sae_facts, picked)):
        st.caption(about, help=ABOUT_SAE)
    return tuple(picked)


def allowed_scores(saes: Sequence[str]) -> tuple[Score, ...]:
    """The scores that these SAEs allow, the default first; one of a registry is judged when it is opened."""
    return ("projection",) if "topk" in map(_architecture, saes) else tuple(SCORES)


def _architecture(sae: str) -> str | None:
    """The architecture of an SAE by name or in a folder, without its weights; None where it is not known."""
    known = find_saes()
    try:
        access.check_sae(sae)
        return describe_sae(sae, known.get(sae) or Path(sae)).architecture
    except (SparseRMError, OSError):
        return None


def pick_score(saes: Sequence[str]) -> Score:
    """Let the user choose the score if the SAEs leave a choice; otherwise say why not."""
    allowed = allowed_scores(saes)
    if len(allowed) == 1:
        st.caption(ONLY_PROJECTION)
        return allowed[0]
    picked: Score = st.radio(
        "Score", allowed, key="train score", persist_state="session", format_func=lambda one: SCORES[one], help=ABOUT_SCORES
    )
    return picked


def size_label(score: Score) -> str:
    """Label of the slider for the number of features."""
    return "Features at most" if score == "gated" else "Features (K)"


def fit_controls(saes: Sequence[str]) -> FitSettings:
    """Settings of the fit."""
    default, score = FitSettings(), pick_score(saes)
    gated, most = score == "gated", MOST_FEATURES[score]
    about = (
        f"At most {most}. The pairs decide how many of them: those that come back on other prompts, while no more than about a "
        "dozen fire in a typical response."
        if gated
        else f"At most {most}: with more, random latents do as well and the features explain nothing."
    )
    # Each score has widgets of its own, since their ranges and options differ.
    own = "train gated " if gated else "train "
    k = st.slider(size_label(score), 1, most, most, key=f"{own}k", persist_state="session", help=about)
    method = st.selectbox(
        "Selection",
        list(SELECTIONS[score]),
        key=f"{own}method",
        persist_state="session",
        format_func=lambda one: METHODS.get(one, one),
        help="How the head's features are chosen among the latents of the SAE.",
    )
    left, right = st.columns(2)
    pooling = left.segmented_control(
        "Pooling",
        list(reversed(get_args(Pooling))),
        default=default.pooling,
        required=True,
        key="train pooling",
        persist_state="session",
        help="How the representation is pooled over the response: mean over its tokens, or its last token.",
    )
    l2 = right.select_slider("L2 penalty", L2_STRENGTHS, key="train l2", persist_state="session", help=about_l2(score))
    avoid = st.checkbox("Avoid length", key="train length", persist_state="session", help=AVOID_LENGTH)
    named = gated and st.checkbox("Prefer labelled features", key="train named", persist_state="session", help=NAMED)
    return fit_settings(score=score, k=k, selection=method, pooling=pooling, l2=as_l2(l2), avoid_length=avoid, named=named)


def about_l2(score: Score) -> str:
    """What the penalty does, and what auto means with this score."""
    gated = f"auto is {RIDGE:g}, and more for few pairs"
    auto = gated if score == "gated" else "auto chooses it by cross-validation over prompts"
    return f"L2 penalty of the Bradley-Terry fit; {auto}."


def as_l2(strength: str) -> float | None:
    """Number of a slider's text, None for auto."""
    return None if strength == "auto" else float(strength)


def specification(found: Validation, place: Place) -> TrainSpec:
    """Draw all settings and return them."""
    assert found.data is not None
    backbone, saes = backbone_and_saes(place)
    settings = fit_controls(saes)
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
        help="Share of prompts held out for testing. All pairs of a prompt are on the same side.",
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
            help=f"Sampled by prompt. All {n:,} pairs can take hours without a GPU; the job shows the time left.",
        )
    name = st.text_input("Name of the head", free_name(f"my-{Path(found.name).stem}"), key=f"name for {found.source.name}")
    typed = backbone != place.backbone_source
    return TrainSpec(found.source, saes, settings, share / 100, most, backbone=backbone, name=name.strip(), download=typed)


@dataclass(frozen=True)
class _Plan:
    """Pairs and prompts of the training and test parts of a split."""

    pairs: tuple[int, int]
    prompts: tuple[int, int]


@st.cache_data(show_spinner=False, max_entries=32)
def _plan(source: DataSource, version: str, share: float, most: int | None) -> _Plan:
    data = _validate(source, version).data
    assert data is not None
    parts = split_pairs(data, TrainSpec(source, (), FitSettings(), share, most))
    train, test = ((len(part.pairs), len({pair.prompt for pair in part.pairs})) for part in parts)
    return _Plan((train[0], test[0]), (train[1], test[1]))


def start_button(spec: TrainSpec, place: Place) -> None:
    """Sizes of the split and the button that starts training, or why it cannot start."""
    try:
        check_name(spec.name)
        plan = _plan(spec.source, spec.source.version(), spec.test_share, spec.max_pairs)
    except SparseRMError as error:
        st.error(sentence(error))
        st.button("Start training", type="primary", disabled=True, width="stretch")
        return
    (train, test), (prompts, others) = plan.pairs, plan.prompts
    st.caption(f"Trains on {train:,} pairs of {prompts:,} prompts and tests on {test:,} pairs of {others:,} other prompts.")
    if test < 100:
        st.caption(":material/info: Few test pairs give a wide interval; use several hundred pairs if you can.")
    # Not a callback: its arguments would be those of the last run and miss text typed just before the click.
    pressed = st.button("Start training", type="primary", width="stretch", icon=":material/play_arrow:")
    if pressed and (not spec.download or _is_found(spec.backbone)):
        start(spec)


def _is_found(backbone: str) -> bool:
    """Whether a typed language model is here or can be downloaded; if not, shows why."""
    try:
        access.check_model(backbone)
        with st.spinner("Looking for the language model…"):
            look_for(backbone)
    except (SparseRMError, OSError) as error:
        st.error(sentence(error))
        return False
    return True


def start(spec: TrainSpec) -> None:
    """Start the job and show it, or show what is wrong with the SAEs."""
    try:
        for name in spec.saes:
            access.check_sae(name)
        with st.spinner("Loading the SAEs…"):
            for sae in load_saes(spec.saes).values():
                require_suited(spec.settings, sae)
    except (SparseRMError, OSError) as error:
        st.error(sentence(error))
        return
    st.session_state["started job"] = jobs.start("train", spec.to_dict(), title(spec))
    st.rerun()


def forget_controls() -> None:
    """Forget the settings tried, so that another job's results start from its own."""
    for name in ("sae", "score", "k", "method", "pooling", "l2", "length", "named"):
        st.session_state.pop(name, None)


def title(spec: TrainSpec) -> str:
    """Title of the job."""
    layer = f"{len(spec.saes)} layers" if len(spec.saes) > 1 else spec.saes[0].strip("/").rpartition("/")[2].replace("_", " ")
    length = ", avoids length" if spec.settings.avoid_length else ""
    named = ", prefers labelled features" if spec.settings.named else ""
    size = f"up to {spec.settings.k} features" if spec.settings.score == "gated" else f"K = {spec.settings.k}"
    return f"{spec.name} ({layer}, {size}, {spec.settings.selection}{length}{named})"


NEW, RESULTS, HEADS = VIEWS = ("New head", "Results", "Heads")


def pick_view() -> str:
    """Let the user choose the view, kept in the link; a job that was just started opens its results."""
    if started := st.session_state.pop("started job", None):
        st.session_state["job"], st.session_state["view"] = started, RESULTS
        forget_controls()
    options: Sequence[Any] = VIEWS
    return str(
        st.segmented_control(
            "View", options, default=NEW, required=True, key="view", bind="query-params", label_visibility="collapsed"
        )
    )
