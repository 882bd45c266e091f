"""Peak memory of scoring files: ``python -m benchmarks.memory [--sizes 2000 200000]``.

Runs ``sparserm score FILE --head HEAD --out FOLDER`` on files of two sizes, each in a separate process; on the larger file it
is killed half-way and resumed. Memory could grow with rows, not with layers, so the head reads the embeddings, below all
layers: 200,000 pairs then take minutes instead of the hours of a shipped head. The pairs are those of all tasks, repeated and
numbered so that no two are equal, with responses truncated to a few words.
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

from benchmarks.common import memory_mb, task_pairs, write_results
from sparserm.heads.saved import load_head, save_head
from sparserm.pairs.parts import PART_ROWS
from sparserm.support.defaults import TASKS

WORDS = 6
_SCORE = "from benchmarks.common import memory_mb\nfrom sparserm.cli import main\ntry: main()\nfinally: print(memory_mb())"


def write_pairs(n: int, path: Path) -> None:
    """Write ``n`` pairs as JSON lines."""
    pairs = [pair for task in TASKS for pair in task_pairs(task, "train").pairs]
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            pair = pairs[i % len(pairs)]
            chosen, rejected = (" ".join(text.split()[:WORDS]) for text in (pair.chosen, pair.rejected))
            row = {
                "prompt": f"{i}: {' '.join(pair.prompt[-1].content.split()[:WORDS])}",
                "chosen": f"{chosen} a",
                "rejected": f"{rejected} b",
            }
            file.write(json.dumps(row) + "\n")


def low_head(folder: Path) -> Path:
    """Save a copy of a shipped head that reads the input of the first layer."""
    saved = load_head("truthfulness")
    save_head(replace(saved, card=replace(saved.card, name="embeddings", hook="blocks.0.hook_resid_pre")), folder)
    return folder


def command(pairs: Path, head: Path, out: Path) -> list[str]:
    """The command line of a user; the last line of its output is the peak memory in MB."""
    return [sys.executable, "-c", _SCORE, "score", str(pairs), "--head", str(head), "--out", str(out), "--json"]


def score(pairs: Path, head: Path, out: Path) -> tuple[dict[str, Any], float]:
    """Score the file, or resume scoring it. Returns the command's result and its peak memory in MB."""
    done = subprocess.run(command(pairs, head, out), stdout=subprocess.PIPE, text=True, check=True)
    result, peak = done.stdout.rsplit("\n", 2)[:2]
    return json.loads(result), float(peak)


def kill_after(parts: int, pairs: Path, head: Path, out: Path) -> float:
    """Start the same command and kill it when ``parts`` parts are written. Returns its peak memory in MB."""
    process = subprocess.Popen(command(pairs, head, out), stdout=subprocess.DEVNULL)
    while len(list(out.glob("part-*.parquet"))) < parts:
        if process.poll() is not None:
            raise SystemExit(f"scoring {pairs} ended before {parts} parts were written; expected it to be still running")
        time.sleep(0.05)
    peak = memory_mb(process.pid)
    process.kill()
    process.wait()
    return peak


def rows_of(out: Path) -> list[int]:
    """Row numbers in a folder of scores."""
    return [
        row for part in sorted(out.glob("part-*.parquet")) for row in pq.read_table(part, columns=["row"])["row"].to_pylist()
    ]


def main() -> None:
    """Measure both sizes, with the interruption of the larger one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs=2, default=(2_000, 200_000), metavar=("SMALL", "LARGE"))
    small, large = parser.parse_args().sizes
    found = []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        head = low_head(folder / "head")
        for n in (small, large):
            pairs, out = folder / f"{n}.jsonl", folder / f"scores-{n}"
            write_pairs(n, pairs)
            before = kill_after(n // PART_ROWS // 2, pairs, head, out) if n == large else 0.0
            result, peak = score(pairs, head, out)
            row = {name: result[name] for name in ("n_rows", "n_pairs", "n_done_before")}
            found.append({**row, "peak_mb": max(before, peak), "each_row_once": rows_of(out) == list(range(1, n + 1))})
            print(found[-1], flush=True)
    write_results("memory", found)


if __name__ == "__main__":
    main()
