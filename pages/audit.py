"""Audit preference data: labels that the head contradicts, repeated and leaked rows, and what the surface gives away."""

import streamlit as st

from sparserm.ui.audit import view
from sparserm.ui.shared import pairs_picker
from sparserm.ui.shared.context import current

st.title("Audit the data", anchor=False)
st.caption(
    "Rows that deserve a second look, and what separates chosen from rejected responses apart from content. "
    "Nothing is changed: take the flagged rows away and decide."
)
context = current()
left, right = st.columns(2, gap="large")
with left:
    source = pairs_picker.pick_source("pairs")
with right:
    other = view.pick_other(source)
pairs = pairs_picker.load_or_stop(source)
found = view.audited(source, pairs, other)
view.headline(found)
place = st.container()  # drawn last: until the pairs have been read by the language model, that part ends the page
view.other_flags(found, pairs.pairs)
view.surface(found)
with place:
    view.opposed(context, source, found.surface.accuracy)
