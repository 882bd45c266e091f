"""What a billion pairs would cost, from what is measured here: ``python -m benchmarks.billion [--pairs 400]``.

The work of the host: a file of pairs is scored on one thread exactly as ``sparserm score`` scores it, but for the forward pass,
which gives zeros. That leaves reading, templates, tokens, packing, pooling, rewards and Parquet, and looking for what is not
finite and means over tokens, though a device would do these two. In processor time, since that has to be bought.

The work of the accelerator: the multiply-adds of these pairs, as ``benchmarks.throughput`` counts them, which with ``--device
cuda`` measures how fast they are done.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import task_pairs, write_results
from benchmarks.retraining import write_pairs
from benchmarks.throughput import multiply_adds
from sparserm.backbone.model import Backbone
from sparserm.backbone.packing import Batch, pack
from sparserm.pairs.parts import Part
from sparserm.representations.represent import pair_texts
from sparserm.scoring.bulk import Scoring, score_file
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER, TASKS
from sparserm.types import HookPoint

#: One that reads the default layer; which one makes no difference to the work.
HEAD = "truthfulness"


class HostOnly:
    """An engine for :func:`~sparserm.scoring.bulk.score_file` that times all but the forward pass."""

    seconds = 0.0

    def __call__(self, scoring: Scoring, parts: Sequence[Part], finished: Callable[[Part], None]) -> None:
        """Score the parts with states of zeros."""
        model = scoring.load_model()
        backbone = model.backbone

        def zeros(batch: Batch, hooks: Sequence[HookPoint]) -> dict[HookPoint, Tensor]:
            return {hook: torch.zeros(*batch.input_ids.shape, backbone.d_model, dtype=backbone.dtype) for hook in hooks}

        original, backbone.run = backbone.run, zeros  # type: ignore[method-assign]
        started = time.process_time()
        for part in parts:
            scoring.score(part, model)
        self.seconds = time.process_time() - started
        backbone.run = original  # type: ignore[method-assign]


def measure_task(task: str, n: int, backbone: Backbone) -> dict[str, Any]:
    """Work of one pair on the host and on the accelerator, means over the first ``n`` test pairs of a task."""
    pairs = task_pairs(task, "test").pairs[:n]
    host = HostOnly()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        write_pairs(pairs, path)
        score_file(path, HEAD, Path(folder) / "scores", engine=host)
    rows = pack(backbone.chat.many(pair_texts(pairs)), share_prompts=True)
    return {
        "task": task,
        "n_pairs": len(pairs),
        "distinct_tokens": sum(len(row.ids) for row in rows) / len(pairs),
        "multiply_adds": multiply_adds(rows, backbone.model) / len(pairs),
        "host_seconds": host.seconds / len(pairs),
    }


def main() -> None:
    """Measure all tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=DEFAULT_LAYER, device="cpu")
    measure_task(TASKS[0], 8, backbone)  # imports and first uses are not the work of a pair
    found = []
    for task in TASKS:
        found.append(measure_task(task, given.pairs, backbone))
        print(found[-1], flush=True)
    write_results("billion", found)


if __name__ == "__main__":
    main()
