"""What preference data rewards: features with their effect on the win rate, and the pairs behind them. No head is needed."""

import streamlit as st

from sparserm.ui.insights import opened, state, view
from sparserm.ui.shared import pairs_picker
from sparserm.ui.shared.context import current

context = current()
st.title("What does this data reward?", anchor=False)
st.caption(
    "Features of responses, and how often the response that has one was chosen. Of the selected head only the SAE is used."
)
source = pairs_picker.pick_source("pairs")
pairs = pairs_picker.represented(source)
assert source is not None
found = state.find(context, pairs)
view.edits_bar(found, pairs)
view.headline(found)
feature = view.findings(found, context)
if feature is not None:
    opened.draw(feature, found, context, pairs)
view.downloads(found.insights)
if other := view.pick_against(source):
    view.side_by_side(state.beside(context, found, pairs_picker.represented(other)))
