"""Parts of the Score page: metrics, charts, coloured tokens, the input inspector and the comparison with the original."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from sparserm.explain.contributions import Explanation, explain_difference
from sparserm.heads.saved import SavedHead
from sparserm.ui.shared import charts, components
from sparserm.ui.shared.components import reference_rewards
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.scoring import ScoredResponse
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.tables import differences_table, win_probability
from sparserm.ui.shared.tokens import colour_scale, coloured_tokens

SHARE, RUNNING, READ = "Share of the reward", "Running reward", "Reward at the token"
_OF_FEATURE = ("Contribution", "Alignment score", "Activation")


def waterfall(explanation: Explanation, top: int) -> int | None:
    """The contributions as bars. Returns the feature of the selected bar, or None."""
    everything = st.toggle(
        "All features", key="everything", help=f"Show every feature instead of the {top} largest and the sum of the others."
    )
    bars = charts.contribution_bars(explanation, len(explanation.contributions) if everything else top)
    event: Any = st.plotly_chart(
        charts.contributions_figure(bars, explanation.reward),
        config=CONFIG,
        key="contributions",
        on_select="rerun",
        selection_mode="points",
    )
    points = event["selection"]["points"]
    number = points[0]["point_index"] if points else len(bars)
    return bars[number].feature if number < len(bars) else None


def token_view(scored: ScoredResponse, context: Context, feature: int | None) -> None:
    """The tokens of the response, coloured by share of the reward, running reward, or one feature."""
    explanation = scored.explanation
    # With last-token pooling the running reward at a token equals the reward at that token.
    general = [SHARE, RUNNING] if context.saved.head.pooling == "mean" else [READ]
    options = list(general)
    if feature is not None:
        options += [f"{what} of feature {feature}" for what in _OF_FEATURE]
    clicked = st.session_state.get("colour_feature") != feature
    st.session_state.colour_feature = feature
    if clicked or st.session_state.get("colour") not in options:  # a bar was selected: colour by its feature
        st.session_state.colour = options[len(general)] if feature is not None else options[0]
    by = str(st.segmented_control("Colour the tokens by", options, key="colour", required=True))
    values, unit = _values(explanation, by, feature)
    full = float(context.saved.quantiles_chosen[75]) if by == RUNNING else float(np.abs(values).max(initial=0.0))
    notes = [f"{value:+.3f} {unit}" for value in values]
    coloured_tokens(explanation.tokens, values, notes, full=full, key="tokens")
    colour_scale(full, unit)
    if by == SHARE:
        st.caption(f"The shares of all tokens and the bias add up to the reward of {sum(values) + explanation.bias:+.3f}.")
    elif feature is None:
        st.caption("Click a bar in the chart below to colour the tokens by its feature.")
    if feature is not None:
        st.page_link(
            "pages/features.py",
            label=f"Open feature {feature}: examples, tokens and where it misleads",
            icon=":material/category:",
            query_params={"feature": str(feature)},
        )


def _values(explanation: Explanation, by: str, feature: int | None) -> tuple[list[float], str]:
    """One value for each token, and its unit.

    Alignment scores and rewards at a token are not centred on zero, so the mean of the response is subtracted.
    """
    if by == SHARE:
        return explanation.token_contributions.sum(1).tolist(), "of the reward"
    if by == RUNNING:
        return explanation.running_reward.tolist(), "reward up to this token"
    if by == READ:
        return _centred(explanation.running_reward), "reward at this token, minus the mean of the response"
    column = explanation.features.tolist().index(feature)
    assert explanation.token_scores is not None and explanation.token_activations is not None
    if by.startswith("Contribution"):
        return explanation.token_contributions[:, column].tolist(), "of the reward, from this feature"
    if by.startswith("Alignment"):
        return _centred(explanation.token_scores[:, column]), "alignment score, minus the mean of the response"
    return explanation.token_activations[:, column].tolist(), "latent activation"


def _centred(values: np.ndarray) -> list[float]:
    return [float(value) for value in values - values.mean()]


def inspector(scored: ScoredResponse) -> None:
    """The tokens in the chat template, with the scored ones marked, and how many were truncated."""
    found = scored.inspected
    n_scored = sum(found.scored)
    with st.expander(f"Input inspector: {len(found.tokens):,} tokens, {n_scored:,} of them scored"):
        st.caption(
            "The input of the language model, in its chat template. The head scores the coloured tokens. "
            + (f"{found.n_truncated:,} tokens were truncated on the left." if found.n_truncated else "Nothing was truncated.")
        )
        coloured_tokens(
            found.tokens,
            [float(read) for read in found.scored],
            [f"token {i}{', scored' if read else ''}" for i, read in enumerate(found.scored)],
            full=3.0,
            key="inspector",
            pale=[not read for read in found.scored],
        )


def edit_against_original(scored: ScoredResponse, original: ScoredResponse) -> None:
    """The edited response compared with the original: win probability, margin and its features."""
    parts = explain_difference(scored.explanation, original.explanation)
    margin = scored.explanation.reward - original.explanation.reward
    st.subheader("Edited vs. original", anchor=False)
    chance, by = st.columns(2)
    chance.metric("Win probability, edited vs. original", f"{win_probability(margin):.0%}", border=True, height="stretch")
    rewards = f"from {original.explanation.reward:+.2f} to {scored.explanation.reward:+.2f}"
    by.metric("Margin", f"{margin:+.2f}", rewards, delta_color="off", delta_arrow="off", border=True, height="stretch")
    st.plotly_chart(charts.difference_figure(parts, margin), config=CONFIG, key="difference")
    components.download_table(differences_table(parts), "Difference", "difference.csv")


def result_metrics(scored: ScoredResponse, saved: SavedHead) -> None:
    """Win probabilities, then the reward with its percentile; the reference rewards are in the help text."""
    chosen, rejected, reward = st.columns(3)
    what = "Bradley-Terry win probability vs. the median {} response of the training pairs of the head."
    label = "Win probability vs. a typical {} response"
    for place, kind, chance in zip((chosen, rejected), ("chosen", "rejected"), scored.beats, strict=True):
        place.metric(label.format(kind), f"{chance:.0%}", help=what.format(kind), border=True, height="stretch")
    reward.metric(
        "Reward",
        f"{scored.explanation.reward:+.2f}",
        f"percentile {100 * scored.percentile:.0f}",
        delta_color="off",
        delta_arrow="off",
        help=reference_rewards(saved),
        border=True,
        height="stretch",
    )
    if scored.explanation.n_truncated:
        st.warning(
            f"{scored.explanation.n_truncated:,} prompt tokens were truncated on the left: the text exceeds the context length."
        )
