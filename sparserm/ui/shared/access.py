"""What a person may open by typing its name: on an app that only this computer reaches any path, elsewhere no path."""

from __future__ import annotations

import re
from pathlib import Path

import streamlit as st

from sparserm.pairs.files import has_data_suffix
from sparserm.pairs.load import find_file
from sparserm.sae.autoencoder import find_saes
from sparserm.support.files import one_line
from sparserm.support.hosts import loopback
from sparserm.types import SparseRMError

#: ``owner/name`` of the Hugging Face Hub, and ``release:sae_id`` of SAELens's registry.
_DATASET, _SAE = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?"), re.compile(r"[A-Za-z0-9][\w.-]*:[\w./-]+")


def others_can_reach() -> bool:
    """Whether the app can be reached from other computers, by the address and the host names that it was started with."""
    names = st.get_option("server.allowedHosts")
    return not (names and all(map(loopback, [st.get_option("server.address") or "", *names])))


def check_dataset(typed: str) -> None:
    """Check that typed pairs may be opened: any text on this computer's own app, else the name of a dataset of the Hub.

    Raises:
        SparseRMError: they may not. The message does not tell whether there is such a file.
    """
    if others_can_reach() and (not _DATASET.fullmatch(typed) or has_data_suffix(typed) or _is_here(typed)):
        raise SparseRMError(
            "other people can reach this app, so it opens no files by their path; expected the name of a dataset of the "
            "Hugging Face Hub, such as owner/name; upload the file instead"
        )


def check_sae(typed: str) -> None:
    """Check that a typed SAE, or the SAE of an uploaded head, may be opened: as for :func:`check_dataset`.

    Raises:
        SparseRMError: it may not. The message does not tell whether there is such a folder.
    """
    if others_can_reach() and typed not in find_saes() and (not _SAE.fullmatch(typed) or Path(typed).exists()):
        raise SparseRMError(
            "other people can reach this app, so it opens no SAE by its path; expected one of the listed SAEs, or "
            "release:sae_id of the SAELens registry"
        )


def check_backbone(named: str, known: str) -> None:
    """Check that the backbone of an uploaded head may be opened: where others can reach the app, only a known one.

    Raises:
        SparseRMError: it may not.
    """
    if others_can_reach() and named != known:
        raise SparseRMError(
            f"the head names the backbone {one_line(named, 80)!r}; other people can reach this app, so it expected {known!r}, "
            "the backbone of the head in the sidebar; select a head with that backbone first"
        )


def _is_here(typed: str) -> bool:
    try:
        return find_file(typed) is not None or Path(typed).exists()
    except SparseRMError:  # several files match
        return True
