"""Audit preference data: pairs that the head contradicts, duplicate and leaked rows, and surface features."""

import streamlit as st

from sparserm.ui.audit import view
from sparserm.ui.shared import pairs_picker

st.title("Audit the data", anchor=False)
st.caption(
    "Find rows worth reviewing, and surface features that separate chosen from rejected responses. Your data is not changed."
)
left, right = st.columns(2, gap="large")
with left:
    source = pairs_picker.pick_source("pairs")
with right:
    other = view.pick_other(source)
pairs = pairs_picker.load_or_stop(source)
found = view.audited(source, pairs, other)
view.headline(found)
place = st.container()  # filled last: it stops the page while the pairs have no representations
view.other_flags(found, pairs.pairs)
view.surface(found)
with place:
    view.opposed(source, found.surface.accuracy)
