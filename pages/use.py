"""Use a head elsewhere: its files, code to copy, what it was made from, and when not to trust it."""

import streamlit as st

from sparserm.ui.shared.context import current
from sparserm.ui.use import view

context = current()
st.title("Use it", anchor=False)
st.caption("Take the head away: its files, code that works with it, and what must be known of it.")
view.downloads(context)
st.subheader("Code", anchor=False)
view.code(context)
st.subheader("When not to trust it", anchor=False)
view.limits(context.saved)
st.subheader("Facts", anchor=False)
view.facts(context.saved)
