"""Train a head on preference pairs, see how far it can be trusted, try other settings, and keep it."""

import streamlit as st

from sparserm.ui import data, heads_view, train_results, train_view
from sparserm.ui.context import current

context = current()
st.title("Train a head", anchor=False)
st.caption(
    "Preference pairs become a reward model of at most 32 features. The language model stays frozen: it reads every response "
    "once, and what it read is kept."
)
view = train_view.pick_view()
heads_view.outcome()


@st.fragment
def trained(job: str) -> None:
    """The head of the settings in view, redrawn by itself when they change."""
    sae, settings = train_results.controls(result)
    tried = train_results.try_settings(job, result, sae, settings)
    train_results.figures(tried)
    train_results.take_away(job, tried)
    train_results.baselines(tried)
    left, right = st.columns(2, gap="large")
    with left:
        train_results.cells(tried)
    with right:
        train_results.stability(tried)


if view == train_view.NEW:
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader("1. Preference pairs", anchor=False)
        found = train_view.name_columns(train_view.validated(data.pick_source("pairs")))
        train_view.report(found)
    with right:
        st.subheader("2. Settings", anchor=False)
        train_view.start_button(train_view.specification(found, context))
elif view == train_view.RESULTS:
    job = train_results.pick_job()
    result = train_results.open_result(job)
    trained(job.id)
else:
    head = heads_view.table()
    if head is not None:
        heads_view.actions(head)
    heads_view.upload(context)
