"""Warm ``score`` of one 150-token response, the store off: ``python -m benchmarks.latency``."""

from __future__ import annotations

import os
import statistics
import time

from benchmarks.common import write_results
from sparserm.model import SparseRM

REPEATS = 30


def warm_scores() -> list[float]:
    """Seconds for each of some responses that were never seen before."""
    model = SparseRM.from_pretrained("truthfulness")
    prompt, response = "Why is the sky blue?", " the" * 150
    model.score(prompt, response)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        model.score(prompt, response)
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Median over repeats."""
    os.environ["SPARSERM_STORE"] = "off"
    seconds = warm_scores()
    result = {"n_tokens": 150, "median_s": statistics.median(seconds), "max_s": max(seconds)}
    write_results("latency", result)
    print(result)


if __name__ == "__main__":
    main()
