"""Where latents fire: the words at which they fire, what comes right before and after, and the place in the response.

Pooled activations tell in which responses a latent fires. This reads a sample of them token by token.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparserm.backbone.model import Backbone
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import PreferencePair, Progress, Text

#: Responses read for each latent: the strongest, and others spread over the smaller peaks.
STRONGEST, SPREAD = 8, 16
#: Words, neighbours and snippets that are kept of each latent, and characters on each side of the word in a snippet.
MOST_WORDS, MOST_SNIPPETS, AROUND = 12, STRONGEST + SPREAD, 80
#: A firing counts as strong from this share of the latent's largest activation in the sample.
STRONG = 0.3

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[^\w\s]|_|\n+|\s+")


@dataclass(frozen=True)
class Snippet:
    """One firing with the text around it.

    Attributes:
        text: index of the response in the sample's order, to tell different ones apart.
        before, word, after: the text before the word at which the latent fires, the word, and the text after it.
        activation: of the latent there.
    """

    text: int
    before: str
    word: str
    after: str
    activation: float

    def __str__(self) -> str:
        return f"…{self.before}[{self.word}]{self.after}…".replace("\n", "⏎")


@dataclass(frozen=True)
class FiresAt:
    """Where one latent fires in a sample of responses. Shares are of its strong firings, weighted by activation.

    Attributes:
        words: the words at which it fires and their shares, largest first; a line break is ``⏎``.
        before, after: the words right before and after these, in the same form; an empty word is the end of the response.
        first, last: share at the first and at the last word of a response.
        n_firings, n_texts: number of strong firings, and of responses with one.
        snippets: the strongest firing of each response, strong or not, the strongest first.
    """

    words: tuple[tuple[str, float], ...]
    before: tuple[tuple[str, float], ...]
    after: tuple[tuple[str, float], ...]
    first: float
    last: float
    n_firings: int
    n_texts: int
    snippets: tuple[Snippet, ...]

    @property
    def evidence(self) -> str:
        """The words that make up most of the firings, e.g. ``fires on: doctor · ambulance · hospital``."""
        shown = [word for word, share in self.words[:5] if share >= 0.05] or [word for word, _ in self.words[:1]]
        return f"fires on: {' · '.join(shown)}" if shown else ""


def find_firings(
    features: Sequence[int],
    texts: Sequence[PreferencePair],
    pairs: PairRepresentations,
    rows: np.ndarray,
    backbone: Backbone,
    sae: SparseAutoencoder,
    *,
    progress: Progress | None = None,
) -> dict[int, FiresAt]:
    """Read a sample of the responses in which each latent fires, token by token, in one pass of the backbone.

    Args:
        features: ids of the latents.
        texts: the pairs.
        pairs: their representations, with the latents' strengths.
        rows: the responses that may be read, as indices into all chosen, then all rejected ones.

    Raises:
        SparseRMError: the representations have no strengths.
    """
    both = [Text(pair.prompt, pair.chosen) for pair in texts] + [Text(pair.prompt, pair.rejected) for pair in texts]
    sampled = _sampled(features, [one.response for one in both], pairs, rows)
    order = sorted(sampled)
    tokenized = [backbone.tokenize(both[row].prompt, both[row].response) for row in order]
    encoder, columns = sae.encoder_of(features)
    near = encoder.to(backbone.device)
    found: dict[int, list[tuple[int, tuple[str, ...], np.ndarray]]] = {feature: [] for feature in features}
    for i, states in backbone.hidden_states(tokenized, [sae.hook], progress=progress):
        text, wanted = tokenized[i], sampled[order[i]]
        tokens = tuple(backbone.chat.texts(text.ids[text.start : text.end]))
        z = near.encode(states[sae.hook][: len(tokens)])[:, [columns[feature] for feature in wanted]].cpu().numpy()
        for feature, own in zip(wanted, z.T, strict=True):
            if own.any():
                found[feature].append((i, tokens, own.copy()))
    return {feature: describe_firings(sorted(read, key=lambda one: one[0])) for feature, read in found.items()}


def describe_firings(read: Sequence[tuple[int, Sequence[str], np.ndarray]]) -> FiresAt:
    """Summarise firings of a latent.

    Args:
        read: for each response its index, its ``T`` tokens as text, and the latent's activations ``[T]``.
    """
    largest = max((float(own.max()) for _, _, own in read), default=0.0)
    words, before, after = (defaultdict[str, float](float) for _ in range(3))
    first = last = 0.0
    snippets: list[Snippet] = []
    n_firings = n_texts = 0
    for i, tokens, own in read:
        text, spans, shown, place = _laid_out(tuple(tokens))
        strong = np.flatnonzero(own >= max(STRONG * largest, 1e-12)).tolist()
        for token in strong:
            at, weight = place[token], float(own[token])
            words[shown[at]] += weight
            before[shown[at - 1] if at else ""] += weight
            after[shown[at + 1] if at + 1 < len(shown) else ""] += weight
            first, last = first + weight * (at == 0), last + weight * (at == len(shown) - 1)
        n_firings += len(strong)
        n_texts += bool(strong)
        token = int(own.argmax())
        start, end, word = spans[place[token]]
        around = text[max(0, start - AROUND) : start], text[end : end + AROUND]
        snippets.append(Snippet(i, around[0], word, around[1], float(own[token])))
    total = sum(words.values()) or 1.0
    return FiresAt(
        words=_shares(words, total),
        before=_shares(before, total),
        after=_shares(after, total),
        first=first / total,
        last=last / total,
        n_firings=n_firings,
        n_texts=n_texts,
        snippets=tuple(sorted(snippets, key=lambda one: -one.activation)[:MOST_SNIPPETS]),
    )


def _sampled(
    features: Sequence[int], responses: Sequence[str], pairs: PairRepresentations, rows: np.ndarray
) -> dict[int, list[int]]:
    """The latents to read in each of the rows that are to be read."""
    from scipy.sparse import csc_matrix, csr_matrix, vstack

    sides = [side.strengths for side in (pairs.chosen, pairs.rejected)]
    peaks = vstack([csr_matrix((one.peak, one.indices, one.indptr), shape=(len(one.indptr) - 1, one.d_sae)) for one in sides])
    by_latent = csc_matrix(csr_matrix(peaks)[rows])  # a search for each latent would read all firings that many times
    by_latent.eliminate_zeros()
    sampled: dict[int, list[int]] = defaultdict(list)
    for feature in features:
        own = slice(by_latent.indptr[feature], by_latent.indptr[feature + 1])
        strongest = np.argsort(-by_latent.data[own], kind="stable")
        for row in _sample(responses, rows[by_latent.indices[own]][strongest].tolist()):
            sampled[row].append(feature)
    return sampled


def _sample(responses: Sequence[str], strongest: Iterable[int]) -> set[int]:
    """Of these rows, the strongest first, those of the first distinct responses, and of others spread over the rest."""
    seen: set[str] = set()
    ranked = []
    for row in strongest:
        if responses[row] not in seen:
            seen.add(responses[row])
            ranked.append(row)
    rest = ranked[STRONGEST:]
    spread = np.linspace(0, max(len(rest) - 1, 0), min(SPREAD, len(rest))).round().astype(int)
    return {*ranked[:STRONGEST], *(rest[i] for i in spread)}


@functools.lru_cache(maxsize=512)
def _laid_out(tokens: tuple[str, ...]) -> tuple[str, list[tuple[int, int, str]], list[str], list[int]]:
    """The text of tokens, its words with their places and as they are counted, and the word of each token.

    Cached, since thousands of latents may fire in a text.
    """
    text = "".join(tokens)
    spans = _spans(text)
    return text, spans, [_plain(word.strip(" ")) for _, _, word in spans], _words_of_tokens(tokens, spans).tolist()


def _spans(text: str) -> list[tuple[int, int, str]]:
    """Words, marks and line breaks of a text with their places; other white space is left out."""
    found = [(one.start(), one.end(), one[0]) for one in _WORD.finditer(text)]
    return [one for one in found if one[2].strip() or "\n" in one[2]] or [(0, len(text), text)]


def _words_of_tokens(tokens: Sequence[str], spans: Sequence[tuple[int, int, str]]) -> np.ndarray:
    """``[T]`` the word that each token is in: that of its first character that is not a space, else the one before."""
    starts = np.array([start for start, _, _ in spans])
    ends = np.cumsum([len(token) for token in tokens])
    first = [end - len(token.lstrip(" ")) for token, end in zip(tokens, ends, strict=True)]
    return np.maximum(np.searchsorted(starts, first, side="right") - 1, 0)


def _plain(word: str) -> str:
    return "⏎" if "\n" in word else word.lower()


def _shares(counts: Mapping[str, float], total: float) -> tuple[tuple[str, float], ...]:
    order = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return tuple((word, weight / total) for word, weight in order[:MOST_WORDS])
