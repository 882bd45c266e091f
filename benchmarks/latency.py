"""Warm ``score`` and ``explain`` of one 150-token response beside the forward pass alone: ``python -m benchmarks.latency``.

The three take turns on responses that were never seen before, the store off.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import write_results
from sparserm.model import SparseRM
from sparserm.types import Message

REPEATS = 30
PROMPT = "Why is the sky blue?"
N_TOKENS = 150


def forward_pass(model: SparseRM) -> Callable[[str], Any]:
    """Transformers' own call of the same layers on the same tokens."""
    backbone = model.backbone

    def run(response: str) -> None:
        ids = torch.tensor([backbone.tokenize((Message("user", PROMPT),), response).ids], device=backbone.device)
        with torch.inference_mode():
            backbone.model(ids, use_cache=False)

    return run


def measure(ways: dict[str, Callable[[str], Any]], repeats: int = REPEATS) -> dict[str, list[float]]:
    """Seconds of each way for each of some responses, each round in another order; a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for number in range(-1, repeats):
        order = [*order[1:], order[0]]
        for name in order:
            response = f"{name} {number}" + " the" * (N_TOKENS - 3)
            started = time.perf_counter()
            ways[name](response)
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def warm_scores() -> list[float]:
    """Seconds that ``score`` takes."""
    model = SparseRM.from_pretrained("truthfulness")
    return measure({"score": lambda response: model.score(PROMPT, response)})["score"]


def main() -> None:
    """Medians, and what score and explain take beyond the forward pass of the same round."""
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
        "beyond_forward_s": {
            name: statistics.median(a - b for a, b in zip(found[name], found["forward"], strict=True))
            for name in ("score", "explain")
        },
    }
    write_results("latency", result)
    print(result)


if __name__ == "__main__":
    main()
