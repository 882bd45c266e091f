"""Contributions by family: features that fire together are one feature to a reader, and one bar of a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sparserm.explain.contributions import Contribution, FeatureDifference

Part = TypeVar("Part", Contribution, FeatureDifference)


@dataclass(frozen=True)
class FamilyContribution(Generic[Part]):
    """What the features of one family contribute together to a reward or margin.

    Attributes:
        members: the features that take part, one at least: the leader first if it does, then by absolute contribution.
    """

    members: tuple[Part, ...]

    @property
    def first(self) -> Part:
        """The one that names them: a label says where its own feature fires, so it is not that of a leader that is silent."""
        return self.members[0]

    @property
    def contribution(self) -> float:
        """The sum of the members' contributions."""
        return sum(part.contribution for part in self.members)

    @property
    def features(self) -> tuple[int, ...]:
        """Feature ids of the members."""
        return tuple(part.feature for part in self.members)


def takes_part(part: Contribution | FeatureDifference) -> bool:
    """Whether a feature fires or contributes; of a gated head those that are silent contribute nothing and are not drawn."""
    fires = (part.fires,) if isinstance(part, Contribution) else (part.fires_a, part.fires_b)
    return part.contribution != 0 or any(one is not False for one in fires)


def by_family(parts: Sequence[Part]) -> tuple[FamilyContribution[Part], ...]:
    """Group the features that take part by family, largest absolute contribution first; their sum is that of all parts."""
    members: dict[int, list[Part]] = {}
    for part in sorted(filter(takes_part, parts), key=lambda part: (part.feature != part.family, -abs(part.contribution))):
        members.setdefault(part.family, []).append(part)
    grouped = (FamilyContribution(tuple(own)) for own in members.values())
    return tuple(sorted(grouped, key=lambda family: -abs(family.contribution)))


def has_families(parts: Sequence[Contribution] | Sequence[FeatureDifference]) -> bool:
    """Whether any of the features belongs to another one's family."""
    return any(part.family != part.feature for part in parts)
