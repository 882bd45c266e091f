"""Parts that several pages share: the figures of a scored response and what is said of a head."""

from __future__ import annotations

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparserm import facts
from sparserm.card import SavedHead
from sparserm.ui.session import Scored
from sparserm.ui.text import plain


def result_metrics(scored: Scored, saved: SavedHead) -> None:
    """Win probabilities and percentile first; the raw reward last, with its yardstick."""
    chosen, rejected, reward = st.columns(3)
    what = "Bradley-Terry win probability against the median {} response of the head's training pairs."
    chosen.metric("Beats chosen", f"{scored.beats[0]:.0%}", help=what.format("chosen"), border=True, height="stretch")
    rejected.metric("Beats rejected", f"{scored.beats[1]:.0%}", help=what.format("rejected"), border=True, height="stretch")
    reward.metric(
        "Reward", f"{scored.explanation.reward:+.2f}", f"above {scored.percentile:.0%} of training",
        delta_color="off", delta_arrow="off", help=yardstick(saved), border=True,
    )  # fmt: skip
    if scored.explanation.n_truncated:
        st.warning(
            f"{scored.explanation.n_truncated} tokens of the prompt were cut from the left: the text exceeds the context."
        )


def figure(place: DeltaGenerator, label: str, value: str, note: str, text: str) -> None:
    """One measured figure with what it is held against, and its definition behind the question mark."""
    place.metric(label, value, note, delta_color="off", delta_arrow="off", help=text, border=True, height="stretch")


def download_table(table: pd.DataFrame, what: str, filename: str) -> None:
    """A table to take away as CSV; the button says how many rows it has."""
    st.download_button(
        f"{what} as CSV ({len(table):,} rows)", table.to_csv(index=False), filename, "text/csv", key=filename,
        icon=":material/download:", on_click="ignore",
    )  # fmt: skip


def yardstick(saved: SavedHead) -> str:
    """What a reward is to be held against."""
    return plain(f"Zero is the mean of the training responses; {facts.yardstick(saved)}.")
