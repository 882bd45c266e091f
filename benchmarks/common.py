"""Data, results and helpers shared by all benchmarks."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparserm.benchmark.results import environment
from sparserm.pairs.load import load_pairs
from sparserm.types import PreferenceData, PreferencePair

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"

#: The file of each task under ``SPARSERM_DATA``, and the source and licence of its data.
FILES = {
    "truthfulness": ("truthfulness/truthfulqa", "TruthfulQA, Apache-2.0"),
    "safety": ("safety/pku_saferlhf", "PKU-SafeRLHF, CC BY-NC 4.0"),
    "redteam": ("redteam/hh_harmless", "HH-RLHF harmless-base, MIT"),
    "helpfulness": ("helpfulness/alpaca_eval", "AlpacaEval, code Apache-2.0, data CC BY-NC 4.0"),
}


def data_folder() -> Path:
    """The folder ``SPARSERM_DATA``, or ``shared/data`` next to the repository."""
    return Path(os.environ.get("SPARSERM_DATA", ROOT.parent / "shared" / "data"))


def task_pairs(task: str, split: str) -> PreferenceData:
    """The pairs of a task's ``train`` or ``test`` file."""
    return load_pairs(data_folder() / f"{FILES[task][0]}.{split}.jsonl")


def memory_mb(pid: int | str = "self", what: str = "VmHWM") -> float:
    """Peak (``VmHWM``) or current (``VmRSS``) memory of a process; ``getrusage`` would start from its parent's peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def read_results(name: str) -> Any:
    """Results written by :func:`write_results` under a name; an empty dictionary if there are none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["results"] if path.is_file() else {}


def write_results(name: str, results: Any) -> None:
    """Write results as JSON with the versions and hardware of this run.

    Results that an earlier run measured and this one passes on may come from other versions and hardware.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    record = {**environment()[1], "results": results}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def header(*titles: str) -> list[str]:
    """The first two lines of a Markdown table."""
    return [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]


def write_pairs(pairs: Sequence[PreferencePair], path: Path) -> None:
    """Write pairs as JSON lines with messages."""
    with path.open("w", encoding="utf-8") as file:
        for pair in pairs:
            prompt = [vars(turn) for turn in pair.prompt]
            file.write(json.dumps({"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected}) + "\n")
