"""Parts of the Use it page: downloads, code to copy, limits and facts."""

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
    """Downloads of the head as a zip and of its model card."""
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
            "Download model card",
            lambda: card_markdown(context.saved),
            f"{context.key}.md",
            "text/markdown",
            icon=":material/description:",
            on_click="ignore",
        )
    st.caption(
        "The zip has config.json and head.safetensors but no language model. On another machine, unpack it into a folder named "
        "after the head and the code below works unchanged."
    )


def facts(saved: SavedHead) -> None:
    """Facts of the model card: training data, accuracy and so on."""
    rows = "\n".join(f"| {plain(name[:1].upper() + name[1:])} | {plain(value)} |" for name, value in card_rows(saved))
    st.markdown(f"| Fact | Value |\n|:--|:--|\n{rows}")


def limits(saved: SavedHead) -> None:
    """When not to trust it."""
    st.markdown("\n".join(f"- {plain(limit)}" for limit in head_limits(saved)))


def code(context: Context) -> None:
    """Code for this head, one tab per purpose."""
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
