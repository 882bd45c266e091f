"""A button that renames a feature wherever its name stands; the name appears on every page."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from sparserm.heads.labels import MAX_LENGTH, auto_labels, save_label, user_labels
from sparserm.types import SparseRMError
from sparserm.ui.shared.text import sentence


def rename_button(fingerprint: str, feature: int, of_head: Mapping[int, str], *, key: str, label: str = "Rename") -> None:
    """A button that opens a field for the user's name of a feature, with a way back to the name that it had.

    Args:
        fingerprint: of the SAE whose latent it is.
        of_head: names in the card of the selected head, empty without a head.
        key: a key of its own for each place on a page.
    """
    with st.popover(label, icon=":material/edit:", key=f"rename {key}"):
        try:
            own = user_labels(fingerprint).get(feature, "")
        except SparseRMError as error:
            st.error(sentence(error))
            return
        field = f"name of {fingerprint} {feature} {key}"
        st.session_state.setdefault(field, own or of_head.get(feature, ""))
        st.text_input(
            f"Name of feature {feature}",
            key=field,
            placeholder="What it detects, in a few words",
            help=f"At most {MAX_LENGTH} characters. The name appears on every page.",
            on_change=_save,
            args=(fingerprint, feature, field),
        )
        if problem := st.session_state.pop(f"{field} problem", None):
            st.error(problem)
        st.button("Save", key=f"save {field}", type="primary", on_click=_save, args=(fingerprint, feature, field))
        if own:
            st.button(
                _back(fingerprint, feature, of_head), key=f"reset {field}", on_click=_reset, args=(fingerprint, feature, field)
            )


def _back(fingerprint: str, feature: int, of_head: Mapping[int, str]) -> str:
    """What removing the user's name does."""
    if of_head.get(feature):
        return "Back to the head's own name"
    label = auto_labels(fingerprint).get(feature)
    return "Back to the automatic label" if label and label.text else "Remove the name"


def _reset(fingerprint: str, feature: int, field: str) -> None:
    st.session_state[field] = ""
    _save(fingerprint, feature, field)


def _save(fingerprint: str, feature: int, field: str) -> None:
    """Save the text of a field, unless leaving the field has saved it already."""
    if field not in st.session_state:
        return
    try:
        save_label(fingerprint, feature, st.session_state[field])
        del st.session_state[field]  # then the field shows the saved name, or the head's own after removal
    except (SparseRMError, OSError) as error:
        st.session_state[f"{field} problem"] = sentence(error)
