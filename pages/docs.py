"""The Docs page: one of the guides."""

import streamlit as st

from sparserm.ui.docs.guides import guide_text, guide_titles
from sparserm.ui.shared.context import place

place()
titles = guide_titles()
with st.container(width=800):
    guide = st.selectbox("Guide", list(titles), format_func=lambda name: titles[name], key="guide", bind="query-params")
    st.markdown(guide_text(guide))
