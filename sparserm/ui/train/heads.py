"""The Heads view of the Train page: list, select, download, rename, delete and upload heads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparserm.heads.library import (
    delete_head,
    free_name,
    keep_head,
    own_entries,
    own_folders,
    own_heads,
    pack_head,
    read_head,
    rename_head,
)
from sparserm.heads.saved import SavedHead, list_heads
from sparserm.types import SparseRMError
from sparserm.ui.shared import access, context
from sparserm.ui.shared.place import Place
from sparserm.ui.shared.text import plain, sentence
from sparserm.ui.train import tables

MAX_UPLOAD_MB = 70


def table() -> str | None:
    """Table of all heads; returns the name of the selected one."""
    own, readable, damaged = own_heads(), _readable(), _damaged()
    for name in list_heads().keys() - readable.keys() - damaged.keys():
        st.warning(f"The shipped head {plain(name)} cannot be read. Reinstall the package.")
    heads = sorted(((name, saved, name in own) for name, saved in readable.items()), key=lambda row: not row[2])
    rows = tables.heads_table(heads, list(damaged))
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
    names = [row[0] for row in heads] + list(damaged)
    if chosen and st.session_state.get("_row") != chosen:
        st.session_state["managed head"] = names[chosen[0]]
    st.session_state["_row"] = chosen
    return st.selectbox("Head", names, key="managed head", help="Or click its row in the table.")


def actions(name: str) -> None:
    """Buttons to use, download, rename or delete a head; one that cannot be read can only be deleted."""
    if (reason := _damaged().get(name)) is not None:
        st.error(f"{reason}. It is not offered elsewhere.")
        _offer_deletion(st.container(), name, disabled=False)
        return
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
    _offer_deletion(four, name, disabled=not own)
    if not own:
        st.caption("Shipped heads can be used and downloaded, but never changed.")


def _offer_deletion(place: DeltaGenerator, name: str, *, disabled: bool) -> None:
    with place.popover("Delete", icon=":material/delete:", width="stretch", disabled=disabled):
        st.text(f"Delete {name} permanently?")
        if st.button("Delete the head", type="primary"):
            _do("deleted", name, lambda: delete_head(name))


def _readable() -> dict[str, SavedHead]:
    """All heads that can be read, by name."""
    found = {}
    for name in list_heads():
        with contextlib.suppress(SparseRMError, OSError):
            found[name] = context.read_head(name).saved
    return found


def _damaged() -> dict[str, str]:
    """The user's heads that cannot be read, by name, and why."""
    if own_folders().keys() <= _readable().keys():
        return {}
    return {name: sentence(error) for name, error in own_entries().items() if isinstance(error, SparseRMError)}


def upload(place: Place) -> None:
    """Add a head of the backbone in the sidebar, from a zip or from its two files."""
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
        access.check_sae(saved.card.sae)
        access.check_backbone(saved.card.backbone, place.backbone)
        saved.card.require_backbone(place.backbone, place.backbone_fingerprint)
        saved.require_width(place.width)
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
    context.use_head(name)
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
