"""Peak memory of scoring a file as a stream: ``python -m benchmarks.memory [--sizes 2000 200000]``.

``sparserm score FILE --head HEAD --out FOLDER`` on files of both sizes, each in a process of its own; on the larger one it
goes on where it was killed half-way. Rows are what memory could grow with, not layers: the head reads the embeddings, below
all layers, so that 200,000 pairs take minutes where a shipped head would take hours. The pairs are those of all tasks again
and again, numbered so that no two are alike, responses cut to a few words.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.common import task_pairs, write_results
from sparserm.card import load_head, save_head
from sparserm.defaults import TASKS

WORDS = 6
_SCORE = "import resource, sys; from sparserm.cli import main\ntry: main()\nfinally: print(resource.getrusage(0).ru_maxrss)"


def write_pairs(n: int, path: Path) -> None:
    """``n`` pairs as JSON lines."""
    pairs = [pair for task in TASKS for pair in task_pairs(task, "train").pairs]
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            pair = pairs[i % len(pairs)]
            chosen, rejected = (" ".join(text.split()[:WORDS]) for text in (pair.chosen, pair.rejected))
            row = {"prompt": f"{i}: {' '.join(pair.prompt[-1].content.split()[:WORDS])}", "chosen": f"{chosen} a",
                   "rejected": f"{rejected} b"}  # fmt: skip
            file.write(json.dumps(row) + "\n")


def low_head(folder: Path) -> Path:
    """A shipped head that reads what enters the first layer."""
    saved = load_head("truthfulness")
    save_head(replace(saved, card=replace(saved.card, name="embeddings", hook="blocks.0.hook_resid_pre")), folder)
    return folder


def command(pairs: Path, head: Path, out: Path) -> list[str]:
    """What a user would type; its last line is the peak memory in kB."""
    return [sys.executable, "-c", _SCORE, "score", str(pairs), "--head", str(head), "--out", str(out), "--json"]


def score(pairs: Path, head: Path, out: Path) -> dict[str, Any]:
    """Score the file, or what is left of it; what the command says, with ``peak_mb``."""
    done = subprocess.run(command(pairs, head, out), capture_output=True, text=True, check=True)
    said, peak = done.stdout.rsplit("\n", 2)[:2]
    return {**json.loads(said), "peak_mb": int(peak) / 1024}


def kill_half_way(pairs: Path, head: Path, out: Path, parts: int) -> None:
    """Start the same command, and kill it once so many parts are there."""
    process = subprocess.Popen(command(pairs, head, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(out.glob("part-*.parquet"))) < parts and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()


def rows_of(out: Path) -> list[int]:
    """The rows that a folder of scores holds."""
    return [
        row for part in sorted(out.glob("part-*.parquet")) for row in pq.read_table(part, columns=["row"])["row"].to_pylist()
    ]


def main() -> None:
    """Measure both sizes and the interruption."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs=2, default=(2_000, 200_000))
    sizes = parser.parse_args().sizes
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        head = low_head(folder / "head")
        found = []
        for n in sizes:
            pairs, out = folder / f"{n}.jsonl", folder / f"scores-{n}"
            write_pairs(n, pairs)
            if n == max(sizes):
                parts = (folder / f"scores-{min(sizes)}").glob("part-*.parquet")
                kill_half_way(pairs, head, out, len(list(parts)) * n // min(sizes) // 2)
            one = score(pairs, head, out)
            kept = ("n_rows", "n_pairs", "n_done_before", "peak_mb")
            found.append({**{name: one[name] for name in kept}, "each_row_once": rows_of(out) == list(range(1, n + 1))})
            print(found[-1], flush=True)
    write_results("memory", found)


if __name__ == "__main__":
    main()
