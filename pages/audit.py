"""Audit preference data: labels that the head contradicts, repeated and leaked rows, and what the surface gives away."""

import streamlit as st

from sparserm.ui import audit_view, data
from sparserm.ui.context import current

st.title("Audit the data", anchor=False)
st.caption(
    "Rows that deserve a second look, and what separates chosen from rejected responses apart from content. "
    "Nothing is changed: take the flagged rows away and decide."
)
context = current()
left, right = st.columns(2, gap="large")
with left:
    source = data.pick_source("pairs")
with right:
    other = audit_view.pick_other(source)
pairs = data.load_or_stop(source)
found = audit_view.audited(source, pairs, other)
audit_view.headline(found)
place = st.container()  # drawn last: until the pairs have been read by the language model, that part ends the page
audit_view.other_flags(found, pairs.pairs)
audit_view.surface(found)
with place:
    audit_view.opposed(context, source, found.surface.accuracy)
