"""A waterfall whose bars can be chosen, with the mouse or the keyboard, and links from a feature to what is known of it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import streamlit as st

from sparserm.ui.shared.charts import Bar, contributions_figure
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.links import card_link, edit_link, pairs_link
from sparserm.ui.shared.rename import rename_button
from sparserm.ui.shared.style import CONFIG


def choose_bar(bars: Sequence[Bar], total: float, *, name: str, caption: str, key: str) -> tuple[int, ...]:
    """Draw a waterfall. Returns the features of the selected bar, none if no bar of features is.

    Args:
        name: of the total.
        caption: stands below the chart.
    """
    chart, field = f"{key} chart", f"{key} bar"
    choices = {(bar.feature, *bar.others): html.unescape(bar.label) for bar in bars if bar.feature is not None}
    st.plotly_chart(
        contributions_figure(bars, total, name),
        config=CONFIG,
        key=chart,
        on_select=lambda: _clicked(bars, chart, field),
        selection_mode="points",
    )
    st.caption(caption)
    if st.session_state.get(field) not in choices:  # of another response or number of bars
        st.session_state[field] = None
    picked: tuple[int, ...] | None = st.selectbox(
        "Look closer at a feature: click its bar, or choose it here",
        list(choices),
        key=field,
        format_func=choices.__getitem__,
        placeholder="where it fires, its card, and the pairs that differ in it",
    )
    return picked or ()


def feature_links(features: Sequence[int], context: Context, *, key: str) -> None:
    """From a bar to the card of each of its features, the pairs that differ in the first, its name, and the head."""
    with st.container(horizontal=True, vertical_alignment="center"):
        for feature in features:
            card_link(feature, "" if feature != features[0] else ": examples, tokens and where it misleads")
        pairs_link(features[0])
        edit_link(features[0])
        rename_button(context.card.sae_fingerprint, features[0], context.card.labels, key=key)


def _clicked(bars: Sequence[Bar], chart: str, field: str) -> None:
    """Select the clicked bar, or none if its selection was taken back; for callbacks."""
    event: Any = st.session_state[chart]
    points = event["selection"]["points"]
    number = points[0]["point_index"] if points else len(bars)
    feature = bars[number].feature if number < len(bars) else None
    st.session_state[field] = None if feature is None else (feature, *bars[number].others)
