"""Parts of the Edit head page: edit history with undo and redo, figures after the edit, and saving."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparserm.features.listing import family_texts
from sparserm.heads.labels import labels_of
from sparserm.heads.library import free_name, keep_head
from sparserm.support.files import to_csv
from sparserm.support.parsing import whole_number
from sparserm.training.editing import (
    EditEffect,
    EditOutcome,
    FeatureAblation,
    HeadEdits,
    HeldOutScores,
    compare_edits,
    feature_ablation,
    held_out_scores,
    length_suggestions,
    make_edited_head,
    measure_edits,
)
from sparserm.types import PreferenceData, SparseRMError
from sparserm.ui.edit import charts
from sparserm.ui.edit.sliders import weight_sliders
from sparserm.ui.shared.components import correlation
from sparserm.ui.shared.context import Context, feature_card_link, use_head
from sparserm.ui.shared.pairs_picker import Represented
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.text import counted, plain, sentence

#: Key of the head that was saved last: its name, the version that was edited, and the edits.
_SAVED = "edit saved"
#: Changed pairs listed on the page; the CSV has all of them.
LISTED = 50

#: Column names of the sliders' values in the CSV.
_COLUMNS = {
    "chosen": "f_chosen",
    "rejected": "f_rejected",
    "length": "length_correlation",
    "without": "accuracy_change_without",
}


@dataclass(frozen=True)
class History:
    """All edits made to one head, and the position of the current one."""

    steps: tuple[HeadEdits, ...] = (HeadEdits(),)
    at: int = 0

    @property
    def now(self) -> HeadEdits:
        """The current edits."""
        return self.steps[self.at]

    def do(self, edits: HeadEdits) -> History:
        """Add new edits after the current ones; undone edits are dropped."""
        if edits == self.now:
            return self
        return History((*self.steps[: self.at + 1], edits), self.at + 1)

    def move(self, by: int) -> History:
        """Undo (-1) or redo (1), up to the first or last edits."""
        return History(self.steps, min(max(self.at + by, 0), len(self.steps) - 1))


def history(context: Context) -> History:
    """Edit history of the head in view in this session; it starts with the edits in the link.

    Each head has its own history, which is restored when the head is selected again.
    """
    known: dict[str, History] = st.session_state.setdefault("edit histories", {})
    if context.hash not in known:
        # The link's edits belong to the first head of a session; later they are those of the head selected before.
        known[context.hash] = History().do(_linked(context) if not known else HeadEdits())
    _link(known[context.hash])
    return known[context.hash]


def _linked(context: Context) -> HeadEdits:
    try:
        edits = HeadEdits.parse(st.query_params.get("edits", ""))
        edits.vector(context.saved.head.features)
    except SparseRMError as error:
        st.warning(f"The edits in this link are ignored: {plain(error)}", icon=":material/link_off:")
        return HeadEdits()
    return edits


def _link(found: History) -> None:
    if str(found.now) == st.query_params.get("edits", ""):
        return
    if found.now.factors:
        st.query_params["edits"] = str(found.now)
    else:
        st.query_params.pop("edits", None)


def _do(head: str, edits: HeadEdits) -> None:
    known = st.session_state["edit histories"]
    known[head] = known[head].do(edits)


def _move(head: str, by: int) -> None:
    known = st.session_state["edit histories"]
    known[head] = known[head].move(by)


def held_out(context: Context, found: Represented) -> HeldOutScores:
    """Scores of the held-out pairs; if no pair is held out, show an error and stop the page."""
    try:
        return _held_out(context.hash, found.data.content_hash, _context=context, _found=found)
    except SparseRMError as error:
        st.error(sentence(error))
        st.stop()


@st.cache_resource(show_spinner=False, max_entries=8)
def _held_out(head: str, content: str, *, _context: Context, _found: Represented) -> HeldOutScores:
    return held_out_scores(_context.saved, _found.data, _found.pairs)


def what_is_held_out(found: HeldOutScores, data: PreferenceData) -> None:
    """Say how many pairs the figures are measured on and how many were left out."""
    n, prompts = len(found.rows), len(np.unique(found.pairs.groups))
    name = plain(textwrap.shorten(data.name, 80))
    text = f"Measured on {n:,} pairs of {prompts:,} prompts of {name} that the head was not trained on."
    if found.n_seen:
        total = n + found.n_seen
        st.warning(
            f"{found.n_seen:,} of {total:,} pairs are left out because the head was trained on their prompts. {text}",
            icon=":material/filter_alt:",
        )
    else:
        st.caption(text)


def unedited(found: HeldOutScores) -> EditOutcome:
    """Figures of the unedited head."""
    return measure_edits(found, HeadEdits())


@st.fragment
def live(context: Context, found: HeldOutScores, before: EditOutcome, data: PreferenceData) -> None:
    """Everything that depends on the sliders; on a change only this part of the page is run again, figures first."""
    edits = history(context).now
    after = measure_edits(found, edits)
    effect = compare_edits(found, before, after)
    place = _figures(before, after, effect)
    _toolbar(context)
    ablation = feature_ablation(found, edits)
    features = _sliders(context, edits, ablation)
    place.plotly_chart(charts.accuracy_figure(before.evaluation, after.evaluation), config=CONFIG, key="accuracy")
    _suggestions(context.hash, ablation, after, edits)
    _flipped(found, data, before, after, effect)
    n_flipped, figures = len(effect.regressed) + len(effect.fixed), figures_table(before, after)
    _files(features, figures, n_flipped, lambda: flipped_table(found, data, before, after, effect, None))
    with st.expander("All figures, before and after"):
        st.dataframe(figures, hide_index=True, key="figures", column_config={name: name.capitalize() for name in figures})
    _save(context, edits, found)


def _figures(before: EditOutcome, after: EditOutcome, effect: EditEffect) -> DeltaGenerator:
    """Draw the main figures; returns the place for the accuracy chart."""
    place, accuracy, length, sides = st.columns([2.1, 1.25, 1.2, 1.25])
    low, high = after.evaluation.ci95
    change, ends = 100 * effect.accuracy_change, [100 * end for end in effect.ci95]
    accuracy.metric(
        "Held-out accuracy",
        f"{after.evaluation.accuracy:.1%}",
        f"{change:+.1f} points ({ends[0]:+.1f} to {ends[1]:+.1f})" if change or any(ends) else "unchanged",
        border=True,
        delta_color="off",
        delta_arrow="auto" if change else "off",
        help=f"95% interval {low:.1%} to {high:.1%}, bootstrap over prompts. The interval of the change is a paired one and "
        "therefore much narrower, since both heads are measured on the same pairs.",
    )
    length.metric(
        "Length correlation",
        correlation(after.length.margin_spearman),
        f"{correlation(before.length.margin_spearman)} before",
        border=True,
        delta_color="off",
        delta_arrow="off",
        help="Spearman correlation of margins with differences in log length on the held-out pairs. Comparing within pairs "
        "ignores that some prompts call for long answers. All correlations are in the table below.",
    )
    sides.metric(
        "Changed pairs",
        f"{len(effect.regressed) + len(effect.fixed):,}",
        f"{len(effect.fixed):,} fixed, {len(effect.regressed):,} regressed",
        border=True,
        delta_color="off",
        delta_arrow="off",
        help="Fixed: now ranked as labelled. Regressed: no longer ranked as labelled.",
    )
    return place


def _toolbar(context: Context) -> None:
    done = history(context)
    undo, redo, reset, note = st.columns([1, 1, 1, 5], vertical_alignment="center")
    head, last = context.hash, len(done.steps) - 1
    undo.button("Undo", icon=":material/undo:", disabled=done.at == 0, on_click=_move, args=(head, -1), width="stretch")
    redo.button("Redo", icon=":material/redo:", disabled=done.at == last, on_click=_move, args=(head, 1), width="stretch")
    reset.button(
        "Reset",
        icon=":material/restart_alt:",
        disabled=not done.now.factors,
        on_click=_do,
        args=(head, HeadEdits()),
        width="stretch",
    )
    n = len(done.now.factors)
    note.caption(
        f"{n} of {len(context.saved.head.features)} features edited."
        if n
        else "No edits yet. Move a slider, or press **off** or **flip** in a row."
    )


def _sliders(context: Context, edits: HeadEdits, ablation: FeatureAblation) -> pd.DataFrame:
    saved, labels, factors = context.saved, labels_of(context.card), edits.vector(context.saved.head.features)
    families = family_texts(saved.head)
    rows = [
        {
            "feature": int(saved.head.features[j]),
            "label": labels.get(int(saved.head.features[j]), ""),
            "weight": float(saved.head.weights[j]),
            "factor": float(factors[j]),
            "chosen": float(saved.f_chosen[j]),
            "rejected": float(saved.f_rejected[j]),
            "length": _plain(ablation.length_correlation[j]),
            "without": float(ablation.accuracy_change[j]) if factors[j] else None,
            **({"family": families.get(int(saved.head.features[j]), "")} if families else {}),
        }
        for j in np.argsort(-np.abs(saved.head.weights), kind="stable")
    ]

    def change(feature: int, factor: float) -> None:
        _do(context.hash, history(context).now.change(feature, factor))

    asked = whole_number(st.query_params.get("feature", ""))
    weight_sliders(rows, card=feature_card_link(), key="sliders", on_edit=change, asked=asked)
    return pd.DataFrame(rows).rename(columns=_COLUMNS)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _suggestions(head: str, ablation: FeatureAblation, outcome: EditOutcome, edits: HeadEdits) -> None:
    found = length_suggestions(ablation, outcome)
    if len(found) == 0:
        return
    st.caption(f"Features that contribute most to the length correlation, now {correlation(outcome.length.margin_spearman)}:")
    for column, j in zip(st.columns(3), found, strict=False):
        feature, points = int(ablation.features[j]), 100 * ablation.accuracy_change[j]
        column.button(
            f"Switch off {feature}: length {correlation(ablation.length_without[j])}, accuracy {points:+.1f} points",
            key=f"suggested {feature}",
            on_click=_do,
            args=(head, edits.change(feature, 0.0)),
            width="stretch",
        )


def _flipped(found: HeldOutScores, data: PreferenceData, before: EditOutcome, after: EditOutcome, effect: EditEffect) -> None:
    st.subheader("Changed pairs", anchor=False)
    n = len(effect.regressed) + len(effect.fixed)
    if n == 0:
        st.caption("None. Every held-out pair is ranked as before.")
        return
    st.dataframe(
        flipped_table(found, data, before, after, effect, LISTED),
        hide_index=True,
        height=min(330, 38 + 35 * n),
        key="flipped",
        column_config={
            **{name: name.capitalize() for name in ("row", "change", "prompt", "chosen", "rejected")},
            **{
                f"margin {when}": st.column_config.NumberColumn(
                    when.capitalize(), format="%+.2f", help=f"Margin {when} the edit"
                )
                for when in ("before", "after")
            },
        },
    )
    if n > LISTED:
        st.caption(f"The first {LISTED} of {n:,} pairs; the CSV has all of them.")


def flipped_table(
    found: HeldOutScores, data: PreferenceData, before: EditOutcome, after: EditOutcome, effect: EditEffect, limit: int | None
) -> pd.DataFrame:
    """One row per changed pair: regressed pairs first, each group by size of the change."""
    order = [(i, "regressed") for i in effect.regressed] + [(i, "fixed") for i in effect.fixed]
    rows: list[dict[str, Any]] = []
    for i, what in order[:limit]:
        pair = data.pairs[found.rows[i]]
        rows.append(
            {
                "row": pair.row,
                "change": what,
                "margin before": before.margins[i],
                "margin after": after.margins[i],
                "prompt": pair.prompt[-1].content,
                "chosen": pair.chosen,
                "rejected": pair.rejected,
            }
        )
    return pd.DataFrame(rows)


def _files(features: pd.DataFrame, figures: pd.DataFrame, n_flipped: int, flipped: Callable[[], pd.DataFrame]) -> None:
    """Downloads of all tables; the table of pairs is built on request."""

    def offer(label: str, n: int, name: str, table: Callable[[], pd.DataFrame]) -> None:
        st.download_button(
            f"Download {label} (CSV, {counted(n)})",
            lambda: to_csv(table()),
            name,
            "text/csv",
            key=name,
            icon=":material/download:",
            on_click="ignore",
            disabled=n == 0,
        )

    with st.container(horizontal=True):
        offer("changed pairs", n_flipped, "changed_pairs.csv", flipped)
        offer("features", len(features), "features.csv", lambda: features)
        offer("figures", len(figures), "figures.csv", lambda: figures)


def figures_table(before: EditOutcome, after: EditOutcome) -> pd.DataFrame:
    """All figures before and after the edit."""
    rows = [
        ("accuracy", *(one.evaluation.accuracy for one in (before, after))),
        ("95% interval, low", *(one.evaluation.ci95[0] for one in (before, after))),
        ("95% interval, high", *(one.evaluation.ci95[1] for one in (before, after))),
        ("mean margin", *(one.evaluation.mean_margin for one in (before, after))),
        ("longer-response baseline", *(one.evaluation.length_baseline for one in (before, after))),
        ("correlation of reward and length, Pearson", before.length.reward_pearson, after.length.reward_pearson),
        ("correlation of reward and length, Spearman", before.length.reward_spearman, after.length.reward_spearman),
        ("correlation of margin and length difference, Pearson", before.length.margin_pearson, after.length.margin_pearson),
        ("correlation of margin and length difference, Spearman", before.length.margin_spearman, after.length.margin_spearman),
    ]
    return pd.DataFrame(rows, columns=["figure", "before", "after"]).round(4)


def _save(context: Context, edits: HeadEdits, found: HeldOutScores) -> None:
    st.subheader("Save as a new head", anchor=False)
    st.caption(
        f"{plain(context.key)} (version {context.hash}) is not changed. The new head's accuracy is measured on the pairs it "
        "was edited on; evaluate it on other pairs too."
    )
    with st.form("save", border=False):
        name, press = st.columns([3, 1], vertical_alignment="bottom")
        wanted = name.text_input("Name", value=free_name(f"{context.key}-edited"), max_chars=64)
        kind: Literal["primary", "secondary"] = "secondary" if _saved(context, edits) else "primary"
        pressed = press.form_submit_button("Save as new head", type=kind, width="stretch", disabled=not edits.factors)
    if pressed:
        try:
            keep_head(make_edited_head(context.saved, context.key, edits, wanted, found), wanted)
        except (SparseRMError, OSError) as error:
            st.error(sentence(error))
        else:
            st.session_state[_SAVED] = wanted, context.hash, edits
            st.rerun()  # the whole page, so that the sidebar lists the new head
    if name_saved := _saved(context, edits):
        message, press = st.columns([4, 1], vertical_alignment="center")
        message.success(f"Saved as {plain(name_saved)}. You can select it in the sidebar.")
        if press.button("Open head", on_click=use_head, args=(name_saved,), width="stretch"):
            st.rerun()  # the whole page, of which this is a part


def _saved(context: Context, edits: HeadEdits) -> str | None:
    """Name of the head as which these edits of this head were saved last, if they were."""
    name, of, saved = st.session_state.get(_SAVED, ("", "", None))
    return name if (of, saved) == (context.hash, edits) else None
