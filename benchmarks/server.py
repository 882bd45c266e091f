"""Load test of ``sparserm serve``, and the same texts scored offline: ``python -m benchmarks.server [TASK] [--requests N]``.

Each client sends one response per request, and the next request as soon as it has the answer. Only one pair per prompt is used:
offline scoring would process a shared prompt once, which separate requests cannot. Client and server share the machine. Texts
are scored offline before and after, the store off.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
import numpy as np

from benchmarks.common import memory_mb, read_results, task_pairs, write_results
from sparserm.model import SparseRM
from sparserm.pairs.split import prompt_key
from sparserm.support.defaults import TASKS
from sparserm.types import PreferencePair

HEAD, CLIENTS = "truthfulness", 32


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """Run a server on a free port; yields its address and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", "from sparserm.cli import main; main()", "serve", HEAD, "--port", str(port)]
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                httpx.get(f"{address}/health").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait(60)


def bodies(pairs: Sequence[PreferencePair]) -> Iterator[dict]:
    """Request bodies in an endless cycle: first the chosen, then the rejected responses."""
    for side in itertools.cycle(("chosen", "rejected")):
        for pair in pairs:
            yield {"prompts": [[vars(turn) for turn in pair.prompt]], "responses": [getattr(pair, side)]}


async def load(address: str, requests: int, clients: int, pairs: Sequence[PreferencePair]) -> tuple[list[float], Counter[str]]:
    """Send all requests. Returns the seconds of each, and a count of the outcomes."""
    seconds: list[float] = []
    outcomes: Counter[str] = Counter()
    waiting = itertools.islice(bodies(pairs), requests)

    async def client() -> None:
        async with httpx.AsyncClient(timeout=300) as http:
            for body in waiting:
                started = time.perf_counter()
                try:
                    outcomes[str((await http.post(f"{address}/score", json=body)).status_code)] += 1
                except httpx.HTTPError as error:
                    outcomes[type(error).__name__] += 1
                seconds.append(time.perf_counter() - started)
                if len(seconds) % 500 == 0:
                    print(f"{len(seconds):,} of {requests:,}", flush=True)

    await asyncio.gather(*(client() for _ in range(clients)))
    return seconds, outcomes


def offline(model: SparseRM, pairs: Sequence[PreferencePair]) -> float:
    """Texts per second when all are scored in one call."""
    asked = list(itertools.islice(bodies(pairs), len(pairs)))
    started = time.perf_counter()
    model.score([body["prompts"][0] for body in asked], [body["responses"][0] for body in asked])
    return len(asked) / (time.perf_counter() - started)


def main() -> None:
    """Measure offline scoring, the server under load, and offline scoring again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", nargs="?", choices=TASKS, default="truthfulness", help="task whose test pairs are sent")
    parser.add_argument("--requests", type=int, default=10_000)
    given = parser.parse_args()
    os.environ["SPARSERM_STORE"] = "off"
    pairs = list({prompt_key(pair.prompt): pair for pair in task_pairs(given.task, "test").pairs}.values())
    model = SparseRM.from_pretrained(HEAD)
    model.score("Hi", "Hello.")
    rates = [offline(model, pairs)]
    with server() as (address, pid):
        asyncio.run(load(address, 10 * CLIENTS, CLIENTS, pairs))  # warm-up
        before, started = memory_mb(pid, "VmRSS"), time.perf_counter()
        seconds, outcomes = asyncio.run(load(address, given.requests, CLIENTS, pairs))
        rate = given.requests / (time.perf_counter() - started)
        after = memory_mb(pid, "VmRSS")
    rates.append(offline(model, pairs))
    p50, p95, p99 = np.percentile(seconds, (50, 95, 99)).tolist()
    result = {
        "clients": CLIENTS,
        "requests": given.requests,
        "outcomes": dict(outcomes),
        "texts_per_s": rate,
        "offline_texts_per_s": statistics.mean(rates),
        "p50_s": p50,
        "p95_s": p95,
        "p99_s": p99,
        "memory_mb": {"before": before, "after": after},
    }
    write_results("server", {**read_results("server"), given.task: result})
    print(result)


if __name__ == "__main__":
    main()
