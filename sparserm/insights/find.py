"""What preference pairs reward and punish: features with their effect on the win rate, the surest first. No head is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sparserm.backbone.model import Backbone
from sparserm.heads.families import group_differences
from sparserm.heads.inputs import load_parts, load_parts_of, not_represented
from sparserm.heads.screening import GatedScores
from sparserm.insights.against import compare
from sparserm.insights.effects import Effects, features_of, hold_length, measure_effects, returning
from sparserm.insights.names import Name, names_of
from sparserm.insights.shortcuts import LONGER, first_words, has_shortcut, with_shortcuts
from sparserm.insights.slices import effects_by_slice, slices_of
from sparserm.insights.snippets import Response, choose_snippets, light, snippets_of
from sparserm.insights.values import MOST, Finding, Insights, Member, RepeatedText
from sparserm.insights.verdict import verdict
from sparserm.insights.words import WordsHere
from sparserm.representations.files import NamedModel, RepresentedPairs, texts_of
from sparserm.representations.represent import represent_pairs
from sparserm.representations.store import stored
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.defaults import DEFAULT_BACKBONE
from sparserm.support.files import one_line
from sparserm.types import PreferenceData, Progress, SparseRMError

#: Share of the pairs that must have a response text for it to be told, and characters shown of it.
REPEATED, SHOWN = 0.02, 60
#: Findings whose snippets are read.
READ = 16
#: Findings with an automatic label that is held against the words at which they fire, and responses read beside the snippets.
CHECKED, MORE = 8, 4


def find_insights(
    data: PreferenceData | RepresentedPairs,
    *,
    against: PreferenceData | RepresentedPairs | None = None,
    backbone: Backbone | str | Path = DEFAULT_BACKBONE,
    sae: SparseAutoencoder | str | Path | None = None,
    layer: int | None = None,
    progress: Progress | None = None,
) -> Insights:
    """Find what preference pairs reward and punish, with snippets of the first findings.

    Args:
        data: the pairs. Those whose representations are in files say which backbone and SAE they are of.
        against: other pairs that are held beside these; in files if these are.
        backbone, sae, layer: whose latents are the features; default: the shipped SAE of the default layer.

    Raises:
        SparseRMError: no pairs, or the SAE does not match the backbone.
    """
    sources = [data] if against is None else [data, against]
    for one in sources:
        _check_not_empty(texts_of(one))
    dictionary, named = load_parts_of(data, backbone, sae, layer, progress)
    pairs = [_represented(one, named, dictionary, progress) for one in sources]
    texts = texts_of(data)
    found = insights_of(texts, pairs[0], dictionary)
    if against is not None:
        found = with_against(found, (texts, pairs[0]), (texts_of(against), pairs[1]), dictionary)
    model = named if isinstance(named, Backbone) else load_parts(named.source, dictionary, None, progress)[1]
    return with_snippets(found, texts, pairs[0], model, dictionary, progress)


def _represented(
    data: PreferenceData | RepresentedPairs, backbone: Backbone | NamedModel, sae: SparseAutoencoder, progress: Progress | None
) -> PairRepresentations:
    """Representations with latent strengths, from their files or the store if available."""
    if isinstance(data, RepresentedPairs):
        return data.representations(sae, states=False)
    if not isinstance(backbone, Backbone):
        raise not_represented(data)
    with stored() as store:
        found = represent_pairs(data.pairs, backbone, {sae.hook: sae}, "mean", strengths=True, store=store, progress=progress)
    return found[sae.hook]


def insights_of(data: PreferenceData, pairs: PairRepresentations, sae: SparseAutoencoder) -> Insights:
    """:func:`find_insights` from representations with latent strengths; no model is run, so there are no snippets.

    Raises:
        SparseRMError: no pairs, or representations without latent strengths.
    """
    _check_not_empty(data)
    features, shortcuts = with_shortcuts(features_of(pairs), data.pairs, first_words(data.pairs))
    effects = measure_effects(features)
    sure = np.flatnonzero(effects.sure)
    sure = sure[np.argsort(-np.abs(effects.z[sure]), kind="stable")][:MOST]
    returns = returning(features, effects)[sure]
    findings = _findings(features, effects.take(sure), returns, names_of(sae, shortcuts), slices_of(data.pairs, pairs))
    repeated = repeated_texts(data)
    gaps = pairs.length_gaps
    longer_wins = float((gaps[gaps != 0] > 0).mean()) if gaps.any() else None
    return _with_verdict(
        Insights(
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
            n_unequal=int((gaps != 0).sum()),
        )
    )


def with_against(
    found: Insights,
    here: tuple[PreferenceData, PairRepresentations],
    there: tuple[PreferenceData, PairRepresentations],
    sae: SparseAutoencoder,
) -> Insights:
    """Insights with other pairs held beside those that they are of, by the same features and first words.

    Raises:
        SparseRMError: no other pairs, or representations without latent strengths.
    """
    _check_not_empty(there[0])
    common = first_words(here[0].pairs)
    (first, shortcuts), (second, _) = (with_shortcuts(features_of(pairs), data.pairs, common) for data, pairs in (here, there))
    return replace(found, against=compare(first, second, names_of(sae, shortcuts), there[0].name))


def with_snippets(
    found: Insights,
    data: PreferenceData,
    pairs: PairRepresentations,
    backbone: Backbone,
    sae: SparseAutoencoder,
    progress: Progress | None = None,
) -> Insights:
    """Insights with snippets of the first :data:`READ` findings and the words at which these fire here.

    The language model reads some responses. What the verdict tells has a name that fits these pairs.
    """
    first = found.findings[:READ]
    members = [one.member for one in first]
    places = [snippet_places(one, data, pairs) for one in members]
    read = light(members, places, data.pairs, backbone, sae, progress)
    snippets = [snippets_of(lit, own, data.pairs) for lit, own in zip(read, places, strict=True)]
    lit = tuple(replace(one, snippets=own) for one, own in zip(first, snippets, strict=True))
    words = words_here(found, data, pairs, backbone, sae, progress)
    return with_words(replace(found, findings=(*lit, *found.findings[READ:])), words)


def words_here(
    found: Insights,
    data: PreferenceData,
    pairs: PairRepresentations,
    backbone: Backbone,
    sae: SparseAutoencoder,
    progress: Progress | None = None,
) -> dict[Member, WordsHere]:
    """Where the first :data:`CHECKED` labelled findings fire in these pairs; the language model reads some responses."""
    members = [one.member for one in found.findings if one.named and one.detection is not None][:CHECKED]
    shown = [snippet_places(one, data, pairs) for one in members]
    places = [[*own, *other_places(one, own, data, pairs)] for one, own in zip(members, shown, strict=True)]
    read = light(members, places, data.pairs, backbone, sae, progress)
    return {one: WordsHere.of(lit) for one, lit in zip(members, read, strict=True)}


def with_words(found: Insights, words: Mapping[Member, WordsHere]) -> Insights:
    """Insights whose names were held against the words at which their features fire; a user's name always fits."""

    def checked(one: Finding) -> Finding:
        here = words.get(one.member)
        if here is None:
            return one
        return replace(one, here=here.shown, fits=None if one.detection is None else here.fit(one.name, one.evidence))

    return _with_verdict(replace(found, findings=tuple(map(checked, found.findings))))


def other_places(
    finding: Member, shown: Sequence[Response], data: PreferenceData, pairs: PairRepresentations
) -> list[Response]:
    """Up to :data:`MORE` other responses that have the feature where the other one has not, drawn at random."""
    own = pairs_with(data, pairs, [finding])[:, 0]
    rows = np.random.default_rng(0).permutation(np.flatnonzero(own)).tolist()
    known, texts = set(shown), {getattr(data.pairs[row], side) for row, side in shown}
    found: list[Response] = []
    for row in rows:
        place: Response = (row, "chosen" if own[row] > 0 else "rejected")
        text = getattr(data.pairs[row], place[1])
        if place not in known and text not in texts:
            texts.add(text)
            found.append(place)
        if len(found) == MORE:
            break
    return found


def snippet_places(finding: Member, data: PreferenceData, pairs: PairRepresentations) -> list[Response]:
    """The responses that show what a finding is: pairs in which they alone have the feature."""
    own = pairs_with(data, pairs, [finding])[:, 0]
    peaks = np.zeros(len(own))
    if finding.feature is not None:
        sides = (side.by_latent.peaks(finding.feature) for side in (pairs.chosen, pairs.rejected))
        peaks = np.maximum(*sides)
    return choose_snippets(own, peaks, data.pairs)


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


def pairs_with(data: PreferenceData, pairs: PairRepresentations, findings: Sequence[Member]) -> np.ndarray:
    """``[n, m]`` int8: +1 where the chosen response alone has a feature, -1 where the rejected one alone has it, else 0."""
    found = np.zeros((len(data.pairs), len(findings)), np.int8)
    latents = [(place, one.feature) for place, one in enumerate(findings) if one.feature is not None]
    if latents:
        places, ids = map(list, zip(*latents, strict=True))
        features = features_of(pairs)
        found[:, places] = (features.chosen[:, ids] - features.rejected[:, ids]).toarray()
    for place, one in enumerate(findings):
        if one.feature is None:
            found[:, place] = has_shortcut(one.name, data.pairs)
    return found


def doubts(own: np.ndarray, findings: Sequence[Finding]) -> tuple[np.ndarray, np.ndarray]:
    """``[n]``, ``[n]`` number of findings, sure beside length, that speak for the chosen response of a pair, and against it.

    Args:
        own: ``[n, m]`` of :func:`pairs_with`.
    """
    signs = np.array([np.sign(one.z) * one.beside_length for one in findings])
    speaks = own * signs
    return (speaks > 0).sum(1), (speaks < 0).sum(1)


def _with_verdict(found: Insights) -> Insights:
    return replace(found, verdict=verdict(found))


def _check_not_empty(data: PreferenceData) -> None:
    if not data.pairs:
        raise SparseRMError(f"{data.name} has no usable pairs; expected one or more; see which rows were left out, and why")


def _findings(
    features: GatedScores, effects: Effects, returns: np.ndarray, names: Sequence[Name], slices: dict[str, np.ndarray]
) -> tuple[Finding, ...]:
    """A finding for each family, named after its surest member that has a name."""
    families = _families(features, effects)
    leaders = {column: next((one for one in members if names[one].named), members[0]) for column, members in families.items()}
    leading = np.unique([*leaders.values()]).astype(int)
    held, by_slice = hold_length(features, leading), effects_by_slice(features, leading, slices)
    low, high = effects.interval
    found = []
    for i, column in enumerate(effects.latents.tolist()):
        members = families[column]
        if column != leaders[column]:
            continue
        name, place = names[column], int(np.searchsorted(leading, column))
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
                length_held=float(effects.win_rate[i] if is_length else held.win_rate[place]),
                length_held_z=float(effects.z[i] if is_length else held.z[place]),
                returns=float(returns[i]),
                family=tuple(Member(names[one].feature, names[one].text) for one in members if one != column),
                slices=by_slice.get(column, ()),
            )
        )
    return tuple(sorted(found, key=lambda one: -one.strength))


def _families(features: GatedScores, effects: Effects) -> dict[int, list[int]]:
    """The members of each feature's family, in the order of ``effects``.

    Features belong together if they differ in the same pairs and in the same direction, whichever response was chosen.
    """
    differences = (features.chosen[:, effects.latents] - features.rejected[:, effects.latents]).tocsr()
    leaders = group_differences(effects.latents, differences, effects.z)
    together: dict[int, list[int]] = {}
    for column, leader in zip(effects.latents.tolist(), leaders.tolist(), strict=True):
        together.setdefault(leader, []).append(column)
    return {member: members for members in together.values() for member in members}
