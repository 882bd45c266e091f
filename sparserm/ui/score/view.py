"""The result on the Score page: metrics, charts, coloured tokens, the input inspector and the comparison with the original."""

from __future__ import annotations

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparserm.explain.contributions import Explanation, explain_difference
from sparserm.explain.families import by_family
from sparserm.heads.model_card import accuracy
from sparserm.heads.saved import SavedHead
from sparserm.types import Pooling, SparseRMError
from sparserm.ui.score import tables
from sparserm.ui.score.charts import reference_figure
from sparserm.ui.shared import charts, components
from sparserm.ui.shared.bars import choose_bar, feature_links
from sparserm.ui.shared.components import progress_bar, reference_rewards
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.diff import diff_text
from sparserm.ui.shared.firing import silent_line
from sparserm.ui.shared.links import open_in_compare
from sparserm.ui.shared.scoring import ScoredResponse, ScoreRequest, left_out, score
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.tables import contributions_table, differences_table, tokens_table, win_probability
from sparserm.ui.shared.text import plain, sentence
from sparserm.ui.shared.tokens import colour_scale, coloured_tokens

SHOWN = 10  # bars; the smaller contributions share one more
SHARE, RUNNING, READ = "Share of the reward", "Running reward", "Reward at the token"
_ABOUT_FAMILIES = (
    "Features with the same number here fire together and share a bar in the chart. The number is of the one that leads."
)
_OF_FEATURE = ("Contribution", "Alignment score", "Activation")


def buttons() -> None:
    """Buttons to score the fields, and to compare with the response scored before."""
    st.button("Score", key="score", type="primary", width="stretch")
    if st.session_state.get("scored") is not None:
        st.button(
            "Score and compare with previous",
            key="score_against",
            width="stretch",
            help="Edit the text first. The response scored before is kept as the original, and the difference is shown.",
        )


def score_if_asked(context: Context, request: ScoreRequest, *, at_once: bool) -> None:
    """Score the text in the fields if a button was pressed, or at once; the previous response may be kept as the original."""
    against = bool(st.session_state.get("score_against"))
    if not (at_once or against or st.session_state.get("score")):
        return
    progress, done = progress_bar()
    before: ScoredResponse | None = st.session_state.get("scored")
    try:
        with st.spinner("Scoring the response…"):
            st.session_state.scored = score(context, request, progress)
            st.session_state.original = before if against else None
    except SparseRMError as error:
        st.error(sentence(error))
    done()


def result(context: Context, request: ScoreRequest, notes: DeltaGenerator) -> None:
    """The result for the scored response; ``notes`` says when the fields have changed since."""
    scored: ScoredResponse | None = st.session_state.get("scored")
    if scored is None:
        notes.info("Press **Score** to see the reward of this response and how it is computed.", icon=":material/speed:")
        return
    if scored.request != request:
        notes.warning("The fields have changed since this was scored. Press **Score** to update it.", icon=":material/history:")
    if (scored.request.head, scored.request.hash) != (context.key, context.hash):
        return  # the result would be shown against the reference rewards of the wrong head
    explanation = scored.explanation
    result_metrics(scored, context.saved)
    original: ScoredResponse | None = st.session_state.get("original")
    if original is not None and (original.request.head, original.request.hash) != (context.key, context.hash):
        original = None
    if original is not None:
        edit_against_original(scored, original)
    references = reference_figure(context.saved.quantiles_chosen, context.saved.quantiles_rejected, explanation.reward)
    st.plotly_chart(references, config=CONFIG, key="reference_rewards")
    st.subheader("Reward by token", anchor=False)
    place = st.container()  # filled after the chart below, where a feature can be selected
    st.subheader("Reward by feature", anchor=False)
    features = waterfall(explanation, SHOWN, context.saved.head.pooling)
    with place:
        token_view(scored, context, features)
    st.caption(tables.sum_check(explanation))
    with st.expander("Show as table"):
        contributions(explanation)
    with st.container(horizontal=True):
        components.download_table(contributions_table(explanation), "Contributions", "contributions.csv")
        components.download_table(tokens_table(explanation), "Tokens", "tokens.csv")
        components.download_table(tables.reference_table(context.saved), "Reference rewards", "reference_rewards.csv")
    open_in_compare(scored.request.prompt, (scored.request.response, original.request.response if original is not None else ""))
    inspector(scored)


def waterfall(explanation: Explanation, top: int, pooling: Pooling) -> tuple[int, ...]:
    """The contributions as bars. Returns the features of the selected bar, none if no bar of features is."""
    drawn = len(by_family(explanation.contributions))
    everything = drawn > top + 1 and st.toggle(
        "All features", key="everything", help=f"Show every feature instead of the {top} largest and the sum of the others."
    )
    bars = charts.contribution_bars(explanation, drawn if everything else top, pooling)
    about = (
        "A bar is a pattern of the text that goes with chosen or rejected responses in the training pairs, not a check of it."
    )
    caption = " ".join(filter(None, [silent_line(explanation.contributions), about]))
    return choose_bar(bars, explanation.reward, name="reward", caption=caption, key="contributions")


def contributions(explanation: Explanation) -> None:
    """The contributions as a table in which each row can be checked by hand."""
    table = contributions_table(explanation)
    fires = table["fires"].map({True: "yes", False: "silent"})
    if "family" in table:  # a feature that stands alone needs no number there
        table["family"] = table["family"].where(table["family"].duplicated(keep=False))
    number = st.column_config.NumberColumn
    st.dataframe(
        table.assign(fires=fires),
        hide_index=True,
        key="contributions table",
        height=min(390, 38 + 35 * len(table)),
        placeholder="–",
        column_config={
            "feature": number("Feature", format="%d", width=70),
            "label": st.column_config.TextColumn("Label", width="medium"),
            "family": number("Family", format="%d", width=65, help=_ABOUT_FAMILIES),
            "fires": st.column_config.TextColumn("Fires", width=65, help="Whether the feature fires where the head reads."),
            "fires_at": st.column_config.TextColumn("At", help="The words at which it fires, the strongest first."),
            "activation": number("Activation", format="%.3g", help="The largest one where the head reads."),
            "score": number("Score", format="%.4g", help="Alignment score of the response."),
            "mu": number("mu", format="%.4g", help="Mean score of the training responses; 0 for gated scores."),
            "sigma": number("sigma", format="%.4g", help="Standard deviation of the score over the training responses."),
            "weight": number("Weight", format="%.4g"),
            "contribution": number("Contribution", format="%+.4g", help="weight × (score − mu) / sigma"),
        },
    )


def token_view(scored: ScoredResponse, context: Context, features: tuple[int, ...]) -> None:
    """The tokens of the response, coloured by share of the reward, running reward, or the features of a bar."""
    explanation = scored.explanation
    # With last-token pooling the running reward at a token equals the reward at that token.
    general = [SHARE, RUNNING] if context.saved.head.pooling == "mean" else [READ]
    options = [*general, *_of_features(explanation, features)]
    clicked = st.session_state.get("colour_features", ()) != features
    st.session_state.colour_features = features
    if clicked or st.session_state.get("colour") not in options:  # a bar was selected: colour by its features
        st.session_state.colour = options[len(general)] if features else options[0]
    by = str(st.segmented_control("Colour the tokens by", options, key="colour", required=True))
    values, unit = _values(explanation, by, features, gated=context.saved.head.score == "gated")
    full = float(context.saved.quantiles_chosen[75]) if by == RUNNING else float(np.abs(values).max(initial=0.0))
    notes = [f"{value:+.3f} {unit}" for value in values]
    if by == SHARE and context.saved.head.score == "gated":
        notes = [f"{note}{fire}" for note, fire in zip(notes, _firing_at(explanation), strict=True)]
    coloured_tokens(explanation.tokens, values, notes, full=full, key="tokens")
    colour_scale(full, unit)
    if by == SHARE:
        st.caption(f"The shares of all tokens and the bias add up to the reward of {sum(values) + explanation.bias:+.3f}.")
    if features:
        feature_links(features, context, key="score")


def _of_features(explanation: Explanation, features: tuple[int, ...]) -> list[str]:
    """Ways to colour by the features of a bar; of several only the contributions add up."""
    if len(features) > 1:
        return [f"{_OF_FEATURE[0]} of {len(features)} features"]
    known = _OF_FEATURE if explanation.token_activations is not None else _OF_FEATURE[:-1]
    return [f"{what} of feature {feature}" for feature in features for what in known]


def _values(explanation: Explanation, by: str, features: tuple[int, ...], *, gated: bool) -> tuple[list[float], str]:
    """One value for each token, and its unit.

    Projections and rewards at a token are not centred on zero, so the mean of the response is subtracted.
    """
    if by == SHARE:
        return explanation.token_contributions.sum(1).tolist(), "of the reward"
    if by == RUNNING:
        return explanation.running_reward.tolist(), "reward up to this token"
    if by == READ:
        return _centred(explanation.running_reward), "reward at this token, minus the mean of the response"
    columns = [explanation.features.tolist().index(feature) for feature in features]
    if by.startswith(_OF_FEATURE[0]):
        these = "this feature" if len(features) == 1 else "these features"
        return explanation.token_contributions[:, columns].sum(1).tolist(), f"of the reward, from {these}"
    (column,) = columns
    assert explanation.token_scores is not None
    if by.startswith("Alignment"):
        scores = explanation.token_scores[:, column]
        rest = "zero where the feature does not fire" if gated else "minus the mean of the response"
        return (scores.tolist() if gated else _centred(scores)), f"alignment score, {rest}"
    assert explanation.token_activations is not None
    return explanation.token_activations[:, column].tolist(), "latent activation"


def _firing_at(explanation: Explanation) -> list[str]:
    """For each token the families that fire there, with their shares, as the end of a tooltip."""
    families = by_family(explanation.contributions)
    features = explanation.features.tolist()
    shares = np.zeros((len(explanation.tokens), len(families)))
    for i, family in enumerate(families):
        shares[:, i] = explanation.token_contributions[:, [features.index(one) for one in family.features]].sum(1)

    def at(row: np.ndarray) -> str:
        order = [i for i in np.argsort(-np.abs(row), kind="stable") if row[i]]
        return "".join(f"\n{row[i]:+.3f} {families[i].first.label}" for i in order) or "\nNo feature fires here."

    return [at(row) for row in shares]


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
    """The edited response compared with the original: win probability, margin and its features, and the edit itself."""
    from sparserm.explain.comparison import word_diff  # imports torch, which the first page does without

    parts = explain_difference(scored.explanation, original.explanation)
    margin = scored.explanation.reward - original.explanation.reward
    st.subheader("Edited vs. original", anchor=False)
    probability, by = st.columns(2)
    probability.metric("Win probability, edited vs. original", f"{win_probability(margin):.0%}", border=True, height="stretch")
    rewards = f"from {original.explanation.reward:+.2f} to {scored.explanation.reward:+.2f}"
    by.metric("Margin", f"{margin:+.2f}", rewards, delta_color="off", delta_arrow="off", border=True, height="stretch")
    st.plotly_chart(charts.difference_figure(parts, margin), config=CONFIG, key="difference")
    components.download_table(differences_table(parts), "Difference", "difference.csv")
    st.caption("Words that were taken out are struck through, words that were added are underlined.")
    diff_text(word_diff(original.request.response, scored.request.response), key="edited words")


def result_metrics(scored: ScoredResponse, saved: SavedHead) -> None:
    """Win probabilities, then the reward with its percentile; the reference rewards are in the help text."""
    chosen, rejected, reward = st.columns(3)
    what = "Bradley-Terry win probability vs. the median {} response of the training pairs of the head."
    label = "Win probability vs. a typical {} response"
    for place, kind, probability in zip((chosen, rejected), ("chosen", "rejected"), scored.beats, strict=True):
        place.metric(label.format(kind), f"{probability:.0%}", help=what.format(kind), border=True, height="stretch")
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
    measured = accuracy(saved.card)
    st.caption(
        "A reward counts patterns of text that went with chosen responses in the head's training pairs. It does not check "
        f"whether a response is true or safe{f'; accuracy of this head: {plain(measured)}' if measured else ''}."
    )
    for said in left_out([scored.request.response]):
        st.caption(said)
    if scored.explanation.n_truncated:
        st.warning(
            f"{scored.explanation.n_truncated:,} prompt tokens were truncated on the left: the text exceeds the context length."
        )
