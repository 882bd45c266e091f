"""What preference data rewards: features with their effect on the win rate, and the pairs behind them. No head is needed."""

import streamlit as st

from sparserm.ui.insights import view
from sparserm.ui.shared import pairs_picker
from sparserm.ui.shared.context import current

st.title("What does this data reward?", anchor=False)
st.caption(
    "Features of responses, and how often the response that has one was chosen. Of the selected head only the SAE is used."
)
source = pairs_picker.pick_source("pairs")
pairs = pairs_picker.represented(source)
found = view.found_in(current(), pairs)
view.headline(found)
finding = view.findings(found)
if finding is not None:
    view.pairs_of(finding, pairs)
view.downloads(found)
