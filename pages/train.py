"""The Train page: train a head on preference pairs, check the evidence, try other settings, and save it."""

import streamlit as st

from sparserm.ui.shared import pairs_picker
from sparserm.ui.shared.context import place
from sparserm.ui.train import heads, results, setup

st.title("Train a head", anchor=False)
st.caption(
    "Train a reward model of a few dozen features on preference pairs. The language model stays frozen and runs only once."
)
view = setup.pick_view()
heads.outcome()


@st.fragment
def trained(job: str) -> None:
    """The head with the selected settings; only this part is redrawn when they change."""
    top = st.container()  # filled last: it shows the head with the settings below
    st.subheader("Settings and figures", anchor=False)
    sae, settings = results.controls(result)
    tried = results.try_settings(job, result, sae, settings)
    results.figures(tried)
    with top:
        results.what_it_learned(tried)
        results.take_away(job, tried)
        results.features(tried)
    results.baselines(tried)
    left, right = st.columns(2, gap="large")
    with left:
        results.cells(tried)
    with right:
        results.stability(tried)


if view == setup.NEW:
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader("1. Preference pairs", anchor=False)
        found = setup.name_columns(setup.validated(pairs_picker.pick_source("pairs", part="none")))
        setup.report(found)
    with right:
        st.subheader("2. Settings", anchor=False)
        setup.start_button(setup.specification(found, place()), place())
elif view == setup.RESULTS:
    job = results.pick_job()
    result = results.open_result(job)
    trained(job.id)
else:
    head = heads.table()
    if head is not None:
        heads.actions(head)
    heads.upload(place())
