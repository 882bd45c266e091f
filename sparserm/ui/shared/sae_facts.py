"""How good an SAE is, as one line for the pages that choose or use it."""

from __future__ import annotations

from sparserm.sae.autoencoder import describe_sae, find_saes
from sparserm.sae.seeds import read_seeds
from sparserm.types import SparseRMError
from sparserm.ui.shared.text import plain

#: Names of the figures in an SAE's metrics, what they are called here, and their formats.
_FIGURES = (
    ("explained_variance", "explained variance", ".2f"),
    ("l0", "L0", ".0f"),
    ("dead", "dead latents", ".1%"),
    ("loss_recovered", "loss recovered", ".2f"),
)
ABOUT_SAE = (
    "Explained variance: of the representation, by the reconstruction. L0: latents active per token. Loss recovered: how much "
    "of the language model's next-token loss the reconstruction preserves. Found again: latents that SAEs of other seeds have "
    "too, with nearly the same direction, or firing on the same tokens."
)


def sae_facts(name: str) -> str:
    """The measures of an SAE that has a name; empty where it has none."""
    folder = find_saes().get(name)
    if folder is None:
        return ""
    try:
        info = describe_sae(name, folder)
    except SparseRMError:
        return ""
    said = [f"{title} {info.metrics[key]:{spec}}" for key, title, spec in _FIGURES if key in info.metrics]
    if (seeds := read_seeds(folder, info.d_sae)) is not None:
        said.append(f"found again with other seeds: {seeds}")
    return f"SAE {plain(name)}: {' · '.join(said)}" if said else ""
