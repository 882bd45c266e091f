"""Computes pooled representations and latent firings of texts, with caching in the store."""

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
from sparserm.backbone.tokenization import scored_text
from sparserm.pairs.split import prompt_groups, text_groups
from sparserm.representations.store import ArrayColumn, BlobColumn, Column, PartColumn, Store
from sparserm.representations.values import (
    ACTIVITIES,
    FIRED,
    ActiveLatents,
    Latents,
    LatentSummary,
    PairRepresentations,
    Representations,
    firings,
    possible_firings,
)
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import HookPoint, Pooling, PreferencePair, Progress, Text, TokenizedText, pair_texts

#: Responses computed between two writes to the store, or one forward pass if that has more. An interruption loses at most this
#: many and the passes begun ahead: one on a GPU, some for each core of a CPU.
FLUSH_EVERY = 64
#: Maximum number of latent activations computed at once; intermediate results take about four times as many numbers. Larger
#: batches read each SAE weight less often: whole passes of the default backbone instead of single texts took 0.84 of the time
#: for ``truthfulness``, 0.87 for ``safety`` and 0.86 for ``redteam`` (two cores, medians of three rounds).
CPU_ACTIVATIONS, GPU_ACTIVATIONS = 1 << 22, 1 << 26
#: Tokens that are always encoded at once, however many latents: for fewer, reading the weights takes longer than multiplying.
LEAST_ENCODED = 128

#: Bytes of each half of a store key: the prefix (what was computed, and how) and the content (of which text).
_HALF = 16

_T = TypeVar("_T")


def represent(
    texts: Sequence[Text],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    pooling: Pooling,
    *,
    strengths: bool = False,
    tokenized: Sequence[TokenizedText] | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> dict[HookPoint, Representations]:
    """Pooled representations and active SAE latents of texts at each hook point, from one forward pass of the backbone.

    Texts that are in the store are neither tokenised nor computed again; repeated texts are computed once. Results for both
    poolings and both kinds of latents are stored, whichever is requested. They are stored as they are computed, so interrupted
    work resumes. What is damaged in the store is deleted there and computed again.

    Args:
        texts: ``n`` responses with their prompts.
        backbone: the language model.
        saes: the SAE of each hook point, or None for representations only.
        pooling: how tokens of the response are pooled.
        strengths: return a :class:`LatentSummary`, with firing rates, peak activations and gated projections; it takes sixteen
            times as much memory as the :class:`ActiveLatents` that are enough to fit a head on projections. Of a part of an
            SAE it is always returned, with the ids of the whole one, and is also found where that one's is stored.
        tokenized: the ``n`` texts as the backbone tokenises them, where that has been done.
        store: the store to read from and write to.
        progress: called with the number of texts computed.

    Raises:
        SparseRMError: a text cannot be tokenised, or a computed representation is NaN or infinite.
    """
    contents = _contents(texts, backbone)
    results = _Results(contents, backbone, saes, pooling, strengths)
    if store is not None:
        for column in results.columns:
            store.drop(column.fill_stored(store.get_many(column.keys)))
            if isinstance(column, PartColumn):
                column.fill_from_whole(store.get_many(column.missing()))
    # The dictionary removes repeated texts.
    todo = {content: i for i, (content, filled) in enumerate(zip(contents, results.filled, strict=True)) if not filled}
    if todo:
        computed: dict[bytes, bytes] = {}
        places = list(todo.values())
        lacking = backbone.chat.many([texts[i] for i in places]) if tokenized is None else [tokenized[i] for i in places]
        for blobs in _compute(list(todo), lacking, backbone, saes, progress):
            if store is not None:
                store.put_many(blobs)
            computed |= blobs
        for column in results.columns:
            column.fill(computed)

    return {hook: results.at(hook) for hook in saes}


def count_missing(
    texts: Sequence[Text],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    pooling: Pooling,
    store: Store | None,
    *,
    strengths: bool = False,
) -> tuple[int, int]:
    """Number of texts, and of their tokens (with prompts), that :func:`represent` would have to run the backbone on."""
    contents = _contents(texts, backbone)
    todo = dict(zip(contents, texts, strict=True))
    if store is not None:
        columns = _prefixes(backbone, saes, pooling, strengths)
        lacking = store.missing([prefix + content for places in columns for prefix in places for content in todo])
        todo = {
            content: text
            for content, text in todo.items()
            if any(all(prefix + content in lacking for prefix in places) for places in columns)
        }
    return len(todo), sum(len(text.ids) for text in backbone.chat.many(list(todo.values())))


def represent_pairs(
    pairs: Sequence[PreferencePair],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    pooling: Pooling,
    *,
    strengths: bool = False,
    tokenized: Sequence[TokenizedText] | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> dict[HookPoint, PairRepresentations]:
    """:func:`represent` for both responses of every pair; the texts are :func:`~sparserm.types.pair_texts`."""
    groups, same = prompt_groups(pairs), text_groups(pairs)
    texts = pair_texts(pairs)
    both = represent(texts, backbone, saes, pooling, strengths=strengths, tokenized=tokenized, store=store, progress=progress)
    rows = np.arange(len(pairs))
    return {hook: PairRepresentations(one.take(rows), one.take(rows + len(pairs)), groups, same) for hook, one in both.items()}


class _Results:
    """Preallocated results for ``n`` texts, filled from the store and from computed blobs.

    Attributes:
        columns: token counts, then representations of each hook point, then latents of each SAE.
    """

    def __init__(
        self,
        contents: Sequence[bytes],
        backbone: Backbone,
        saes: Mapping[HookPoint, SparseAutoencoder | None],
        pooling: Pooling,
        strengths: bool,
    ) -> None:
        keys = (
            tuple([prefix + content for content in contents] for prefix in places)
            for places in _prefixes(backbone, saes, pooling, strengths)
        )
        self._pooling = pooling
        self._d_sae = {hook: sae.part_of.d_sae if sae.part_of else sae.d_sae for hook, sae in saes.items() if sae}
        self._counts = ArrayColumn(next(keys)[0], (2,), np.int32, _not_negative)
        self._states = {hook: ArrayColumn(next(keys)[0], (backbone.d_model,), np.float32, _finite) for hook in saes}
        self._latents: dict[HookPoint, ArrayColumn | BlobColumn] = {
            hook: _strength_column(next(keys), sae)
            if strengths or sae.part_of
            else ArrayColumn(next(keys)[0], ActiveLatents.row_shape(sae.d_sae), np.uint8)
            for hook, sae in saes.items()
            if sae
        }
        self.columns: list[Column] = [self._counts, *self._states.values(), *self._latents.values()]

    @property
    def filled(self) -> np.ndarray:
        """``[n]`` bool, whether all columns have a value for each text."""
        return np.logical_and.reduce([column.filled for column in self.columns])

    def at(self, hook: HookPoint) -> Representations:
        """The results of all texts at one hook point."""
        latents: Latents | None = None
        match self._latents.get(hook):
            case ArrayColumn(array=bits):
                latents = ActiveLatents(bits, self._d_sae[hook])
            case BlobColumn(blobs=blobs):
                indptr = np.cumsum([0, *(len(blob) // FIRED.itemsize for blob in blobs)], dtype=np.int64)
                latents = LatentSummary(indptr, np.frombuffer(b"".join(blobs), FIRED), self._d_sae[hook])
        n_tokens, n_truncated = self._counts.array.T
        return Representations(self._pooling, self._states[hook].array, n_tokens, n_truncated, latents)


def _strength_column(keys: Sequence[Sequence[bytes]], sae: SparseAutoencoder) -> BlobColumn:
    """The column of an SAE's :class:`LatentSummary`; that of a part has two places in the store."""
    if sae.part_of is None:
        return BlobColumn(keys[0], FIRED, functools.partial(possible_firings, d_sae=sae.d_sae))
    possible = functools.partial(possible_firings, d_sae=sae.part_of.d_sae)
    return PartColumn(keys[0], keys[1], np.array(sae.part_of.latents, np.int32), FIRED, possible)


def _finite(states: np.ndarray) -> np.ndarray:
    """``[m]`` bool, which states ``[m, d]`` have neither NaN nor infinities."""
    finite = np.isfinite(states)
    return np.ones(len(states), bool) if finite.all() else finite.all(1)  # the sum over all takes half the time


def _not_negative(counts: np.ndarray) -> np.ndarray:
    """``[m]`` bool, which numbers of tokens ``[m, 2]`` can be right."""
    return np.asarray((counts >= 0).all(1))


def _prefixes(
    backbone: Backbone, saes: Mapping[HookPoint, SparseAutoencoder | None], pooling: Pooling, strengths: bool
) -> list[tuple[bytes, ...]]:
    """Key prefixes of the columns: token counts, representations of each hook point, latents of each SAE.

    Those of a part of an SAE are also looked for where those of the whole one are.
    """
    columns: list[tuple[bytes, ...]] = [(_prefix(backbone, None, "tokens"),)]
    columns += [(_prefix(backbone, hook, pooling),) for hook in saes]
    for hook, sae in saes.items():
        if sae and sae.part_of:
            names = (_strengths(sae.fingerprint), _strengths(sae.part_of.fingerprint))
            columns.append(tuple(_prefix(backbone, hook, name) for name in names))
        elif sae:
            columns.append((_prefix(backbone, hook, (_strengths if strengths else _activity)(sae.fingerprint)),))
    return columns


def _compute(
    contents: Sequence[bytes],
    tokenized: Sequence[TokenizedText],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    progress: Progress | None,
) -> Iterator[dict[bytes, bytes]]:
    """Run the backbone and yield computed blobs by key, in batches of texts; ``contents`` are their halves of the keys."""
    on_device = {hook: sae.to(backbone.device) if sae else None for hook, sae in saes.items()}

    def pool(one: Pass) -> tuple[tuple[int, ...], dict[HookPoint, OnHost]]:
        n_response = tuple(tokenized[i].end - tokenized[i].start for i in one.texts)
        return one.texts, {hook: OnHost(found) for hook, found in _pool(one, n_response, on_device).items()}

    indices: list[int] = []
    arrays: list[dict[HookPoint, list[np.ndarray]]] = []
    computed = backbone.each_pass(tokenized, list(saes), pool, progress=progress)
    for in_pass, found in computed if backbone.device.type == "cpu" else _one_behind(computed):
        arrays.append({hook: host.arrays() for hook, host in found.items()})
        indices += in_pass
        if len(indices) >= FLUSH_EVERY:
            yield _blobs(contents, tokenized, indices, arrays, backbone, saes)
            indices, arrays = [], []
    if indices:
        yield _blobs(contents, tokenized, indices, arrays, backbone, saes)


def _one_behind(items: Iterable[_T]) -> Iterator[_T]:
    """Yield each item only after the next one has been requested, so that GPU work and host work overlap."""
    waiting: list[_T] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _pool(
    one: Pass, n_response: Sequence[int], saes: Mapping[HookPoint, SparseAutoencoder | None]
) -> dict[HookPoint, list[Tensor]]:
    """Pool the states of one pass over ``n`` texts at each hook point, on their device.

    Args:
        one: the pass; its states of each text start with the response.
        n_response: ``n`` numbers of response tokens.

    Returns:
        For each hook point the last state and the mean ``[n, d]``; with an SAE also the firing rate, the peak activation and
        the gated projection of each latent ``[n, d_sae]``.
    """
    ends = np.cumsum(one.lengths)
    of_response = np.concatenate(
        [np.arange(end - length, end - length + n) for end, length, n in zip(ends, one.lengths, n_response, strict=True)]
    )
    device = next(iter(one.states.values())).device
    last, tokens = (to_device(torch.from_numpy(positions), device) for positions in (ends - 1, of_response))
    found = {}
    for hook, states in one.states.items():
        response = states[tokens].float()
        found[hook] = [states[last].float(), _reduce_texts("mean", response, n_response)]
        if sae := saes[hook]:
            found[hook] += _firing(response, n_response, sae)
    return found


def _firing(response: Tensor, n_response: Sequence[int], sae: SparseAutoencoder) -> list[Tensor]:
    """Firing rate, peak activation and gated projection of each latent ``[n, d_sae]``, computed in batches of texts."""
    max_tokens = max(LEAST_ENCODED, (GPU_ACTIVATIONS if response.is_cuda else CPU_ACTIVATIONS) // sae.d_sae)
    ends = np.cumsum([0, *n_response])
    parts = []
    for texts in _batches(n_response, max_tokens):
        h, lengths = response[ends[texts.start] : ends[texts.stop]], n_response[texts]
        # A text that is too long for a batch is encoded in pieces.
        pieces = [(h, lengths)] if len(lengths) > 1 else [(piece, [len(piece)]) for piece in h.split(max_tokens)]
        counts, peaks, sums = zip(*(_firing_sums(piece, own, sae) for piece, own in pieces), strict=True)
        n_tokens = to_device(torch.tensor(lengths), response.device)[:, None]
        parts.append((sum(counts) / n_tokens, functools.reduce(torch.maximum, peaks), sum(sums) / n_tokens))
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _firing_sums(h: Tensor, lengths: Sequence[int], sae: SparseAutoencoder) -> tuple[Tensor, Tensor, Tensor]:
    """Number of tokens at which each latent fires, peak activation and sum of gated projections ``[n, d_sae]``."""
    z = sae.encode(h)
    fires = (z > 0).float()
    counts, peak = _reduce_texts("sum", fires, lengths), _reduce_texts("max", z, lengths)
    return counts, peak, _reduce_texts("sum", fires.mul_(sae.project(h)), lengths)


def _batches(lengths: Sequence[int], max_tokens: int) -> Iterator[slice]:
    """Slices of consecutive texts with at most ``max_tokens`` tokens in total; a longer text gets its own slice."""
    start, n_tokens = 0, 0
    for i, length in enumerate(lengths):
        if n_tokens and n_tokens + length > max_tokens:
            yield slice(start, i)
            start, n_tokens = i, 0
        n_tokens += length
    yield slice(start, len(lengths))


def _reduce_texts(reduction: Literal["mean", "sum", "max"], values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Reduce the tokens of each text: ``[sum(lengths), d]`` to ``[n, d]``."""
    if values.is_cuda:
        return torch.segment_reduce(values, reduction, lengths=to_device(torch.tensor(lengths), values.device), unsafe=True)
    parts = values.split(tuple(lengths))  # on the CPU segment_reduce takes two to three times as long
    method = "amax" if reduction == "max" else reduction
    return torch.stack([getattr(part, method)(0) for part in parts])


def _blobs(
    contents: Sequence[bytes],
    tokenized: Sequence[TokenizedText],
    indices: Sequence[int],
    arrays: Sequence[Mapping[HookPoint, Sequence[np.ndarray]]],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
) -> dict[bytes, bytes]:
    """The blobs to store for the texts ``indices``, by key; ``arrays`` are the results of :func:`_pool` for their passes."""
    own = [contents[i] for i in indices]
    counts = _prefix(backbone, None, "tokens")
    blobs = {}
    for i, content in zip(indices, own, strict=True):
        text = tokenized[i]
        blobs[counts + content] = np.array([text.end - text.start, text.n_truncated], np.int32).tobytes()
    for hook, sae in saes.items():
        last, mean, *firing = (np.concatenate(column) for column in zip(*(one[hook] for one in arrays), strict=True))
        if not np.isfinite(last).all() or not np.isfinite(mean).all():
            for i, *states in zip(indices, last, mean, strict=True):
                backbone.check_finite(i, len(tokenized), {hook: torch.from_numpy(np.stack(states))})
        for pooling, pooled in (("last", last), ("mean", mean)):
            prefix = _prefix(backbone, hook, pooling)
            blobs |= {prefix + content: state.tobytes() for content, state in zip(own, pooled, strict=True)}
        if sae:
            blobs |= _firing_blobs(own, firing, backbone, sae)
    return blobs


def _firing_blobs(
    contents: Sequence[bytes], firing: Sequence[np.ndarray], backbone: Backbone, sae: SparseAutoencoder
) -> dict[bytes, bytes]:
    """The blobs of an SAE's latents, by key, from the results of :func:`_firing`; of a part, only the strengths."""
    rate = firing[0]
    rows, latents = np.nonzero(rate > 0)  # several times as fast as on floats
    ids = np.array(sae.part_of.latents)[latents] if sae.part_of else latents
    fired = firings(ids, *(figure[rows, latents] for figure in firing))
    ends = np.cumsum([0, *np.bincount(rows, minlength=len(contents))])
    strong = _prefix(backbone, sae.hook, _strengths(sae.fingerprint))
    blobs = {strong + content: fired[ends[row] : ends[row + 1]].tobytes() for row, content in enumerate(contents)}
    if sae.part_of is None:
        active, bits = _prefix(backbone, sae.hook, _activity(sae.fingerprint)), ActiveLatents.pack(rate)
        blobs |= {active + content: own.tobytes() for content, own in zip(contents, bits, strict=True)}
    return blobs


def _activity(fingerprint: str) -> str:
    """Name of the :class:`ActiveLatents` of an SAE in store keys."""
    return f"{fingerprint} {ACTIVITIES}"


def _strengths(fingerprint: str) -> str:
    """Name of the :class:`LatentSummary` of an SAE in store keys."""
    return f"{fingerprint} {FIRED.descr}"


def _prefix(backbone: Backbone, hook: HookPoint | None, what: str) -> bytes:
    """First half of a key: everything that a result depends on except the text. ``what`` is ``tokens``, a pooling, or a name of
    an SAE's latents.

    It comes first so that blobs which are read together are stored together. The backbone's fingerprint covers its tokenizer.
    The dtype is included, since bfloat16 and float32 differ in the third digit; the device is not: in float32 the results of
    GPU and CPU agree to 1e-4 (not measured in bfloat16).
    """
    where = hook.name if hook else ""
    # Earlier versions cut off the token that opens a text.
    context = f"{backbone.chat.max_length}{f' {backbone.chat.opening}' if backbone.chat.opening else ''}"
    return _half(f"{backbone.fingerprint}|{backbone.dtype}|{context}|{where}|{what}|")


def _contents(texts: Sequence[Text], backbone: Backbone) -> list[bytes]:
    """Second half of a key for each text: the text and the template around it, which may contain the date."""
    around = functools.cache(lambda roles: repr(backbone.chat.frame(roles)))
    prompts: dict[int, str] = {}  # by identity: both responses of a pair have the same prompt

    def content(text: Text) -> bytes:
        before = prompts.get(id(text.prompt))
        if before is None:
            roles = tuple([turn.role for turn in text.prompt])
            before = prompts[id(text.prompt)] = f"{around(roles)}|{[turn.content for turn in text.prompt]!r}|"
        return _half(f"{before}{scored_text(text.response)!r}")

    return [content(text) for text in texts]


def _half(what: str) -> bytes:
    """Hash for one half of a key."""
    return hashlib.sha256(what.encode("utf-8", "surrogatepass")).digest()[:_HALF]
