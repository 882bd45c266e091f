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
from sparserm.support.hub import HubName
from sparserm.types import SparseRMError


def others_can_reach() -> bool:
    """Whether the app can be reached from other computers, by the address and the host names that it was started with."""
    names = st.get_option("server.allowedHosts")
    return not (names and all(map(loopback, [st.get_option("server.address") or "", *names])))


def check_dataset(typed: str) -> None:
    """Check that typed pairs may be opened: any text on this computer's own app, else the name of a dataset of the Hub.

    Raises:
        SparseRMError: they may not. The message does not tell whether there is such a file.
    """
    if others_can_reach() and (HubName.parse(typed) is None or has_data_suffix(typed) or _is_here(typed)):
        raise SparseRMError(
            "other people can reach this app, so it opens no files by their path; expected the name of a dataset of the "
            "Hugging Face Hub, such as owner/name or owner/name@revision; upload the file instead"
        )


def check_sae(typed: str) -> None:
    """Check that a typed SAE, or the SAE of an uploaded head, may be opened: as for :func:`check_dataset`.

    From a repository of the Hub only safetensors are read, and from SAELens's registry no code.

    Raises:
        SparseRMError: it may not. The message does not tell whether there is such a folder.
    """
    if others_can_reach() and typed not in find_saes() and (not _names_sae(typed) or Path(typed).exists()):
        raise SparseRMError(
            "other people can reach this app, so it opens no SAE by its path; expected one of the listed SAEs, "
            "release:sae_id of the SAELens registry, or owner/name:folder of the Hugging Face Hub"
        )


def check_model(typed: str) -> None:
    """Check that a typed language model may be opened: as for :func:`check_dataset`. Only safetensors are read.

    Raises:
        SparseRMError: it may not. The message does not tell whether there is such a folder.
    """
    if others_can_reach() and not _names_model(typed):
        raise SparseRMError(
            "other people can reach this app, so it opens no language model by its path; expected owner/name of the Hugging "
            "Face Hub, or owner/name@revision"
        )


def check_backbone(named: str, known: str) -> None:
    """Check that the backbone of an uploaded head may be opened: where others can reach the app, a known one or one of the Hub.

    One that only a head names is read from the Hub's cache, and from safetensors; it is never downloaded.

    Raises:
        SparseRMError: it may not.
    """
    if others_can_reach() and named != known and not _names_model(named):
        raise SparseRMError(
            f"the head names the backbone {one_line(named, 80)!r}; other people can reach this app, so it expected {known!r}, "
            "the backbone of the head in the sidebar, or owner/name of the Hugging Face Hub; select a head with that backbone "
            "first"
        )


def _names_model(typed: str) -> bool:
    """Whether a text is ``owner/name``, with a revision if one is given, and no folder here."""
    asked = HubName.parse(typed)
    return asked is not None and asked.owned and not Path(typed).exists()


def _names_sae(typed: str) -> bool:
    """Whether a text is ``release:sae_id`` or ``owner/name:folder``, with a revision if one is given."""
    repository, _, inside = typed.partition(":")
    return HubName.parse(repository) is not None and re.fullmatch(r"\w[\w./-]*", inside) is not None


def _is_here(typed: str) -> bool:
    try:
        return find_file(typed) is not None or Path(typed).exists()
    except SparseRMError:  # several files match
        return True
