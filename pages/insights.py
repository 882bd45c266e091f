"""What preference data rewards: features with their effect on the win rate, and the pairs behind them. No head is needed."""

import streamlit as st

from sparserm.ui.insights import opened, state, view
from sparserm.ui.shared import pairs_picker
from sparserm.ui.shared.context import place

here = place()
st.title("What does this data reward?", anchor=False)
st.caption(
    "Features of responses, and how often the response that has one was chosen. No head is needed, only the SAE in the sidebar."
)
source = pairs_picker.pick_source("pairs", to_insights=False)
pairs = pairs_picker.represented_so_far(source)
assert source is not None
found = state.find(here, pairs)
view.sample_line(pairs)
view.edits_bar(found, pairs)
view.headline(found)
feature = view.findings(found, here)
if feature is not None:
    opened.draw(feature, found, here, pairs)
view.downloads(found.insights, st.session_state["pairs"])
if other := view.pick_against(source):
    view.side_by_side(state.beside(here, found, pairs_picker.represented(other)))
