"""From tokenised texts to pooled representations and the latents that fired, through the store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sparserm.backbone import Backbone
from sparserm.pairs import prompt_groups
from sparserm.sae import SparseAutoencoder
from sparserm.store import Store
from sparserm.types import (
    HookPoint,
    LatentSummary,
    PairRepresentations,
    Pooling,
    PreferencePair,
    Progress,
    Representations,
    SparseRMError,
    TokenizedText,
)

#: Responses computed between two writes to the store: what an interruption can cost.
FLUSH_EVERY = 64


def represent(
    texts: Sequence[TokenizedText],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    pooling: Pooling,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
) -> dict[HookPoint, Representations]:
    """Pooled representations at each hook point, and how the SAE given for it fired; one pass of the backbone.

    What the store holds is not computed again, nor is a text that occurs twice. Both poolings are stored, whichever is
    asked for, and as they come, so that interrupted work goes on where it was.

    Args:
        texts: the responses, ``n`` of them.
        saes: for each hook point its SAE, or None where only representations are wanted.
        pooling: over the response.
    """
    wanted = _wanted(texts, backbone, saes, pooling)
    known = store.get_many(list({key for keys in wanted for key in keys})) if store is not None else {}
    # The keys of one text stand for it: a text that occurs twice is computed once.
    todo = {tuple(keys): text for keys, text in zip(wanted, texts, strict=True) if not known.keys() >= set(keys)}
    for blobs in _compute(list(todo.values()), backbone, saes, progress):
        if store is not None:
            store.put_many(blobs)
        known |= blobs

    n_tokens = np.array([text.end - text.start for text in texts], np.int32)
    n_truncated = np.array([text.n_truncated for text in texts], np.int32)
    result = {}
    with_sae = [hook for hook, sae in saes.items() if sae]
    for column, (hook, sae) in enumerate(saes.items()):
        h = np.frombuffer(b"".join(known[keys[column]] for keys in wanted), np.float32).reshape(len(texts), backbone.d_model)
        if not np.isfinite(h).all():  # the backbone refuses to give such states: an earlier version or damage left them
            first = int(np.argmin(np.isfinite(h).all(1)))
            raise SparseRMError(
                f"the stored {hook.name} of text {first + 1} of {len(texts)} is NaN or infinite; "
                f"expected finite numbers; delete {store.path if store else 'the store'} to compute them again"
            )
        latents = None
        if sae:
            fired = len(saes) + with_sae.index(hook)
            latents = _summary([known[keys[fired]] for keys in wanted], sae.d_sae)
        result[hook] = Representations(pooling, h, n_tokens, n_truncated, latents)
    return result


def count_missing(
    pairs: Sequence[PreferencePair],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    pooling: Pooling,
    store: Store | None,
) -> tuple[int, int]:
    """Responses, and their tokens with their prompts', that :func:`represent_pairs` would have to run the backbone for."""
    return count_missing_texts(_pair_texts(pairs, backbone), backbone, saes, pooling, store)


def count_missing_texts(
    texts: Sequence[TokenizedText],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    pooling: Pooling,
    store: Store | None,
) -> tuple[int, int]:
    """Texts, and their tokens, that :func:`represent` would have to run the backbone for."""
    wanted = _wanted(texts, backbone, saes, pooling)
    missing = store.missing([key for keys in wanted for key in keys]) if store is not None else None
    todo = {tuple(keys): text for keys, text in zip(wanted, texts, strict=True) if missing is None or missing & set(keys)}
    return len(todo), sum(len(text.ids) for text in todo.values())


def represent_pairs(
    pairs: Sequence[PreferencePair],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    pooling: Pooling,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
) -> dict[HookPoint, PairRepresentations]:
    """:func:`represent` for both responses of every pair."""
    texts = _pair_texts(pairs, backbone)
    groups = prompt_groups(pairs)
    both = represent(texts, backbone, saes, pooling, store=store, progress=progress)
    rows = np.arange(len(pairs))
    return {hook: PairRepresentations(one.take(rows), one.take(rows + len(pairs)), groups) for hook, one in both.items()}


def _pair_texts(pairs: Sequence[PreferencePair], backbone: Backbone) -> list[TokenizedText]:
    """All chosen responses, then all rejected ones."""
    texts = [backbone.tokenize(pair.prompt, pair.chosen) for pair in pairs]
    return texts + [backbone.tokenize(pair.prompt, pair.rejected) for pair in pairs]


def _wanted(
    texts: Sequence[TokenizedText],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    pooling: Pooling,
) -> list[list[bytes]]:
    """For each text the keys of its representations, one for each hook point, then those of the SAEs' latents."""
    wanted = [[_key(text, backbone, hook, pooling) for hook in saes] for text in texts]
    for keys, text in zip(wanted, texts, strict=True):
        keys += [_key(text, backbone, hook, _firing(sae)) for hook, sae in saes.items() if sae]
    return wanted


def _compute(
    texts: Sequence[TokenizedText],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    progress: Progress | None,
) -> Iterator[dict[bytes, bytes]]:
    """Run the backbone and yield finished blobs by key, some texts at a time."""
    blobs: dict[bytes, bytes] = {}
    for done, (i, states) in enumerate(backbone.hidden_states(texts, list(saes), progress=progress), 1):
        text = texts[i]
        for hook, state in states.items():
            response = state[: text.end - text.start]
            blobs[_key(text, backbone, hook, "last")] = state[-1].cpu().numpy().tobytes()
            blobs[_key(text, backbone, hook, "mean")] = response.mean(0).cpu().numpy().tobytes()
            if sae := saes[hook]:
                z = sae.encode(response)
                rate = (z > 0).float().mean(0).cpu().numpy()
                fired = np.flatnonzero(rate).astype(np.int32)
                peak = z.amax(0).cpu().numpy()
                blobs[_key(text, backbone, hook, _firing(sae))] = (
                    fired.tobytes() + rate[fired].tobytes() + peak[fired].tobytes()
                )
        if done % FLUSH_EVERY == 0:
            yield blobs
            blobs = {}
    if blobs:
        yield blobs


def _firing(sae: SparseAutoencoder) -> str:
    """What is stored of an SAE's latents, for the key."""
    return f"{sae.fingerprint} rate peak"


def _key(text: TokenizedText, backbone: Backbone, hook: HookPoint, what: str) -> bytes:
    """The content and everything that the result depends on: ``what`` is a pooling, or what is kept of an SAE's latents.

    The dtype is part of it, since bfloat16 and float32 differ in the third digit; how the turn is closed only where it is
    read.
    """
    ids = text.ids if what == "last" else text.ids[: text.end]
    place = f"{backbone.fingerprint}|{backbone.dtype}|{hook.name}|{what}|{text.start}|{text.end}|"
    return hashlib.sha256(place.encode() + np.asarray(ids, np.int32).tobytes()).digest()


def _summary(blobs: Sequence[bytes], d_sae: int) -> LatentSummary:
    counts = [len(blob) // 12 for blob in blobs]  # 4 bytes each of latent id, rate and peak
    indices = [np.frombuffer(blob, np.int32, n) for blob, n in zip(blobs, counts, strict=True)]
    rates = [np.frombuffer(blob, np.float32, n, offset=4 * n) for blob, n in zip(blobs, counts, strict=True)]
    peaks = [np.frombuffer(blob, np.float32, n, offset=8 * n) for blob, n in zip(blobs, counts, strict=True)]
    return LatentSummary(
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        indices=np.concatenate([np.zeros(0, np.int32), *indices]),
        rate=np.concatenate([np.zeros(0, np.float32), *rates]),
        peak=np.concatenate([np.zeros(0, np.float32), *peaks]),
        d_sae=d_sae,
    )
