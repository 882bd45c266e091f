"""Parts of the Insights page: the verdict, the win rates of features, edits of the pairs, two sources side by side, reports."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from sparserm.insights.edits import PairEdits, pair_rows
from sparserm.insights.report import differences_table, findings_table, to_html, to_markdown
from sparserm.insights.values import Finding, Insights, Member
from sparserm.pairs.sources import DataSource, keep_upload, list_sources
from sparserm.support.files import to_jsonl
from sparserm.types import SparseRMError
from sparserm.ui.insights import charts, state
from sparserm.ui.insights.state import Found
from sparserm.ui.shared import pairs_picker
from sparserm.ui.shared.components import download_table, figure
from sparserm.ui.shared.pairs_picker import Represented
from sparserm.ui.shared.place import Place
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.text import plain, sentence

#: Findings that are drawn, unless all are asked for.
DRAWN = 10
BOTH, REWARDED, PUNISHED = "Rewarded and punished", "Rewarded", "Punished"


def pick_against(source: DataSource) -> DataSource | None:
    """Select a second source to hold beside the first."""
    st.divider()
    st.subheader("Beside other pairs", anchor=False)
    others = {label: one for label, one in list_sources().items() if one != source}
    if st.session_state.get("against") not in others:
        st.session_state.pop("against", None)
    label = st.selectbox(
        "What does one reward that the other does not?",
        list(others),
        index=None,
        key="against",
        bind="query-params",
        placeholder="Select other pairs",
    )
    return others[label] if label else None


def headline(found: Found) -> None:
    """The verdict, and how much was tested."""
    insights = found.insights
    with st.container(border=True):
        for line in insights.verdict.splitlines():
            how, told, rest = line.partition(": ")
            st.markdown(f"**{plain(how)}**: {plain(rest)}" if told else plain(line))
    pairs, sure, named, longer = st.columns(4)
    text = "Pairs of one prompt are one piece of evidence."
    figure(pairs, "Pairs", f"{insights.n_pairs:,}", f"{insights.n_prompts:,} prompts", text)
    was = f", {found.before.n_sure:,} before" if found.before else ""
    figure(
        sure,
        "Sure features",
        f"{insights.n_sure:,}",
        f"of {insights.n_tested:,} tested{was}",
        "At a false discovery rate of 5% over all features tested, which may depend on each other (Benjamini-Yekutieli).",
    )
    figure(
        named,
        "Findings",
        f"{len(insights.findings):,}",
        f"{sum(one.told for one in insights.findings):,} with a name",
        "Sure features that mostly differ in the same pairs are one finding. A name counts if its words are among those at "
        "which the feature fires in these pairs.",
    )
    share = "–" if insights.longer_wins is None else f"{insights.longer_wins:.0%}"
    figure(longer, "Longer is chosen", share, "of pairs of unequal length", "Compared in tokens.")


def sample_line(pairs: Represented) -> None:
    """Says so where the figures are of a sample."""
    if pairs.sampled_of is not None:
        st.info(
            f"A first answer, from {len(pairs.data.pairs):,} of {pairs.sampled_of:,} pairs, drawn at random. The others are "
            "being read; then all figures here are of all pairs. Fewer pairs show less: what is not sure yet may be later.",
            icon=":material/hourglass_top:",
        )


def edits_bar(found: Found, pairs: Represented) -> None:
    """What was edited, how to undo it, and the edited pairs as a file or as new pairs."""
    edits, kept = found.edits, state.keep_edits_in_link(pairs, found.edits)
    if problem := st.session_state.pop("edits problem", None):
        st.error(problem)
    if not edits:
        return
    parts = [f"{n:,} {what}" for n, what in ((len(edits.dropped), "dropped"), (len(edits.flipped), "flipped")) if n]
    with st.container(border=True):
        st.markdown(
            f"**{' and '.join(parts)}** of {len(pairs.data.pairs):,} pairs. All figures here are of the edited pairs"
            f"{'' if kept else ', until the page is reloaded'}; keep them as new pairs to train on them."
        )
        with st.container(horizontal=True):
            st.button("Undo all", icon=":material/undo:", on_click=state.set_edits, args=(pairs.data.content_hash, PairEdits()))
            download_pairs("Download edited pairs", found.pairs, range(len(found.pairs.data.pairs)), "edited-pairs.jsonl")
            st.button(
                "Keep as new pairs",
                icon=":material/save:",
                on_click=_keep,
                args=(found.pairs,),
                help="Adds the edited pairs to the list of pairs of this app, to train on or to look at later.",
            )


def _keep(pairs: Represented) -> None:
    name = f"{Path(pairs.data.name).stem.removesuffix('.train').removesuffix('-edited')}-edited.jsonl"
    try:
        label, _ = keep_upload(to_jsonl(pair_rows(pairs.data.pairs)).encode(), name)
    except (SparseRMError, OSError) as error:
        st.session_state["edits problem"] = sentence(error)
        return
    pairs_picker.choose("pairs", label)


def download_pairs(label: str, pairs: Represented, rows: Sequence[int], filename: str) -> None:
    """A button that downloads some pairs as JSON Lines; the file is written when it is pressed."""
    st.download_button(
        f"{label} (JSONL, {len(rows):,})",
        lambda: to_jsonl(pair_rows(tuple(pairs.data.pairs[i] for i in rows))),
        filename,
        "application/jsonl",
        icon=":material/download:",
        on_click="ignore",
        key=filename,
    )


def findings(found: Found, here: Place) -> Member | None:
    """The findings as bars, and a field that opens one. Returns the feature that is opened."""
    chosen = state.opened(found, here)
    if not found.insights.findings and chosen is None:
        return None
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    which = left.segmented_control("Show", (BOTH, REWARDED, PUNISHED), default=BOTH, key="which", required=True)
    some = any(one.told for one in found.insights.findings)
    with_name = right.toggle("Only with a name", value=some, key="with name")
    fitting = [one for one in found.insights.findings if which == BOTH or one.rewarded == (which == REWARDED)]
    shown = [one for one in fitting if one.told or not with_name]
    hidden = len(fitting) - len(shown)
    if len(shown) > DRAWN and not st.toggle(f"All {len(shown):,}", key="all findings"):
        shown = shown[:DRAWN]
    if shown:
        st.plotly_chart(
            charts.win_rates(shown, found.insights.n_pairs, found.before),
            config=CONFIG,
            key="win rates",
            on_select=lambda: _open_clicked(shown),
            selection_mode="points",
        )
        st.caption(
            "Bars leave from 50% (no effect); lines are 95% intervals over prompts. Diamonds: if both responses were equally "
            "long." + (f" {hidden:,} findings without a name are hidden." if hidden else "")
        )
    else:
        st.caption(f"None of these has a name; {hidden:,} without one are hidden.")
    return _open(found.insights, chosen)


def _open_clicked(shown: Sequence[Finding]) -> None:
    event: Any = st.session_state["win rates"]
    points = event["selection"]["points"]
    if points and points[0]["point_index"] < len(shown):
        st.session_state[state.OPENED] = shown[points[0]["point_index"]].member


def _open(found: Insights, chosen: Member | None) -> Member | None:
    """A field with all findings, for the keyboard and for those that are not drawn."""
    options = [one.member for one in found.findings]
    if chosen is not None and chosen not in options:
        options = [chosen, *options]
    opened: Member | None = st.selectbox(
        "Open a feature: click its bar, or choose it here",
        options,
        index=None,
        key=state.OPENED,
        format_func=lambda one: one.name,
        placeholder="its examples, the pairs behind it, and where it differs",
    )
    state.keep_opened_in_link(opened)
    return opened


def side_by_side(found: Insights) -> None:
    """What one source rewards and the other does not."""
    against, here = found.against, found.data
    assert against is not None
    for line in against.verdict.splitlines():
        st.markdown(plain(line.partition(": ")[2]))
    if not against.differences:
        return
    named = [one for one in against.differences if one.named] or list(against.differences)
    shown = (
        named if len(named) <= DRAWN or st.toggle(f"All {len(named):,} with a name", key="all differences") else named[:DRAWN]
    )
    st.plotly_chart(charts.two_sources(shown), config=CONFIG, key="two sources")
    st.caption(
        f"Filled: {plain(here)}; hollow: {plain(against.data)}. Lines are 95% intervals over prompts. {against.n_sure:,} of "
        f"{against.n_tested:,} features that both can measure surely differ, at a false discovery rate of 5%."
    )
    with st.container(horizontal=True):
        _reports(found, "Report on both", "insights-of-both")
        download_table(pd.DataFrame(differences_table(against)), "Differences", "differences.csv")


def downloads(found: Insights, label: str) -> None:
    """The findings as files, and the way to a head.

    Args:
        label: of the source.
    """
    with st.container(horizontal=True, vertical_alignment="center"):
        _reports(found, "Report", "insights")
        download_table(pd.DataFrame(findings_table(found)), "Findings", "insights.csv")
        pairs_picker.link_with_pairs("pages/train.py", "Train a head on these pairs", ":material/model_training:", label)


def _reports(found: Insights, label: str, name: str) -> None:
    kinds = (("HTML", to_html, "text/html", "html"), ("Markdown", to_markdown, "text/markdown", "md"))
    for kind, write, mime, ending in kinds:
        st.download_button(
            f"{label} ({kind})", partial(write, found), f"{name}.{ending}", mime, icon=":material/download:", on_click="ignore"
        )
