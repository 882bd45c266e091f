"""Many pairs represented by Ray workers into files, and heads and insights from these: ``python -m benchmarks.scale_out DIR``.

Types the commands of a user, each in a process of its own: ``sparserm represent PAIRS --engine ray``, ``sparserm train FOLDER``
and ``sparserm insights FOLDER``. Then the head is fitted again with all representations in memory. The pairs are those of all
tasks, repeated with noise: their responses are shortened and lack words drawn at random. The SAE of layer 10 reads layer 3, so
that two cores read 400,000 texts in an hour. The folder is kept, and a run that was stopped resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.common import memory_mb, task_pairs, write_results
from sparserm.heads.fitting import fit_head, fit_settings
from sparserm.heads.saved import load_head
from sparserm.representations.files import RepresentedPairs
from sparserm.representations.shards import LATENTS_IN
from sparserm.representations.values import LatentSummary, PairRepresentations, Representations, firings
from sparserm.sae.autoencoder import find_saes, load_sae
from sparserm.support.defaults import TASKS
from sparserm.types import HookPoint

#: Words kept of prompts and responses, and share of a response's words that is left out.
WORDS, LEFT_OUT = 12, 0.15
WORKERS = 2
#: The SAE, and the layer that it reads here.
SAE, LAYER = "smollm2/layer_10", 3


def write_noisy_pairs(n: int, path: Path) -> None:
    """Write ``n`` pairs as JSON lines, no two of them equal."""
    pairs = [pair for task in TASKS for pair in task_pairs(task, "train").pairs]
    rng = random.Random(0)

    def noisy(text: str) -> str:
        words = text.split()[:WORDS]
        return " ".join(word for word in words if rng.random() > LEFT_OUT) or text[:WORDS]

    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            pair = pairs[i % len(pairs)]
            chosen, rejected = noisy(pair.chosen), noisy(pair.rejected)
            if chosen == rejected:
                chosen, rejected = pair.chosen, pair.rejected
            prompt = f"{i}: {' '.join(pair.prompt[-1].content.split()[:WORDS])}"
            file.write(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")


def low_sae(folder: Path) -> Path:
    """Save a copy of a shipped SAE that reads a lower layer."""
    shutil.copytree(find_saes()[SAE], folder, dirs_exist_ok=True)
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"]["hook_name"] = HookPoint(LAYER).name
    del config["metadata"]["sparserm_fingerprint"]
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def run(*arguments: str) -> tuple[dict[str, Any], dict[str, float]]:
    """The result of a command, its seconds, and the largest memory in MB of it and of all its processes together."""
    started, own, together = time.perf_counter(), 0.0, 0.0
    command = [sys.executable, "-c", "from sparserm.cli import main; main()", *arguments, "--json"]
    # Into a file: a pipe that nobody reads meanwhile would hold up a command that says much.
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, stdout=said, text=True) as process:
        while process.poll() is None:
            found = [memory for pid in _family(process.pid) if (memory := _anonymous_mb(pid))]
            own, together = max(own, found[0] if found else 0), max(together, sum(found))
            time.sleep(0.2)
        if process.returncode:
            raise RuntimeError(f"{' '.join(arguments)} failed")
        said.seek(0)
        result = json.load(said)
    return result, {"seconds": time.perf_counter() - started, "peak_mb": own, "peak_mb_of_all": together}


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has just ended
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def _anonymous_mb(pid: int) -> float:
    try:
        return memory_mb(pid, "RssAnon")
    except (StopIteration, OSError):  # it has just ended
        return 0.0


def in_memory(opened: RepresentedPairs) -> PairRepresentations:
    """The same representations with all latents in memory."""
    sae = load_sae(opened.of.sae)
    stored = opened.representations(sae, states=False)
    files = stored.chosen.latents.files  # type: ignore[union-attr]
    columns = [np.concatenate(column) for column in zip(*files.read(None, "rate", "peak", "gated"), strict=True)]
    pair, latent, chosen = columns[:3]

    def side(of: Representations, own: np.ndarray) -> Representations:
        rows = np.flatnonzero(own)
        rows = rows[np.lexsort((latent[rows], pair[rows]))]
        indptr = np.searchsorted(pair[rows], np.arange(files.n_pairs + 1))
        fired = firings(latent[rows], *(column[rows] for column in columns[3:]))
        return Representations(of.pooling, of.h, of.n_tokens, of.n_truncated, LatentSummary(indptr, fired, sae.d_sae))

    return PairRepresentations(side(stored.chosen, chosen), side(stored.rejected, ~chosen), stored.groups, stored.texts)


def measure(n: int, folder: Path) -> dict[str, Any]:
    """All commands, and how the head from the files differs from the head from memory."""
    pairs, represented, head = folder / f"pairs-{n}.jsonl", folder / f"represented-{n}", folder / f"head-{n}"
    if not pairs.is_file():
        write_noisy_pairs(n, pairs)
    sae = str(low_sae(folder / f"layer_{LAYER}"))
    engine = ["--engine", "ray", "--workers", str(WORKERS)]
    done, representing = run("represent", str(pairs), "--out", str(represented), "--sae", sae, *engine)
    trained, training = run("train", str(represented), "--out", str(head), "--force")
    found, reading = run("insights", str(represented))

    latents = sum(pq.read_metadata(file).num_rows for file in (represented / LATENTS_IN).iterdir())
    opened = RepresentedPairs.open(represented)
    started = time.perf_counter()
    fitted = fit_head(in_memory(opened), load_sae(opened.of.sae), fit_settings()).head
    seconds = time.perf_counter() - started
    ours = load_head(str(head)).head
    same = np.array_equal(ours.features, fitted.features)
    return {
        "pairs": done["n_pairs"],
        "layer": LAYER,
        "workers": WORKERS,
        "resumed_rows": done["n_done_before"],
        "latents_per_response": latents / 2 / done["n_pairs"],
        "disk_mb": sum(file.stat().st_size for file in represented.rglob("*.parquet")) / 2**20,
        "represent": representing,
        "train": {**training, "accuracy": trained["accuracy"], "k": trained["k"], "fit_seconds": trained["fit_seconds"]},
        "insights": {**reading, "n_sure": found["n_sure"]},
        "in_memory": {
            "seconds": seconds,
            "peak_mb": memory_mb(),
            "same_features": same,
            "largest_difference": float(np.abs(ours.weights - fitted.weights).max()) if same else None,
        },
    }


def main() -> None:
    """Run the commands and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for pairs and representations; kept")
    parser.add_argument("--pairs", type=int, default=200_000)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    write_results("scale_out", measure(given.pairs, given.folder))


if __name__ == "__main__":
    main()
