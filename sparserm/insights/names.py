"""Names of features: labels of latents, and what the shortcuts count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparserm.heads.labels import auto_labels, user_labels
from sparserm.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class Name:
    """What is known of a feature before any pairs are looked at.

    Attributes:
        feature: id of the latent; None for a shortcut.
        text: what a response with the feature does; ``feature 12`` without a reliable label.
        named: whether ``text`` says what it does.
        evidence: words at which the latent fires, where known.
        detection: detection score of an automatic label.
    """

    feature: int | None
    text: str
    named: bool = True
    evidence: str = ""
    detection: float | None = None


def names_of(sae: SparseAutoencoder, shortcuts: Sequence[str]) -> list[Name]:
    """Names of all latents, then of the shortcuts; the user's label goes before an automatic one."""
    own, automatic = user_labels(sae.fingerprint), auto_labels(sae.fingerprint)
    names = []
    for latent in range(sae.d_sae):
        known = automatic.get(latent)
        evidence = known.evidence if known else ""
        if latent in own:
            names.append(Name(latent, own[latent], evidence=evidence))
        elif known and known.text is not None and known.detection:
            names.append(Name(latent, known.text, evidence=evidence, detection=known.detection.accuracy))
        else:
            names.append(Name(latent, f"feature {latent}", named=False, evidence=evidence))
    return [*names, *(Name(None, text) for text in shortcuts)]
