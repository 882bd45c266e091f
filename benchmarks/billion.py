"""Work per pair on the host and on an accelerator, for estimates of a billion: ``python -m benchmarks.billion [--pairs 500]``.

Host: a file of pairs is scored on one thread exactly as in ``sparserm score`` with a GPU, except for what the GPU does: the
forward pass and the pooling return at once, as if every feature of the head fired. What remains is reading, templates,
tokenization, packing, rewards and Parquet, but not the launching of the GPU's work. Times are processor time, which determines
the cost: of one process that does it all, and of the GPU's process while another one reads and tokenises.

Accelerator: the multiply-adds of these pairs as counted by ``benchmarks.throughput``, which measures their rate with
``--device cuda``.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.common import task_pairs, write_pairs, write_results
from benchmarks.throughput import multiply_adds
from sparserm.backbone.model import GPU_BATCH_TOKENS, Backbone, Pass
from sparserm.backbone.packing import Batch, pack, similar
from sparserm.pairs import part_reader
from sparserm.pairs.parts import Part
from sparserm.pairs.runs import PartWork
from sparserm.representations import represent
from sparserm.scoring.bulk import score_file
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER, TASKS
from sparserm.types import HookPoint, pair_texts

#: Any head at the default layer; the work is the same for all.
HEAD = "truthfulness"


class HostOnly:
    """An engine for :func:`~sparserm.scoring.bulk.score_file` that times what the host does beside a GPU.

    Attributes:
        seconds: processor time of all work in one process.
        beside: processor time of this process if another one reads and tokenises.
    """

    seconds = beside = 0.0

    def __call__(self, scoring: PartWork, parts: Sequence[Part], finished: Callable[[Part], None]) -> None:
        """Score the parts, with states and latents that are always the same."""
        model = scoring.load()
        with as_on_gpu(model.backbone):
            reader = scoring.reader(model)
            for ahead in (False, True):
                started = time.process_time()
                for read in replace(reader, ahead=ahead).each(parts):
                    scoring.run(read, model)
                self.beside = time.process_time() - started
                self.seconds = self.seconds or self.beside


@contextmanager
def as_on_gpu(backbone: Backbone) -> Iterator[None]:
    """Batches as on a GPU, and nothing of what it computes."""

    def states(batch: Batch, hooks: Sequence[HookPoint]) -> Pass:
        batch.positions()
        spans = [span for row in batch.rows for span in row.spans]
        lengths = tuple(end - start for _, start, end in spans)
        some = torch.zeros(1, backbone.d_model).expand(sum(lengths), backbone.d_model)
        return Pass(tuple(i for i, _, _ in spans), lengths, dict.fromkeys(hooks, some))

    def pooled(one: Pass, n_response: Sequence[int], saes: Mapping[HookPoint, Any]) -> dict[HookPoint, list[Tensor]]:
        n = len(n_response)
        state, latents = torch.zeros(n, backbone.d_model), {hook: torch.ones(n, sae.d_sae) for hook, sae in saes.items()}
        return {hook: [state, state, *[latents[hook]] * 3] for hook in one.states}

    with ExitStack() as patches:
        for target, name, value in (
            (backbone, "_pass", states),
            (backbone, "_groups", lambda rows: (list(similar(rows, GPU_BATCH_TOKENS)), 1)),
            (backbone, "_joins", lambda rows: False),
            (represent, "_pool", pooled),
            (part_reader, "ROWS_HERE", 0),
        ):
            patches.enter_context(patch.object(target, name, value))
        yield


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
        "beside_seconds": host.beside / len(pairs),
    }


def main() -> None:
    """Measure all tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=500)
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
