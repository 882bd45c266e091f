"""Where responses are read: a backbone, a hook point and an SAE, which a head brings or which are chosen without one."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from sparserm.backbone import smollm2
from sparserm.heads.saved import HeadCard, SavedHead
from sparserm.types import HookPoint, Pooling, Progress, SparseRMError

if TYPE_CHECKING:  # torch is imported behind the first page
    from sparserm.backbone.model import Backbone
    from sparserm.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class Place:
    """Where responses are read, and the SAE whose latents are the features there.

    Attributes:
        backbone, backbone_source, backbone_fingerprint: name of the language model, where to load it from, and its identity.
        hook: TransformerLens name of the hook point.
        sae_name, sae_fingerprint, d_sae: the SAE and its number of latents.
        width: of the representations.
        pooling: how the tokens of a response are pooled.
    """

    backbone: str
    backbone_source: str
    backbone_fingerprint: str
    hook: str
    sae_name: str
    sae_fingerprint: str
    d_sae: int
    width: int
    pooling: Pooling

    @classmethod
    def of_head(cls, saved: SavedHead) -> Place:
        """Where a head reads."""
        card = saved.card
        return cls(
            card.backbone,
            card.backbone_source,
            card.backbone_fingerprint,
            card.hook,
            card.sae,
            card.sae_fingerprint,
            card.d_sae,
            saved.width,
            saved.head.pooling,
        )

    @property
    def layer(self) -> int:
        """Layer of the backbone."""
        return HookPoint.parse(self.hook).layer

    @property
    def title(self) -> str:
        """Backbone, layer and SAE, e.g. ``smollm2-135m-instruct · layer 15 · smollm2/layer_15``."""
        return f"{self.backbone} · layer {self.layer} · {self.sae_name}"

    def load_backbone(self, progress: Progress | None = None) -> Backbone:
        """The language model; one copy serves all sessions.

        Raises:
            SparseRMError: it is not available, or is another one.
        """
        from sparserm.model import shared_backbone

        found = shared_backbone(self.backbone_source, self.layer, progress)
        if (found.fingerprint, found.d_model) != (self.backbone_fingerprint, self.width):
            raise SparseRMError(
                f"backbone {found.name} is {found.fingerprint} of width {found.d_model}, expected {self.backbone_fingerprint} "
                f"of width {self.width}; put that backbone back, or select another head"
            )
        settle(self.backbone_source)
        return found

    def sae(self) -> SparseAutoencoder:
        """The SAE.

        Raises:
            SparseRMError: it is not available, or is another one.
        """
        return _sae(self.sae_name, self.sae_fingerprint, self.d_sae, self.width)


@st.cache_resource(max_entries=4, show_spinner=False)
def _sae(name: str, fingerprint: str, d_sae: int, width: int) -> SparseAutoencoder:
    from sparserm.sae.autoencoder import load_sae

    found = load_sae(name, may_download=False)
    if (found.fingerprint, found.d_sae, found.d_in) != (fingerprint, d_sae, width):
        raise SparseRMError(
            f"SAE {name} is {found.fingerprint} with {found.d_sae:,} latents of width {found.d_in}, expected {fingerprint} "
            f"with {d_sae:,} latents of width {width}; put that SAE back, or select another head or SAE"
        )
    return found


@st.cache_resource(show_spinner=False, max_entries=8)
def settle(backbone: str) -> None:
    """Exclude the objects of the language model and its libraries from garbage collection.

    Streamlit collects garbage after every run of a page, which would take a quarter of a second with them.
    """
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class KnownBackbone:
    """A backbone for which this app has SAEs.

    Attributes:
        name, source, fingerprint: as of :class:`Place`.
        saes: names of the SAEs by layer.
    """

    name: str
    source: str
    fingerprint: str
    saes: dict[int, list[str]]

    def at(self, sae: str) -> Place:
        """The place of one of its SAEs, without a head.

        Raises:
            SparseRMError: the SAE cannot be loaded.
        """
        from sparserm.sae.autoencoder import find_sae

        folder = find_sae(sae)
        changed = max((path.stat().st_mtime_ns for path in folder.iterdir()), default=0) if folder else 0
        return _without_head(self.name, self.source, self.fingerprint, sae, changed)


@st.cache_data(max_entries=16, show_spinner=False)
def _without_head(name: str, source: str, fingerprint: str, sae: str, changed: int) -> Place:
    from sparserm.sae.autoencoder import load_sae

    found = load_sae(sae, may_download=False)
    return Place(name, source, fingerprint, found.hook.name, sae, found.fingerprint, found.d_sae, found.d_in, "mean")


def known_backbones(cards: Iterable[HeadCard]) -> dict[str, KnownBackbone]:
    """The default backbone and those of heads, by name, each with the SAEs on this machine that were trained on it."""
    from sparserm.sae.autoencoder import find_sae, list_saes

    sources = {smollm2.NAME: (smollm2.NAME, smollm2.FINGERPRINT)}
    saes = {(info.model_name, info.name): info.layer for info in list_saes()}
    for card in cards:
        sources.setdefault(card.backbone, (card.backbone_source, card.backbone_fingerprint))
        if find_sae(card.sae) is not None:
            saes.setdefault((card.backbone, card.sae), card.hook_point.layer)
    found = {}
    for name, source in sources.items():
        layers: dict[int, list[str]] = {}
        for (backbone, sae), layer in sorted(saes.items(), key=lambda one: one[1]):
            if backbone == name:
                layers.setdefault(layer, []).append(sae)
        if layers:
            found[name] = KnownBackbone(name, *source, layers)
    return found
