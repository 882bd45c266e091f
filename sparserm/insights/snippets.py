"""Snippets: responses that have a feature where the other response of the pair has not, lit where it fires."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparserm.backbone.model import Backbone
from sparserm.features.cards import SIDES, Side
from sparserm.insights.shortcuts import places_of
from sparserm.insights.values import Member, Snippet
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.files import one_line
from sparserm.types import PreferencePair, Progress

#: Responses that are shown of each side, and characters of the prompt.
EACH, PROMPT = 3, 90
#: Tokens before and after the strongest one that are shown.
BEFORE, AFTER = 28, 16
#: Fainter firings are drawn with this share of the strongest, so that they can be seen.
FAINTEST = 0.25

#: Words and the white space before them.
_WORD = re.compile(r"\s*\S+|\s+")

#: A response: the index of its pair, and its side.
Response = tuple[int, Side]


@dataclass(frozen=True)
class Lit:
    """A response in pieces, each with how strongly a feature is there; latents have activations, shortcuts 1 or 0."""

    pieces: tuple[str, ...]
    values: tuple[float, ...]


def choose_snippets(own: np.ndarray, peaks: np.ndarray, pairs: Sequence[PreferencePair]) -> list[Response]:
    """Responses of :data:`EACH` pairs on each side, of different prompts and texts: the strongest, and two of the weaker ones.

    Args:
        own: ``[n]`` +1 where the chosen response alone has the feature, -1 where the rejected one alone has it.
        peaks: ``[n]`` how strongly the response that has it has it.
    """
    found: list[Response] = []
    prompts: set[str] = set()
    for side, sign in zip(SIDES, (1, -1), strict=True):
        rows = np.flatnonzero(own == sign)
        order = rows[np.argsort(-peaks[rows], kind="stable")].tolist()
        texts: set[str] = set()
        different = []
        for row in order:
            prompt, text = pairs[row].prompt[-1].content, getattr(pairs[row], side)
            if prompt not in prompts and text not in texts:
                texts.add(text)
                different.append(row)
        for start in np.linspace(0, len(different), EACH, endpoint=False).astype(int).tolist():
            one = next((row for row in different[start:] if pairs[row].prompt[-1].content not in prompts), None)
            if one is not None:
                prompts.add(pairs[one].prompt[-1].content)
                found.append((one, side))
    return found


def light_latents(
    wanted: Mapping[int, Sequence[Response]],
    pairs: Sequence[PreferencePair],
    backbone: Backbone,
    sae: SparseAutoencoder,
    progress: Progress | None = None,
) -> dict[tuple[int, Response], Lit]:
    """Activations of latents at every token of some responses, from one pass of the language model over them.

    Args:
        wanted: for each latent the responses to read.
    """
    by_place: dict[Response, list[int]] = {}
    for latent, places in wanted.items():
        for place in places:
            by_place.setdefault(place, []).append(latent)
    order = list(by_place)
    texts = [backbone.tokenize(pairs[i].prompt, getattr(pairs[i], side)) for i, side in order]
    near = sae.to(backbone.device)
    found = {}
    for i, states in backbone.hidden_states(texts, [sae.hook], progress=progress):
        tokens = backbone.chat.texts(texts[i].ids[texts[i].start : texts[i].end])
        latents = by_place[order[i]]
        z = near.encode(states[sae.hook][: len(tokens)])[:, latents].cpu().numpy()
        for latent, own in zip(latents, z.T, strict=True):
            found[latent, order[i]] = Lit(tuple(tokens), tuple(own.tolist()))
    return found


def light_shortcut(shortcut: str, text: str) -> Lit:
    """What a shortcut counts in a text."""
    pieces: list[str] = []
    values: list[float] = []
    end = 0
    for start, stop in [*places_of(shortcut, text), (len(text), len(text))]:
        between = _WORD.findall(text[end:start])
        pieces += [*between, text[start:stop]]
        values += [*(0.0 for _ in between), 1.0]
        end = stop
    pieces, values = pieces[:-1], values[:-1]  # the end of the text
    return Lit(tuple(pieces), tuple(values))


def snippets_of(read: Sequence[Lit], places: Sequence[Response], pairs: Sequence[PreferencePair]) -> tuple[Snippet, ...]:
    """The snippets of a finding from its responses, see :func:`choose_snippets`, as they are lit."""
    full = max((value for each in read for value in each.values), default=0.0) or 1.0
    return tuple(_snippet(each, place, pairs, full) for each, place in zip(read, places, strict=True))


def light(
    features: Sequence[Member],
    places: Sequence[Sequence[Response]],
    pairs: Sequence[PreferencePair],
    backbone: Backbone,
    sae: SparseAutoencoder,
    progress: Progress | None = None,
) -> list[list[Lit]]:
    """For each feature its responses, with how strongly it is at each piece of them."""
    wanted = {one.feature: own for one, own in zip(features, places, strict=True) if one.feature is not None and own}
    lit = light_latents(wanted, pairs, backbone, sae, progress) if wanted else {}
    return [
        [
            light_shortcut(one.name, getattr(pairs[place[0]], place[1])) if one.feature is None else lit[one.feature, place]
            for place in own
        ]
        for one, own in zip(features, places, strict=True)
    ]


def _snippet(lit: Lit, place: Response, pairs: Sequence[PreferencePair], full: float) -> Snippet:
    """The pieces around the strongest one, neighbours that are not lit joined."""
    pair, side = pairs[place[0]], place[1]
    strongest = int(np.argmax(lit.values)) if lit.values else 0
    start, end = max(0, strongest - BEFORE), min(len(lit.pieces), strongest + AFTER + 1)
    parts: list[tuple[str, float]] = [("… ", 0.0)] if start else []
    for piece, value in zip(lit.pieces[start:end], lit.values[start:end], strict=True):
        strength = round(max(value / full, FAINTEST), 2) if value > 0 else 0.0
        if parts and not strength and not parts[-1][1]:
            parts[-1] = parts[-1][0] + piece, 0.0
        else:
            parts.append((piece, strength))
    if end < len(lit.pieces):
        parts.append((" …", 0.0))
    return Snippet(side, pair.row, one_line(pair.prompt[-1].content, PROMPT), tuple(parts))
