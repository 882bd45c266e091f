"""Held-out accuracy of a head with its baselines, and what makes it doubtful."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparserm.heads.saved import HeadCard

#: Share of pairs with the longer response chosen from which a head may partly reward length.
_OFTEN_LONGER = 0.6


@dataclass(frozen=True)
class HeldOut:
    """Accuracy of a head on pairs of other prompts, and of its baselines on the same pairs; None where it was not measured.

    Attributes:
        accuracy, ci95, n: of the head, with its 95 % interval, and the number of pairs.
        longer: of always preferring the longer response.
        surface: of all surface features, such as length, refusals and lists, in one model.
        random: mean over heads of as many random latents.
    """

    accuracy: float
    ci95: tuple[float, float] | None = None
    n: int | None = None
    longer: float | None = None
    surface: float | None = None
    random: float | None = None

    @classmethod
    def of_card(cls, card: HeadCard) -> HeldOut | None:
        """The figures in a head's card, which may be imported, so that no entry needs to be there; None without an accuracy."""
        names = {
            "accuracy": "accuracy",
            "longer": "length_baseline",
            "surface": "surface_features",
            "random": "random_directions",
        }
        found = {ours: number(card.metrics, theirs) for ours, theirs in names.items()}
        accuracy, n, ends = found.pop("accuracy"), number(card.metrics, "n"), card.metrics.get("ci95")
        if accuracy is None:
            return None
        if not isinstance(ends, (list, tuple)) or len(ends) != 2 or not all(isinstance(end, (int, float)) for end in ends):
            return cls(accuracy, None, None if n is None else int(n), **found)
        return cls(accuracy, (ends[0], ends[1]), None if n is None else int(n), **found)

    @property
    def low(self) -> float:
        """The lower end of the interval; the accuracy itself without one."""
        return self.ci95[0] if self.ci95 else self.accuracy

    @property
    def doubts(self) -> list[str]:
        """What else ranks these pairs about as well, a sentence each."""
        found = []
        if self.longer is not None and self.low <= self.longer:
            found.append(
                f"Picking the longer response does {self._as_well(self.longer)} on its test pairs ({self.longer:.1%}): it may "
                "have learned length and nothing else."
            )
        elif self.surface is not None and self.low <= self.surface:
            found.append(
                f"Surface features alone, such as length, refusals and lists, do {self._as_well(self.surface)} on its test "
                f"pairs ({self.surface:.1%}): it may have learned nothing else."
            )
        elif self.longer is not None and self.longer > _OFTEN_LONGER:
            found.append(
                f"The longer response is preferred in {self.longer:.0%} of its test pairs: it may partly reward length."
            )
        if self.random is not None and self.low <= self.random:
            found.append(
                f"A head over random latents does {self._as_well(self.random)} ({self.random:.1%}): its features explain "
                "little."
            )
        return found

    def _as_well(self, other: float) -> str:
        return "as well" if other >= self.accuracy else "about as well"


def number(values: Mapping[str, Any], key: str) -> float | None:
    """A finite number of a card; None where it is missing or anything else."""
    value = values.get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None
