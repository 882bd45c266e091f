"""Work on the parts of a file on Ray Data: actors take them, each with its own copy of the language model.

Needs the extra ``ray`` (``pip install "sparserm[ray]"``). Source and results must be on storage that every machine of the
cluster can access. The results are those of the local engine, and each engine can resume a run of the other. Parts are written
atomically, and a part whose actor died is done by another actor.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparserm.pairs.parts import Part
from sparserm.pairs.runs import PartWork
from sparserm.support.defaults import default_device
from sparserm.types import SparseRMError

#: How often an actor is restarted, and a part retried, before the run fails.
RESTARTS, RETRIES = 10, 3


class _Worker:
    """An actor that loads the model once and works on parts one by one.

    Errors that a user can fix are returned as text: Ray would wrap an exception, or report it as a dead actor.
    """

    def __init__(self, work: PartWork) -> None:
        self._work = work
        self._loaded: Any = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        problems = [self._run(self._work.source.parts[int(index)]) for index in batch["part"]]
        return {"part": batch["part"], "problem": np.array(problems, dtype=object)}

    def _run(self, part: Part) -> str:
        try:
            if not self._work.is_done(part):  # else an actor died between writing and reporting it
                self._loaded = self._loaded or self._work.load()
                self._work.run(self._work.reader(self._loaded).read(part), self._loaded)
        except (SparseRMError, OSError) as error:
            return str(error) or type(error).__name__
        return ""


@dataclass(frozen=True)
class RayEngine:
    """An engine for :func:`~sparserm.scoring.bulk.score_file` and :func:`~sparserm.representations.files.represent_file`.

    A source that is not a JSONL or Parquet file is held in memory and copied to every worker. If ``SPARSERM_DEVICE`` is
    ``cuda``, each worker gets a GPU, or where there are more workers than GPUs an equal share of one: while one worker reads,
    tokenises and packs its next part, the card works for another.

    Attributes:
        workers: number of actors.
        cpus: CPUs that Ray reserves for each actor, and threads that its model uses.
    """

    workers: int = 2
    cpus: int = 1

    def __call__(self, work: PartWork, parts: Sequence[Part], finished: Callable[[Part], None]) -> None:
        """Work on the parts on the connected Ray cluster, else on that of ``RAY_ADDRESS``, else on a new local one.

        Raises:
            SparseRMError: Ray is not installed, the cluster cannot be reached or has no GPU, workers die repeatedly, or
                something is wrong with a part.
        """
        if not parts:
            return
        ray = _ray()
        workers = min(self.workers, len(parts))
        with _connected(ray), warnings.catch_warnings():
            indices = ray.data.from_items([{"part": part.index} for part in parts], override_num_blocks=len(parts))
            # Ray calls the limits of restarts deprecated, and has no others.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            done = indices.map_batches(
                _Worker,
                fn_constructor_kwargs={"work": work},
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=self.cpus,
                **_gpu_share(ray, workers),
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
                    f"Ray failed ({type(error).__name__}: {last}); check that workers have enough memory for the backbone and "
                    "can access the source and the output folder; run the same command to resume"
                ) from error


def _gpu_share(ray: Any, workers: int) -> dict[str, Any]:
    """Ray options that reserve a GPU per worker, or a share of one if there are fewer.

    Raises:
        SparseRMError: there is none; Ray would wait for it without a message.
    """
    if not default_device().startswith("cuda"):
        return {}
    available = int(ray.cluster_resources().get("GPU", 0))
    if available < 1:
        raise SparseRMError(
            f"the Ray cluster has no GPU, expected at least one for SPARSERM_DEVICE={default_device()}; unset it to run on CPUs"
        )
    share = 1 / math.ceil(workers / available)
    # Ray counts in steps of 1/10,000: rounded up, the shares of one GPU would not fit it. It makes only the worker's own GPU
    # visible to it, so it is always device 0.
    num_gpus = 1 if share == 1 else math.floor(share * 10_000) / 10_000
    return {"num_gpus": num_gpus, "runtime_env": {"env_vars": {"SPARSERM_DEVICE": "cuda"}}}


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Connect to a cluster, with Ray's own progress bars and messages turned off."""
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
