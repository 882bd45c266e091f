"""Parts that several pages share: the figures of a scored response and what is said of a head."""

from __future__ import annotations

import streamlit as st

from sparserm.card import SavedHead
from sparserm.ui.session import Scored


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


def yardstick(saved: SavedHead) -> str:
    """What a reward is to be held against."""
    return (
        f"Zero is the mean of the training responses. A typical chosen response has {saved.quantiles_chosen[50]:+.2f}, "
        f"a typical rejected one {saved.quantiles_rejected[50]:+.2f}."
    )
