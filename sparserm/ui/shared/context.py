"""The sidebar: the selected head, or a layer and SAE without a head; shared by all pages and kept in the link."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager

from sparserm.backbone.smollm2 import FINGERPRINT, is_ready
from sparserm.heads.model_card import accuracy, baselines
from sparserm.heads.saved import HeadCard, SavedHead, head_hash, list_heads, load_head
from sparserm.support.defaults import DEFAULT_LAYER, DEFAULT_LAYERS, TASKS
from sparserm.types import Progress, SparseRMError
from sparserm.ui.shared import job_panel
from sparserm.ui.shared.links import SELECTION, keep_in_link, link_to, selection
from sparserm.ui.shared.place import Place, known_backbones, settle
from sparserm.ui.shared.text import plain, sentence

if TYPE_CHECKING:  # torch is imported behind the first page
    from sparserm.model import SparseRM
    from sparserm.sae.autoencoder import SparseAutoencoder

#: The last entry of the list of heads.
NO_HEAD = "No head (SAE only)"
#: Parameter of a link that selects a head.
_OFFERED = "use"
#: Key of the session state for what was selected last.
_SELECTED = "_selected"
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
    def place(self) -> Place:
        """Where the head reads responses."""
        return Place.of_head(self.saved)

    def model(self, progress: Progress | None = None) -> SparseRM:
        """The reward model with its language model loaded; one copy serves all sessions.

        Raises:
            SparseRMError: the backbone is not available, or does not match the head.
        """
        from sparserm.model import SparseRM

        model = SparseRM(self.saved)
        model.load_backbone(progress)
        settle(self.card.backbone_source)
        return model

    def sae(self) -> SparseAutoencoder:
        """The SAE that the head's features come from.

        Raises:
            SparseRMError: it is not available, or is not the one that the head was trained with.
        """
        return self.place.sae()


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
    """Draw the selection of the head or SAE, its facts and the running jobs; stops the page if there is no head."""
    heads = heads_by_name()
    _use_offered(heads)
    if not heads:
        st.error("No heads found, not even those that ship with SparseRM. Reinstall the package.")
        st.stop()
    if unknown := _restore("head", [*heads, NO_HEAD], next(iter(heads))):
        st.warning(
            plain(f"This link names head {unknown!r}, which was not found; another head is shown."), icon=":material/link_off:"
        )
    with st.sidebar:
        name = st.selectbox(
            "Head",
            [*heads, NO_HEAD],
            key="head",
            on_change=_head_changed,
            help="The reward model that every page uses, named after what it was trained to prefer. Insights, Features "
            "and Train need none: with the last entry you choose a layer and its sparse autoencoder (SAE).",
        )
        context = None if name == NO_HEAD else _head(name, heads[name])
        place = context.place if context else _sae_only(heads)
        _facts(place, context)
        _backbone_status(place)
        job_panel.active_jobs()
    _guard_link(context)
    st.session_state["_context"], st.session_state["_place"] = context, place


def _head(name: str, layers: Mapping[int, str]) -> Context:
    """The head of this name at the selected layer."""
    meant = _meant_by_hash(layers)
    layer = _pick_layer(layers, default_layer(name, layers) if meant is None else meant)
    st.session_state["_last_head"] = name
    return read_head(layers[layer])


def _sae_only(heads: Mapping[str, Mapping[int, str]]) -> Place:
    """The selected layer and SAE without a head; stops the page if the SAE cannot be used."""
    cards = [read_head(key).card for layers in heads.values() for key in layers.values()]
    known = known_backbones(cards)
    if not known:
        st.error("No SAE found, not even those that ship with SparseRM. Reinstall the package.")
        st.stop()
    backbone = known[_pick("backbone", "Backbone", list(known))]
    layers = backbone.saes
    saes = layers[_pick_layer(layers, DEFAULT_LAYER if DEFAULT_LAYER in layers else min(layers))]
    sae = _pick("autoencoder", "SAE", saes)
    try:
        return backbone.at(sae)
    except SparseRMError as error:
        st.error(sentence(error))
        st.stop()


def _pick(name: str, label: str, options: Sequence[str]) -> str:
    """Draw a choice if there is one to make."""
    if len(options) == 1:
        return options[0]
    _restore(name, options, options[0])
    return st.selectbox(label, options, key=name)


def _pick_layer(layers: Collection[int], default: int) -> int:
    """Draw the choice of the layer. What is lit is always written: the browser keeps what it has unless it is told."""
    options = sorted(layers)
    if unknown := _restore("layer", options, default):
        there = ", ".join(map(str, options))
        st.warning(plain(f"This link names layer {unknown!r}, expected one of {there}; layer {default} is shown."))
    picked = st.segmented_control(
        "Layer",
        options,
        required=True,
        key="layer",
        help="Layer of the language model that is read. Each layer has its own sparse autoencoder (SAE).",
    )
    return default if picked is None else picked


def _restore(name: str, options: Sequence[Any], default: Any) -> str | None:
    """Select in a widget what was selected before, else what the opened link names, else the default.

    The widgets of the sidebar are not bound to the link: when the user goes back, Streamlit drops what is bound, and the
    head was missing from the links that people copied or reloaded.

    Returns:
        What the opened link names, if it is not among the options.
    """
    state = st.session_state
    before, linked = state.get(name, state.get(_SELECTED, {}).get(name)), st.query_params.get(name)
    named = {str(option): option for option in options}
    if before in options:
        state[name] = before
        return None
    first = "_link_seen" not in state
    state[name] = named.get(linked or "", default) if first else default
    return linked if first and linked and linked not in named else None


def selected() -> Context | None:
    """The selected head, or None if none is."""
    _require_frame()
    context: Context | None = st.session_state["_context"]
    return context


def place() -> Place:
    """Where responses are read: by the selected head, or as selected without one."""
    _require_frame()
    found: Place = st.session_state["_place"]
    return found


def current() -> Context:
    """The selected head; if none is, says what to do and stops the page."""
    context = selected()
    if context is not None:
        return context
    first = st.session_state.get("_last_head") or next(iter(heads_by_name()))
    st.info("This needs a head, and none is selected. Select one in the sidebar, or train one.", icon=":material/tune:")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(f"Use the head {plain(first)}", type="primary", on_click=use_head, args=(first,))
        link_to("pages/train.py", "Train a head", ":material/model_training:")
    st.stop()


def use_head(name: str) -> None:
    """Select a head, at its default layer; for callbacks."""
    st.session_state["head"] = name
    st.session_state["layer"] = default_layer(name, heads_by_name()[name])


def _require_frame() -> None:
    if "_place" not in st.session_state:
        # On the first visit to a server, if by a link to a page, Streamlit runs the file in pages/ without app.py, because
        # st.navigation has not been called yet. Turn that off and run again.
        PagesManager.uses_pages_directory = False
        st.rerun()


def feature_card_link() -> str:
    """URL of a feature card for what is selected in the sidebar, without the feature number at its end."""
    return f"features?{urlencode(selection())}&feature="


def _meant_by_hash(layers: Mapping[int, str]) -> int | None:
    """The layer that a link without one was made for, found by the hash: the default layer may have changed since."""
    asked = st.query_params.get("hash")
    if not asked or "_link_seen" in st.session_state:
        return None
    return next((layer for layer, key in layers.items() if read_head(key).hash == asked), None)


def use_link(page: str, label: str, icon: str, head: str) -> None:
    """A link to a page that selects a head there."""
    st.page_link(page, label=label, icon=icon, query_params={_OFFERED: head})


def _use_offered(heads: Collection[str]) -> None:
    """Select the head that the opened link offers."""
    offered = st.query_params.pop(_OFFERED, None)
    if offered is not None and offered in heads:
        use_head(offered)


def _head_changed() -> None:
    """Start a newly selected head at its default layer; without a head, stay where the last one reads."""
    state = st.session_state
    if state["head"] == NO_HEAD:
        here: Place = state["_place"]
        state.update(backbone=here.backbone, layer=here.layer, autoencoder=here.sae_name)
    else:
        use_head(state["head"])


def _guard_link(context: Context | None) -> None:
    """Keep the selection in the link, and warn if the opened link was made with another version of the head."""
    asked = st.query_params.get("hash")
    first = "_link_seen" not in st.session_state
    st.session_state["_link_seen"] = True
    _write_link(context)
    if context is None:
        return
    if asked and first and asked != context.hash:
        st.session_state["_link_changed"] = (asked, context.key)
    was, key = st.session_state.get("_link_changed", ("", ""))
    if key == context.key:
        st.warning(
            plain(f"This link was made with version {was} of head {context.key}; version {context.hash} is shown."),
            icon=":material/link_off:",
        )


def _write_link(context: Context | None) -> None:
    """Write what is selected into the link, and keep it for pages that are drawn while their widgets are not."""
    state = st.session_state
    drawn = ("head", "layer") if context else ("head", "layer", "backbone", "autoencoder")
    state[_SELECTED] = {name: state[name] for name in drawn if name in state}
    wanted = {name: str(value) for name, value in state[_SELECTED].items()} | ({"hash": context.hash} if context else {})
    keep_in_link({name: [wanted[name]] if name in wanted else [] for name in SELECTION})


def _facts(place: Place, context: Context | None) -> None:
    """What is selected; without a head, of the place alone."""
    said = [
        f"Backbone {plain(place.backbone)}",
        f"SAE {plain(place.sae_name)}, {place.d_sae:,} latents",
        plain(place.hook),
        f"{place.pooling} pooling",
    ]
    if context is None:
        st.caption("  \n".join(said))
        return
    said[-1] = f"{len(context.saved.head.features)} features, {said[-1]}"
    st.caption("  \n".join([*said, f"version {context.hash}"]))
    card = context.card
    if context.saved.head.score == "gated":
        st.caption("Counts a feature only where it fires.")
    beside = baselines(card, ("parent_accuracy", "random_directions", "length_baseline"))
    said = [f"Accuracy {accuracy(card)}" if accuracy(card) else "Accuracy not measured", beside]
    said.append(f"licence of the training data: {card.training.get('licence') or 'not stated'}")
    st.caption(plain("; ".join(part for part in said if part)))


@st.cache_resource(show_spinner=False)
def _loading() -> threading.Thread:
    """Starts loading the language model in the background, if its files are already downloaded."""

    def load() -> None:
        from sparserm.model import shared_backbone

        card = next(iter(_shipped_cards()))
        shared_backbone(card.backbone_source, max(DEFAULT_LAYERS))
        settle(card.backbone_source)

    thread = threading.Timer(_PAINTED, load)
    thread.daemon = True
    if is_ready():
        thread.start()
    return thread


def _shipped_cards() -> Iterable[HeadCard]:
    return (read_head(key).card for key in list_heads())


def _backbone_status(place: Place) -> None:
    """Say that the default language model is downloaded later, or is loading, until it is ready; others load when needed."""
    thread = _loading()
    if place.backbone_fingerprint != FINGERPRINT:
        return
    if not is_ready():
        _until_downloaded()
    elif thread.is_alive():
        _wait_for_backbone()


@st.fragment(run_every=2)
def _until_downloaded() -> None:
    """It goes away by itself: the page that downloads the model draws the sidebar before, and not again."""
    if not is_ready():
        st.caption(":material/cloud_download: The language model (93 MB) will be downloaded for the first score.")


@st.fragment(run_every=1)
def _wait_for_backbone() -> None:
    if _loading().is_alive():
        st.caption(":material/hourglass_top: The language model is loading. You can use the app meanwhile.")
    else:
        st.rerun()  # the whole page, without this fragment
