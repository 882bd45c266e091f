"""Links from one page to another, and texts in the link of a page where they are short enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import streamlit as st

from sparserm.types import Prompt

#: Maximum number of characters that texts add to a link; longer texts are left out, and the page says so.
LINK_LENGTH = 1_800
#: The parameters of what is selected in the sidebar.
SELECTION = ("head", "layer", "hash", "backbone", "autoencoder")


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


def selection() -> dict[str, str]:
    """What is selected in the sidebar, as parameters of a link."""
    return {name: st.query_params[name] for name in SELECTION if name in st.query_params}


def link_to(page: str, label: str, icon: str, **parameters: str) -> None:
    """A link to another page with the selection of this one, so that it holds in a new tab too."""
    st.page_link(page, label=label, icon=icon, query_params=selection() | parameters)


def too_long() -> None:
    """Say that the link does not hold the texts."""
    st.caption(":material/link_off: These texts are too long for a link; the address of this page does not include them.")


def open_in_compare(prompt: Prompt, responses: Sequence[str]) -> None:
    """A link to the Compare page that fills its fields; texts of any length."""
    # Not a button with st.switch_page: that clears the query parameters, which Streamlit forbids while widgets are bound.
    st.session_state["compare_offered"] = prompt, tuple(responses)
    link_to("pages/compare.py", "Open in Compare", ":material/compare_arrows:", offered="1")


def card_link(feature: int, more: str = "") -> None:
    """A link to the card of a feature."""
    link_to("pages/features.py", f"Open feature {feature}{more}", ":material/category:", feature=str(feature))


def pairs_link(feature: int) -> None:
    """A link to the pairs in which one response alone has a feature."""
    link_to("pages/insights.py", "Pairs that differ in it", ":material/insights:", feature=str(feature))


def edit_link(feature: int) -> None:
    """A link to the weight of a feature of the selected head."""
    link_to("pages/edit.py", "Edit its weight", ":material/tune:", feature=str(feature))
