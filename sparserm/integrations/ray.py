"""Scoring beyond one machine, on Ray Data: the parts of a file are handed to actors, each of which holds the language model.

Needs the extra ``ray`` (``pip install "sparserm[ray]"``). Source and results lie where every machine of the cluster sees
them. The rows and rewards are those of the local engine, and either goes on where the other was stopped: an actor writes a
part all at once, and a part whose actor was lost is scored by another.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparserm.model import SparseRM
from sparserm.pairs.parts import Part
from sparserm.scoring.bulk import Scoring
from sparserm.support.defaults import default_device
from sparserm.types import SparseRMError

#: How often an actor is started again, and a part handed to another, before the work is given up.
RESTARTS, RETRIES = 10, 3


class _Scorer:
    """An actor: the model is loaded once and scores one part after another.

    What a user can mend comes back as text: an exception would arrive wrapped, or as the death of an actor.
    """

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self._model: SparseRM | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        problems = [self._score(self._scoring.source.parts[int(index)]) for index in batch["part"]]
        return {"part": batch["part"], "problem": np.array(problems, dtype=object)}

    def _score(self, part: Part) -> str:
        try:
            if not self._scoring.file(part).is_file():  # else it was lost after writing and before telling
                self._model = self._model or self._scoring.load_model()
                self._scoring.score(part, self._model)
        except (SparseRMError, OSError) as error:
            return str(error) or type(error).__name__
        return ""


@dataclass(frozen=True)
class RayEngine:
    """An engine for :func:`~sparserm.scoring.bulk.score_file`.

    Rows of a source that is not a JSONL or Parquet file are in memory, and are copied to every worker. Each worker has a GPU to
    itself where ``SPARSERM_DEVICE`` is ``cuda``.

    Attributes:
        workers: actors.
        cpus: of each actor, as Ray counts them, and threads that its model computes with.
    """

    workers: int = 2
    cpus: int = 1

    def __call__(self, scoring: Scoring, parts: Sequence[Part], finished: Callable[[Part], None]) -> None:
        """Score the parts on the cluster that this process is connected to, that of ``RAY_ADDRESS``, or a new one on this
        machine.

        Raises:
            SparseRMError: Ray is not installed, the cluster cannot be reached or has fewer GPUs than workers that want one,
                workers die again and again, or a part cannot be scored.
        """
        if not parts:
            return
        ray = _ray()
        workers = min(self.workers, len(parts))
        with _connected(ray):
            indices = ray.data.from_items([{"part": part.index} for part in parts], override_num_blocks=len(parts))
            done = indices.map_batches(
                _Scorer,
                fn_constructor_kwargs={"scoring": scoring},
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=self.cpus,
                **_gpu_each(ray, workers),
                max_restarts=RESTARTS,
                max_task_retries=RETRIES,
            )
            by_index = {part.index: part for part in parts}
            try:
                for row in done.iter_rows():
                    if row["problem"]:
                        raise SparseRMError(row["problem"])
                    finished(by_index[int(row["part"])])
            except ray.exceptions.RayError as error:
                last = str(error).strip().splitlines()[-1]
                raise SparseRMError(
                    f"Ray gave up ({type(error).__name__}: {last}); check that workers have the memory for the backbone and "
                    "see the folder and the source; the same command goes on with what is missing"
                ) from error


def _gpu_each(ray: Any, workers: int) -> dict[str, Any]:
    """What to ask Ray for beside processors; it would wait for GPUs that are not there, and say nothing."""
    if not default_device().startswith("cuda"):
        return {}
    there = int(ray.cluster_resources().get("GPU", 0))
    if there < workers:
        raise SparseRMError(
            f"{workers} workers on SPARSERM_DEVICE={default_device()} want a GPU each and the Ray cluster has {there}; ask for "
            "fewer workers, or unset SPARSERM_DEVICE to use processors"
        )
    # Ray shows each worker its own GPU alone, which is then the first.
    return {"num_gpus": 1, "runtime_env": {"env_vars": {"SPARSERM_DEVICE": "cuda"}}}


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """A cluster to work on, without Ray's own bars and messages: our progress stands for them."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.ERROR)
    own = not ray.is_initialized()
    try:
        if own:
            address = os.environ.get("RAY_ADDRESS") or "local"
            try:
                ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise SparseRMError(
                    f"no Ray cluster at {address!r} ({error}); check RAY_ADDRESS, or unset it to use this machine"
                ) from error
        yield
    finally:
        context.enable_progress_bars = before[0]
        logger.setLevel(before[1])
        if own:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise SparseRMError(
            f'the engine ray needs the package ray ({error}); install it with `pip install "sparserm[ray]"`'
        ) from error
    return ray
