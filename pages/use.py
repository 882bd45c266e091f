"""The Use page: files of the head, code to copy, its provenance and its limits."""

import streamlit as st

from sparserm.ui.shared.context import current
from sparserm.ui.use import view

st.title("Use it", anchor=False)
st.caption("Download the head, copy code that uses it, and read when not to trust it.")
context = current()
view.downloads(context)
st.subheader("Code", anchor=False)
view.code(context)
st.subheader("When not to trust it", anchor=False)
view.limits(context.saved)
st.subheader("Facts", anchor=False)
view.facts(context.saved)
