"""CSS of the pages, and components whose CSS and JavaScript are in files next to their Python module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    from streamlit.components.v2.types import ComponentRenderer


#: CSS of all pages, for ``st.html``.
PAGE_CSS = Path(__file__).with_name("page.css")


def component(name: str, html: str, folder: Path) -> ComponentRenderer:
    """Register ``sparserm.<name>`` with ``<name>.css`` and ``<name>.js`` of ``folder``, read once at import."""
    css, js = ((folder / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return st.components.v2.component(f"sparserm.{name}", html=html, css=css, js=js)
