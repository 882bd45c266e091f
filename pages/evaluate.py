"""Evaluate the head on a dataset: how well it ranks, how far its chances can be believed, where it fails and why."""

import streamlit as st

from sparserm.ui import data, evaluate_view
from sparserm.ui.context import current

st.title("Evaluate the head", anchor=False)
st.caption("How well this head ranks preference pairs, how far its chances can be believed, and where and why it fails.")
context = current()
found = data.represented(data.pick_source("pairs"))
report = evaluate_view.measured(context, found)
evaluate_view.what_was_seen(report)
evaluate_view.figures(report)
evaluate_view.benchmark(report, found)
evaluate_view.distributions(report)
st.subheader("Slices", anchor=False)
evaluate_view.slices(report)
st.subheader("Mistakes", anchor=False)
evaluate_view.mistakes(report, context, found)
