"""What the Features page is about: the latents of the selected SAE, and the head that weighs some, if one is selected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparserm.heads.labels import given_labels
from sparserm.heads.reward import RewardHead
from sparserm.types import Activity, Score
from sparserm.ui.shared.context import Context, place, selected
from sparserm.ui.shared.place import Place


@dataclass(frozen=True)
class Scope:
    """The latents of an SAE, and a head that weighs some of them.

    Attributes:
        place: where responses are read, and the SAE.
        context: the selected head, if any.
    """

    place: Place
    context: Context | None

    @property
    def head(self) -> RewardHead | None:
        """The head."""
        return self.context.saved.head if self.context else None

    @property
    def score(self) -> Score:
        """What alignment scores count: the head's way, and without one, only where a latent fires."""
        return self.head.score if self.head else "gated"

    @property
    def activity(self) -> Activity:
        """When a latent counts as firing in a response: as the head was trained, and without one, at any token."""
        settings = self.context.card.training.get("settings", {}) if self.context else {}
        return "most" if settings.get("activity") == "most" else "any"

    @property
    def hash(self) -> str:
        """Identity of the head, empty without one; part of the keys of cached results."""
        return self.context.hash if self.context else ""

    @property
    def name(self) -> str:
        """Name of the head, or of the SAE without one."""
        return self.context.key if self.context else self.place.sae_name

    @property
    def labels_of_head(self) -> Mapping[int, str]:
        """Labels that the head brings."""
        return self.context.card.labels if self.context else {}

    def given(self) -> Mapping[int, str]:
        """Labels written by people."""
        return given_labels(self.place.sae_fingerprint, self.labels_of_head)

    def feature_title(self, feature: int) -> str:
        """E.g. ``feature 1203 of 4608 · smollm2-135m-instruct · layer 15``."""
        return f"feature {feature} of {self.place.d_sae} · {self.place.backbone} · layer {self.place.layer}"


def selected_scope() -> Scope:
    """What is selected in the sidebar."""
    return Scope(place(), selected())
