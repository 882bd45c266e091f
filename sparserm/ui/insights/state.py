"""State of the Insights page: results cached by everything they depend on, the opened feature, and edits of the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st

from sparserm.features.cards import SIDES
from sparserm.insights.edits import PairEdits
from sparserm.insights.find import insights_of, pairs_with, snippet_places, with_against, with_words, words_here
from sparserm.insights.names import names_of
from sparserm.insights.snippets import Lit, Response, light
from sparserm.insights.values import Finding, Insights, Member
from sparserm.insights.words import WordsHere
from sparserm.support.parsing import whole_number
from sparserm.types import SparseRMError
from sparserm.ui.shared.links import keep_in_link
from sparserm.ui.shared.pairs_picker import Represented
from sparserm.ui.shared.place import Place
from sparserm.ui.shared.text import sentence

#: Keys of the opened feature, of what the link says of it, and of the edits of all sources.
OPENED, _LINKED, _EDITS = "opened feature", "linked feature", "pair edits"


@dataclass(frozen=True)
class Found:
    """Insights and the pairs that they are of.

    Attributes:
        pairs: the pairs as edited.
        before: insights of the pairs as they came, if they were edited.
        edits: what was edited; indices are of the pairs as they came.
        kept: ``[n]`` index of each pair among the pairs as they came.
    """

    insights: Insights
    pairs: Represented
    before: Insights | None
    edits: PairEdits
    kept: np.ndarray

    def finding(self, feature: Member) -> Finding | None:
        """The finding that a feature leads."""
        return next((one for one in self.insights.findings if one.member == feature), None)


def edits_of(pairs: Represented) -> PairEdits:
    """The edits of these pairs: of this session, else of the link."""
    known, content = st.session_state.setdefault(_EDITS, {}), pairs.data.content_hash
    if content not in known:
        known[content] = PairEdits.from_text(st.query_params.get("edited", ""), content, len(pairs.data.pairs))
    found: PairEdits = known[content]
    return found


def keep_edits_in_link(pairs: Represented, edits: PairEdits) -> bool:
    """Keep the edits in the link, for a reload, unless there are too many; returns whether they are there."""
    return keep_in_link({"edited": [edits.to_text(pairs.data.content_hash)] if edits else []})


def set_edits(content_hash: str, edits: PairEdits) -> None:
    """Keep edits of the pairs with a content hash; for callbacks."""
    st.session_state.setdefault(_EDITS, {})[content_hash] = edits


def find(here: Place, pairs: Represented) -> Found:
    """The insights of pairs with the selected SAE, as edited."""
    edits = edits_of(pairs)
    edited = Represented(*edits.apply(pairs.data, pairs.pairs)) if edits else pairs
    try:
        before = insights(here, pairs)
        words = _words(_key(here, pairs), _here=here, _pairs=pairs, _found=before)
        now = with_words(insights(here, edited) if edits else before, words)
        return Found(now, edited, before if edits else None, edits, edits.kept(len(pairs.data.pairs)))
    except SparseRMError as error:
        st.error(sentence(error))
        st.stop()


def insights(here: Place, pairs: Represented) -> Insights:
    """The insights of pairs, cached until these, the SAE or a label change."""
    return _insights(_key(here, pairs), _here=here, _pairs=pairs)


@st.cache_resource(max_entries=8, show_spinner="Testing the features…")
def _insights(key: tuple[object, ...], *, _here: Place, _pairs: Represented) -> Insights:
    return insights_of(_pairs.data, _pairs.pairs, _here.sae())


@st.cache_resource(max_entries=8, show_spinner="Reading where the first features fire…")
def _words(key: tuple[object, ...], *, _here: Place, _pairs: Represented, _found: Insights) -> dict[Member, WordsHere]:
    """The words at which the first findings fire: in the pairs as they came, since edits change labels and not texts."""
    return words_here(_found, _pairs.data, _pairs.pairs, _here.load_backbone(), _here.sae())


def beside(here: Place, found: Found, other: Represented) -> Insights:
    """The insights with other pairs held beside them."""
    key = (*_key(here, found.pairs), other.data.name, other.data.content_hash)
    return _beside(key, _here=here, _found=found, _other=other)


@st.cache_resource(max_entries=8, show_spinner="Comparing the two…")
def _beside(key: tuple[object, ...], *, _here: Place, _found: Found, _other: Represented) -> Insights:
    here, there = ((one.data, one.pairs) for one in (_found.pairs, _other))
    return with_against(_found.insights, here, there, _here.sae())


def _key(here: Place, pairs: Represented) -> tuple[object, ...]:
    names = hash(tuple(names_of(here.sae(), ())))
    return pairs.data.name, pairs.data.content_hash, here.sae_fingerprint, names


def has(here: Place, pairs: Represented, features: Sequence[Member]) -> np.ndarray:
    """Cached ``[n, m]`` of :func:`~sparserm.insights.find.pairs_with`."""
    key = (pairs.data.content_hash, here.sae_fingerprint, tuple(features))
    return _has(key, _pairs=pairs, _features=features)


@st.cache_resource(max_entries=32, show_spinner=False)
def _has(key: tuple[object, ...], *, _pairs: Represented, _features: Sequence[Member]) -> np.ndarray:
    return pairs_with(_pairs.data, _pairs.pairs, _features)


def examples(here: Place, pairs: Represented, feature: Member) -> list[tuple[Response, Lit]]:
    """Responses of both sides that have a feature, lit; the language model runs on first use only."""
    key = (pairs.data.content_hash, here.sae_fingerprint, feature)
    return _examples(key, _here=here, _pairs=pairs, _feature=feature)


@st.cache_resource(max_entries=64, show_spinner="Reading examples…")
def _examples(key: tuple[object, ...], *, _here: Place, _pairs: Represented, _feature: Member) -> list[tuple[Response, Lit]]:
    places = snippet_places(_feature, _pairs.data, _pairs.pairs)
    return list(zip(places, _lit(_here, _pairs, _feature, places), strict=True))


def lit_pair(here: Place, pairs: Represented, feature: Member, index: int) -> list[Lit]:
    """Both responses of a pair, lit."""
    key = (pairs.data.content_hash, here.sae_fingerprint, feature, index)
    return _lit_pair(key, _here=here, _pairs=pairs, _feature=feature, _index=index)


@st.cache_resource(max_entries=64, show_spinner="Reading the pair…")
def _lit_pair(key: tuple[object, ...], *, _here: Place, _pairs: Represented, _feature: Member, _index: int) -> list[Lit]:
    return _lit(_here, _pairs, _feature, [(_index, side) for side in SIDES])


def _lit(here: Place, pairs: Represented, feature: Member, places: Sequence[Response]) -> list[Lit]:
    return light([feature], [places], pairs.data.pairs, here.load_backbone(), here.sae())[0]


def opened(found: Found, here: Place) -> Member | None:
    """The feature that is opened: the link's, a click's or the selectbox's."""
    asked = st.query_params.get("feature")
    if asked is not None and asked != st.session_state.get(_LINKED):  # a link that was not followed yet
        st.session_state[_LINKED] = asked
        st.session_state[OPENED] = _named(asked, found, here)
    chosen: Member | None = st.session_state.get(OPENED)
    return chosen


def keep_opened_in_link(feature: Member | None) -> None:
    """Keep the opened feature in the link; a shortcut has no number."""
    number = None if feature is None or feature.feature is None else str(feature.feature)
    st.session_state[_LINKED] = number
    if number is None:
        st.query_params.pop("feature", None)
    elif st.query_params.get("feature") != number:
        st.query_params["feature"] = number


def _named(asked: str, found: Found, here: Place) -> Member | None:
    """The feature with a number, as the list names it."""
    number, sae = whole_number(asked), here.sae()
    if number is None or number >= sae.d_sae:
        st.warning(f"The link names feature {asked[:20]!r}, which this SAE does not have; features are 0 to {sae.d_sae - 1:,}.")
        return None
    name = names_of(sae, ())[number]
    return Member(name.feature, name.text)
