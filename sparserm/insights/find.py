"""What preference pairs reward and punish: features with their effect on the win rate, the surest first. No head is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparserm.backbone.model import Backbone
from sparserm.heads.families import group_families
from sparserm.heads.inputs import load_parts
from sparserm.heads.screening import GatedScores
from sparserm.insights.effects import Effects, features_of, hold_length, measure_effects, returning
from sparserm.insights.names import Name, names_of
from sparserm.insights.shortcuts import LONGER, with_shortcuts
from sparserm.insights.values import MOST, Finding, Insights, Member, RepeatedText
from sparserm.insights.verdict import verdict
from sparserm.representations.represent import represent_pairs
from sparserm.representations.store import stored
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.defaults import DEFAULT_BACKBONE
from sparserm.support.files import one_line
from sparserm.types import PreferenceData, Progress, SparseRMError

#: Share of the pairs that must have a response text for it to be told, and characters shown of it.
REPEATED, SHOWN = 0.02, 60


def find_insights(
    data: PreferenceData,
    *,
    backbone: Backbone | str | Path = DEFAULT_BACKBONE,
    sae: SparseAutoencoder | str | Path | None = None,
    layer: int | None = None,
    progress: Progress | None = None,
) -> Insights:
    """Find what preference pairs reward and punish.

    Args:
        backbone, sae, layer: whose latents are the features; default: the shipped SAE of the default layer.

    Raises:
        SparseRMError: no pairs, or the SAE does not match the backbone.
    """
    dictionary, model = load_parts(backbone, sae, layer, progress)
    with stored() as store:
        hooks = {dictionary.hook: dictionary}
        found = represent_pairs(data.pairs, model, hooks, "mean", strengths=True, store=store, progress=progress)
    return insights_of(data, found[dictionary.hook], dictionary)


def insights_of(data: PreferenceData, pairs: PairRepresentations, sae: SparseAutoencoder) -> Insights:
    """:func:`find_insights` from representations with latent strengths; no model is run.

    Raises:
        SparseRMError: no pairs, or representations without latent strengths.
    """
    if not data.pairs:
        raise SparseRMError(f"{data.name} has no usable pairs; expected one or more; see which rows were left out, and why")
    features, shortcuts = with_shortcuts(features_of(pairs), data.pairs)
    effects = measure_effects(features)
    sure = np.flatnonzero(effects.sure)
    sure = sure[np.argsort(-np.abs(effects.z[sure]), kind="stable")][:MOST]
    returns = returning(features, effects)[sure]
    findings = _findings(features, effects.take(sure), returns, names_of(sae, shortcuts))
    repeated = repeated_texts(data)
    gaps = pairs.length_gaps
    longer_wins = float((gaps[gaps != 0] > 0).mean()) if gaps.any() else None
    return Insights(
        data=data.name,
        data_hash=data.content_hash,
        sae=sae.name,
        hook=sae.hook.name,
        n_pairs=len(data.pairs),
        n_prompts=len(np.unique(pairs.groups)),
        n_tested=len(effects.latents),
        n_sure=int(effects.sure.sum()),
        findings=findings,
        longer_wins=longer_wins,
        repeated=repeated,
        verdict=verdict(findings, repeated, len(data.pairs), len(effects.latents), longer_wins, int((gaps != 0).sum())),
    )


def repeated_texts(data: PreferenceData) -> tuple[RepeatedText, ...]:
    """Response texts that are in :data:`REPEATED` of the pairs or more, of five prompts or more, the most frequent first."""
    prompts: dict[str, set[object]] = {}
    chosen, rejected = Counter[str](), Counter[str]()
    for pair in data.pairs:
        chosen[pair.chosen] += 1
        rejected[pair.rejected] += 1
        for text in (pair.chosen, pair.rejected):
            prompts.setdefault(text, set()).add(pair.prompt)
    least = max(5, REPEATED * len(data.pairs))
    often = [text for text, own in prompts.items() if len(own) >= 5 and chosen[text] + rejected[text] >= least]
    often.sort(key=lambda text: -(chosen[text] + rejected[text]))
    return tuple(RepeatedText(one_line(text, SHOWN), chosen[text], rejected[text]) for text in often[:3])


def pairs_with(data: PreferenceData, pairs: PairRepresentations, finding: Finding) -> np.ndarray:
    """``[n]`` +1 where the chosen response alone has a finding's feature, -1 where the rejected one alone has it, else 0."""
    features = features_of(pairs)
    column = finding.feature
    if column is None:
        features, shortcuts = with_shortcuts(features, data.pairs)
        column = features.chosen.shape[1] - len(shortcuts) + shortcuts.index(finding.name)
    return (features.chosen[:, [column]] - features.rejected[:, [column]]).toarray().ravel().astype(np.int8)


def _findings(features: GatedScores, effects: Effects, returns: np.ndarray, names: Sequence[Name]) -> tuple[Finding, ...]:
    """A finding for each family, named after its surest member that has a name."""
    held = hold_length(features, effects.latents)
    families = _families(features, effects)
    low, high = effects.interval
    found = []
    for i, column in enumerate(effects.latents.tolist()):
        members = families[column]
        leader = next((one for one in members if names[one].named), members[0])
        if column != leader:
            continue
        name = names[column]
        is_length = name.feature is None and name.text == LONGER  # nothing of it is left with length held fixed
        found.append(
            Finding(
                feature=name.feature,
                name=name.text,
                named=name.named,
                evidence=name.evidence,
                detection=name.detection,
                n=int(effects.n[i]),
                wins=int(effects.wins[i]),
                ci95=(float(low[i]), float(high[i])),
                z=float(effects.z[i]),
                q=float(effects.q[i]),
                length_held=float(effects.win_rate[i] if is_length else held.win_rate[i]),
                length_held_z=float(effects.z[i] if is_length else held.z[i]),
                returns=float(returns[i]),
                family=tuple(Member(names[one].feature, names[one].text) for one in members if one != column),
            )
        )
    return tuple(sorted(found, key=lambda one: -one.strength))


def _families(features: GatedScores, effects: Effects) -> dict[int, list[int]]:
    """The members of each feature's family, in the order of ``effects``.

    Features belong together if they differ in the same pairs and in the same direction, whichever response was chosen.
    """
    differences = (features.chosen[:, effects.latents] - features.rejected[:, effects.latents]).toarray()
    leaders = group_families(effects.latents, np.concatenate([differences, -differences]), effects.z)
    together: dict[int, list[int]] = {}
    for column, leader in zip(effects.latents.tolist(), leaders.tolist(), strict=True):
        together.setdefault(leader, []).append(column)
    return {member: members for members in together.values() for member in members}
