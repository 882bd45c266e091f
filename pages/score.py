"""The Score page: the reward of a response, by feature and by token."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparserm.types import Message, SparseRMError
from sparserm.ui.score import charts, tables, view
from sparserm.ui.score.view import result_metrics
from sparserm.ui.shared import components, starter_examples
from sparserm.ui.shared.components import progress_bar
from sparserm.ui.shared.context import current
from sparserm.ui.shared.links import open_in_compare
from sparserm.ui.shared.scoring import ScoredResponse, ScoreRequest, score
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.tables import contributions_table, tokens_table
from sparserm.ui.shared.text import sentence

SHOWN = 10  # bars; the smaller contributions share one more

st.title("Score a response", anchor=False)
st.caption("The reward is a weighted sum of features of a frozen language model, and every part of it can be inspected.")
context = current()
offered = starter_examples.examples(context.card.name)


def fill_in() -> None:
    """Put the picked example into the fields."""
    example = st.session_state.example
    if example is not None:
        st.session_state.filled = example
        st.session_state.earlier = example.prompt[:-1]
        st.session_state.prompt, st.session_state.response = example.prompt[-1].content, example.response


def begin() -> None:
    """Fill in the head's first example on the first visit, and when the head changes and the example was not edited.

    Text that the user typed or that the link contains stays.
    """
    filled = st.session_state.get("filled")
    fields = st.session_state.get("prompt"), st.session_state.get("response")
    untouched = filled is not None and fields == (filled.prompt[-1].content, filled.response)
    if filled is None or (untouched and filled not in offered):
        named = {name: st.query_params[name] for name in ("prompt", "response") if name in st.query_params}
        st.session_state.example = None if named else offered[0]
        st.session_state.filled = offered[0]
        st.session_state.prompt, st.session_state.response = offered[0].prompt[-1].content, offered[0].response
        st.session_state.earlier = () if "prompt" in named else offered[0].prompt[:-1]
        st.session_state.update(named)
        st.session_state["score linked"] = "response" in named


@st.fragment  # pressing its buttons redraws only this part
def fields_and_result() -> None:
    """The fields on the left, the result on the right."""
    left, right = st.columns([2, 3], gap="large")
    prompt = (*st.session_state.get("earlier", ()), Message("user", st.session_state.prompt))
    request = ScoreRequest(context.key, context.hash, prompt, st.session_state.response)
    notes = right.container()  # always present, so that the browser keeps the elements below it
    with notes:  # scored before anything is drawn: drawing would compete with the language model for the processor
        linked = st.session_state.pop("score linked", False)  # a link, or a reload, shows its result at once
        if linked or st.session_state.get("score") or st.session_state.get("score_against"):
            score_fields(request, keep_original=bool(st.session_state.get("score_against")))
    with left:
        fields()
    with right:
        result(request, notes)


def score_fields(request: ScoreRequest, *, keep_original: bool) -> None:
    """Score the text in the fields; the previous response may be kept as the original to compare with."""
    progress, done = progress_bar()
    before: ScoredResponse | None = st.session_state.get("scored")
    try:
        with st.spinner("Scoring the response…"):
            st.session_state.scored = score(context, request, progress)
            st.session_state.original = before if keep_original else None
    except SparseRMError as error:
        st.error(sentence(error))
    done()


def fields() -> None:
    """The example, the prompt, the response and the buttons."""
    st.selectbox(
        "Example",
        offered,
        key="example",
        on_change=fill_in,
        format_func=lambda one: one.title,
        index=None,
        placeholder="Select one, or write your own below",
    )
    for turn in st.session_state.get("earlier", ()):
        st.text(f"{turn.role}: {turn.content}")
    st.text_area("Prompt", key="prompt", bind="query-params", height=110, placeholder="The message of the user")
    st.text_area("Response", key="response", bind="query-params", height=200, placeholder="The response to score")
    st.button("Score", key="score", type="primary", width="stretch")
    if st.session_state.get("scored") is not None:
        st.button(
            "Score and compare with previous",
            key="score_against",
            width="stretch",
            help="Edit the text first. The response scored before is kept as the original, and the difference is shown.",
        )


def result(request: ScoreRequest, notes: DeltaGenerator) -> None:
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
    if original is not None and (original.request.head, original.request.hash) == (context.key, context.hash):
        view.edit_against_original(scored, original)
    st.plotly_chart(
        charts.reference_figure(context.saved.quantiles_chosen, context.saved.quantiles_rejected, explanation.reward),
        config=CONFIG,
        key="reference_rewards",
    )
    st.subheader("Reward by token", anchor=False)
    place = st.container()  # filled after the chart below, where a feature can be selected
    st.subheader("Reward by feature", anchor=False)
    features = view.waterfall(explanation, SHOWN, context.saved.head.pooling)
    with place:
        view.token_view(scored, context, features)
    st.caption(tables.sum_check(explanation))
    with st.expander("Show as table"):
        view.contributions(explanation)
    with st.container(horizontal=True):
        components.download_table(contributions_table(explanation), "Contributions", "contributions.csv")
        components.download_table(tokens_table(explanation), "Tokens", "tokens.csv")
        components.download_table(tables.reference_table(context.saved), "Reference rewards", "reference_rewards.csv")
    responses = scored.request.response, original.request.response if original is not None else ""
    open_in_compare(scored.request.prompt, responses)
    view.inspector(scored)


begin()
fields_and_result()
