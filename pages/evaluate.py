"""The Evaluate page: accuracy and calibration of the head on a dataset, by slice, and its mistakes."""

import streamlit as st

from sparserm.ui.evaluate import view
from sparserm.ui.shared import pairs_picker
from sparserm.ui.shared.context import current

st.title("Evaluate the head", anchor=False)
st.caption("How well the head ranks preference pairs, how well calibrated it is, and where and why it fails.")
context = current()
found = pairs_picker.represented(pairs_picker.pick_source("pairs", part="test"))
report = view.measured(context, found)
view.what_was_seen(report)
view.figures(report)
view.benchmark(report, found)
view.distributions(report)
st.subheader("Slices", anchor=False)
view.slices(report)
st.subheader("Pairs", anchor=False)
view.pairs(report, context, found)
