"""From texts to pooled representations and the latents that fired, through the store."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from sparserm.backbone.device import OnHost, to_device
from sparserm.backbone.model import Backbone, Pass
from sparserm.pairs.split import prompt_groups
from sparserm.representations.store import ArrayColumn, BlobColumn, Column, Store
from sparserm.representations.values import (
    ACTIVITIES,
    FIRED,
    ActiveLatents,
    Latents,
    LatentSummary,
    PairRepresentations,
    Representations,
    firings,
)
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import HookPoint, Pooling, PreferencePair, Progress, SparseRMError, Text, TokenizedText

#: Responses computed between two writes to the store, more where a pass holds more: what an interruption can cost, and on a GPU
#: the pass before as well.
FLUSH_EVERY = 64
#: Activations of latents held at once, with some four times as many numbers on the way to them: by many tokens at a time each
#: weight of the SAE is read less often. Whole passes of the default backbone instead of text by text took 0.84 of the time for
#: ``truthfulness``, 0.87 for ``safety`` and 0.86 for ``redteam`` (two cores, medians of three rounds).
CPU_ACTIVATIONS, GPU_ACTIVATIONS = 1 << 22, 1 << 26

#: Bytes of half a key.
_HALF = 16

_T = TypeVar("_T")


def represent(
    texts: Sequence[Text],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    pooling: Pooling,
    *,
    strengths: bool = False,
    store: Store | None = None,
    progress: Progress | None = None,
) -> dict[HookPoint, Representations]:
    """Pooled representations at each hook point, and where the latents of the SAE given for it are active; one pass of the
    backbone.

    What the store holds is not computed again nor even tokenised, nor is a text that occurs twice. Both poolings are stored,
    and both kinds of latents, whichever is asked for, and as they come, so that interrupted work goes on where it was.

    Args:
        texts: the responses with their prompts, ``n`` of them.
        saes: for each hook point its SAE, or None where only representations are wanted.
        pooling: over the response.
        strengths: give a :class:`LatentSummary` of the latents, which tells how strongly they fired; it is
            twelve times as large as the :class:`ActiveLatents` that fitting a head takes.
    """
    contents = _contents(texts, backbone)
    kept = _Kept(contents, backbone, saes, pooling, strengths)
    if store is not None:
        for column in kept.columns:
            column.fill(store.get_many(column.keys))
    # A text that occurs twice is computed once.
    todo = {content: text for content, text, there in zip(contents, texts, kept.there, strict=True) if not there}
    if todo:
        computed: dict[bytes, bytes] = {}
        for blobs in _compute(list(todo.values()), backbone, saes, progress):
            if store is not None:
                store.put_many(blobs)
            computed |= blobs
        for column in kept.columns:
            column.fill(computed)

    result = {hook: kept.at(hook) for hook in saes}
    for hook, one in result.items():
        if not np.isfinite(one.h).all():  # none such are written: an earlier version or damage left them
            first = int(np.argmin(np.isfinite(one.h).all(1)))
            raise SparseRMError(
                f"the stored {hook.name} of text {first + 1} of {len(texts)} is NaN or infinite; "
                f"expected finite numbers; delete {store.path if store else 'the store'} to compute them again"
            )
    return result


def count_missing(
    texts: Sequence[Text],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    pooling: Pooling,
    store: Store | None,
    *,
    strengths: bool = False,
) -> tuple[int, int]:
    """Texts, and their tokens with their prompts', that :func:`represent` would have to run the backbone for."""
    contents = _contents(texts, backbone)
    todo = dict(zip(contents, texts, strict=True))
    if store is not None:
        keys = [place + content for place in _places(backbone, saes, pooling, strengths) for content in todo]
        missing = {key[_HALF:] for key in store.missing(keys)}
        todo = {content: text for content, text in todo.items() if content in missing}
    return len(todo), sum(len(text.ids) for text in backbone.chat.many(list(todo.values())))


def represent_pairs(
    pairs: Sequence[PreferencePair],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    pooling: Pooling,
    *,
    strengths: bool = False,
    store: Store | None = None,
    progress: Progress | None = None,
) -> dict[HookPoint, PairRepresentations]:
    """:func:`represent` for both responses of every pair."""
    groups = prompt_groups(pairs)
    both = represent(pair_texts(pairs), backbone, saes, pooling, strengths=strengths, store=store, progress=progress)
    rows = np.arange(len(pairs))
    return {hook: PairRepresentations(one.take(rows), one.take(rows + len(pairs)), groups) for hook, one in both.items()}


def pair_texts(pairs: Sequence[PreferencePair]) -> list[Text]:
    """All chosen responses, then all rejected ones."""
    return [Text(pair.prompt, pair.chosen) for pair in pairs] + [Text(pair.prompt, pair.rejected) for pair in pairs]


class _Kept:
    """What is kept of ``n`` texts.

    Attributes:
        columns: of their counts, of their representations at each hook point, then of the SAEs' latents.
    """

    def __init__(
        self,
        contents: Sequence[bytes],
        backbone: Backbone,
        saes: Mapping[HookPoint, SparseAutoencoder | None],
        pooling: Pooling,
        strengths: bool,
    ) -> None:
        keys = ([place + content for content in contents] for place in _places(backbone, saes, pooling, strengths))
        self._pooling = pooling
        self._d_sae = {hook: sae.d_sae for hook, sae in saes.items() if sae}
        self._counts = ArrayColumn(next(keys), (2,), np.int32)
        self._states = {hook: ArrayColumn(next(keys), (backbone.d_model,), np.float32) for hook in saes}
        self._latents: dict[HookPoint, ArrayColumn | BlobColumn] = {
            hook: BlobColumn(next(keys)) if strengths else ArrayColumn(next(keys), ActiveLatents.row_shape(d_sae), np.uint8)
            for hook, d_sae in self._d_sae.items()
        }
        self.columns: list[Column] = [self._counts, *self._states.values(), *self._latents.values()]

    @property
    def there(self) -> np.ndarray:
        """``[n]`` bool, of which texts nothing is missing."""
        return np.logical_and.reduce([column.there for column in self.columns])

    def at(self, hook: HookPoint) -> Representations:
        """At one hook point, of all texts."""
        latents: Latents | None = None
        match self._latents.get(hook):
            case ArrayColumn(array=bits):
                latents = ActiveLatents(bits, self._d_sae[hook])
            case BlobColumn(blobs=blobs):
                indptr = np.cumsum([0, *(len(blob) // FIRED.itemsize for blob in blobs)], dtype=np.int64)
                latents = LatentSummary(indptr, np.frombuffer(b"".join(blobs), FIRED), self._d_sae[hook])
        n_tokens, n_truncated = self._counts.array.T
        return Representations(self._pooling, self._states[hook].array, n_tokens, n_truncated, latents)


def _places(
    backbone: Backbone, saes: Mapping[HookPoint, SparseAutoencoder | None], pooling: Pooling, strengths: bool
) -> list[bytes]:
    """Halves of keys: of counts, of representations at each hook point, then of the SAEs' latents."""
    latents = _strengths if strengths else _activity
    return [
        _place(backbone, None, "tokens"),
        *(_place(backbone, hook, pooling) for hook in saes),
        *(_place(backbone, hook, latents(sae)) for hook, sae in saes.items() if sae),
    ]


def _compute(
    texts: Sequence[Text], backbone: Backbone, saes: Mapping[HookPoint, SparseAutoencoder | None], progress: Progress | None
) -> Iterator[dict[bytes, bytes]]:
    """Run the backbone and yield finished blobs by key, some texts at a time."""
    tokenized = backbone.chat.many(texts)
    near = {hook: sae.to(backbone.device) if sae else None for hook, sae in saes.items()}

    def pooled() -> Iterator[tuple[tuple[int, ...], dict[HookPoint, OnHost]]]:
        for one in backbone.passes(tokenized, list(saes), progress=progress):
            own = tuple(tokenized[i].end - tokenized[i].start for i in one.texts)
            yield one.texts, {hook: OnHost(found) for hook, found in _pool(one, own, near).items()}

    places: list[int] = []
    arrays: list[dict[HookPoint, list[np.ndarray]]] = []
    computed = pooled() if backbone.device.type == "cpu" else _one_behind(pooled())
    for some, found in computed:
        arrays.append({hook: host.arrays() for hook, host in found.items()})
        places += some
        if len(places) >= FLUSH_EVERY:
            yield _blobs(texts, tokenized, places, arrays, backbone, saes)
            places, arrays = [], []
    if places:
        yield _blobs(texts, tokenized, places, arrays, backbone, saes)


def _one_behind(items: Iterable[_T]) -> Iterator[_T]:
    """Each item when the next has been begun, so that a GPU is busy with that one while the host is with this one."""
    waiting: list[_T] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _pool(one: Pass, own: Sequence[int], saes: Mapping[HookPoint, SparseAutoencoder | None]) -> dict[HookPoint, list[Tensor]]:
    """What is kept of ``n`` texts at each hook point, still on their device: the last state and the mean ``[n, d]``, and of an
    SAE's latents the share of tokens in which each fires and its peak ``[n, d_sae]``.

    Args:
        own: how many of each text's tokens, its first, are the response.
    """
    ends = np.cumsum(one.lengths)
    of_response = np.concatenate(
        [np.arange(end - length, end - length + n) for end, length, n in zip(ends, one.lengths, own, strict=True)]
    )
    device = next(iter(one.states.values())).device
    last, tokens = (to_device(torch.from_numpy(places), device) for places in (ends - 1, of_response))
    found = {}
    for hook, states in one.states.items():
        response = states[tokens].float()
        found[hook] = [states[last].float(), _over_texts("mean", response, own)]
        if sae := saes[hook]:
            found[hook] += _firing(response, own, sae)
    return found


def _firing(response: Tensor, own: Sequence[int], sae: SparseAutoencoder) -> list[Tensor]:
    """``[n, d_sae]`` share of tokens in which each latent fires, and its peak; of some texts at a time."""
    at_once = (GPU_ACTIVATIONS if response.is_cuda else CPU_ACTIVATIONS) // sae.d_sae
    ends = np.cumsum([0, *own])
    rates, peaks = [], []
    for texts in _runs(own, at_once):
        z = sae.encode(response[ends[texts.start] : ends[texts.stop]])
        rates.append(_over_texts("mean", (z > 0).float(), own[texts]))
        peaks.append(_over_texts("max", z, own[texts]))
    return [torch.cat(rates), torch.cat(peaks)]


def _runs(lengths: Sequence[int], tokens: int) -> Iterator[slice]:
    """Neighbouring texts of together no more than so many tokens, or one alone."""
    start, held = 0, 0
    for i, length in enumerate(lengths):
        if held and held + length > tokens:
            yield slice(start, i)
            start, held = i, 0
        held += length
    yield slice(start, len(lengths))


def _over_texts(what: Literal["mean", "max"], values: Tensor, lengths: Sequence[int]) -> Tensor:
    """``[n, d]`` from ``[sum(lengths), d]``, text after text."""
    if values.is_cuda:
        return torch.segment_reduce(values, what, lengths=to_device(torch.tensor(lengths), values.device), unsafe=True)
    parts = values.split(tuple(lengths))  # on a processor segment_reduce takes two to three times as long
    return torch.stack([part.mean(0) if what == "mean" else part.amax(0) for part in parts])


def _blobs(
    texts: Sequence[Text],
    tokenized: Sequence[TokenizedText],
    places: Sequence[int],
    arrays: Sequence[Mapping[HookPoint, Sequence[np.ndarray]]],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
) -> dict[bytes, bytes]:
    """What the store keeps of the texts at some places, by key; ``arrays`` is what :func:`_pool` gave of their passes."""
    contents = _contents([texts[i] for i in places], backbone)
    counts = _place(backbone, None, "tokens")
    blobs = {}
    for i, content in zip(places, contents, strict=True):
        text = tokenized[i]
        blobs[counts + content] = np.array([text.end - text.start, text.n_truncated], np.int32).tobytes()
    for hook, sae in saes.items():
        last, mean, *firing = (np.concatenate(column) for column in zip(*(one[hook] for one in arrays), strict=True))
        if not np.isfinite(last).all() or not np.isfinite(mean).all():
            for i, *own in zip(places, last, mean, strict=True):
                backbone.check_finite(i, len(texts), {hook: torch.from_numpy(np.stack(own))})
        for pooling, states in (("last", last), ("mean", mean)):
            place = _place(backbone, hook, pooling)
            blobs |= {place + content: state.tobytes() for content, state in zip(contents, states, strict=True)}
        if sae:
            rate, peak = firing
            active, strong = (_place(backbone, hook, what(sae)) for what in (_activity, _strengths))
            bits = ActiveLatents.pack(rate)
            rows, latents = np.nonzero(rate > 0)  # of booleans: several times as fast
            fired = firings(latents, rate[rows, latents], peak[rows, latents])
            ends = np.cumsum(np.bincount(rows, minlength=len(places)))
            for row, (content, end) in enumerate(zip(contents, ends, strict=True)):
                blobs[active + content] = bits[row].tobytes()
                blobs[strong + content] = fired[ends[row - 1] if row else 0 : end].tobytes()
    return blobs


def _activity(sae: SparseAutoencoder) -> str:
    """Where an SAE's latents are active, for the key of what is stored of it."""
    return f"{sae.fingerprint} {ACTIVITIES}"


def _strengths(sae: SparseAutoencoder) -> str:
    """How strongly they fire, likewise."""
    return f"{sae.fingerprint} {FIRED.descr}"


def _place(backbone: Backbone, hook: HookPoint | None, what: str) -> bytes:
    """Half of a key, for everything but the text that a result depends on; ``what`` is a pooling, or what is kept of an SAE's
    latents. It is the first half, so that what is read together lies together.

    The backbone's fingerprint covers its tokenizer. The dtype is part of it, since bfloat16 and float32 differ in the third
    digit; the device is not: in float32 a GPU gives the processor's numbers to 1e-4, in bfloat16 that is not measured.
    """
    where = hook.name if hook else ""
    return _half(f"{backbone.fingerprint}|{backbone.dtype}|{backbone.chat.max_length}|{where}|{what}|")


def _contents(texts: Sequence[Text], backbone: Backbone) -> list[bytes]:
    """Half of a key for each text, and for what the template puts around it, which need not be the same tomorrow."""
    around = functools.cache(lambda roles: repr(backbone.chat.frame(roles)))

    def content(text: Text) -> bytes:
        roles = tuple([turn.role for turn in text.prompt])
        return _half(f"{around(roles)}|{[turn.content for turn in text.prompt]!r}|{text.response!r}")

    return [content(text) for text in texts]


def _half(what: str) -> bytes:
    """Half of a key."""
    return hashlib.sha256(what.encode("utf-8", "surrogatepass")).digest()[:_HALF]
