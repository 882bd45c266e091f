"""Work per pair on the host and on an accelerator, for estimates of a billion: ``python -m benchmarks.billion [--pairs 400]``.

Host: a file of pairs is scored on one thread exactly as in ``sparserm score``, except for the forward pass, which returns
zeros. What remains is reading, templates, tokenization, packing, pooling, rewards and Parquet; also the check for non-finite
values and the mean over tokens, which a device would do. Times are processor time, which determines the cost.

Accelerator: the multiply-adds of these pairs as counted by ``benchmarks.throughput``, which measures their rate with
``--device cuda``.
"""

from __future__ import annotations

import argparse
import math
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
from sparserm.pairs.runs import PartWork
from sparserm.scoring.bulk import score_file
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER, TASKS
from sparserm.types import HookPoint, pair_texts

#: Any head at the default layer; the work is the same for all.
HEAD = "truthfulness"


class HostOnly:
    """An engine for :func:`~sparserm.scoring.bulk.score_file` that times everything except the forward pass."""

    seconds = 0.0

    def __call__(self, scoring: PartWork, parts: Sequence[Part], finished: Callable[[Part], None]) -> None:
        """Score the parts with hidden states of zeros."""
        model = scoring.load()
        backbone = model.backbone

        def zeros(batch: Batch, hooks: Sequence[HookPoint]) -> dict[HookPoint, Tensor]:
            return {hook: torch.zeros(*batch.input_ids.shape, backbone.d_model, dtype=backbone.dtype) for hook in hooks}

        original, backbone.run = backbone.run, zeros
        started = time.process_time()
        for read in scoring.reader(model).each(parts):
            scoring.run(read, model)
        self.seconds = time.process_time() - started
        backbone.run = original


def measure_task(task: str, n: int, backbone: Backbone) -> dict[str, Any]:
    """Mean work of a pair on the host and on the accelerator, over the first ``n`` test pairs of a task."""
    pairs = task_pairs(task, "test").pairs[:n]
    host = HostOnly()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        write_pairs(pairs, path)
        score_file(path, HEAD, Path(folder) / "scores", engine=host)
    rows = pack(backbone.chat.many(pair_texts(pairs)), share_up_to=math.inf)
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
    measure_task(TASKS[0], 8, backbone)  # warm-up: imports and first calls
    found = []
    for task in TASKS:
        found.append(measure_task(task, given.pairs, backbone))
        print(found[-1], flush=True)
    write_results("billion", found)


if __name__ == "__main__":
    main()
