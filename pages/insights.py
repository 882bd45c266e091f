"""What preference data rewards: features with their effect on the win rate, and the pairs behind them. No head is needed."""

import streamlit as st

from sparserm.ui.insights import view
from sparserm.ui.shared import pairs_picker
from sparserm.ui.shared.context import place

st.title("What does this data reward?", anchor=False)
st.caption(
    "Features of responses, and how often the response that has one was chosen. No head is needed, only the SAE in the sidebar."
)
source = pairs_picker.pick_source("pairs", to_insights=False)
pairs = pairs_picker.represented(source)
found = view.found_in(place(), pairs)
view.headline(found)
finding = view.findings(found)
if finding is not None:
    view.pairs_of(finding, pairs)
view.downloads(found)
