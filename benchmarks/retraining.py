"""From stored representations to evaluated heads: ``python -m benchmarks.retraining [--pairs 10000] [--rounds 5]``.

The pairs of all tasks have representations at three layers with their SAEs. The first run computes them, and measures the
overhead of the store on the first pairs. Then every round reads the file of pairs, loads all representations, and selects,
fits and evaluates a head at each layer, the layers in parallel threads like the folds of a sweep.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import task_pairs, write_pairs, write_results
from sparserm.backbone.model import Backbone
from sparserm.evaluation.accuracy import Evaluation, evaluate_head
from sparserm.heads.fitting import FitSettings, fit_head
from sparserm.pairs.load import load_pairs
from sparserm.representations.represent import represent_pairs
from sparserm.representations.store import Store, stored
from sparserm.representations.values import ActiveLatents, Latents, LatentSummary
from sparserm.sae.autoencoder import load_sae
from sparserm.support.defaults import DEFAULT_BACKBONE, TASKS, home
from sparserm.support.threads import in_threads
from sparserm.types import PreferencePair

SAES = tuple(f"{DEFAULT_BACKBONE}/layer_{layer}" for layer in (10, 15, 20))
TEST_SHARE = 5  # every fifth pair is held out
#: Number of pairs on which the overhead of the store is measured.
FIRST = 100


class TimedStore(Store):
    """A store that measures the time spent writing."""

    seconds = 0.0

    def put_many(self, blobs: Any) -> None:
        """Write like :meth:`Store.put_many`, and add the time to ``seconds``."""
        started = time.perf_counter()
        super().put_many(blobs)
        self.seconds += time.perf_counter() - started


def all_pairs(n: int) -> list[PreferencePair]:
    """The first ``n`` pairs of all tasks' training and test files."""
    pairs = [pair for task in TASKS for split in ("train", "test") for pair in task_pairs(task, split).pairs]
    return pairs[:n]


def share_of_store(pairs: Sequence[PreferencePair], backbone: Backbone, saes: dict[Any, Any]) -> float:
    """Time spent writing to the store, relative to computing the representations."""
    with tempfile.TemporaryDirectory() as folder:
        store = TimedStore(Path(folder) / "new.sqlite")
        started = time.perf_counter()
        represent_pairs(pairs, backbone, saes, "mean", store=store)
        seconds = time.perf_counter() - started
        store.close()
    return store.seconds / (seconds - store.seconds)


def retrain(path: Path, backbone: Backbone, saes: dict[Any, Any]) -> dict[str, float]:
    """Seconds of each step when all representations are stored."""
    times = [time.perf_counter()]
    data = load_pairs(path, skip_bad=True)
    times.append(time.perf_counter())
    with stored() as store:
        found = represent_pairs(data.pairs, backbone, saes, "mean", strengths=_gated(saes), store=store)
    times.append(time.perf_counter())
    held_out = np.arange(len(data.pairs)) % TEST_SHARE == 0

    def at_layer(hook: Any) -> Evaluation:
        pairs = found[hook]
        head = fit_head(pairs.take(np.flatnonzero(~held_out)), saes[hook], FitSettings()).head
        return evaluate_head(head, pairs.take(np.flatnonzero(held_out)))

    list(in_threads(at_layer, saes))
    times.append(time.perf_counter())
    steps = dict(zip(("pairs", "representations", "heads"), np.diff(times).tolist(), strict=True))
    return {**steps, "all": times[-1] - times[0]}


def read_states(path: Path, backbone: Backbone, saes: dict[Any, Any]) -> float:
    """Seconds to load 10,000 representations of one layer."""
    pairs = load_pairs(path, skip_bad=True).pairs
    hook = next(iter(saes))
    started = time.perf_counter()
    with stored() as store:
        represent_pairs(pairs, backbone, {hook: None}, "mean", store=store)
    return (time.perf_counter() - started) / (2 * len(pairs)) * 10_000


def volume(path: Path, backbone: Backbone, saes: dict[Any, Any]) -> int:
    """Bytes of all loaded representations and latents."""
    pairs = load_pairs(path, skip_bad=True).pairs
    with stored() as store:
        found = represent_pairs(pairs, backbone, saes, "mean", strengths=_gated(saes), store=store)
    sides = [side for both in found.values() for side in (both.chosen, both.rejected)]
    return sum(side.h.nbytes + _bytes(side.latents) for side in sides)


def _gated(saes: dict[Any, Any]) -> bool:
    """Whether heads of some of the SAEs are gated by default, for which a fit needs latent strengths."""
    return any(sae.separable for sae in saes.values())


def _bytes(latents: Latents | None) -> int:
    match latents:
        case None:
            return 0
        case ActiveLatents(bits=bits):
            return bits.nbytes
        case LatentSummary(indptr=indptr, fired=fired):
            return fired.nbytes + indptr.nbytes
    raise TypeError(f"latents in memory were expected, not {type(latents).__name__}")


def main() -> None:
    """Measure medians over rounds."""
    importlib.import_module("sklearn.model_selection")  # loaded lazily by the fit: not to be timed with it

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    dictionaries = [load_sae(name) for name in SAES]
    saes = {sae.hook: sae for sae in dictionaries}
    backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=max(hook.layer for hook in saes))
    pairs = all_pairs(given.pairs)
    overhead = share_of_store(pairs[:FIRST], backbone, saes)
    home().mkdir(parents=True, exist_ok=True)
    path = home() / "retraining.jsonl"
    write_pairs(pairs, path)
    retrain(path, backbone, saes)  # warm-up: computes what is not stored yet
    rounds = [retrain(path, backbone, saes) for _ in range(given.rounds)]
    reads = [read_states(path, backbone, saes) for _ in range(given.rounds)]
    result = {
        "n_pairs": len(pairs),
        "layers": len(saes),
        "megabytes": volume(path, backbone, saes) / 1e6,
        "rounds": given.rounds,
        "seconds": {name: statistics.median(one[name] for one in rounds) for name in rounds[0]},
        "store_adds": overhead,
        "seconds_per_10000_states": statistics.median(reads),
    }
    write_results("retraining", result)
    print(result)


if __name__ == "__main__":
    main()
