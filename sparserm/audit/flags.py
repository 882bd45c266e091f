"""Audit of preference data: which rows deserve a second look, and how far the surface of the responses alone goes.

Nothing is decided here: every flag names a row, a reason and how strong it is, for a person to look at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from sparserm.audit.duplicates import near_matches, normalised
from sparserm.audit.surface import Surface, SurfaceRule, surface
from sparserm.evaluation.accuracy import cross_validated_margins
from sparserm.heads.fitting import FitSettings
from sparserm.heads.reward import reward_margins
from sparserm.heads.saved import SavedHead
from sparserm.pairs.messages import prompt_text
from sparserm.pairs.split import prompt_key
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import PreferenceData, PreferencePair, SparseRMError

if TYPE_CHECKING:
    import pandas as pd

_RESULT = "audit.json"


#: A pair is contradicted where the head gives the rejected response at least this chance.
SURE = 0.8

#: Every reason for a flag, in the order in which flags are listed, and what it says.
REASONS = {
    "contradicted": "The head is sure of the opposite: the label may be wrong, or the head.",
    "reversed": "Another row prefers the other way round.",
    "circle": "With other rows, preferences run in a circle.",
    "same responses": "Chosen and rejected differ in case and white space only.",
    "duplicate": "The row repeats an earlier one, case and white space aside.",
    "near duplicate": "The row is nearly an earlier one.",
    "near-equal prompts": "The prompt is nearly an earlier one: a split by prompt may put them on both sides.",
    "leakage": "The prompt is in the other data too.",
    "near leakage": "The prompt is nearly one of the other data.",
}


@dataclass(frozen=True)
class Flag:
    """One reason to look at the pair in place ``index``; ``score``, between 0 and 1, is how strong it is."""

    index: int
    reason: str
    score: float
    detail: str


@dataclass(frozen=True)
class HeldOutMargins:
    """Margins ``[n]`` of pairs under a head that has not seen their prompts.

    Attributes:
        margins: of the head itself for prompts it was not trained on; for the others of heads of the same settings, features
            chosen anew, each trained without the prompt. The weights alone fitted anew would tell little: their margins
            correlate with the trained head's at 0.996 (truthfulness, training pairs).
        n_trained_on: pairs whose prompt the head was trained on.
    """

    margins: np.ndarray
    n_trained_on: int


@dataclass(frozen=True)
class Agreement:
    """How the labels and a head's confident opinions go together.

    Attributes:
        n_sure: pairs of which the head is sure, either way; ``n_contradicted`` of them against the label.
        n_expected: how many a calibrated head would contradict though all labels were right by its own lights.
        n_trained_on: pairs that were judged by heads trained without their prompt.
    """

    n_sure: int
    n_contradicted: int
    n_expected: float
    accuracy: float
    n_trained_on: int


@dataclass(frozen=True)
class Audit:
    """What was found in ``n`` pairs; ``agreement`` where a head was asked."""

    n: int
    flags: tuple[Flag, ...]
    surface: Surface
    agreement: Agreement | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Flags of each reason that occurs, in the order of :data:`REASONS`."""
        found = {reason: sum(flag.reason == reason for flag in self.flags) for reason in REASONS}
        return {reason: count for reason, count in found.items() if count}


def audit(data: PreferenceData, *, held_out: HeldOutMargins | None = None, against: PreferenceData | None = None) -> Audit:
    """Look through preference pairs.

    Args:
        held_out: a head's margins of the pairs, see :func:`held_out_margins`.
        against: other pairs that should share no prompt with these, such as the training pairs of a test set.
    """
    if not data.pairs:
        raise SparseRMError(f"{data.name} holds no pairs; give a file with at least one")
    keys = [(prompt_key(pair.prompt), normalised(pair.chosen), normalised(pair.rejected)) for pair in data.pairs]
    prompts = [prompt for prompt, _, _ in keys]
    flags = list(_inconsistent(data.pairs, keys))
    flags += [*_repeated(data.pairs, keys, skip={flag.index for flag in flags}), *_near_prompts(data.pairs, prompts)]
    if held_out is not None:
        flags += contradicted(held_out)
    if against is not None:
        flags += _leaked(data.pairs, prompts, against)
    _, groups = np.unique(prompts, return_inverse=True)
    order = list(REASONS)
    flags.sort(key=lambda flag: (order.index(flag.reason), -flag.score, flag.index))
    return Audit(len(data.pairs), tuple(flags), surface(data.pairs, groups), agreement(held_out) if held_out else None)


def held_out_margins(
    saved: SavedHead, data: PreferenceData, pairs: PairRepresentations, sae: SparseAutoencoder
) -> HeldOutMargins:
    """Margins by which a head can be said to contradict labels, also those it was trained on.

    Args:
        pairs: represented at the head's hook point, with the latents of its SAE.
        sae: the head's.

    Raises:
        SparseRMError: the head was trained on some of the prompts, and they are too few to train another on.
    """
    margins = reward_margins(saved.head, pairs)
    trained_on = saved.trained_on(data.pairs)
    if trained_on.any():
        known = FitSettings.__dataclass_fields__
        settings = FitSettings(**{k: v for k, v in saved.card.training.get("settings", {}).items() if k in known})
        margins[trained_on] = cross_validated_margins(pairs.take(np.flatnonzero(trained_on)), sae, settings)
    return HeldOutMargins(margins, int(trained_on.sum()))


def contradicted(held_out: HeldOutMargins) -> list[Flag]:
    """Pairs whose label the head contradicts with confidence, the surest first."""
    chances = expit(-held_out.margins)
    order = np.argsort(-chances, kind="stable")
    return [
        Flag(int(i), "contradicted", float(chances[i]), f"the head gives the rejected response {chances[i]:.0%}")
        for i in order[: int((chances >= SURE).sum())]
    ]


def agreement(held_out: HeldOutMargins) -> Agreement:
    """How often the head is sure, and how often the label says otherwise."""
    confidence = expit(np.abs(held_out.margins))
    sure = confidence >= SURE
    return Agreement(
        n_sure=int(sure.sum()),
        n_contradicted=int((sure & (held_out.margins < 0)).sum()),
        n_expected=float((1 - confidence[sure]).sum()),
        accuracy=float((held_out.margins > 0).mean()),
        n_trained_on=held_out.n_trained_on,
    )


#: The key of a pair's prompt, and its responses in their normal form: what makes two pairs the same.
_Key = tuple[str, str, str]


def _inconsistent(pairs: Sequence[PreferencePair], keys: Sequence[_Key]) -> Iterator[Flag]:
    """Preferences that cannot all hold: strongly connected responses of the graph chosen -> rejected of a prompt."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes: dict[tuple[str, str], int] = {}
    edges = [
        (nodes.setdefault((prompt, chosen), len(nodes)), nodes.setdefault((prompt, rejected), len(nodes)))
        for prompt, chosen, rejected in keys
    ]
    graph = coo_array((np.ones(len(edges)), np.array(edges).T), shape=(len(nodes), len(nodes)))
    _, component = connected_components(graph, directed=True, connection="strong")
    first: dict[tuple[int, int], int] = {}
    circles: dict[int, set[int]] = {}
    for index, (a, b) in enumerate(edges):
        first.setdefault((a, b), index)
        if component[a] == component[b]:
            circles.setdefault(component[a], set()).add(pairs[index].row)
    for index, (a, b) in enumerate(edges):
        if a == b:
            yield Flag(index, "same responses", 1.0, "chosen and rejected are the same but for case and white space")
        elif (other := first.get((b, a))) is not None:
            yield Flag(index, "reversed", 1.0, f"prefers what row {pairs[other].row} rejects")
        elif component[a] == component[b]:
            rows = ", ".join(map(str, sorted(circles[component[a]])[:10]))
            yield Flag(index, "circle", 1.0, f"preferences run in a circle over rows {rows}")


def _repeated(pairs: Sequence[PreferencePair], keys: Sequence[_Key], skip: set[int]) -> Iterator[Flag]:
    """Pairs that repeat an earlier row, or nearly."""
    first: dict[_Key, int] = {}
    distinct = []
    for index, key in enumerate(keys):
        earlier = first.setdefault(key, index)
        if earlier != index:
            yield Flag(index, "duplicate", 1.0, f"repeats row {pairs[earlier].row}")
        elif index not in skip:
            distinct.append(index)
    texts = [" ".join((prompt_text(pairs[i].prompt), pairs[i].chosen, pairs[i].rejected)) for i in distinct]
    for match in near_matches(texts):
        index, other = distinct[match.index], distinct[match.other]
        if pairs[index].row != pairs[other].row:
            detail = f"is nearly row {pairs[other].row} (similarity {match.similarity:.2f})"
            yield Flag(index, "near duplicate", match.similarity, detail)


def _near_prompts(pairs: Sequence[PreferencePair], prompts: Sequence[str]) -> Iterator[Flag]:
    """The first pair of every prompt that is nearly an earlier prompt, but not the same."""
    distinct = list(_first_of_each(prompts).values())
    for match in near_matches([prompt_text(pairs[index].prompt) for index in distinct]):
        index, other = distinct[match.index], distinct[match.other]
        detail = f"its prompt is nearly that of row {pairs[other].row} (similarity {match.similarity:.2f})"
        yield Flag(index, "near-equal prompts", match.similarity, detail)


def _leaked(pairs: Sequence[PreferencePair], prompts: Sequence[str], against: PreferenceData) -> Iterator[Flag]:
    """Pairs whose prompt is among the other data's, or nearly."""
    theirs = _first_of_each([prompt_key(pair.prompt) for pair in against.pairs])
    ours = [index for key, index in _first_of_each(prompts).items() if key not in theirs]
    others = list(theirs.values())
    matches = near_matches([prompt_text(pairs[i].prompt) for i in ours], [prompt_text(against.pairs[i].prompt) for i in others])
    near = {prompts[ours[match.index]]: match for match in matches}
    for index, key in enumerate(prompts):
        if key in theirs:
            row = against.pairs[theirs[key]].row
            yield Flag(index, "leakage", 1.0, f"its prompt is that of row {row} of {against.name}")
        elif key in near:
            row, similarity = against.pairs[others[near[key].other]].row, near[key].similarity
            detail = f"its prompt is nearly that of row {row} of {against.name} (similarity {similarity:.2f})"
            yield Flag(index, "near leakage", similarity, detail)


def _first_of_each(keys: Sequence[str]) -> dict[str, int]:
    """Where each key occurs first."""
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    return first


def flagged(flags: Sequence[Flag], pairs: Sequence[PreferencePair]) -> pd.DataFrame:
    """The flagged rows with their texts, one line for each flag: what is taken away to look at."""
    import pandas as pd

    columns = ["row", "id", "category", "reason", "score", "detail", "prompt", "chosen", "rejected"]
    rows = [
        {
            **{name: getattr(pairs[flag.index], name) for name in ("row", "id", "category", "chosen", "rejected")},
            **{name: getattr(flag, name) for name in ("reason", "score", "detail")},
            "prompt": prompt_text(pairs[flag.index].prompt),
        }
        for flag in flags
    ]
    return pd.DataFrame(rows, columns=columns)


def summary(found: Audit, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """Plain values for the command line; the texts stay in the file of flagged rows."""
    return {
        "n": found.n,
        "counts": found.counts,
        "agreement": asdict(found.agreement) if found.agreement else None,
        "surface": asdict(found.surface),
        "flags": [
            {"row": pairs[flag.index].row, "id": pairs[flag.index].id, **{k: v for k, v in vars(flag).items() if k != "index"}}
            for flag in found.flags
        ],
    }


def load_audit(folder: Path) -> Audit:
    """What :func:`run` wrote into ``folder``."""
    result = json.loads((folder / _RESULT).read_text())
    surface = result["surface"]
    rules = tuple(SurfaceRule(**{**rule, "ci95": tuple(rule["ci95"])}) for rule in surface["rules"])
    return Audit(
        n=result["n"],
        flags=tuple(Flag(**flag) for flag in result["flags"]),
        surface=Surface(rules, surface["accuracy"], tuple(surface["ci95"]), surface["n"]),
    )
