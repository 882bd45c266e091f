"""Parts of the Score page: tokens coloured by what was chosen, the input inspector, and an edit beside its original."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from sparserm.explain.contributions import Explanation, explain_difference
from sparserm.heads.saved import SavedHead
from sparserm.ui.score import charts
from sparserm.ui.score.scoring import ScoredResponse
from sparserm.ui.shared import components
from sparserm.ui.shared.components import reference_rewards
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.tables import differences_table, win_probability
from sparserm.ui.shared.tokens import colour_scale, coloured_tokens

SHARE, RUNNING, READ = "share of the reward", "running reward", "reward read at the token"
_OF_FEATURE = ("contribution", "alignment score", "activation")


def waterfall(explanation: Explanation, top: int) -> int | None:
    """The contributions as bars; a click on a bar chooses its feature, which is returned."""
    everything = st.toggle("All features", key="everything", help=f"Instead of the {top} largest and the others together.")
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
    """The response's tokens, coloured by their share of the reward, by the running reward, or by one feature."""
    explanation = scored.explanation
    # With last pooling the running reward at a token is the reward read there: one and the same.
    general = [SHARE, RUNNING] if context.saved.head.pooling == "mean" else [READ]
    options = list(general)
    if feature is not None:
        options += [f"{what} of feature {feature}" for what in _OF_FEATURE]
    clicked = st.session_state.get("colour_feature") != feature
    st.session_state.colour_feature = feature
    if clicked or st.session_state.get("colour") not in options:  # a bar was clicked: look at its feature at once
        st.session_state.colour = options[len(general)] if feature is not None else options[0]
    by = str(st.segmented_control("Colour the tokens by", options, key="colour", required=True))
    values, unit = _values(explanation, by, feature)
    full = float(context.saved.quantiles_chosen[75]) if by == RUNNING else float(np.abs(values).max(initial=0.0))
    notes = [f"{value:+.3f} {unit}" for value in values]
    coloured_tokens(explanation.tokens, values, notes, full=full, key="tokens")
    colour_scale(full, unit)
    if by == SHARE:
        st.caption(f"The tokens' shares and the bias add up to {sum(values) + explanation.bias:+.3f}, the reward.")
    elif feature is None:
        st.caption("Click a bar below to colour the tokens by that feature.")
    if feature is not None:
        st.page_link(
            "pages/features.py",
            label=f"Card of feature {feature}: examples, tokens, where it misleads",
            icon=":material/category:",
            query_params={"feature": str(feature)},
        )


def _values(explanation: Explanation, by: str, feature: int | None) -> tuple[list[float], str]:
    """A value for each token and what it is. Scores and rewards read at a token are not centred on zero: what counts there
    is how far they lie from this response's mean."""
    if by == SHARE:
        return explanation.token_contributions.sum(1).tolist(), "of the reward"
    if by == RUNNING:
        return explanation.running_reward.tolist(), "reward up to and with this token"
    if by == READ:
        return _centred(explanation.running_reward), "reward read at this token, from this response's mean"
    column = explanation.features.tolist().index(feature)
    assert explanation.token_scores is not None and explanation.token_activations is not None
    if by.startswith("contribution"):
        return explanation.token_contributions[:, column].tolist(), "of the reward, by this feature"
    if by.startswith("alignment"):
        return _centred(explanation.token_scores[:, column]), "alignment score, from this response's mean"
    return explanation.token_activations[:, column].tolist(), "activation of the latent"


def _centred(values: np.ndarray) -> list[float]:
    return [float(value) for value in values - values.mean()]


def inspector(scored: ScoredResponse) -> None:
    """The templated tokens with the scored ones marked, and what was cut."""
    found = scored.inspected
    n_scored = sum(found.scored)
    with st.expander(f"Input inspector: {len(found.tokens):,} tokens, {n_scored:,} of them scored"):
        st.caption(
            "What the language model reads, in the backbone's chat template. The head reads the tokens in colour; "
            + (f"{found.n_truncated:,} tokens were cut from the left." if found.n_truncated else "nothing was cut.")
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
    """The edited text beside the original: chance, margin, and what made the difference."""
    parts = explain_difference(scored.explanation, original.explanation)
    margin = scored.explanation.reward - original.explanation.reward
    st.subheader("Edited against original", anchor=False)
    chance, by = st.columns(2)
    chance.metric("Edited beats original", f"{win_probability(margin):.0%}", border=True, height="stretch")
    rewards = f"from {original.explanation.reward:+.2f} to {scored.explanation.reward:+.2f}"
    by.metric("Margin", f"{margin:+.2f}", rewards, delta_color="off", delta_arrow="off", border=True)
    st.plotly_chart(charts.difference_figure(parts, margin), config=CONFIG, key="difference")
    components.download_table(differences_table(parts), "Difference", "difference.csv")


def result_metrics(scored: ScoredResponse, saved: SavedHead) -> None:
    """Win probabilities and percentile first; the raw reward last, with its yardstick."""
    chosen, rejected, reward = st.columns(3)
    what = "Bradley-Terry win probability against the median {} response of the head's training pairs."
    chosen.metric("Beats chosen", f"{scored.beats[0]:.0%}", help=what.format("chosen"), border=True, height="stretch")
    rejected.metric("Beats rejected", f"{scored.beats[1]:.0%}", help=what.format("rejected"), border=True, height="stretch")
    reward.metric(
        "Reward",
        f"{scored.explanation.reward:+.2f}",
        f"percentile {100 * scored.percentile:.0f}",
        delta_color="off",
        delta_arrow="off",
        help=reference_rewards(saved),
        border=True,
    )
    if scored.explanation.n_truncated:
        st.warning(
            f"{scored.explanation.n_truncated} tokens of the prompt were cut from the left: the text exceeds the context."
        )
