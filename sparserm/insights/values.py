"""Insights as values: findings about features, and what is known of all pairs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

#: Sure features, the surest first, that are looked at further and grouped into families.
MOST = 512
#: Absolute z with length held fixed from which an effect is there beside length; by chance one in 370 has it.
SURE_BESIDE_LENGTH = 3.0


@dataclass(frozen=True)
class Member:
    """A feature: the id of its latent, None for a shortcut, and its name."""

    feature: int | None
    name: str


@dataclass(frozen=True)
class Slice:
    """A part of the pairs in which a feature's effect surely differs from that in all others.

    Attributes:
        name: e.g. ``category privacy`` or ``the longest third``.
        n, wins, ci95: as those of a :class:`Finding`, in this part.
        elsewhere: win rate in all other pairs.
        q: false discovery rate over all features and slices at which the difference counts as sure.
        turns: whether the effect here is surely the opposite of that in all pairs.
    """

    name: str
    n: int
    wins: int
    ci95: tuple[float, float]
    elsewhere: float
    q: float
    turns: bool

    @property
    def win_rate(self) -> float:
        """Share of the slice's pairs that differ in the feature in which the response that has it was chosen."""
        return self.wins / self.n


@dataclass(frozen=True)
class Snippet:
    """A response in which a feature is, cut around the place where it is strongest.

    Attributes:
        side: of its pair, ``chosen`` or ``rejected``; the other response of the pair has not got the feature.
        row: of the pair in its source.
        prompt: the last turn before the response, shortened.
        parts: pieces of the text, each with how strongly the feature fires there, from 0 to 1.
    """

    side: Literal["chosen", "rejected"]
    row: int
    prompt: str
    parts: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Finding:
    """A feature whose effect on the win rate is sure.

    Attributes:
        feature: id of the latent; None for a shortcut, such as length.
        name: what a response with the feature does, e.g. ``denies something``; ``feature 12`` without a reliable label.
        named: whether ``name`` says what it does.
        evidence: words at which the latent fires, where known.
        detection: detection score of an automatic label, from 0.5 (chance) to 1.
        n, wins: pairs in which exactly one response has the feature, and of these pairs in which that response was chosen.
        ci95: 95 % interval of :attr:`win_rate`, over prompts.
        z, q: of wins minus losses, and the false discovery rate at which the effect counts as sure.
        length_held, length_held_z: probability that the response with the feature is chosen if both are equally long, and z;
            for length itself the same as :attr:`win_rate` and ``z``.
        returns: share of the halves of the prompts in which the effect is sure again, with the same sign.
        family: other features that mostly differ in the same pairs, with the same sign, the surest first.
        slices: parts of the pairs in which the effect surely differs, the surest first.
        snippets: responses that have it where the other one has not, chosen ones and rejected ones, if they were read.
        here: words at which it fires in these pairs, if some were read, e.g. ``doctor · ambulance``.
        fits: whether an automatic label's words are among them; None if that is not known.
    """

    feature: int | None
    name: str
    named: bool
    evidence: str
    detection: float | None
    n: int
    wins: int
    ci95: tuple[float, float]
    z: float
    q: float
    length_held: float
    length_held_z: float
    returns: float
    family: tuple[Member, ...]
    slices: tuple[Slice, ...] = ()
    snippets: tuple[Snippet, ...] = ()
    here: str = ""
    fits: bool | None = None

    @property
    def win_rate(self) -> float:
        """Share of the pairs that differ in the feature in which the response that has it was chosen."""
        return self.wins / self.n

    @property
    def told(self) -> bool:
        """Whether the name says what a response with the feature does in these pairs."""
        return self.named and self.fits is not False

    @property
    def title(self) -> str:
        """The name; the number of the latent where the name does not fit these pairs."""
        return f"feature {self.feature}" if self.named and not self.told else self.name

    @property
    def fires_on(self) -> str:
        """E.g. ``fires on: doctor · ambulance``: in these pairs if they were read, else where its label was made."""
        return f"fires on: {self.here}" if self.here else self.evidence

    @property
    def member(self) -> Member:
        """The feature alone."""
        return Member(self.feature, self.name)

    @property
    def rewarded(self) -> bool:
        """Whether the pairs reward the feature, and do not punish it."""
        return self.z > 0

    @property
    def direction(self) -> str:
        """``rewarded`` or ``punished``; ``(length)`` where this is not sure with length held fixed."""
        return f"{'rewarded' if self.rewarded else 'punished'}{'' if self.beside_length else ' (length)'}"

    @property
    def strength(self) -> float:
        """The smaller z of the two, with and without length held fixed; zero where their signs differ."""
        return min(abs(self.z), abs(self.length_held_z)) if self.z * self.length_held_z > 0 else 0.0

    @property
    def beside_length(self) -> bool:
        """Whether the effect is there, with the same sign, with length held fixed (|z| above :data:`SURE_BESIDE_LENGTH`)."""
        return self.length_held_z * self.z > 0 and abs(self.length_held_z) > SURE_BESIDE_LENGTH


@dataclass(frozen=True)
class Side:
    """A feature's effect in one of two sets of pairs.

    Attributes:
        n, wins, ci95: as those of a :class:`Finding`.
        beside_length: whether the effect is there, with the same sign, with length held fixed.
    """

    n: int
    wins: int
    ci95: tuple[float, float]
    effect: Literal["rewarded", "punished", "not sure"]
    beside_length: bool

    @property
    def win_rate(self) -> float:
        """Share of the pairs that differ in the feature in which the response that has it was chosen."""
        return self.wins / self.n


@dataclass(frozen=True)
class Difference:
    """A feature whose effect surely differs between two sets of pairs.

    Attributes:
        feature, name, named, evidence, family: as those of a :class:`Finding`.
        here, there: its effect in the first and in the second set.
        gap, ci95: win rate here minus that there, with its 95 % interval.
        z, q: of the gap, and the false discovery rate at which it counts as sure.
    """

    feature: int | None
    name: str
    named: bool
    evidence: str
    here: Side
    there: Side
    gap: float
    ci95: tuple[float, float]
    z: float
    q: float
    family: tuple[Member, ...]

    @property
    def beside_length(self) -> bool:
        """Whether what is sure on either side is there with length held fixed too."""
        return all(side.beside_length or side.effect == "not sure" for side in (self.here, self.there))

    @property
    def how(self) -> str:
        """What the difference is, e.g. ``rewarded here, punished there``; ``(length)`` where length may be the reason."""
        return self._how if self.beside_length else f"{self._how} (length)"

    @property
    def _how(self) -> str:
        one, other = self.here.effect, self.there.effect
        if one != other:
            return f"{one} here, {other} there"
        if one == "not sure":
            return "not sure in either, but surely different"
        return f"{one} in both, more {'here' if (self.gap > 0) == (one == 'rewarded') else 'there'}"


@dataclass(frozen=True)
class Against:
    """How a second set of pairs differs from the first.

    Attributes:
        data, n_pairs: name and number of pairs of the second set.
        n_tested, n_sure: features that differ in enough pairs of both to be tested, and those whose effects surely differ.
        differences: one for each family of the surest features, those beside length before the others, the surest first.
        verdict: the differences in a few lines, one for each sentence.
    """

    data: str
    n_pairs: int
    n_tested: int
    n_sure: int
    differences: tuple[Difference, ...]
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``label`` is null without a reliable one."""
        features = [
            {
                "feature": one.feature,
                "label": one.name if one.named else None,
                "how": one.how,
                **_but(one, "feature", "name", "named", "here", "there"),
                "here": {"win_rate": one.here.win_rate, **asdict(one.here)},
                "there": {"win_rate": one.there.win_rate, **asdict(one.there)},
            }
            for one in self.differences
        ]
        return {**_but(self, "differences"), "features": features}


@dataclass(frozen=True)
class RepeatedText:
    """One response text that many pairs share.

    Attributes:
        text: the text, shortened.
        chosen, rejected: pairs whose chosen, and whose rejected response it is.
    """

    text: str
    chosen: int
    rejected: int


@dataclass(frozen=True)
class Insights:
    """What preference pairs reward and punish.

    Attributes:
        data, data_hash: name and content hash of the pairs.
        sae, hook: whose latents are the features, and where they are read.
        n_pairs, n_prompts: number of pairs and of their prompts.
        n_tested, n_sure: features that differ in enough pairs to be tested, and of these the sure ones.
        findings: one for each family of the :data:`MOST` surest features, in the order of :attr:`Finding.strength`.
        longer_wins: share of the pairs of unequal length in which the response with more tokens was chosen; None without any.
        n_unequal: number of these pairs.
        repeated: the response texts that the most prompts share, if they are many.
        verdict: the insights in a few lines, one for each sentence.
        against: how another set of pairs differs, if one was given.
    """

    data: str
    data_hash: str
    sae: str
    hook: str
    n_pairs: int
    n_prompts: int
    n_tested: int
    n_sure: int
    findings: tuple[Finding, ...]
    longer_wins: float | None
    n_unequal: int
    repeated: tuple[RepeatedText, ...]
    verdict: str = ""
    against: Against | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``stability`` is :attr:`Finding.returns`, and ``label`` is null without one that fits."""
        features = [
            {
                "feature": one.feature,
                "label": one.name if one.told else None,
                "win_rate": one.win_rate,
                "stability": one.returns,
                **_but(one, "feature", "name", "named", "returns", "slices"),
                "slices": [{"win_rate": each.win_rate, **asdict(each)} for each in one.slices],
            }
            for one in self.findings
        ]
        return {**_but(self, "findings", "against"), "features": features, "against": self.against and self.against.to_dict()}


def _but(one: Any, *names: str) -> dict[str, Any]:
    """The fields of a dataclass as plain values, without some."""
    return {name: value for name, value in asdict(one).items() if name not in names}
