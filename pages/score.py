"""Score a response: its reward, what the reward is made of, and where in the text it arises."""

import streamlit as st

from sparserm.types import Message, SparseRMError
from sparserm.ui import components, session, tables
from sparserm.ui.charts import score as charts
from sparserm.ui.charts.style import CONFIG

SHOWN = 10  # bars before the smaller ones are put together

st.title("Score a response", anchor=False)
st.caption("A head reads a frozen language model at one layer and adds up what it finds. Every reward is a sum you can read.")

heads = session.heads_by_name()
if not heads:
    st.error("No head was found. Train one with `sparserm train PAIRS --out DIR`, or install the package anew.")
    st.stop()


def fill_in() -> None:
    """Put the picked example into the fields."""
    example = st.session_state.example
    if example is not None:
        st.session_state.earlier = example.prompt[:-1]
        st.session_state.prompt = example.prompt[-1].content
        st.session_state.response = example.response


def choose_example() -> None:
    """Offer the examples of the task that was just picked, the first of them filled in."""
    offered = session.examples(st.session_state.task)
    st.session_state.example = offered[0] if offered else None
    fill_in()


left, right = st.columns([2, 3], gap="large")
with left:
    tasks = list(heads)
    task = st.selectbox("Task head", tasks, key="task", on_change=choose_example, help="What the head was trained to reward.")
    layers = sorted(heads[task])
    layer = st.segmented_control(
        "Layer", layers, default=session.default_layer(task, heads[task]), required=True, key=f"layer of {task}",
        help="Where the language model is read; each layer has its own sparse autoencoder.",
    )  # fmt: skip
    if "prompt" not in st.session_state:
        choose_example()
    st.selectbox(
        "Example", session.examples(task), key="example", on_change=fill_in, format_func=lambda one: one.title,
        index=None, placeholder="Pick one, or write your own below",
    )  # fmt: skip
    for turn in st.session_state.get("earlier", ()):
        st.text(f"{turn.role}: {turn.content}")
    st.text_area("Prompt", key="prompt", height=100, placeholder="What the user said")
    st.text_area("Response", key="response", height=160, placeholder="What is to be scored")
    pressed = st.button("Score", type="primary", width="stretch")

saved = session.saved_head(heads[task][layer])
prompt = (*st.session_state.get("earlier", ()), Message("user", st.session_state.prompt))
request = session.ScoreRequest(heads[task][layer], prompt, st.session_state.response)

with right:
    if pressed:
        progress, done = session.progress_bar()
        try:
            with st.spinner("Reading the response…"):
                st.session_state.scored = session.score(request, progress)
        except SparseRMError as error:
            st.error(str(error)[0].upper() + str(error)[1:])
        done()
    scored = st.session_state.get("scored")
    if scored is None:
        st.info("Press **Score** to see the reward of this response and what it is made of.", icon=":material/speed:")
        components.head_facts(saved.card)
        st.stop()
    if scored.request != request:
        st.warning(
            "The fields have changed since this was scored. Press **Score** to bring it up to date.", icon=":material/history:"
        )
    components.result_metrics(scored)
    shown = session.saved_head(scored.request.head)
    explanation = scored.explanation
    st.plotly_chart(
        charts.yardstick_figure(shown.quantiles_chosen, shown.quantiles_rejected, explanation.reward),
        config=CONFIG, key="yardstick",
    )  # fmt: skip
    st.subheader("Token by token", anchor=False)
    components.running_reward_tokens(explanation, spread=float(shown.quantiles_chosen[75]))
    st.subheader("What the reward is made of", anchor=False)
    everything = st.toggle("All features", help=f"Instead of the {SHOWN} largest and the others together.")
    bars = charts.contribution_bars(explanation, len(explanation.contributions) if everything else SHOWN)
    st.plotly_chart(charts.contributions_figure(bars, explanation.reward), config=CONFIG, key="contributions")
    st.caption(tables.sum_check(explanation))
    st.download_button(
        "Contributions as CSV",
        tables.contributions_csv(explanation),
        "contributions.csv",
        "text/csv",
        icon=":material/download:",
    )
    components.head_facts(shown.card)
