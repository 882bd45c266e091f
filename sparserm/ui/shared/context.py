"""The sidebar and the selected head, with its backbone, layer and SAE, shared by all pages and kept in the link."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager

from sparserm.backbone.smollm2 import is_ready
from sparserm.heads.model_card import accuracy, baselines
from sparserm.heads.saved import HeadCard, SavedHead, head_hash, list_heads, load_head
from sparserm.support.defaults import DEFAULT_LAYERS, TASKS
from sparserm.support.parsing import whole_number
from sparserm.types import Progress, SparseRMError
from sparserm.ui.shared import job_panel
from sparserm.ui.shared.text import plain

if TYPE_CHECKING:  # torch is imported behind the first page
    from sparserm.model import SparseRM
    from sparserm.sae.autoencoder import SparseAutoencoder

#: Seconds between the first visit and loading the language model, so that the first page is drawn without competition.
_PAINTED = 1.5


@dataclass(frozen=True)
class Context:
    """The selected head.

    Attributes:
        key: name by which the head is loaded.
        saved: the head and its card.
        hash: 8 hex digits of the content hash; part of every link.
    """

    key: str
    saved: SavedHead
    hash: str

    @property
    def card(self) -> HeadCard:
        """The card of the head."""
        return self.saved.card

    @property
    def place(self) -> str:
        """Backbone, layer and SAE, e.g. ``smollm2-135m-instruct · layer 15 · smollm2/layer_15``."""
        return f"{self.card.backbone} · layer {self.card.hook_point.layer} · {self.card.sae}"

    def feature_title(self, feature: int) -> str:
        """E.g. ``feature 1203 of 4608 · smollm2-135m-instruct · layer 15``."""
        return f"feature {feature} of {self.card.d_sae} · {self.card.backbone} · layer {self.card.hook_point.layer}"

    def model(self, progress: Progress | None = None) -> SparseRM:
        """The reward model with its language model loaded; one copy serves all sessions.

        Raises:
            SparseRMError: the backbone is not available, or does not match the head.
        """
        from sparserm.model import SparseRM

        model = SparseRM(self.saved)
        model.load_backbone(progress)
        _settle(self.card.backbone_source)
        return model

    def sae(self) -> SparseAutoencoder:
        """The SAE that the head's features come from.

        Raises:
            SparseRMError: it is not available, or is not the one that the head was trained with.
        """
        return _sae(self.card.sae, self.card.sae_fingerprint, self.saved)


@st.cache_resource(max_entries=4, show_spinner=False)
def _sae(name: str, fingerprint: str, _saved: SavedHead) -> SparseAutoencoder:
    from sparserm.model import SparseRM

    return SparseRM(_saved).load_sae()


@st.cache_data(show_spinner=False, max_entries=64)
def _load(folder: Path, changed: int) -> tuple[SavedHead, str]:
    saved = load_head(folder)
    return saved, head_hash(saved)


def read_head(key: str) -> Context:
    """Load a head from disk; cached until its files change.

    Raises:
        SparseRMError: it does not exist, or is damaged.
    """
    heads = list_heads()
    if key not in heads:
        raise SparseRMError(f"there is no head {key!r}; expected one of {', '.join(heads) or '(none found)'}")
    folder = heads[key]
    saved, digest = _load(folder, max((folder / name).stat().st_mtime_ns for name in ("config.json", "head.safetensors")))
    return Context(key, saved, digest)


def heads_by_name() -> dict[str, dict[int, str]]:
    """Maps each head name to its layers, and each layer to the key of the head there.

    Heads of one task at several layers are grouped under the name of the task. Heads that cannot be read are left out;
    ``sparserm heads`` reports what is wrong with them.
    """
    found: dict[str, dict[int, str]] = {}
    for key in sorted(list_heads(), key=_shipped_first):
        try:
            card = read_head(key).card
        except (SparseRMError, OSError):
            continue
        layers = found.setdefault(card.name if card.name and key.startswith(card.name) else key, {})
        if card.hook_point.layer in layers:
            found[key] = {card.hook_point.layer: key}
        else:
            layers[card.hook_point.layer] = key
    return found


def _shipped_first(key: str) -> int:
    """Sort key: the shipped tasks in their order, then all other heads."""
    task = key.partition("-layer")[0]
    return TASKS.index(task) if task in TASKS else len(TASKS)


def default_layer(name: str, layers: Mapping[int, str]) -> int:
    """The layer of the head without a layer suffix: for shipped heads, the best layer on validation data."""
    return next((layer for layer, key in layers.items() if key == name), min(layers))


def draw_sidebar() -> None:
    """Draw the selection of the head, its facts and the running jobs; stops the page if there is no head."""
    heads = heads_by_name()
    if not heads:
        st.error("No heads found, not even those that ship with SparseRM. Reinstall the package.")
        st.stop()
    _warn_of_unknown(heads, st.query_params.get("head"))
    with st.sidebar:
        name = st.selectbox(
            "Head",
            list(heads),
            key="head",
            bind="query-params",
            on_change=_forget_layer,
            help="The reward model that every page uses, named after what it was trained to prefer.",
        )
        layers = sorted(heads[name])
        _follow_link(heads[name])
        _note_unknown_layer(name, layers)
        layer = st.segmented_control(
            "Layer",
            layers,
            default=default_layer(name, heads[name]),
            required=True,
            key="layer",
            bind="query-params",
            on_change=_forget_unknown_layer,
            help="Layer of the language model that the head reads. Each layer has its own sparse autoencoder (SAE).",
        )
        context = read_head(heads[name][layer if layer in layers else default_layer(name, heads[name])])
        _facts(context)
        _backbone_status()
        job_panel.active_jobs()
    _guard_link(context)
    _warn_of_unknown_layer(name)
    st.session_state["_context"] = context


def current() -> Context:
    """The selected head."""
    if "_context" not in st.session_state:
        # On the first visit to a server, if by a link to a page, Streamlit runs the file in pages/ without app.py, because
        # st.navigation has not been called yet. Turn that off and run again.
        PagesManager.uses_pages_directory = False
        st.rerun()
    context: Context = st.session_state["_context"]
    return context


def feature_card_link() -> str:
    """URL of a feature card for the selected head, without the feature number at its end."""
    kept = {name: st.query_params[name] for name in ("head", "layer", "hash") if name in st.query_params}
    return f"features?{urlencode(kept)}&feature="


def _follow_link(layers: Mapping[int, str]) -> None:
    """Select the layer that a link without one was made for, found by the hash: the default layer may have changed since."""
    asked = st.query_params.get("hash")
    if asked and "_link_seen" not in st.session_state and "layer" not in st.query_params:
        meant = next((layer for layer, key in layers.items() if read_head(key).hash == asked), None)
        if meant is not None:
            st.session_state["layer"] = meant


def _forget_layer() -> None:
    """Start a newly selected head at its default layer."""
    st.session_state.pop("layer", None)


def _warn_of_unknown(heads: Iterable[str], asked: str | None) -> None:
    if asked and asked not in heads:
        st.warning(
            plain(f"This link names head {asked!r}, which was not found; another head is shown."), icon=":material/link_off:"
        )


def _note_unknown_layer(name: str, layers: Sequence[int]) -> None:
    """Remember the layer of the opened link if the head has none there; before the control replaces it."""
    asked = st.query_params.get("layer")
    if asked and "_link_seen" not in st.session_state and whole_number(asked) not in layers:
        st.session_state["_layer_not_found"] = (name, asked, layers)


def _forget_unknown_layer() -> None:
    """Stop warning of it once a layer was chosen."""
    st.session_state.pop("_layer_not_found", None)


def _warn_of_unknown_layer(name: str) -> None:
    of, asked, layers = st.session_state.get("_layer_not_found", ("", "", ()))
    if of == name:
        st.warning(
            plain(f"This link names layer {asked[:40]!r} of {name}, which was not found; expected ")
            + f"{' or '.join(map(str, layers))}. Another layer is shown.",
            icon=":material/link_off:",
        )


def _guard_link(context: Context) -> None:
    """Keep the hash of the head in the link, and warn if the opened link was made with another version."""
    asked = st.query_params.get("hash")
    if asked and "_link_seen" not in st.session_state and asked != context.hash:
        st.session_state["_link_changed"] = (asked, context.key)
    st.session_state["_link_seen"] = True
    was, key = st.session_state.get("_link_changed", ("", ""))
    if key == context.key:
        st.warning(
            plain(f"This link was made with version {was} of head {context.key}; version {context.hash} is shown."),
            icon=":material/link_off:",
        )
    if asked != context.hash:
        st.query_params["hash"] = context.hash


def _facts(context: Context) -> None:
    card = context.card
    st.caption(
        f"Backbone {plain(card.backbone)}  \nSAE {plain(card.sae)}, {card.d_sae:,} latents  \n{plain(card.hook)}  \n"
        f"{len(context.saved.head.features)} features, {context.saved.head.pooling} pooling  \nversion {context.hash}"
    )
    if context.saved.head.score == "gated":
        st.caption("Counts a feature only where it fires.")
    beside = baselines(card, ("parent_accuracy", "random_directions", "length_baseline"))
    said = [f"Accuracy {accuracy(card)}" if accuracy(card) else "Accuracy not measured", beside]
    said.append(f"licence of the training data: {card.training.get('licence') or 'not stated'}")
    st.caption(plain("; ".join(part for part in said if part)))


@st.cache_resource(show_spinner=False, max_entries=8)
def _settle(backbone: str) -> None:
    """Exclude the objects of the language model and its libraries from garbage collection.

    Streamlit collects garbage after every run of a page, which would take a quarter of a second with them.
    """
    gc.collect()
    gc.freeze()


@st.cache_resource(show_spinner=False)
def _loading() -> threading.Thread:
    """Starts loading the language model in the background, if its files are already downloaded."""

    def load() -> None:
        from sparserm.model import shared_backbone

        card = next(iter(_shipped_cards()))
        shared_backbone(card.backbone_source, max(DEFAULT_LAYERS))
        _settle(card.backbone_source)

    thread = threading.Timer(_PAINTED, load)
    thread.daemon = True
    if is_ready():
        thread.start()
    return thread


def _shipped_cards() -> Iterable[HeadCard]:
    return (read_head(key).card for key in list_heads())


def _backbone_status() -> None:
    """Say that the language model is downloaded later, or is loading, until it is ready."""
    thread = _loading()
    if not is_ready():
        st.caption(":material/cloud_download: The language model (93 MB) will be downloaded for the first score.")
    elif thread.is_alive():
        _wait_for_backbone()


@st.fragment(run_every=1)
def _wait_for_backbone() -> None:
    if _loading().is_alive():
        st.caption(":material/hourglass_top: The language model is loading. You can use the app meanwhile.")
    else:
        st.rerun()  # the whole page, without this fragment
