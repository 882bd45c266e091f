"""Links from one page to another, and texts in the link of a page where they are short enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import streamlit as st

from sparserm.types import Prompt

#: Maximum number of characters that texts add to a link; longer texts are left out, and the page says so.
LINK_LENGTH = 1_800


def keep_in_link(wanted: Mapping[str, Sequence[str]]) -> bool:
    """Write parameters into the link if they are short enough, and none of them otherwise; returns whether they are.

    Args:
        wanted: values of each parameter; one without values is removed.
    """
    fits = len(urlencode(wanted, doseq=True)) <= LINK_LENGTH
    for name, values in wanted.items():
        kept = list(values) if fits else []
        if st.query_params.get_all(name) == kept:
            continue
        if kept:
            st.query_params[name] = kept
        else:
            del st.query_params[name]
    return fits


def too_long() -> None:
    """Say that the link does not hold the texts."""
    st.caption(":material/link_off: These texts are too long for a link; the address of this page does not include them.")


def open_in_compare(prompt: Prompt, responses: Sequence[str]) -> None:
    """A link to the Compare page that fills its fields; texts of any length."""
    # Not a button with st.switch_page: that clears the query parameters, which Streamlit forbids while widgets are bound.
    st.session_state["compare_offered"] = prompt, tuple(responses)
    st.page_link("pages/compare.py", label="Open in Compare", icon=":material/compare_arrows:", query_params={"offered": "1"})


def card_link(feature: int, more: str = "") -> None:
    """A link to the card of a feature."""
    st.page_link(
        "pages/features.py", label=f"Open feature {feature}{more}", icon=":material/category:", query_params=_of(feature)
    )


def pairs_link(feature: int) -> None:
    """A link to the pairs in which one response alone has a feature."""
    st.page_link("pages/insights.py", label="Pairs that differ in it", icon=":material/insights:", query_params=_of(feature))


def edit_link(feature: int) -> None:
    """A link to the weight of a feature of the selected head."""
    st.page_link("pages/edit.py", label="Edit its weight", icon=":material/tune:", query_params=_of(feature))


def _of(feature: int) -> dict[str, str]:
    return {"feature": str(feature)}
