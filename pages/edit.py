"""Edit a head: switch features off, flip or rescale them, see what that does on held-out pairs, keep it as a new head."""

import streamlit as st

from sparserm.ui import data, edit_view
from sparserm.ui.context import current

st.title("Edit the head", anchor=False)
st.caption(
    "Switch features off, flip or rescale them: the figures follow at once, on pairs that the head was not trained on. "
    "A reward is a sum, so that no edit needs the language model."
)
context = current()
edit_view.saved_notice()
with st.container(horizontal=True):
    source = data.pick_source("pairs", "Held-out pairs")
found = data.represented(source)
evidence = edit_view.evidence(context, found)
edit_view.what_is_held_out(evidence)
edit_view.live(context, evidence, edit_view.unedited(evidence), found.data)
