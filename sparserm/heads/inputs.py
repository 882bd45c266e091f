"""Inputs of a fit: a matching SAE and backbone, and the representations of the training pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sparserm.backbone.model import Backbone
from sparserm.heads.fitting import FitSettings, require_suited
from sparserm.representations.files import NamedModel, RepresentedPairs
from sparserm.representations.represent import represent_pairs
from sparserm.representations.store import stored
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder, check_compatible, load_sae
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER
from sparserm.types import PreferenceData, PreferencePair, Progress, SparseRMError


def load_parts(
    backbone: Backbone | str | Path,
    sae: SparseAutoencoder | str | Path | None,
    layer: int | None,
    progress: Progress | None = None,
) -> tuple[SparseAutoencoder, Backbone]:
    """Load an SAE and a backbone and check that they match; the default is the shipped SAE of ``layer``.

    Raises:
        SparseRMError: the width or the number of layers does not match, ``layer`` is not the SAE's, or no SAE is given for a
            backbone without a shipped one.
    """
    if sae is None and str(backbone) != DEFAULT_BACKBONE and not isinstance(backbone, Backbone):
        raise SparseRMError(f"backbone {str(backbone)!r} has no shipped SAE; give one with --sae (a folder or release:sae_id)")
    dictionary = (
        sae
        if isinstance(sae, SparseAutoencoder)
        else load_sae(sae or f"{DEFAULT_BACKBONE}/layer_{DEFAULT_LAYER if layer is None else layer}")
    )
    if layer is not None and dictionary.hook.layer != layer:
        raise SparseRMError(
            f"SAE {dictionary.name} was trained at {dictionary.hook.name}, but layer {layer} was asked for; leave the layer "
            "out, or choose an SAE of that layer (`sparserm saes`)"
        )
    model = (
        backbone
        if isinstance(backbone, Backbone)
        else Backbone.load(backbone, through_layer=dictionary.hook.layer, progress=progress)
    )
    check_compatible(dictionary, model_name=model.name, d_model=model.d_model, n_layers=model.n_layers)
    return dictionary, model


def load_parts_of(
    data: PreferenceData | RepresentedPairs,
    backbone: Backbone | str | Path,
    sae: SparseAutoencoder | str | Path | None,
    layer: int | None,
    progress: Progress | None = None,
) -> tuple[SparseAutoencoder, Backbone | NamedModel]:
    """:func:`load_parts` for pairs; of those that are represented already the SAE alone, which their folder names.

    Raises:
        SparseRMError: as there; or the pairs are represented, and a backbone, an SAE or a layer was given.
    """
    if isinstance(data, PreferenceData):
        return load_parts(backbone, sae, layer, progress)
    if sae is not None or layer is not None or backbone != DEFAULT_BACKBONE:
        raise SparseRMError(
            f"{data.stored.folder} is of backbone {data.of.backbone} and SAE {data.of.sae}; expected no other backbone, SAE or "
            "layer; leave them out, or give the pairs themselves"
        )
    return load_sae(data.of.sae), data.of.model


def not_represented(data: PreferenceData) -> SparseRMError:
    """The error for pairs that are given together with a folder of representations."""
    return SparseRMError(
        f"{data.name} is not represented, expected all pairs to be if some are; run `sparserm represent` on it too"
    )


def load_saes(names: tuple[str, ...]) -> dict[str, SparseAutoencoder]:
    """Load SAEs of different layers, by name.

    Raises:
        SparseRMError: no names, an SAE that cannot be loaded, or two SAEs at the same hook point.
    """
    if not names:
        raise SparseRMError("no SAE was chosen; expected one or more, each at a different layer; choose a layer or give an SAE")
    saes = {name: load_sae(name) for name in names}
    for name, sae in saes.items():
        if same := [other for other in saes if other != name and saes[other].hook == sae.hook]:
            raise SparseRMError(f"SAEs {name} and {same[0]} both read {sae.hook.name}; choose one of them for each layer")
    return saes


def represent_for_fit(
    data: PreferenceData | RepresentedPairs,
    model: Backbone | NamedModel,
    sae: SparseAutoencoder,
    settings: FitSettings,
    progress: Progress | None,
    *,
    latents: bool = True,
) -> PairRepresentations:
    """Representations of the pairs at the SAE's hook point, with what a fit needs, from their files or the store if available.

    Args:
        latents: compute the SAE's latents too; gated scores always need them.

    Raises:
        SparseRMError: the settings do not suit the SAE.
    """
    require_suited(settings, sae)
    gated = settings.for_sae(sae).score == "gated"
    if isinstance(data, RepresentedPairs):
        return data.representations(sae, states=not gated or settings.pooling == "last")
    if not isinstance(model, Backbone):
        raise not_represented(data)
    saes = {sae.hook: sae if latents or gated else None}
    with stored() as store:
        found = represent_pairs(data.pairs, model, saes, settings.pooling, strengths=gated, store=store, progress=progress)
    return found[sae.hook]


def represent_layers(
    pairs: Sequence[PreferencePair],
    backbone: Backbone,
    saes: Mapping[str, SparseAutoencoder],
    settings: FitSettings,
    progress: Progress | None = None,
) -> dict[str, PairRepresentations]:
    """Representations at every SAE's layer, with what fits need, by the SAE's name, from one pass of the backbone.

    Raises:
        SparseRMError: an SAE does not match this backbone, or the settings.
    """
    for sae in saes.values():
        check_compatible(sae, model_name=backbone.name, d_model=backbone.d_model, n_layers=backbone.n_layers)
        require_suited(settings, sae)
    gated = any(settings.for_sae(sae).score == "gated" for sae in saes.values())
    hooks = {sae.hook: sae for sae in saes.values()}
    with stored() as store:
        found = represent_pairs(pairs, backbone, hooks, settings.pooling, strengths=gated, store=store, progress=progress)
    return {name: found[sae.hook] for name, sae in saes.items()}
