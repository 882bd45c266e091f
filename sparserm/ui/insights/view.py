"""Parts of the Insights page: the verdict, the win rates of features, and the pairs behind one of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sparserm.insights.find import insights_of, pairs_with
from sparserm.insights.names import names_of
from sparserm.insights.report import findings_table, to_html, to_markdown
from sparserm.insights.values import Finding, Insights
from sparserm.pairs.messages import prompt_text
from sparserm.types import SparseRMError
from sparserm.ui.insights import charts
from sparserm.ui.shared.components import download_table, figure, pairs_table
from sparserm.ui.shared.pair_breakdown import open_in_compare, pair_texts
from sparserm.ui.shared.pairs_picker import Represented
from sparserm.ui.shared.place import Place
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.text import plain, sentence

#: Findings that are drawn, unless all are asked for.
DRAWN = 10
BOTH, REWARDED, PUNISHED = "Rewarded and punished", "Rewarded", "Punished"


def found_in(place: Place, pairs: Represented) -> Insights:
    """The insights of some pairs with the selected SAE."""
    try:
        names = hash(tuple(names_of(place.sae(), ())))  # labels may change
        key = (pairs.data.name, pairs.data.content_hash, place.sae_fingerprint, names)
        return _insights(key, _place=place, _pairs=pairs)
    except SparseRMError as error:
        st.error(sentence(error))
        st.stop()


@st.cache_resource(max_entries=8, show_spinner="Testing the features…")
def _insights(key: tuple[object, ...], *, _place: Place, _pairs: Represented) -> Insights:
    return insights_of(_pairs.data, _pairs.pairs, _place.sae())


def headline(found: Insights) -> None:
    """The verdict, and how much was tested."""
    with st.container(border=True):
        for line in found.verdict.splitlines():
            how, told, rest = line.partition(": ")
            st.markdown(f"**{plain(how)}**: {plain(rest)}" if told else plain(line))
    pairs, sure, named, longer = st.columns(4)
    figure(
        pairs, "Pairs", f"{found.n_pairs:,}", f"{found.n_prompts:,} prompts", "Pairs of one prompt are one piece of evidence."
    )
    figure(
        sure,
        "Sure features",
        f"{found.n_sure:,}",
        f"of {found.n_tested:,} tested",
        "At a false discovery rate of 5% over all features tested, which may depend on each other (Benjamini-Yekutieli).",
    )
    figure(
        named,
        "Findings",
        f"{len(found.findings):,}",
        f"{sum(one.named for one in found.findings):,} with a name",
        "Sure features that mostly differ in the same pairs are one finding.",
    )
    share = "–" if found.longer_wins is None else f"{found.longer_wins:.0%}"
    figure(longer, "Longer is chosen", share, "of pairs of unequal length", "Compared in tokens.")


def findings(found: Insights) -> Finding | None:
    """The findings as bars. Returns the one that is selected."""
    if not found.findings:
        return None
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    which = left.segmented_control("Show", (BOTH, REWARDED, PUNISHED), default=BOTH, key="which", required=True)
    with_name = right.toggle("Only with a name", value=any(one.named for one in found.findings), key="with name")
    fitting = [one for one in found.findings if which == BOTH or one.rewarded == (which == REWARDED)]
    shown = [one for one in fitting if one.named or not with_name]
    hidden = len(fitting) - len(shown)
    if len(shown) > DRAWN and not st.toggle(f"All {len(shown):,}", key="all findings"):
        shown = shown[:DRAWN]
    if not shown:
        st.caption(f"None of these has a name; {hidden:,} without one are hidden.")
        return None
    event: Any = st.plotly_chart(
        charts.win_rates(shown, found.n_pairs), config=CONFIG, key="win rates", on_select="rerun", selection_mode="points"
    )
    st.caption(
        "Bars leave from 50% (no effect); lines are 95% intervals over prompts. Diamonds: if both responses were equally long. "
        "Click a bar to see its pairs." + (f" {hidden:,} findings without a name are hidden." if hidden else "")
    )
    points = event["selection"]["points"]
    return shown[points[0]["point_index"]] if points and points[0]["point_index"] < len(shown) else None


def downloads(found: Insights) -> None:
    """The same as files."""
    kinds = (("HTML", to_html, "text/html", "html"), ("Markdown", to_markdown, "text/markdown", "md"))
    with st.container(horizontal=True):
        for name, write, mime, ending in kinds:
            st.download_button(
                f"Report ({name})",
                partial(write, found),
                f"insights.{ending}",
                mime,
                icon=":material/download:",
                on_click="ignore",
            )
        download_table(pd.DataFrame(findings_table(found)), "Findings", "insights.csv")


def pairs_of(finding: Finding, pairs: Represented) -> None:
    """What belongs to a finding, and the pairs in which exactly one response has it."""
    st.subheader(plain(finding.name), anchor=False)
    if finding.family:
        names = [plain(member.name) for member in finding.family[:6]]
        more = f" and {len(finding.family) - 6:,} more" if len(finding.family) > 6 else ""
        st.caption(f"Goes together with: {'; '.join(names)}{more}.")
    own = pairs_with(pairs.data, pairs.pairs, finding)
    won, lost = np.flatnonzero(own > 0), np.flatnonzero(own < 0)
    which = st.segmented_control(
        "Pairs",
        (f"Chosen has it ({len(won):,})", f"Rejected has it ({len(lost):,})"),
        default=f"Chosen has it ({len(won):,})",
        key="side",
        required=True,
    )
    rows = won if str(which).startswith("Chosen") else lost
    table = pd.DataFrame(
        [
            {
                **{name: getattr(pairs.data.pairs[i], name) for name in ("row", "id", "category", "chosen", "rejected")},
                "prompt": prompt_text(pairs.data.pairs[i].prompt),
            }
            for i in rows.tolist()
        ]
    )
    if table.empty:
        st.caption("There is no such pair.")
        return
    place = pairs_table(table, [], "pair")
    if place is not None:
        pair = pairs.data.pairs[int(rows[place])]
        pair_texts(pair)
        open_in_compare(pair.prompt, (pair.chosen, pair.rejected))
