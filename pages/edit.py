"""The Edit page: switch features off, flip or rescale them, see the effect on held-out pairs, and save a new head."""

import streamlit as st

from sparserm.ui.edit import view
from sparserm.ui.shared import pairs_picker
from sparserm.ui.shared.context import current

st.title("Edit the head", anchor=False)
st.caption("Switch features off, flip or rescale them. Metrics on held-out pairs update at once, without the language model.")
context = current()
note = st.container()
with st.expander("Held-out pairs behind the figures", icon=":material/table_rows:"):
    source = pairs_picker.pick_source("pairs", "Held-out pairs", "test", note_in=note)
found = pairs_picker.represented(source)
held_out = view.held_out(context, found)
view.what_is_held_out(held_out, found.data)
view.live(context, held_out, view.unedited(held_out), found.data)
