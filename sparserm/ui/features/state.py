"""What the Features page holds: which feature is looked at, and results kept in memory by all that they depend on."""

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
from sparserm.features.table import FeatureTable, feature_table
from sparserm.heads.labels import auto_labels, given_labels, save_label, user_labels
from sparserm.pairs.sources import DataSource
from sparserm.types import Message, Prompt, SparseRMError
from sparserm.ui.score.scoring import ScoredResponse
from sparserm.ui.shared import starter_examples
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.pairs_picker import Represented
from sparserm.ui.shared.text import sentence

LIST, NUMBER = "features list", "feature number"


@dataclass(frozen=True)
class ShownExample:
    """A response of the pairs as the card shows it: its row in the source, prompt, tokens, and the latent at each of them."""

    row: int
    prompt: str
    tokens: tuple[str, ...]
    reading: Reading

    @property
    def peak(self) -> float:
        """Its largest activation."""
        return float(self.reading.activations.max(initial=0.0))


def begin(context: Context) -> int:
    """Which feature is looked at: the link's, else the last one, and of a new SAE the head's heaviest; with a text to try
    features on."""
    state, fingerprint, head = st.session_state, context.card.sae_fingerprint, context.saved.head
    heaviest = int(head.features[np.argmax(np.abs(head.weights))])
    asked = st.query_params.get("feature", "")
    if state.setdefault("features of", fingerprint) != fingerprint:
        state["features of"], state["feature"] = fingerprint, heaviest
    elif asked.isdecimal() and int(asked) < context.card.d_sae:
        state["feature"] = int(asked)
    feature: int = state.setdefault("feature", heaviest)
    if asked != str(feature):
        st.query_params["feature"] = str(feature)
    _fill_text(context)
    return feature


def own_text() -> tuple[str, str]:
    """The prompt and the text that features are tried on, before their fields are drawn."""
    prompt, text = (str(st.session_state.get(key, st.query_params.get(key, ""))) for key in ("text_prompt", "text"))
    return prompt, text


def _fill_text(context: Context) -> None:
    """What was scored last, or the first example; what the user has typed stays, and what a link brings along."""
    state, fresh = st.session_state, _first_text(context)
    linked = "text" not in state and "text" in st.query_params
    untouched = "text" not in state or own_text() == state.get("features filled")
    if untouched and not linked and fresh != state.get("features filled"):
        state["text_prompt"], state["text"] = state["features filled"] = fresh


def _first_text(context: Context) -> tuple[str, str]:
    """What was scored last, or the first example."""
    scored: ScoredResponse | None = st.session_state.get("scored")
    one = scored.request if scored else starter_examples.examples(context.card.name)[0]
    return one.prompt[-1].content, one.response


def choose(feature: int) -> None:
    """Look at a feature; for callbacks."""
    st.session_state["feature"] = int(feature)
    st.query_params["feature"] = str(int(feature))


def choose_typed() -> None:
    """Look at the feature whose number was typed; for callbacks."""
    choose(st.session_state[NUMBER])


def choose_row(key: str, features: list[int]) -> None:
    """Look at the feature of the row that was clicked in the table ``key``; for callbacks."""
    rows = st.session_state[key]["selection"]["rows"]
    if rows and rows[0] < len(features):
        choose(features[rows[0]])


def select_row(key: str, features: list[int], feature: int) -> None:
    """Let the table ``key`` show which feature is looked at, however it was chosen; before the table is drawn."""
    st.session_state[key] = {"selection": {"rows": [features.index(feature)] if feature in features else []}}


def store_label(fingerprint: str, feature: int, key: str) -> None:
    """Keep what was typed into the label's field; for callbacks."""
    try:
        save_label(fingerprint, feature, st.session_state[key])
        del st.session_state[key]  # the field shows what was kept, or what the head calls it where the label was taken away
    except (SparseRMError, OSError) as error:
        st.session_state["label problem"] = sentence(error)


def label_problem(context: Context) -> str:
    """What is wrong with the file of the user's labels, if anything."""
    try:
        user_labels(context.card.sae_fingerprint)
    except SparseRMError as error:
        return sentence(error)
    return ""


def kept(found: Represented, context: Context) -> FeatureStore:
    """Where results for these pairs, this SAE and this backbone lie."""
    return FeatureStore(found.data.content_hash, context.card.sae_fingerprint, context.card.backbone_fingerprint)


def table(found: Represented, context: Context) -> FeatureTable:
    """Statistics of every latent, with openings, which are measured the first time."""
    activity = context.card.training.get("settings", {}).get("activity", "any")
    return _table(kept(found, context), context.saved.head.pooling, activity, _found=found, _context=context)


@st.cache_resource(show_spinner="Measuring every latent over the pairs…", max_entries=8)
def _table(store: FeatureStore, pooling: str, activity: str, *, _found: Represented, _context: Context) -> FeatureTable:
    sae = _context.sae()
    opening = store.known_openings()
    if opening is None:
        opening = store.openings(_found.data, _found.pairs, _context.model().backbone, sae)
    return feature_table(_found.pairs, sae, activity="most" if activity == "most" else "any", opening=opening)


def card(found: Represented, context: Context, feature: int) -> FeatureCard:
    """One latent over these pairs."""
    return _card(kept(found, context), context.hash, feature, _found=found, _context=context)


@st.cache_resource(show_spinner=False, max_entries=64)
def _card(store: FeatureStore, head: str, feature: int, *, _found: Represented, _context: Context) -> FeatureCard:
    return feature_card(feature, _found.data.pairs, _found.pairs, _context.sae(), _context.saved.head)


def examples(found: Represented, context: Context, shown: FeatureCard) -> Mapping[tuple[int, Side], ShownExample]:
    """The responses of a card with the latent's activation at every token; read by the language model the first time."""
    return _examples(kept(found, context), context.hash, shown.feature, _found=found, _context=context, _card=shown)


@st.cache_resource(show_spinner="Reading the examples…", max_entries=64)
def _examples(
    store: FeatureStore, head: str, feature: int, *, _found: Represented, _context: Context, _card: FeatureCard
) -> dict[tuple[int, Side], ShownExample]:
    backbone, data = _context.model().backbone, _found.data
    readings = store.readings(_card, data, backbone, _context.sae())
    read = {}
    for one in _card.examples:
        pair = data.pairs[one.pair]
        text = backbone.tokenize(pair.prompt, getattr(pair, one.side))
        tokens = backbone.chat.texts(text.ids[text.start : text.end])
        read[one.pair, one.side] = ShownExample(pair.row, pair.prompt[-1].content, tokens, readings[one.pair, one.side])
    return read


def known_lens(found: Represented, context: Context) -> LogitLens | None:
    """The tokens that every latent promotes, where the job has looked them up."""
    path = kept(found, context).of_sae / "lens.npz"
    return _known_lens(kept(found, context), path.stat().st_mtime_ns) if path.is_file() else None


@st.cache_resource(show_spinner=False, max_entries=4)
def _known_lens(store: FeatureStore, changed: int) -> LogitLens | None:
    return store.known_lens()


@st.cache_resource(show_spinner="Looking up the tokens it promotes…", max_entries=256)
def _lens_of(backbone: str, sae: str, feature: int, *, _context: Context) -> LogitLens:
    return logit_lens(_context.sae(), load_unembedding(_context.card.backbone_source), np.array([feature]))


def lens_of(context: Context, feature: int, every: LogitLens | None) -> LogitLens:
    """The tokens that one latent promotes.

    Raises:
        SparseRMError: the backbone's files hold no unembedding.
    """
    if every is not None:
        return LogitLens(*(values[feature : feature + 1] for values in vars(every).values()))
    return _lens_of(context.card.backbone_fingerprint, context.card.sae_fingerprint, feature, _context=context)


def fire(context: Context, prompt: str, response: str) -> FiringText | None:
    """The latents that fire on a text; nothing where there is no text.

    Raises:
        SparseRMError: the text cannot be read.
    """
    if not response.strip():
        return None
    card = context.card
    turn = (Message("user", prompt),)
    return _fire(card.backbone_fingerprint, card.sae_fingerprint, context.saved.head.pooling, turn, response, _context=context)


@st.cache_resource(show_spinner="Reading the text…", max_entries=16)
def _fire(backbone: str, sae: str, pooling: str, prompt: Prompt, response: str, *, _context: Context) -> FiringText:
    model = _context.model()
    return fire_on_text(prompt, response, model.backbone, _context.sae(), model.head.pooling)


def job_specification(source: DataSource, context: Context) -> dict[str, object]:
    """What the job that gets everything ready is asked to do."""
    return {"source": source.to_dict(), "head": context.key}


def label_specification(source: DataSource, context: Context, *, endpoint: bool) -> dict[str, object]:
    """What the job that labels the head's features is asked to do."""
    return {**job_specification(source, context), "endpoint": endpoint}


def listed_labels(context: Context) -> dict[int, str]:
    """What the list calls each latent; where an automatic label was sought and not found, it says why."""
    automatic = auto_labels(context.card.sae_fingerprint)
    return {feature: one.shown for feature, one in automatic.items()} | dict(given_labels(context.card))


def detected(context: Context) -> dict[int, float]:
    """What the automatic labels detect, and the descriptions that were too weak to be one."""
    automatic = auto_labels(context.card.sae_fingerprint)
    return {feature: one.detection.accuracy for feature, one in automatic.items() if one.detection}


def running_job(kind: str, wanted: Mapping[str, object]) -> jobs.JobStatus | None:
    """The last job of this kind and specification, unless it is done."""
    found = next((one for one in jobs.list_jobs() if one.kind == kind and jobs.spec(one.id) == wanted), None)
    return found if found is not None and found.state != "done" else None


def examples_csv(read: Mapping[tuple[int, Side], ShownExample]) -> pd.DataFrame:
    """The examples of a card, a row for each response."""
    return pd.DataFrame(
        [
            {"row": one.row, "side": side, "peak": one.peak, "prompt": one.prompt, "response": "".join(one.tokens)}
            for (_, side), one in read.items()
        ]
    )
