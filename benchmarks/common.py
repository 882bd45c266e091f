"""What every measurement shares: where data lies, where results go, and what they were measured on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sparserm.benchmark.results import environment
from sparserm.pairs.load import load_pairs
from sparserm.types import PreferenceData

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"

#: The files of each task under ``SPARSERM_DATA``, and what the licence of the training data says.
FILES = {
    "truthfulness": ("truthfulness/truthfulqa", "TruthfulQA, Apache-2.0"),
    "safety": ("safety/pku_saferlhf", "PKU-SafeRLHF, CC BY-NC 4.0"),
    "redteam": ("redteam/hh_harmless", "HH-RLHF harmless-base, MIT"),
    "helpfulness": ("helpfulness/alpaca_eval", "AlpacaEval, code Apache-2.0, data CC BY-NC 4.0"),
}


def data_folder() -> Path:
    """``SPARSERM_DATA``, or ``shared/data`` beside the repository."""
    return Path(os.environ.get("SPARSERM_DATA", ROOT.parent / "shared" / "data"))


def task_pairs(task: str, split: str) -> PreferenceData:
    """The pairs of a task's ``train`` or ``test`` file."""
    return load_pairs(data_folder() / f"{FILES[task][0]}.{split}.jsonl")


def memory_mb(pid: int | str = "self", what: str = "VmHWM") -> float:
    """Peak (``VmHWM``) or present (``VmRSS``) memory of a process; what ``getrusage`` tells begins with its parent's peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def read_results(name: str) -> Any:
    """What :func:`write_results` kept under a name, and nothing where that is not measured yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["results"] if path.is_file() else {}


def write_results(name: str, results: Any) -> None:
    """Keep figures as JSON with the versions and hardware of this run; figures that an earlier run measured and this one kept
    may come from others."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    record = {**environment()[1], "results": results}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
