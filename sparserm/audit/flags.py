"""Audit of preference data: flags suspicious rows and measures how well surface features alone predict the labels.

A flag has a row, a reason and a score, and is meant for manual review; no data is changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
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
from sparserm.pairs.rows import WHOLE_ROW
from sparserm.pairs.split import prompt_key
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.files import write_json
from sparserm.types import PreferenceData, PreferencePair, SparseRMError

if TYPE_CHECKING:
    import pandas as pd

_RESULT = "audit.json"

#: A pair is contradicted if the head gives the rejected response at least this win probability.
SURE = 0.8

#: Reasons for flags with their explanations, in the order in which flags are listed.
REASONS = {
    "contradicted": "The head confidently prefers the rejected response: the label or the head may be wrong.",
    "reversed": "Another row has the opposite preference.",
    "circle": "Together with other rows, the preferences form a cycle.",
    "same responses": "Chosen and rejected differ only in case, white space, or characters that are invisible or look alike.",
    "doubtful": "The reader warns of the row, such as a repeated header, a score against the label, or marks of a template.",
    "duplicate": "The row repeats an earlier one, ignoring case and white space.",
    "near duplicate": "The row is nearly identical to an earlier one.",
    "near-equal prompts": "The prompt is nearly identical to an earlier one: a split by prompt may put them on both sides.",
    "leakage": "The prompt is also in the other data.",
    "near leakage": "The prompt is nearly identical to one in the other data.",
}


@dataclass(frozen=True)
class Flag:
    """One reason to review the pair with 0-based index ``index``; ``score`` (0 to 1) is its strength."""

    index: int
    reason: str
    score: float
    detail: str


@dataclass(frozen=True)
class HeldOutMargins:
    """Margins of pairs under heads that were not trained on their prompts.

    Attributes:
        margins: ``[n]`` margins: of the head itself for prompts it was not trained on; for the other prompts of cross-validated
            heads with the same settings. These select features again: refitting the weights alone is not enough, since the
            margins then correlate with the trained head's at 0.996 (truthfulness, training pairs).
        n_trained_on: number of pairs whose prompt the head was trained on.
    """

    margins: np.ndarray
    n_trained_on: int


@dataclass(frozen=True)
class Agreement:
    """Agreement of the labels with a head's confident predictions.

    Attributes:
        n_sure: number of pairs with a confident prediction, for either response.
        n_contradicted: number of these whose label is the other response.
        n_expected: number of contradictions expected if the head's win probabilities are calibrated.
        accuracy: fraction of all pairs that are ranked as labelled.
        n_trained_on: number of pairs scored by cross-validated heads, because the head was trained on their prompts.
    """

    n_sure: int
    n_contradicted: int
    n_expected: float
    accuracy: float
    n_trained_on: int


@dataclass(frozen=True)
class Audit:
    """Result of an audit of ``n`` pairs; ``agreement`` is None without a head."""

    n: int
    flags: tuple[Flag, ...]
    surface: Surface
    agreement: Agreement | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Number of flags per reason, for reasons that occur, in the order of :data:`REASONS`."""
        found = {reason: sum(flag.reason == reason for flag in self.flags) for reason in REASONS}
        return {reason: count for reason, count in found.items() if count}


def audit(data: PreferenceData, *, held_out: HeldOutMargins | None = None, against: PreferenceData | None = None) -> Audit:
    """Audit preference pairs.

    Args:
        data: the pairs.
        held_out: a head's margins of the pairs, from :func:`held_out_margins`.
        against: other pairs to check for shared prompts, such as the training pairs of a test set.

    Raises:
        SparseRMError: there are no pairs.
    """
    if not data.pairs:
        raise SparseRMError(f"{data.name} has no pairs: expected at least one; use another file")
    keys = [(prompt_key(pair.prompt), normalised(pair.chosen), normalised(pair.rejected)) for pair in data.pairs]
    prompts = [prompt for prompt, _, _ in keys]
    flags = list(_inconsistent(data.pairs, keys))
    flags += [*_repeated(data.pairs, keys, skip={flag.index for flag in flags}), *_near_prompts(data.pairs, prompts)]
    if held_out is not None:
        flags += contradicted(held_out)
    if against is not None:
        flags += _leaked(data.pairs, prompts, against)
    flags += _doubtful(data)
    _, groups = np.unique(prompts, return_inverse=True)
    order = list(REASONS)
    flags.sort(key=lambda flag: (order.index(flag.reason), -flag.score, flag.index))
    return Audit(len(data.pairs), tuple(flags), surface(data.pairs, groups), agreement(held_out) if held_out else None)


def held_out_margins(
    saved: SavedHead, data: PreferenceData, pairs: PairRepresentations, sae: SparseAutoencoder
) -> HeldOutMargins:
    """Margins of pairs under a head; pairs with prompts that it was trained on are scored by cross-validated heads instead.

    Args:
        saved: the head.
        data: the pairs.
        pairs: their representations at the head's hook point, with the latents of its SAE.
        sae: the head's SAE.

    Raises:
        SparseRMError: the head was trained on some of the prompts, and these are too few for cross-validation.
    """
    margins = reward_margins(saved.head, pairs)
    trained_on = saved.trained_on(data.pairs)
    if trained_on.any():
        known, given = FitSettings.__dataclass_fields__, saved.card.training.get("settings", {})
        settings = replace(FitSettings(**{k: v for k, v in given.items() if k in known}), score=saved.head.score)
        margins[trained_on] = cross_validated_margins(pairs.take(np.flatnonzero(trained_on)), sae, settings)
    return HeldOutMargins(margins, int(trained_on.sum()))


def contradicted(held_out: HeldOutMargins) -> list[Flag]:
    """Flags for pairs whose label the head confidently contradicts, most confident first."""
    probabilities = expit(-held_out.margins)  # win probability of the rejected response
    order = np.argsort(-probabilities, kind="stable")
    return [
        Flag(
            int(i), "contradicted", float(probabilities[i]), f"win probability of the rejected response: {probabilities[i]:.0%}"
        )
        for i in order[: int((probabilities >= SURE).sum())]
    ]


def agreement(held_out: HeldOutMargins) -> Agreement:
    """Count the head's confident predictions and those that contradict the label."""
    confidence = expit(np.abs(held_out.margins))
    sure = confidence >= SURE
    return Agreement(
        n_sure=int(sure.sum()),
        n_contradicted=int((sure & (held_out.margins < 0)).sum()),
        n_expected=float((1 - confidence[sure]).sum()),
        accuracy=float((held_out.margins > 0).mean()),
        n_trained_on=held_out.n_trained_on,
    )


#: Identity of a pair: the key of its prompt, the normalised chosen and rejected responses.
_Key = tuple[str, str, str]


def _inconsistent(pairs: Sequence[PreferencePair], keys: Sequence[_Key]) -> Iterator[Flag]:
    """Contradictory preferences: strongly connected components of each prompt's graph of edges chosen -> rejected."""
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
    cycles: dict[int, set[int]] = {}
    for index, (a, b) in enumerate(edges):
        first.setdefault((a, b), index)
        if component[a] == component[b]:
            cycles.setdefault(component[a], set()).add(pairs[index].row)
    rows_of = {one: ", ".join(map(str, sorted(rows)[:10])) for one, rows in cycles.items()}
    for index, (a, b) in enumerate(edges):
        if a == b:
            yield Flag(index, "same responses", 1.0, "chosen and rejected look the same, but for case and white space")
        elif (other := first.get((b, a))) is not None:
            yield Flag(index, "reversed", 1.0, f"prefers what row {pairs[other].row} rejects")
        elif component[a] == component[b]:
            yield Flag(index, "circle", 1.0, f"preferences form a cycle over rows {rows_of[component[a]]}")


def _doubtful(data: PreferenceData) -> Iterator[Flag]:
    """What the reader warned of, other than repeated and reversed rows, which have flags of their own."""
    places = {pair.row: index for index, pair in enumerate(data.pairs)}
    for issue in data.issues:
        own = issue.column == WHOLE_ROW or issue.problem.startswith(("repeats row", "prefers what row"))
        if issue.severity == "warning" and issue.row in places and not own:
            yield Flag(places[issue.row], "doubtful", 1.0, f"{issue.column} {issue.problem}")


def _repeated(pairs: Sequence[PreferencePair], keys: Sequence[_Key], skip: set[int]) -> Iterator[Flag]:
    """Duplicates and near duplicates of earlier rows."""
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
            detail = f"nearly repeats row {pairs[other].row} (similarity {match.similarity:.2f})"
            yield Flag(index, "near duplicate", match.similarity, detail)


def _near_prompts(pairs: Sequence[PreferencePair], prompts: Sequence[str]) -> Iterator[Flag]:
    """The first pair of every prompt that is nearly, but not exactly, identical to an earlier prompt."""
    distinct = list(_first_of_each(prompts).values())
    for match in near_matches([prompt_text(pairs[index].prompt) for index in distinct]):
        index, other = distinct[match.index], distinct[match.other]
        detail = f"nearly the same prompt as row {pairs[other].row} (similarity {match.similarity:.2f})"
        yield Flag(index, "near-equal prompts", match.similarity, detail)


def _leaked(pairs: Sequence[PreferencePair], prompts: Sequence[str], against: PreferenceData) -> Iterator[Flag]:
    """Pairs whose prompt is in the other data, exactly or nearly."""
    theirs = _first_of_each([prompt_key(pair.prompt) for pair in against.pairs])
    ours = [index for key, index in _first_of_each(prompts).items() if key not in theirs]
    others = list(theirs.values())
    matches = near_matches([prompt_text(pairs[i].prompt) for i in ours], [prompt_text(against.pairs[i].prompt) for i in others])
    near = {prompts[ours[match.index]]: match for match in matches}
    for index, key in enumerate(prompts):
        if key in theirs:
            row = against.pairs[theirs[key]].row
            yield Flag(index, "leakage", 1.0, f"same prompt as row {row} of {against.name}")
        elif key in near:
            row, similarity = against.pairs[others[near[key].other]].row, near[key].similarity
            detail = f"nearly the same prompt as row {row} of {against.name} (similarity {similarity:.2f})"
            yield Flag(index, "near leakage", similarity, detail)


def _first_of_each(keys: Sequence[str]) -> dict[str, int]:
    """Index of the first occurrence of each key."""
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    return first


def flagged(flags: Sequence[Flag], pairs: Sequence[PreferencePair]) -> pd.DataFrame:
    """Table of the flagged rows with their texts, one line per flag, for export."""
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
    """The audit as plain values for the command line, without texts, which are in the table of :func:`flagged`."""
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


def save_audit(found: Audit, folder: Path) -> None:
    """Write the flags and surface rules of an audit to ``folder``, for :func:`load_audit`."""
    flags = [asdict(flag) for flag in found.flags]
    write_json(folder / _RESULT, {"n": found.n, "flags": flags, "surface": asdict(found.surface)})


def load_audit(folder: Path) -> Audit:
    """Load the audit that :func:`save_audit` wrote to ``folder``."""
    result = json.loads((folder / _RESULT).read_text())
    surface = result["surface"]
    rules = tuple(SurfaceRule(**{**rule, "ci95": tuple(rule["ci95"])}) for rule in surface["rules"])
    return Audit(
        n=result["n"],
        flags=tuple(Flag(**flag) for flag in result["flags"]),
        surface=Surface(rules, surface["accuracy"], tuple(surface["ci95"]), surface["n"]),
    )
