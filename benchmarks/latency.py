"""Latency of ``score`` and ``explain`` for one 150-token response, and of the forward pass: ``python -m benchmarks.latency``.

The three take turns on new responses, warm and with the store off.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.common import write_results
from sparserm.model import SparseRM
from sparserm.types import Message

REPEATS = 60
PROMPT = "Why is the sky blue?"
N_TOKENS = 150


def forward_pass(model: SparseRM) -> Callable[[str], Any]:
    """Transformers' forward pass of the same layers on the same tokens."""
    backbone = model.backbone

    def run(response: str) -> None:
        ids = torch.tensor([backbone.tokenize((Message("user", PROMPT),), response).ids], device=backbone.device)
        with torch.inference_mode():
            backbone.model(ids, use_cache=False)

    return run


def measure(methods: dict[str, Callable[[str], Any]], repeats: int = REPEATS) -> dict[str, list[float]]:
    """Seconds of each method in every round, in random order within the round; the first round is a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    draw = random.Random(0)
    for number in range(-1, repeats):
        for name in draw.sample(list(methods), len(methods)):
            response = f"{name} {number}" + " the" * (N_TOKENS - 3)
            started = time.perf_counter()
            methods[name](response)
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def beyond(method: list[float], forward: list[float]) -> dict[str, float]:
    """Median overhead of a method over the forward pass of the same round, with its 95% interval over rounds."""
    from scipy.stats import bootstrap

    differences = np.subtract(method, forward)
    low, high = bootstrap((differences,), np.median, method="percentile", rng=0).confidence_interval
    return {"median": float(np.median(differences)), "low": float(low), "high": float(high)}


def warm_scores() -> list[float]:
    """Seconds of warm calls of ``score``."""
    model = SparseRM.from_pretrained("truthfulness")
    return measure({"score": lambda response: model.score(PROMPT, response)})["score"]


def main() -> None:
    """Measure medians, and the overhead of score and explain over the forward pass."""
    os.environ["SPARSERM_STORE"] = "off"
    model = SparseRM.from_pretrained("truthfulness")
    found = measure(
        {
            "forward": forward_pass(model),
            "score": lambda response: model.score(PROMPT, response),
            "explain": lambda response: model.explain(PROMPT, response),
        }
    )
    result = {
        "n_tokens": N_TOKENS,
        "median_s": {name: statistics.median(seconds) for name, seconds in found.items()},
        "beyond_forward_s": {name: beyond(found[name], found["forward"]) for name in ("score", "explain")},
    }
    write_results("latency", result)
    print(result)


if __name__ == "__main__":
    main()
