"""State of the Features page: the selected feature, and results cached by everything they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from sparserm import jobs
from sparserm.features.cache import FeatureStore
from sparserm.features.cards import FeatureCard, Reading, Side, feature_card
from sparserm.features.listing import FiringText, fire_on_text
from sparserm.features.logit_lens import LogitLens, load_unembedding, logit_lens
from sparserm.features.search import QueryResults, close_words, fires_on, is_searchable, words_of
from sparserm.features.table import FeatureTable, feature_table
from sparserm.heads.labels import auto_labels, user_labels
from sparserm.pairs.sources import DataSource
from sparserm.support.parsing import whole_number
from sparserm.types import Activity, Message, Prompt, Score, SparseRMError
from sparserm.ui.features.scope import Scope
from sparserm.ui.shared import starter_examples
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.links import keep_in_link
from sparserm.ui.shared.pairs_picker import Represented
from sparserm.ui.shared.place import Place
from sparserm.ui.shared.scoring import ScoredResponse
from sparserm.ui.shared.text import plain, sentence

LIST, NUMBER, TOKEN, NOT_FOUND = "features list", "feature number", "token", "feature not found"
_FILLED = "features filled"  # the texts that the app put into the fields
#: What can be listed.
HEAD, ALL, TEXT = "Head's features", "All latents", "Firing on a text"


@dataclass(frozen=True)
class ShownExample:
    """A response as the card shows it: its row in the source, its prompt, its tokens and the latent's values on them."""

    row: int
    prompt: str
    tokens: tuple[str, ...]
    reading: Reading

    @property
    def peak(self) -> float:
        """Largest activation in the response."""
        return float(self.reading.activations.max(initial=0.0))


def begin(scope: Scope, table: FeatureTable) -> int:
    """Select a feature and fill in the text to search on.

    The feature is the link's, else the last one selected; for another SAE it is the head's largest weight, and without a head
    the latent with the surest gap. A link to a feature that the SAE does not have is reported.
    """
    state, fingerprint, head = st.session_state, scope.place.sae_fingerprint, scope.head
    if head is not None:
        first = int(head.features[np.argmax(np.abs(head.weights))])
    else:
        first = int(np.lexsort((-np.abs(table.gap), table.q))[0])
    asked = st.query_params.get("feature", "")
    linked = whole_number(asked)
    if state.setdefault("features of", fingerprint) != fingerprint:
        state["features of"], state["feature"] = fingerprint, first
        state.pop(NOT_FOUND, None)
    elif linked is not None and linked < scope.place.d_sae:
        state["feature"] = linked
    elif asked:
        state[NOT_FOUND] = asked
    if NOT_FOUND in state:
        st.warning(
            f"This link names feature {plain(repr(state[NOT_FOUND][:40]))}, which was not found; expected a number from 0 to "
            f"{scope.place.d_sae - 1}. Another feature is shown.",
            icon=":material/link_off:",
        )
    feature: int = state.setdefault("feature", first)
    if asked != str(feature):
        st.query_params["feature"] = str(feature)
    _fill_text(scope)
    return feature


def own_text() -> tuple[str, str]:
    """The user's prompt and text, available before their fields are drawn."""
    prompt, text = (str(st.session_state.get(key, "")) for key in ("text_prompt", "text"))
    return prompt, text


def keep_text_in_link() -> bool:
    """Keep what the user wrote in the link if it is short enough; returns whether it is. What the app filled in is not kept."""
    prompt, text = own_text()
    filled = (prompt, text) == st.session_state.get(_FILLED)
    return keep_in_link({"text_prompt": [] if filled else [prompt], "text": [] if filled else [text]})


def _fill_text(scope: Scope) -> None:
    """Fill the text fields with the last scored response or the first example, unless the user or a link has set them."""
    state, fresh = st.session_state, _first_text(scope)
    if "text" not in state and "text" in st.query_params:
        state["text_prompt"], state["text"] = (st.query_params.get(name, "") for name in ("text_prompt", "text"))
    elif ("text" not in state or own_text() == state.get(_FILLED)) and fresh != state.get(_FILLED):
        state["text_prompt"], state["text"] = state[_FILLED] = fresh


def _first_text(scope: Scope) -> tuple[str, str]:
    """Prompt and response that were scored last, or the first example."""
    scored: ScoredResponse | None = st.session_state.get("scored")
    one = scored.request if scored else starter_examples.examples(scope.name)[0]
    return one.prompt[-1].content, one.response


def choose(feature: int) -> None:
    """Select a feature; for callbacks."""
    st.session_state["feature"] = int(feature)
    st.session_state.pop(NOT_FOUND, None)
    st.query_params["feature"] = str(int(feature))


def choose_typed() -> None:
    """Select the feature whose number was typed; for callbacks."""
    choose(st.session_state[NUMBER])


def search_all() -> None:
    """List all latents; for callbacks."""
    st.session_state["list"] = ALL


def picked_token() -> int | None:
    """Index of the token whose latents are listed, if any."""
    token: int | None = st.session_state.get(TOKEN) if st.session_state.get("list") == TEXT else None
    return token


def pick_token(token: int) -> None:
    """List the latents that fire on a token of the text, or on all of it if the token was picked already; for callbacks."""
    fresh = None if picked_token() == token else token
    st.session_state["list"], st.session_state[TOKEN] = TEXT, fresh
    st.session_state["find"] = ""  # an earlier search would hide what fires there


def choose_row(key: str, features: list[int]) -> None:
    """Select the feature of the clicked row of table ``key``; for callbacks."""
    rows = st.session_state[key]["selection"]["rows"]
    if rows and rows[0] < len(features):
        choose(features[rows[0]])


def select_row(key: str, features: list[int], feature: int) -> None:
    """Highlight the selected feature in table ``key``; call it before the table is drawn."""
    st.session_state[key] = {"selection": {"rows": [features.index(feature)] if feature in features else []}}


def label_problem(here: Place) -> str:
    """Error message if the file of the user's labels cannot be read, else empty."""
    try:
        user_labels(here.sae_fingerprint)
    except SparseRMError as error:
        return sentence(error)
    return ""


def feature_store(found: Represented, here: Place) -> FeatureStore:
    """Stored results for these pairs, this SAE and this backbone."""
    return FeatureStore(found.data.content_hash, here.sae_fingerprint, here.backbone_fingerprint)


def table(found: Represented, scope: Scope) -> FeatureTable:
    """Statistics of every latent. Firing on the first token is measured on first use and then stored."""
    pooling = scope.place.pooling
    return _table(feature_store(found, scope.place), pooling, scope.activity, scope.score, _found=found, _here=scope.place)


@st.cache_resource(show_spinner="Computing statistics of all latents…", max_entries=8)
def _table(
    store: FeatureStore, pooling: str, activity: Activity, score: Score, *, _found: Represented, _here: Place
) -> FeatureTable:
    sae = _here.sae()
    opening = store.known_openings()
    if opening is None:
        opening = store.openings(_found.data, _found.pairs, _here.load_backbone(), sae)
    return feature_table(_found.pairs, sae, activity=activity, opening=opening, score=score)


def card(found: Represented, scope: Scope, feature: int) -> FeatureCard:
    """Card of one latent on these pairs."""
    return _card(feature_store(found, scope.place), scope.hash, feature, _found=found, _scope=scope)


@st.cache_resource(show_spinner=False, max_entries=64)
def _card(store: FeatureStore, head: str, feature: int, *, _found: Represented, _scope: Scope) -> FeatureCard:
    return feature_card(feature, _found.data.pairs, _found.pairs, _scope.place.sae(), _scope.head, score=_scope.score)


def examples(found: Represented, scope: Scope, shown: FeatureCard) -> Mapping[tuple[int, Side], ShownExample]:
    """Responses of a card with the latent's activation on every token; the language model runs on first use only."""
    return _examples(feature_store(found, scope.place), scope.hash, shown.feature, _found=found, _here=scope.place, _card=shown)


@st.cache_resource(show_spinner="Computing activations of the examples…", max_entries=64)
def _examples(
    store: FeatureStore, head: str, feature: int, *, _found: Represented, _here: Place, _card: FeatureCard
) -> dict[tuple[int, Side], ShownExample]:
    backbone, data = _here.load_backbone(), _found.data
    readings = store.readings([_card], data, backbone, _here.sae())[feature]
    read = {}
    for one in _card.examples:
        pair = data.pairs[one.pair]
        text = backbone.tokenize(pair.prompt, getattr(pair, one.side))
        tokens = backbone.chat.texts(text.ids[text.start : text.end])
        read[one.pair, one.side] = ShownExample(pair.row, pair.prompt[-1].content, tokens, readings[one.pair, one.side])
    return read


def known_lens(found: Represented, here: Place) -> LogitLens | None:
    """Promoted tokens of every latent, or None until the job has computed them."""
    path = feature_store(found, here).of_sae / "lens.npz"
    return _known_lens(feature_store(found, here), path.stat().st_mtime_ns) if path.is_file() else None


@st.cache_resource(show_spinner=False, max_entries=4)
def _known_lens(store: FeatureStore, changed: int) -> LogitLens | None:
    return store.known_lens()


@st.cache_resource(show_spinner="Computing promoted tokens…", max_entries=256)
def _lens_of(backbone: str, sae: str, feature: int, *, _here: Place) -> LogitLens:
    return logit_lens(_here.sae(), load_unembedding(_here.backbone_source), np.array([feature]))


def lens_of(here: Place, feature: int, every: LogitLens | None) -> LogitLens:
    """Promoted and suppressed tokens of one latent.

    Raises:
        SparseRMError: the backbone's files hold no unembedding.
    """
    if every is not None:
        return LogitLens(*(values[feature : feature + 1] for values in vars(every).values()))
    return _lens_of(here.backbone_fingerprint, here.sae_fingerprint, feature, _here=here)


def fire(here: Place, prompt: str, response: str) -> FiringText | None:
    """Latents that fire on a text, or None if the text is empty.

    Raises:
        SparseRMError: the text cannot be processed.
    """
    if not response.strip():
        return None
    return _fire(here, (Message("user", prompt),), response)


@st.cache_resource(show_spinner="Running the language model on the text…", max_entries=16)
def _fire(here: Place, prompt: Prompt, response: str) -> FiringText:
    return fire_on_text(prompt, response, here.load_backbone(), here.sae(), here.pooling)


def search(here: Place, query: str, rows: pd.DataFrame) -> QueryResults:
    """What the backbone knows of a query: latents that fire on it, and words of names with a similar meaning.

    Raises:
        SparseRMError: the backbone cannot be used.
    """
    wanted = query.strip().casefold()
    if not is_searchable(wanted):
        return QueryResults()
    return _search(here, wanted, words_of(rows))


@st.cache_resource(show_spinner="Searching…", max_entries=256)
def _search(here: Place, query: str, words: tuple[str, ...]) -> QueryResults:
    fires = fires_on(query, here.load_backbone(), here.sae())
    try:
        close = close_words(query, words, load_unembedding(here.backbone_source))
    except SparseRMError:  # without an unembedding meanings cannot be compared
        close = {}
    return QueryResults(fires, close)


def job_specification(source: DataSource, scope: Scope) -> dict[str, object]:
    """Specification of the job that computes promoted tokens and examples."""
    here, head = scope.place, scope.context.key if scope.context else None
    return {"source": source.to_dict(), "backbone": here.backbone_source, "sae": here.sae_name, "head": head}


def label_specification(source: DataSource, context: Context, *, endpoint: bool) -> dict[str, object]:
    """Specification of the job that labels the head's features."""
    return {"source": source.to_dict(), "head": context.key, "endpoint": endpoint}


def listed_labels(scope: Scope) -> dict[int, str]:
    """Labels by latent for the list; where no automatic label was found, the reason."""
    automatic = auto_labels(scope.place.sae_fingerprint)
    return {feature: one.shown for feature, one in automatic.items()} | dict(scope.given())


def listed_words(found: Represented, here: Place) -> dict[int, str]:
    """The words that each latent fires on, e.g. ``doctor · ambulance``: those found with its label, else on these pairs."""
    automatic = auto_labels(here.sae_fingerprint)
    named = {feature: one.evidence.removeprefix("fires on: ") for feature, one in automatic.items() if one.evidence}
    return dict(enumerate(feature_store(found, here).known_words() or [])) | named


def detected(scope: Scope) -> dict[int, float]:
    """Detection scores of the automatic labels by latent, also of those too weak to be used; not where people named it."""
    automatic, given = auto_labels(scope.place.sae_fingerprint), scope.given()
    return {feature: one.detection.accuracy for feature, one in automatic.items() if one.detection and feature not in given}


def running_job(kind: str, wanted: Mapping[str, object]) -> jobs.JobStatus | None:
    """The latest job of this kind and specification, or None if it is done."""
    found = jobs.find_job(kind, wanted)
    return found if found is not None and found.state != "done" else None


def examples_csv(read: Mapping[tuple[int, Side], ShownExample]) -> pd.DataFrame:
    """Examples of a card, one row per response."""
    return pd.DataFrame(
        [
            {"row": one.row, "side": side, "peak": one.peak, "prompt": one.prompt, "response": "".join(one.tokens)}
            for (_, side), one in read.items()
        ]
    )
