"""Online DPO with a head and with a fine-tuned reward model: ``python -m benchmarks.alignment [head] [fine-tuned]``.

The training prompts of truthfulness are split in half. A head (layer 15) and a reward model fine-tuned in full are trained on
the first half, and each ranks the samples in one loop. A head of another layer (20) and a second fine-tuned model are trained
on the other half and used only for evaluation. The policy is the default backbone, trained on the first half's prompts and
evaluated on those of the test file. Runs are in ``SPARSERM_HOME/benchmarks/alignment`` and can be resumed; results go to
``benchmarks/results/alignment.json``.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import read_results, task_pairs, write_results
from sparserm.benchmark.run import draw
from sparserm.finetuning.reward_model import FineTuningSettings, fine_tune
from sparserm.model import SparseRM
from sparserm.pairs.split import content_hash, prompt_groups, prompt_key
from sparserm.policy.judges import Judge
from sparserm.policy.online_dpo import align
from sparserm.policy.rounds import AlignSettings
from sparserm.support.defaults import DEFAULT_BACKBONE, home
from sparserm.support.progress import terminal_progress
from sparserm.types import PreferenceData, Prompt

TASK = "truthfulness"
#: Training pairs of the fine-tuned models; the heads are trained on all pairs of their half.
BUDGET = 300
#: Number of evaluation prompts.
HELD_OUT = 64
SETTINGS = AlignSettings(rounds=2, prompts=64, samples=4, max_new_tokens=64)


def folder() -> Path:
    """The folder of models and runs."""
    return home() / "benchmarks" / "alignment"


def halves() -> tuple[PreferenceData, PreferenceData]:
    """Split the training pairs into two parts that share no prompt."""
    data = task_pairs(TASK, "train")
    groups = prompt_groups(data.pairs)
    drawn = np.random.default_rng(0).permutation(groups.max() + 1) % 2
    parts = [tuple(pair for pair, group in zip(data.pairs, groups, strict=True) if drawn[group] == half) for half in (0, 1)]
    one, two = (PreferenceData(f"{TASK}, half {i}", part, (), len(part), content_hash(part)) for i, part in enumerate(parts, 1))
    return one, two


def reward_models() -> dict[str, Judge]:
    """The four reward models; those that do not exist yet are trained."""
    wanted: list[tuple[str, Callable[[Path], None]]] = []
    for half, layer, data in zip("ab", (15, 20), halves(), strict=True):
        wanted.append((f"head-{half}", partial(_train_head, data, layer)))
        wanted.append((f"fine-tuned-{half}", partial(_fine_tune, data)))
    for name, train in wanted:
        if not (folder() / name).is_dir():
            unfinished = folder() / "unfinished" / name
            shutil.rmtree(unfinished, ignore_errors=True)
            train(unfinished)
            unfinished.rename(folder() / name)
    return {name: Judge.load(folder() / name) for name, _ in wanted}


def _train_head(data: PreferenceData, layer: int, path: Path) -> None:
    SparseRM.fit(data, layer=layer, name=path.name).save_pretrained(path)


def _fine_tune(data: PreferenceData, path: Path) -> None:
    rows = draw(prompt_groups(data.pairs), BUDGET, 0)
    fine_tune([data.pairs[i] for i in rows], FineTuningSettings.tuned("full")).save(path)


def accuracies(judges: dict[str, Judge]) -> dict[str, float]:
    """Accuracy of each judge on the test pairs, which none was trained on."""
    from sparserm.types import pair_texts

    pairs = task_pairs(TASK, "test").pairs
    found = {}
    for name, judge in judges.items():
        chosen, rejected = np.split(judge.judge(pair_texts(pairs)).rewards, 2)
        found[name] = float((chosen > rejected).mean())
    return found


def distinct_prompts(data: PreferenceData) -> list[Prompt]:
    """The distinct prompts in random order."""
    prompts = list({prompt_key(pair.prompt): pair.prompt for pair in data.pairs}.values())
    return [prompts[i] for i in np.random.default_rng(1).permutation(len(prompts))]


def loop(ranker: str, judges: dict[str, Judge]) -> dict[str, Any]:
    """Run one loop; ``seconds`` is None for a resumed run."""
    path = folder() / f"by-{ranker}"
    fresh, started = not path.exists(), time.perf_counter()
    prompts, held_out = distinct_prompts(halves()[0]), distinct_prompts(task_pairs(TASK, "test"))[:HELD_OUT]
    others = [judge for name, judge in judges.items() if name != ranker]
    with terminal_progress() as progress:
        report = align(
            prompts, held_out, judges[ranker], others, path, policy=DEFAULT_BACKBONE, settings=SETTINGS, progress=progress
        )
    seconds = time.perf_counter() - started if fresh else None
    found = {**asdict(report), "settings": asdict(SETTINGS), "held_out": len(held_out), "seconds": seconds}
    del found["policy"]
    return found


def main() -> None:
    """Run the loops named on the command line, or both."""
    results = read_results("alignment")
    judges = reward_models()
    if "accuracy" not in results:
        results["accuracy"] = accuracies(judges)
        write_results("alignment", results)
    for name in sys.argv[1:] or ("head", "fine-tuned"):
        found = loop(f"{name}-a", judges)
        kept = results.get(name)
        if kept and found["seconds"] is None:  # this call only resumed the loop
            found["seconds"] = kept["seconds"]
        results[name] = found
        write_results("alignment", results)
        print(f"{name}: {found['conclusion']}", flush=True)


if __name__ == "__main__":
    main()
