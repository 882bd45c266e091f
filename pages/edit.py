"""Edit a head: switch features off, flip or rescale them, see what that does on held-out pairs, keep it as a new head."""

import streamlit as st

from sparserm.ui.edit import view
from sparserm.ui.shared import pairs_picker
from sparserm.ui.shared.context import current

st.title("Edit the head", anchor=False)
st.caption(
    "Switch features off, flip or rescale them: the figures follow at once, on pairs that the head was not trained on. "
    "A reward is a sum, so that no edit needs the language model."
)
context = current()
view.saved_notice()
with st.container(horizontal=True):
    source = pairs_picker.pick_source("pairs", "Held-out pairs")
found = pairs_picker.represented(source)
evidence = view.evidence(context, found)
view.what_is_held_out(evidence)
view.live(context, evidence, view.unedited(evidence), found.data)
