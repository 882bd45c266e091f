"""Evaluate the head on a dataset: how well it ranks, how far its chances can be believed, where it fails and why."""

import streamlit as st

from sparserm.ui.evaluate import view
from sparserm.ui.shared import pairs_picker
from sparserm.ui.shared.context import current

st.title("Evaluate the head", anchor=False)
st.caption("How well this head ranks preference pairs, how far its chances can be believed, and where and why it fails.")
context = current()
found = pairs_picker.represented(pairs_picker.pick_source("pairs"))
report = view.measured(context, found)
view.what_was_seen(report)
view.figures(report)
view.benchmark(report, found)
view.distributions(report)
st.subheader("Slices", anchor=False)
view.slices(report)
st.subheader("Mistakes", anchor=False)
view.mistakes(report, context, found)
