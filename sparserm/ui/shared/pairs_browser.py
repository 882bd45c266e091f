"""Preference pairs as a table that sorts and filters by any figure: margin, a feature's contribution, length, label doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st
from scipy.special import expit

from sparserm.audit.flags import HeldOutMargins, held_out_margins
from sparserm.heads.labels import labels_of
from sparserm.heads.reward import contributions, head_scores
from sparserm.pairs.messages import prompt_text
from sparserm.types import PreferencePair, SparseRMError
from sparserm.ui.shared.components import download_table, pairs_table
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.pair_breakdown import pair_breakdown
from sparserm.ui.shared.pairs_picker import Represented

#: The figures of a pair that can be limited to a range, by column.
FIGURES = {
    "margin": "Margin",
    "contribution": "Contribution of the feature",
    "gap": "Longer by (tokens)",
    "doubt": "Label doubt",
}


@dataclass(frozen=True)
class PairFigures:
    """What is known of ``n`` pairs under a head.

    Attributes:
        contributions: ``[n, K]`` of each feature to the margin.
        gaps: ``[n]`` tokens of the chosen minus the rejected response.
        doubts: ``[n]`` win probability of the rejected response, by heads that were not trained on the prompt; None where the
            training prompts are too few for them.
    """

    contributions: np.ndarray
    gaps: np.ndarray
    doubts: np.ndarray | None

    @property
    def margins(self) -> np.ndarray:
        """``[n]`` rewards of chosen minus rejected: the sum of the contributions."""
        return np.asarray(self.contributions.sum(1))


@st.cache_resource(max_entries=8, show_spinner="Scoring the pairs with the head…")
def held_out(key: str, digest: str, content: str, *, _context: Context, _found: Represented) -> HeldOutMargins:
    """Margins by heads that were not trained on the prompts; cached by the head and the pairs.

    Raises:
        SparseRMError: the head was trained on some of the prompts, and these are too few to train heads without them.
    """
    return held_out_margins(_context.saved, _found.data, _found.pairs, _context.sae())


@st.cache_resource(max_entries=8, show_spinner=False)
def _figures(key: str, digest: str, content: str, *, _context: Context, _found: Represented) -> PairFigures:
    head, pairs = _context.saved.head, _found.pairs
    chosen, rejected = (contributions(head, head_scores(head, side)) for side in (pairs.chosen, pairs.rejected))
    try:
        doubts = expit(-held_out(key, digest, content, _context=_context, _found=_found).margins)
    except SparseRMError:
        doubts = None
    return PairFigures(chosen - rejected, pairs.chosen.n_tokens - pairs.rejected.n_tokens, doubts)


@st.fragment
def browse_pairs(rows: Sequence[int], context: Context, found: Represented, link: str) -> None:
    """Some of the pairs with their figures and filters, and the breakdown of the selected one.

    Args:
        rows: positions of the pairs, in the order in which they are listed.
        link: the query parameter that holds the row of the selected pair, and the name of the CSV file.
    """
    figures = _figures(context.key, context.hash, found.data.content_hash, _context=context, _found=found)
    feature = _pick_feature(context, link)
    table = table_of(rows, found.data.pairs, figures, context.saved.head.features.tolist().index(feature))
    shown = _filtered(table, link)
    st.caption(
        f"{len(shown):,} of {len(table):,} pairs. Sort by a click on a column's title; select a row to see its breakdown."
    )
    columns = [name for name in FIGURES if name in shown]
    place = pairs_table(shown.drop(columns="position"), columns, link)
    download_table(shown.drop(columns="position"), "These pairs", f"{link}.csv")
    if place is not None:
        pair_breakdown(int(shown["position"].iloc[place]), context, found)


def table_of(rows: Sequence[int], pairs: Sequence[PreferencePair], figures: PairFigures, place: int) -> pd.DataFrame:
    """A row for each pair with its position, texts and figures.

    Args:
        place: of the feature whose contributions are listed.
    """
    at = np.asarray(rows, np.int64)
    found = pd.DataFrame(
        {
            "position": at,
            **{name: [getattr(pairs[i], name) for i in rows] for name in ("row", "id", "category")},
            "margin": figures.margins[at],
            "contribution": figures.contributions[at, place],
            "gap": figures.gaps[at],
            "doubt": np.nan if figures.doubts is None else figures.doubts[at],
            "prompt": [prompt_text(pairs[i].prompt) for i in rows],
            "chosen": [pairs[i].chosen for i in rows],
            "rejected": [pairs[i].rejected for i in rows],
        }
    )
    return found.drop(columns="doubt") if figures.doubts is None else found


def _pick_feature(context: Context, link: str) -> int:
    head, labels = context.saved.head, labels_of(context.card)
    by_weight = head.features[np.argsort(-np.abs(head.weights), kind="stable")].tolist()
    return int(
        st.selectbox(
            "Contribution of feature",
            by_weight,
            key=f"{link} feature of {context.key}",
            format_func=lambda one: f"{one}: {labels[one]}" if one in labels else f"feature {one}",
            help="What this feature adds to the margin of each pair. The feature of largest weight comes first.",
        )
    )


def _filtered(table: pd.DataFrame, link: str) -> pd.DataFrame:
    """The rows that the filters leave."""
    (one, two), (three, four) = st.columns(2), st.columns(2)
    text = one.text_input("Text contains", key=f"{link} text", placeholder="in prompt or responses").casefold()
    offered = sorted(set(table["category"]))
    picked = two.multiselect("Category", offered, key=f"{link} categories") if len(offered) > 1 else []
    figure = three.selectbox(
        "Only pairs in a range of",
        [name for name in FIGURES if name in table],
        key=f"{link} figure",
        format_func=FIGURES.__getitem__,
    )
    with four:
        low, high = _range(table[figure], f"{link} {figure}")
    keep = table[figure].between(low, high)
    if text:
        keep &= sum(table[name].str.casefold().str.contains(text, regex=False) for name in ("prompt", "chosen", "rejected")) > 0
    if picked:
        keep &= table["category"].isin(picked)
    return table[keep].reset_index(drop=True)


def _range(values: pd.Series[float], key: str) -> tuple[float, float]:
    """Let the user choose a range of a figure: whole if nothing is chosen."""
    if values.empty or values.min() == values.max():
        return -np.inf, np.inf
    low, high = float(np.floor(100 * values.min()) / 100), float(np.ceil(100 * values.max()) / 100)
    step = 1.0 if float(high - low) > 20 else 0.01
    # Other pairs have other ends: a slider whose value lies outside would be refused.
    picked: tuple[float, float] = st.slider("Range", low, high, (low, high), step, key=f"{key} {low} {high}")
    return picked
