"""The Score page: the reward of a response, by feature and by token."""

import streamlit as st

from sparserm.ui.score import inputs, view
from sparserm.ui.shared.context import current

st.title("Score a response", anchor=False)
st.caption("The reward is a weighted sum of features of a frozen language model, and every part of it can be inspected.")
context = current()


@st.fragment  # pressing its buttons redraws only this part
def fields_and_result() -> None:
    """The fields on the left, the result on the right."""
    left, right = st.columns([2, 3], gap="large")
    request = inputs.read(context)
    notes = right.container()  # always present, so that the browser keeps the elements below it
    with notes:  # scored before anything is drawn: drawing would compete with the language model for the processor
        view.score_if_asked(context, request, at_once=inputs.wanted_at_once())
    with left:
        inputs.draw(context)
        view.buttons()
    with right:
        view.result(context, request, notes)


inputs.begin(context)
fields_and_result()
