"""The frame of every page: the name of the app, what it is for, a link to the guides, and what the back button does."""

from __future__ import annotations

import base64
from pathlib import Path

import streamlit as st

from sparserm.support.defaults import assets_dir

PURPOSE = "See what preference data rewards"
#: The mark of the app, also the icon of its browser tab.
LOGO = assets_dir() / "logo.svg"

_HISTORY = st.components.v2.component("sparserm.history", js=(Path(__file__).parent / "history.js").read_text(encoding="utf-8"))


def title(page: str) -> str:
    """Title of the browser tab."""
    return f"{page} · SparseRM"


def draw_frame() -> None:
    """Draw it above the sidebar, and in the header, where the style sheet shows it while the sidebar is closed."""
    with st.container(key="history"):  # has no height
        _HISTORY()
    mark = base64.b64encode(LOGO.read_bytes()).decode()
    for place in (st.sidebar, st):
        place.html(
            f'<div class="frame"><img src="data:image/svg+xml;base64,{mark}" alt=""><div><b>SparseRM</b>'
            f'<a href="docs" target="_blank">Docs</a><span>{PURPOSE}</span></div></div>'
        )
