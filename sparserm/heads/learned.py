"""What a head learned, in sentences made of tested statements, and warnings where little of it can be relied on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from sparserm.heads.fitting import FittedHead
from sparserm.heads.held_out import HeldOut
from sparserm.heads.reward import RewardHead
from sparserm.heads.saved import SavedHead
from sparserm.heads.screening import FALSE_DISCOVERIES, few_sure

#: Share of the halves of the prompts in which a feature is selected that counts as nearly always, and as seldom if it is less.
NEARLY_ALWAYS, SELDOM = 0.9, 0.5
#: Families that are told of those that raise the reward, and of those that lower it.
TOLD = 3


@dataclass(frozen=True)
class Learned:
    """The features of a head with the evidence for them.

    Attributes:
        f_chosen, f_rejected: ``[K]`` share of chosen / rejected training responses in which each feature is active.
        selected: ``[K]`` share of the halves of the prompts in which each was selected; None for projections.
        n_sure: number of features that surely differ; None for projections.
        sure: ids of the features that surely differ, as far as it is known which.
        names: what a response with a feature does, e.g. ``denies something``, for features that have a reliable label.
        held_out: None where nothing was measured.
    """

    head: RewardHead
    f_chosen: np.ndarray
    f_rejected: np.ndarray
    selected: np.ndarray | None
    n_sure: int | None
    sure: frozenset[int]
    names: Mapping[int, str]
    held_out: HeldOut | None

    @classmethod
    def of_saved(cls, saved: SavedHead, sure: Collection[int] | None, names: Mapping[int, str]) -> Learned:
        """Of a trained head; ``sure`` are the features that surely differ, None where this was not kept."""
        head, n_sure = saved.head, saved.n_sure
        if sure is None:
            sure = head.features.tolist() if n_sure == len(head.features) else ()
        held_out = HeldOut.of_card(saved.card)
        return cls(head, saved.f_chosen, saved.f_rejected, saved.selected, n_sure, frozenset(sure), names, held_out)

    @classmethod
    def of_fitted(cls, fitted: FittedHead, names: Mapping[int, str], held_out: HeldOut) -> Learned:
        """Of a head that was just fitted."""
        own, stats = fitted.head.features, fitted.stats
        f_chosen, f_rejected, sure = stats.f_chosen[own], stats.f_rejected[own], fitted.sure_features
        return cls(fitted.head, f_chosen, f_rejected, fitted.selected, fitted.n_sure, frozenset(sure), names, held_out)

    @property
    def families(self) -> tuple[tuple[int, ...], ...]:
        """Places of the features by family, the largest absolute weight first, of families and within each."""
        members: dict[int, list[int]] = {}
        for place in np.argsort(-np.abs(self.head.weights), kind="stable").tolist():
            members.setdefault(int(self.head.leaders[place]), []).append(place)
        return tuple(map(tuple, members.values()))

    @property
    def verdict(self) -> tuple[str, ...]:
        """What the head learned, a sentence each."""
        told = [self._accuracy(), self._features(), self._stability(), *self._effects()]
        return tuple(sentence for sentence in told if sentence)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why not to rely on it, a sentence or two each."""
        unsure = self._unsure()
        return (*([unsure] if unsure else []), *(self.held_out.doubts if self.held_out else ()))

    def _accuracy(self) -> str:
        if (one := self.held_out) is None:
            return ""
        interval = f" (95% interval {one.ci95[0]:.1%} to {one.ci95[1]:.1%})" if one.ci95 else ""
        others = {"the longer response alone": one.longer, "surface features": one.surface, "random latents": one.random}
        beside = ", ".join(f"{name} {value:.1%}" for name, value in others.items() if value is not None)
        pairs = "the" if one.n is None else f"{one.n:,}"
        return f"It ranks {one.accuracy:.1%} of {pairs} pairs of other prompts as labelled{interval}" + (
            f"; {beside}." if beside else "."
        )

    def _features(self) -> str:
        n, families = len(self.head.features), len(self.families)
        features = f"{n} feature{'s' * (n != 1)}" + (f" in {families} famil{'y' if families == 1 else 'ies'}" * (families < n))
        if self.n_sure is None:
            return (
                f"The head weights {features} by their projections, which are never zero: a bar may belong to a feature that "
                "the text does not have."
            )
        return (
            f"The head has {features}; {_how_many(self.n_sure, n)} between chosen and rejected responses "
            f"(at most {FALSE_DISCOVERIES:.0%} of such findings are expected to be wrong)."
        )

    def _stability(self) -> str:
        if self.selected is None:
            return ""
        n = len(self.selected)
        always, seldom = int((self.selected >= NEARLY_ALWAYS).sum()), int((self.selected < SELDOM).sum())
        parts = {"nearly always": always, "mostly": n - always - seldom, "seldom": seldom}
        counts = [(str(count) if count < n else "all", how) for how, count in parts.items() if count]
        (most, how), *others = counts
        come = "comes" if most == "1" or n == 1 else "come"
        told = ", ".join([f"{most} {come} back {how}", *(f"{count} {how}" for count, how in others)])
        rest = ": other pairs of this kind may bring others in place of the last" if seldom else ""
        return f"On halves of the prompts, {told}{rest}."

    def _effects(self) -> list[str]:
        """What raises and what lowers the reward: features that surely differ, mostly come back, and have a name."""
        if not self.n_sure:
            return []
        told: dict[bool, list[str]] = {True: [], False: []}
        for members in self.families:
            place = next((one for one in members if self._is_telling(one)), None)
            if place is not None:
                told[bool(self.head.weights[place] > 0)].append(self._effect(place))
        found = [
            f"{how}: {'; '.join(told[up][:TOLD])}."
            for how, up in (("Raises the reward", True), ("Lowers the reward", False))
            if told[up]
        ]
        untold = len(self.families) - len(told[True]) - len(told[False])
        if untold:
            found.append(
                f"{untold} of its {len(self.families)} families {'is' if untold == 1 else 'are'} not told here: without a "
                "name, not sure, or seldom back."
            )
        return found

    def _is_telling(self, place: int) -> bool:
        feature = int(self.head.features[place])
        return feature in self.sure and feature in self.names and (self.selected is None or self.selected[place] >= SELDOM)

    def _effect(self, place: int) -> str:
        return (
            f"a response that {self.names[int(self.head.features[place])]} (fires in {self.f_chosen[place]:.0%} of chosen and "
            f"{self.f_rejected[place]:.0%} of rejected responses)"
        )

    def _unsure(self) -> str:
        n, sure = len(self.head.features), self.n_sure
        if sure == 0:
            return (
                "None of these features surely differs between chosen and rejected responses. Do not read a meaning into them: "
                "the pairs may be too few, or what decides between them is nothing that this autoencoder has a feature for. "
                "Give more pairs, or try another layer."
            )
        if sure is not None and few_sure(sure, n):
            return (
                f"Only {sure} of {n} features surely differ{'s' * (sure == 1)} between chosen and rejected responses. Rely on "
                f"{'this one' if sure == 1 else 'these'} alone; give more pairs, or try another layer."
            )
        return ""


def _how_many(sure: int, n: int) -> str:
    if sure == n:
        return "all of them surely differ" if n > 1 else "it surely differs"
    return f"{sure or 'none'} of them surely differ{'s' * (sure < 2)}"
