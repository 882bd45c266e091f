"""A random sample of pairs, represented first, so that there is something to see while the rest is read."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from sparserm.backbone.model import Backbone
from sparserm.representations.represent import represent_pairs
from sparserm.representations.store import Store
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import HookPoint, PreferencePair, Progress

#: Seconds after which the sample ends, and pairs that are represented at a time.
SECONDS, AT_ONCE = 45.0, 16
#: File in which a job writes the size of its sample.
SAMPLE_FILE = "sample.json"


def sample_rows(n: int, size: int) -> np.ndarray:
    """Ascending indices of ``size`` of ``n`` pairs, drawn at random; those of a smaller sample are among them."""
    return np.sort(_order(n)[:size])


def represent_sample(
    pairs: Sequence[PreferencePair],
    backbone: Backbone,
    saes: Mapping[HookPoint, SparseAutoencoder | None],
    store: Store | None,
    progress: Progress,
) -> int:
    """Represent pairs in random order, with strengths, into the store for :data:`SECONDS`. Returns how many there are.

    Raises:
        SparseRMError: as for :func:`~sparserm.representations.represent.represent`.
    """
    order, start, done = _order(len(pairs)), time.monotonic(), 0
    while done < len(pairs):
        part = [pairs[i] for i in order[done : done + AT_ONCE].tolist()]
        represent_pairs(part, backbone, saes, "mean", strengths=True, store=store)
        done += len(part)
        seconds = time.monotonic() - start
        progress(done, max(done, min(len(pairs), round(done * SECONDS / max(seconds, 1e-3)))), "A sample (pairs)")
        if seconds + seconds / done * AT_ONCE > SECONDS:
            break
    return done


def _order(n: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(n)
