"""The Heads view of the Train page: list, select, download, rename, delete and upload heads."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from sparserm.heads.library import delete_head, free_name, keep_head, own_heads, pack_head, read_head, rename_head
from sparserm.heads.saved import list_heads
from sparserm.types import SparseRMError
from sparserm.ui.shared import context
from sparserm.ui.shared.text import plain, sentence
from sparserm.ui.train import tables

MAX_UPLOAD_MB = 70


def table() -> str | None:
    """Table of all heads; returns the name of the selected one."""
    own, readable, damaged = own_heads(), [], []
    for name in list_heads():
        try:
            readable.append((name, context.read_head(name).saved, name in own))
        except (SparseRMError, OSError) as error:
            damaged.append(sentence(error))
    readable.sort(key=lambda row: not row[2])
    for problem in damaged:
        st.warning(problem)
    rows = tables.heads_table(readable)
    event = st.dataframe(
        rows,
        hide_index=True,
        key="heads table",
        column_config=tables.titles(rows) | {"": "Source"},
        on_select="rerun",
        selection_mode="single-row",
        height=38 + 35 * min(16, len(rows)),
    )
    chosen = event.selection.rows
    names = [row[0] for row in readable]
    if chosen and st.session_state.get("_row") != chosen:
        st.session_state["managed head"] = names[chosen[0]]
    st.session_state["_row"] = chosen
    return st.selectbox("Head", names, key="managed head", help="Or click its row in the table.")


def actions(name: str) -> None:
    """Buttons to use, download, rename or delete a head."""
    own = name in own_heads()
    one, two, three, four = st.columns(4)
    one.button(
        "Use head", icon=":material/check:", width="stretch", on_click=use, args=(name,), help="Selects it in the sidebar."
    )
    two.download_button(
        "Download zip",
        lambda: pack_head(context.read_head(name).saved),
        f"{name}.zip",
        "application/zip",
        width="stretch",
        icon=":material/download:",
        on_click="ignore",
    )
    with three.popover("Rename", icon=":material/edit:", width="stretch", disabled=not own):
        new = st.text_input("New name", name, key=f"new name of {name}")
        st.button(
            "Rename the head", type="primary", on_click=_do, args=("renamed", new, lambda: rename_head(name, new.strip()))
        )
    with four.popover("Delete", icon=":material/delete:", width="stretch", disabled=not own):
        st.text(f"Delete {name} permanently?")
        if st.button("Delete the head", type="primary"):
            _do("deleted", name, lambda: delete_head(name))
    if not own:
        st.caption("Shipped heads can be used and downloaded, but never changed.")


def upload(current: context.Context) -> None:
    """Add a head from a zip or from its two files."""
    files = st.file_uploader(
        "Upload a head",
        type=["zip", "json", "safetensors"],
        accept_multiple_files=True,
        key="head files",
        max_upload_size=MAX_UPLOAD_MB,
        help="A zip downloaded here, or its two files: config.json and head.safetensors.",
    )
    if not files:
        return
    try:
        saved = read_head({file.name: file.getvalue() for file in files})
        saved.card.require_backbone(current.card.backbone, current.card.backbone_fingerprint)
    except SparseRMError as error:
        st.error(sentence(error))
        return
    name = st.text_input("Name", free_name(saved.card.name), key=f"name of upload {saved.card.name}")
    if st.button("Add the head", type="primary"):
        _do("added", name.strip(), lambda: keep_head(saved, name.strip()))


def outcome() -> None:
    """Success message of the last action."""
    if done := st.session_state.pop("head done", None):
        st.success(done, icon=":material/check_circle:")


def use(name: str) -> None:
    """Select a head in the sidebar; a callback."""
    st.session_state["head"] = name
    st.session_state.pop("layer", None)
    st.session_state["head done"] = f"{plain(name)} is now selected on every page."


def _do(what: str, name: str, act: Callable[[], object]) -> None:
    """Run an action and redraw the page. Not a callback: that would miss text typed just before the click."""
    try:
        act()
    except (SparseRMError, OSError) as error:
        st.error(sentence(error))
        return
    st.session_state["head done"] = f"{plain(name)} was {what}."
    for key in ("managed head", "_row", "heads table"):
        st.session_state.pop(key, None)
    st.rerun()
