"""Scoring beyond one machine, on Ray Data: the parts of a file are handed to actors, each of which holds the language model.

Needs the extra ``ray`` (``pip install "sparserm[ray]"``). Source and results lie where every machine of the cluster sees
them. The rows and rewards are those of the local engine, and either goes on where the other was stopped: an actor writes a
part all at once, and a part whose actor was lost is scored by another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparserm.bulk_scoring import Scoring
from sparserm.parts import Part
from sparserm.types import SparseRMError


class _Scorer:
    """An actor: the model is loaded once and scores one part after another."""

    def __init__(self, scoring: Scoring) -> None:
        from sparserm.model import SparseRM

        self._scoring = scoring
        self._model = SparseRM.from_pretrained(scoring.head)
        self._model.load_backbone()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for index in batch["part"]:
            part = self._scoring.source.parts[int(index)]
            if not self._scoring.file(part).is_file():  # else it was lost after writing and before telling
                self._scoring.score(part, self._model)
        return {"part": batch["part"]}


@dataclass(frozen=True)
class RayEngine:
    """An engine for :func:`~sparserm.bulk_scoring.score_file`.

    Attributes:
        workers: actors.
        cpus: of each actor, as Ray counts them, and threads that its model computes with.
    """

    workers: int = 2
    cpus: int = 1

    def __call__(self, scoring: Scoring, parts: Sequence[Part], finished: Callable[[Part], None]) -> None:
        """Score the parts on the cluster of ``RAY_ADDRESS``, or on one of this machine's own.

        Raises:
            SparseRMError: Ray is not installed.
        """
        if not parts:
            return
        ray = _ray()
        with _connected(ray):
            indices = ray.data.from_items([{"part": part.index} for part in parts], override_num_blocks=len(parts))
            done = indices.map_batches(
                _Scorer,
                fn_constructor_kwargs={"scoring": scoring},
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(parts))),
                num_cpus=self.cpus,
            )
            by_index = {part.index: part for part in parts}
            for row in done.iter_rows():
                finished(by_index[int(row["part"])])


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """A cluster to work on: the one that this process is connected to, else that of ``RAY_ADDRESS``, else a new local one."""
    if ray.is_initialized():
        yield
        return
    ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    quiet = logging.getLogger("ray.data")
    before = quiet.level
    quiet.setLevel(logging.ERROR)  # our progress stands for its own
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        quiet.setLevel(before)
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise SparseRMError(
            f'the engine ray needs the package ray ({error}); install it with `pip install "sparserm[ray]"`'
        ) from error
    return ray
