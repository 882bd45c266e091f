"""Parts of the page for taking a head away: the files, the facts with the limits, and code to copy."""

from __future__ import annotations

import streamlit as st

from sparserm.heads.library import pack_head
from sparserm.heads.model_card import card_markdown, card_rows, head_limits
from sparserm.heads.saved import SavedHead
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.text import plain
from sparserm.ui.use.snippets import snippets


@st.cache_data(show_spinner=False, max_entries=8)
def _packed(head: str, key: str, changed: str, *, _saved: SavedHead) -> bytes:
    return pack_head(_saved)


def downloads(context: Context) -> None:
    """The head as a zip and its card, and how to use them elsewhere."""
    data = _packed(context.hash, context.key, repr(context.card), _saved=context.saved)
    with st.container(horizontal=True):
        st.download_button(
            f"Download {plain(context.key)}.zip ({len(data) / 1e3:,.0f} kB)",
            data,
            f"{context.key}.zip",
            "application/zip",
            type="primary",
            icon=":material/download:",
            on_click="ignore",
        )
        st.download_button(
            "Card as Markdown",
            lambda: card_markdown(context.saved),
            f"{context.key}.md",
            "text/markdown",
            icon=":material/description:",
            on_click="ignore",
        )
    st.caption(
        "The zip holds config.json and head.safetensors, no language model. On this machine the head is found by its name; "
        "elsewhere unpack the zip into a folder of that name, and the code stays the same."
    )


def facts(saved: SavedHead) -> None:
    """What the head was made from and how good it is."""
    rows = "\n".join(f"| {plain(name)} | {plain(value)} |" for name, value in card_rows(saved))
    st.markdown(f"| fact | value |\n|:--|:--|\n{rows}")


def limits(saved: SavedHead) -> None:
    """When not to trust it."""
    st.markdown("\n".join(f"- {plain(limit)}" for limit in head_limits(saved)))


def code(context: Context) -> None:
    """Code for this head, a tab for each purpose."""
    found = snippets(context.key)
    for tab, one in zip(st.tabs([one.title for one in found]), found, strict=True):
        tab.caption(one.about)
        tab.code(one.code, language=one.language, wrap_lines=one.language == "bash")
        ending = "py" if one.language == "python" else "sh"
        tab.download_button(
            f"Download as .{ending}",
            one.code,
            f"{one.title.lower().replace(' ', '_')}.{ending}",
            "text/plain",
            key=f"code {one.title}",
            icon=":material/download:",
            on_click="ignore",
        )
