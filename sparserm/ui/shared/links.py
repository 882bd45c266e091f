"""A link that takes texts to another page, where a URL would be too short for them."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from sparserm.types import Prompt


def open_in_compare(prompt: Prompt, responses: Sequence[str]) -> None:
    """A link to the Compare page that fills its fields; texts of any length."""
    # Not a button with st.switch_page: that clears the query parameters, which Streamlit forbids while widgets are bound.
    st.session_state["compare_offered"] = prompt, tuple(responses)
    st.page_link("pages/compare.py", label="Open in Compare", icon=":material/compare_arrows:", query_params={"offered": "1"})
