"""CSS of the pages, and components whose CSS and JavaScript are in files next to their Python module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    from streamlit.components.v2.types import ComponentRenderer


_HERE = Path(__file__).parent

#: CSS of all pages, for ``st.html``.
PAGE_CSS = _HERE / "page.css"


def component(name: str, html: str, folder: Path) -> ComponentRenderer:
    """Register ``sparserm.<name>`` with ``<name>.css`` and ``<name>.js`` of ``folder``, read once at import.

    What all components need for the keyboard, ``keyboard.css`` and ``keyboard.js``, stands before them.
    """
    css, js = (
        "\n".join(file.read_text(encoding="utf-8") for file in (_HERE / f"keyboard.{kind}", folder / f"{name}.{kind}"))
        for kind in ("css", "js")
    )
    return st.components.v2.component(f"sparserm.{name}", html=html, css=css, js=js)
