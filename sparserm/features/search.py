"""Search for latents of an SAE by name, by the words they fire on, by promoted tokens and by meaning.

"Fires on" is measured for any query: the backbone reads it in a few neutral sentences, and latents that fire on its tokens are
found whether or not the pairs contain it. "Meaning" compares the query with the words of names and evidence by the cosine of
their rows of the unembedding, which on some twenty queries ranked better than the latents' directions or the tokens that they
promote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from sparserm.backbone.model import Backbone
from sparserm.features.logit_lens import Unembedding
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.parsing import whole_number
from sparserm.types import Message

#: Shortest and longest query that is run through the backbone or compared by meaning, in characters.
SHORTEST, LONGEST = 3, 60
#: Least cosine of two words of similar meaning (unrelated words reach 0.38), and how many such words are used at most.
LEAST_COSINE, MOST_CLOSE = 0.4, 5
#: A name that is only a best guess begins like this.
NO_LABEL = "no reliable label"

_PROMPT = (Message("user", "Tell me."),)
_SENTENCES = ("{}", "The {}.", "I think that {} is one of them.", "It is about {}, and", "You asked about {}.")
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class QueryResults:
    """What the backbone knows of a query.

    Attributes:
        fires: activation by latent on the query's tokens, the mean over the sentences, of latents that fire there in most.
        close: words of similar meaning and their cosines.
    """

    fires: Mapping[int, float] = field(default_factory=dict)
    close: Mapping[str, float] = field(default_factory=dict)


def is_searchable(query: str) -> bool:
    """Whether a query is a word or short phrase that :func:`fires_on` and :func:`close_words` can use."""
    return SHORTEST <= len(query) <= LONGEST and whole_number(query) is None and bool(_WORD.search(query))


def fires_on(query: str, backbone: Backbone, sae: SparseAutoencoder) -> dict[int, float]:
    """Latents that fire on the tokens of ``query`` in most of a few neutral sentences, with their mean activation there."""
    texts = [backbone.tokenize(_PROMPT, sentence.format(query)) for sentence in _SENTENCES]
    near = sae.to(backbone.device)
    activations = np.zeros((len(texts), sae.d_sae), np.float32)
    for i, states in backbone.hidden_states(texts, [sae.hook]):
        text = texts[i]
        ends = np.cumsum([len(token) for token in backbone.chat.texts(text.ids[text.start : text.end])])
        first = _SENTENCES[i].index("{}")
        inside = (ends > first) & (np.concatenate([[0], ends[:-1]]) < first + len(query))
        own = states[sae.hook][: text.end - text.start]
        activations[i] = near.encode(own).cpu().numpy()[inside].max(0, initial=0.0)
    most = (activations > 0).mean(0) > 0.5
    return {int(latent): float(activations[:, latent].mean()) for latent in np.flatnonzero(most)}


def close_words(query: str, words: Sequence[str], unembedding: Unembedding) -> dict[str, float]:
    """Of ``words``, those of similar meaning and their cosines; words of several tokens are not compared."""
    asked = unembedding.tokenizer(f" {query}", add_special_tokens=False)["input_ids"]
    tokens = unembedding.tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"] if words else []
    single = {word: ids[0] for word, ids in zip(words, tokens, strict=True) if len(ids) == 1 and word != query}
    if not single or not asked:
        return {}
    target = (unembedding.weight[asked] - unembedding.mean).mean(0)
    rows = unembedding.weight[list(single.values())] - unembedding.mean
    cosines = (rows @ target) / (rows.norm(dim=-1) * target.norm()).clamp(min=1e-9)
    found = sorted(zip(cosines.tolist(), single, strict=True), reverse=True)[:MOST_CLOSE]
    return {word: cosine for cosine, word in found if cosine >= LEAST_COSINE}


def words_of(rows: pd.DataFrame) -> tuple[str, ...]:
    """The words of the names of features and of what they fire on, without those that every text has."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    texts = rows["label"].str.cat(rows["fires_on"], sep="\n")
    return tuple(sorted({word for text in texts for word in _words(text)} - ENGLISH_STOP_WORDS))


def match_rows(rows: pd.DataFrame, query: str, results: QueryResults) -> pd.DataFrame:
    """The rows that match a query, the best first, with a column ``match`` that says how.

    Names come first, then what the latents are known to fire on, then those that fire on the query, the strongest and rarest
    first, then promoted tokens and meaning. Text matches at the beginning of a word.

    Args:
        rows: see :func:`~sparserm.features.listing.list_features`.
        query: an id, or text; without case.
    """
    if (feature := whole_number(query)) is not None:
        return rows[rows["feature"] == feature].assign(match="number")
    label, fires, promoted = (rows[name].str.casefold() for name in ("label", "fires_on", "promotes"))
    begins = rf"(?<!\w){re.escape(query)}" if query[:1].isalnum() else re.escape(query)
    named, known = label.str.contains(begins), fires.str.contains(begins)
    guessed = named & label.str.startswith(NO_LABEL)
    activation = rows["feature"].map(results.fires).fillna(0.0)
    close = [_closest(text, results.close) for text in label + "\n" + fires]
    kinds = {
        "name": named & ~guessed,
        "fires on": known | (activation > 0),
        "best guess": guessed,
        "promotes": promoted.str.contains(begins),
        "meaning": pd.Series([cosine > 0 for _, cosine in close], index=rows.index),
    }
    flags = pd.DataFrame(kinds)
    texts = [_kinds(row, word) for row, (word, _) in zip(flags.itertuples(index=False), close, strict=True)]
    strength = activation * -np.log(rows["token_rate"].clip(lower=1e-5, upper=1.0))
    order = pd.DataFrame({"kind": flags.to_numpy().argmax(1), "known": ~known, "strength": -strength})
    order["cosine"] = [-cosine for _, cosine in close]
    best = order[flags.any(axis=1)].sort_values(list(order), kind="stable").index
    return rows.assign(match=texts).loc[best]


def _kinds(flags: tuple[bool, ...], word: str) -> str:
    names = ("name", "fires on", "best guess", "promotes", f"meaning: {word}")
    return " · ".join(name for name, holds in zip(names, flags, strict=True) if holds)


def _closest(text: str, close: Mapping[str, float]) -> tuple[str, float]:
    found = [(close[word], word) for word in _words(text) if word in close]
    cosine, word = max(found, default=(0.0, ""))
    return word, cosine


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
