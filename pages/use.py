"""Use a head elsewhere: its files, code to copy, what it was made from, and when not to trust it."""

import streamlit as st

from sparserm.ui import use_view
from sparserm.ui.context import current

context = current()
st.title("Use it", anchor=False)
st.caption("Take the head away: its files, code that works with it, and what must be known of it.")
use_view.downloads(context)
st.subheader("Code", anchor=False)
use_view.code(context)
st.subheader("When not to trust it", anchor=False)
use_view.limits(context.saved)
st.subheader("Facts", anchor=False)
use_view.facts(context.saved)
