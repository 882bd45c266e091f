"""Heads under distribution shift: ``python -m benchmarks.shift [matrix] [full] [samples]``.

``matrix`` trains heads and dense probes on one task and tests them on another. ``full`` tests the models that
``benchmarks.quality full`` fine-tuned on 300 pairs, on the same test pairs. Both write to ``benchmarks/results/shift.json``.
``samples``: the backbone answers test prompts and each task's head scores the answers (``benchmarks/results/samples.json``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, task_pairs, write_results
from benchmarks.quality import SAE, load_task, tuned_model
from sparserm.backbone.model import Backbone
from sparserm.benchmark.rankers import Material
from sparserm.benchmark.results import Cell, Results, Task
from sparserm.benchmark.run import draw, rank_cells, represent_material, score_cell
from sparserm.finetuning.reward_model import FineTunedRewardModel
from sparserm.model import SparseRM
from sparserm.pairs.split import prompt_groups, prompt_key
from sparserm.policy.language_model import Policy
from sparserm.sae.autoencoder import load_sae
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER, TASKS
from sparserm.types import SparseRMError

#: Test pairs per task: enough to see differences of ten points, few enough for two cores.
TEST_PAIRS = 200
BUDGET = 300
#: Number of prompts per task that the backbone answers, and its maximum number of new tokens.
PROMPTS, NEW_TOKENS = 40, 96


def results() -> Results:
    """The file of all results."""
    return Results(RESULTS / "shift.json")


def name(trained: str, judged: str) -> str:
    """Name of the combination in the results."""
    return f"{trained} > {judged}"


def test_rows(task: str) -> np.ndarray:
    """Rows of a task's test pairs that all methods are tested on."""
    return draw(prompt_groups(task_pairs(task, "test").pairs), TEST_PAIRS, 0)


def judged_on(trained: str, judged: str) -> Task:
    """Training pairs of one task, and test pairs of another."""
    train, test = task_pairs(trained, "train"), task_pairs(judged, "test")
    rows = test_rows(judged)
    return Task(name(trained, judged), train, replace(test, pairs=tuple(test.pairs[i] for i in rows)))


def matrix() -> Iterator[str]:
    """Heads and dense probes, trained on 300 pairs and on all."""
    backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=DEFAULT_LAYER)
    sae = load_sae(SAE)
    parts = {task: represent_material(load_task(task), backbone, sae) for task in TASKS}
    for trained in TASKS:
        for judged in TASKS:
            results().describe(judged_on(trained, judged), backbone=backbone.fingerprint, sae=sae.fingerprint)
            rows = test_rows(judged)
            test = {pooling: pairs.take(rows) for pooling, pairs in parts[judged].test.items()}
            both = Material(parts[trained].train, test, sae)
            ways = ("gated", "sparse", "dense", "longer")
            for cell in rank_cells(results(), name(trained, judged), both, ways=ways, budgets=(BUDGET, None)):
                yield _line(cell)


def full() -> Iterator[str]:
    """The fine-tuned models that exist."""
    done = {cell.key for cell in results().cells()}
    for trained in TASKS:
        missing = [judged for judged in TASKS if (name(trained, judged), "full", BUDGET, 0) not in done]
        if missing and tuned_model(trained).is_dir():
            model = FineTunedRewardModel.load(tuned_model(trained))
            for judged in missing:
                cell = score_cell(judged_on(trained, judged), "full", model, BUDGET, 0)
                results().add(cell)
                yield _line(cell)


def samples() -> Iterator[str]:
    """The backbone's answers to test prompts, compared with the chosen and rejected responses to the same prompts."""
    found: dict[str, Any] = {}
    for task in TASKS:
        model = SparseRM.from_pretrained(task)
        pairs = task_pairs(task, "test").pairs
        kept = set(sorted({prompt_key(pair.prompt) for pair in pairs})[:PROMPTS])
        pairs = tuple(pair for pair in pairs if prompt_key(pair.prompt) in kept)
        prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
        answers = Policy.load().sample(prompts, max_new_tokens=NEW_TOKENS)
        own = [(prompt, answer.text) for prompt, (answer,) in zip(prompts, answers, strict=True) if answer.text]
        rewards = {
            "chosen": model.score(*_columns({(pair.prompt, pair.chosen) for pair in pairs})),
            "rejected": model.score(*_columns({(pair.prompt, pair.rejected) for pair in pairs})),
            "samples": model.score(*_columns(set(own))),
        }
        reference = np.concatenate([rewards["chosen"], rewards["rejected"]])
        found[task] = {"prompts": len(prompts), **{side: asdict(score_shift(reference, one)) for side, one in rewards.items()}}
        write_results("samples", found)
        yield f"{task} {found[task]}"


@dataclass(frozen=True)
class ScoreShift:
    """Distribution of the rewards of ``n`` texts, compared with a reference.

    Attributes:
        shift: difference of the means, in standard deviations of the reference.
        spread: ratio of the standard deviations.
        distance: Kolmogorov-Smirnov statistic, the largest difference of the two distribution functions, 0 to 1.
        p_value: p-value of that distance if there is no shift.
        outside: share beyond the reference's 1st and 99th percentile; 0.02 if there is no shift.
        quantiles: 5th, 25th, 50th, 75th and 95th percentile of the texts' rewards.
    """

    n: int
    shift: float
    spread: float
    distance: float
    p_value: float
    outside: float
    quantiles: tuple[float, float, float, float, float]


def score_shift(reference: np.ndarray, rewards: np.ndarray) -> ScoreShift:
    """Compare rewards ``[n]`` with rewards of a reference ``[m]``.

    Raises:
        SparseRMError: fewer than two rewards in either, or all rewards of the reference are equal.
    """
    from scipy.stats import ks_2samp

    if min(len(reference), len(rewards)) < 2:
        raise SparseRMError(f"got {len(rewards)} rewards and {len(reference)} of the reference; expected two or more of each")
    deviation = float(reference.std())
    if deviation == 0:
        raise SparseRMError("all rewards of the reference are equal; expected different ones; give other texts")
    low, high = np.percentile(reference, [1, 99])
    test = ks_2samp(reference, rewards)
    a, b, c, d, e = (float(x) for x in np.percentile(rewards, [5, 25, 50, 75, 95]))
    return ScoreShift(
        n=len(rewards),
        shift=float(rewards.mean() - reference.mean()) / deviation,
        spread=float(rewards.std()) / deviation,
        distance=float(test.statistic),
        p_value=float(test.pvalue),
        outside=float(((rewards < low) | (rewards > high)).mean()),
        quantiles=(a, b, c, d, e),
    )


def _columns(texts: set[Any]) -> tuple[list[Any], list[str]]:
    ordered = sorted(texts, key=str)
    return [prompt for prompt, _ in ordered], [text for _, text in ordered]


def _line(cell: Cell) -> str:
    return f"{cell.task}, {cell.way}, {cell.budget}: {cell.accuracy:.3f}"


STAGES: dict[str, Callable[[], Iterator[str]]] = {"matrix": matrix, "full": full, "samples": samples}


def main() -> None:
    """Run the stages given on the command line, or all."""
    for stage in sys.argv[1:] or STAGES:
        for line in STAGES[stage]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
