"""Tables of what was measured about quality, shift and faithfulness, from the JSON files of the benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.common import RESULTS, read_results
from sparserm.benchmark.results import Record, Results
from sparserm.benchmark.run import BUDGETS
from sparserm.benchmark.tables import Summary, difference, summarise
from sparserm.support.defaults import TASKS

#: Ways in the order of the tables, and what they are called there.
WAYS = {
    "sparse": "**ours**, 32 features",
    **{f"frequency-{k}": f"the paper's selector, {k} features" for k in (16, 32, 64, 128)},
    "dense": "dense linear probe",
    "latents": "linear on all SAE latents (peak)",
    "latents-32": "linear on 32 SAE latents (peak)",
    "latents-last": "linear on all SAE latents (last token, SARM)",
    "random-latents": "32 random latents' directions",
    "random-directions": "32 random directions",
    "random-dictionary": "32 of as many random directions as the SAE has latents, selected as ours are",
    "longer": "longer response",
    "full": "fine-tuned in full (TRL)",
    "lora": "fine-tuned with LoRA (TRL)",
    "frozen": "classification head on the frozen backbone (TRL)",
}
MISSING = "–"


def quality() -> list[str]:
    """The short table: ours beside what people use instead."""
    found = Results(RESULTS / "quality.json").read()
    shown = ("sparse", "dense", "latents", "full", "lora")
    lines = ["| task | pairs | " + " | ".join(WAYS[way] for way in shown) + " | ours minus fine-tuned in full |"]
    lines.append("|" + "---|" * (len(shown) + 3))
    for task in TASKS:
        for budget in BUDGETS:
            cells = [summarise(found, task, way, budget) for way in shown]
            apart = difference(found, task, budget, "sparse", "full")
            if cells[0]:
                row = [_accuracy(one) for one in cells]
                gap = f"{apart.mean:+.3f} ({apart.ci95[0]:+.3f} to {apart.ci95[1]:+.3f}; {apart.seeds})" if apart else MISSING
                lines.append(f"| {task} | {_pairs(budget)} | " + " | ".join(row) + f" | {gap} |")
    return lines


def quality_full() -> list[str]:
    """Every way at every budget, accuracy with interval and how many draws of pairs it is a mean of."""
    found = Results(RESULTS / "quality.json").read()
    lines = ["| task | way | " + " | ".join(f"{_pairs(budget)} pairs" for budget in BUDGETS) + " | trained parameters |"]
    lines.append("|" + "---|" * (len(BUDGETS) + 3))
    for task in TASKS:
        for way in ways_of(found, tuple(WAYS)):
            cells = [summarise(found, task, way, budget) for budget in BUDGETS]
            known = [one for one in cells if one]
            if known:
                row = " | ".join(_with_interval(one) for one in cells)
                lines.append(f"| {task} | {WAYS.get(way, way)} | {row} | {known[-1].n_parameters:,} |")
    return lines


def costs() -> list[str]:
    """What training takes without a GPU: time on the wall and of the processor, and the largest memory of the process."""
    results = Results(RESULTS / "quality.json")
    on_gpu = {name for name, found in results.environments().items() if "accelerator" in found}
    found = results.read()
    found = replace(found, cells=tuple(cell for cell in found.cells if cell.environment not in on_gpu))
    lines = ["| task | pairs | way | training, wall | processor time | peak memory | trained parameters |"]
    lines.append("|" + "---|" * 7)
    heads = [cost for cost in results.costs() if cost.environment not in on_gpu]
    for cost in sorted(heads, key=lambda one: (TASKS.index(one.task), one.budget or 0)):
        lines.append(
            f"| {cost.task} | {_pairs(cost.budget)} | {WAYS['sparse']}: backbone {cost.backbone_seconds:.1f} s, fit "
            f"{cost.fit_seconds:.2f} s | {cost.backbone_seconds + cost.fit_seconds:.1f} s | {cost.cpu_seconds:.0f} s "
            f"| {cost.peak_mb:,.0f} MB | 32 |"
        )
        for way in ("full", "lora"):
            if one := summarise(found, cost.task, way, cost.budget):
                lines.append(
                    f"| {cost.task} | {_pairs(cost.budget)} | {WAYS[way]} | {one.seconds:,.0f} s | {one.cpu_seconds:,.0f} s "
                    f"| {one.peak_mb or 0:,.0f} MB | {one.n_parameters:,} |"
                )
    return lines


def shift() -> list[str]:
    """Trained on one task, judged on another."""
    found = Results(RESULTS / "shift.json").read()
    lines = ["| trained on | way | pairs | " + " | ".join(f"judged on {task}" for task in TASKS) + " |"]
    lines.append("|" + "---|" * (len(TASKS) + 3))
    for trained in TASKS:
        for way, budget in (("sparse", 300), ("dense", 300), ("full", 300), ("sparse", None), ("dense", None)):
            cells = [summarise(found, f"{trained} > {judged}", way, budget) for judged in TASKS]
            if any(cells):
                row = " | ".join(_accuracy(one) for one in cells)
                lines.append(f"| {trained} | {WAYS[way]} | {_pairs(budget)} | {row} |")
    return lines


def samples() -> list[str]:
    """Where the rewards of the backbone's own answers lie."""
    lines = [
        "| head | responses | n | shift of the mean (sd) | spread | Kolmogorov-Smirnov | outside 1 to 99 % |",
        "|" + "---|" * 7,
    ]
    for task, found in read_results("samples").items():
        for side in ("chosen", "rejected", "samples"):
            one = found[side]
            name = "the backbone's own" if side == "samples" else side
            lines.append(
                f"| {task} | {name} | {one['n']} | {one['shift']:+.2f} | {one['spread']:.2f} | {one['distance']:.2f} "
                f"| {one['outside']:.1%} |"
            )
    return lines


def faithfulness() -> list[str]:
    """Largest errors of explanations, in units of reward."""
    lines = [
        "| head | texts | sum over features | sum over tokens | moved representation | steered backbone | spread of rewards |"
    ]
    lines.append("|" + "---|" * 7)
    for task, one in read_results("faithfulness").items():
        token = MISSING if one["token_sum"] is None else f"{one['token_sum']:.1e}"
        lines.append(
            f"| {task} | {one['texts']} | {one['feature_sum']:.1e} | {token} | {one['move']:.1e} | {one['steer']:.1e} "
            f"| {one['spread']:.2f} |"
        )
    return lines


def stability() -> list[str]:
    """What becomes of a head when its training prompts, or its SAE, are drawn anew."""
    lines = [
        "| head | drawn anew | overlap (Jaccard) | by chance | nearest direction (cosine) | by chance | rewards' correlation |"
    ]
    lines.append("|" + "---|" * 7)
    for task, found in read_results("stability").items():
        for what, one in found.items():
            overlap, chance = (_number(one[name], ".2f") for name in ("jaccard", "jaccard_chance"))
            lines.append(
                f"| {task} | {what} | {overlap} | {chance} | {one['nearest']:.2f} | {one['nearest_chance']:.2f} "
                f"| {one['correlation']:.2f} |"
            )
    return lines


def labels() -> list[str]:
    """Automatic labels of the shipped heads and what they detect."""
    names = ["head", "features", "labelled", "detects (median)"]
    names += ["proposed, above chance", "detect (median)", "examples, above chance", "detect (median)"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for task, one in read_results("labels").items():
        lines.append(
            f"| {task} | {one['features']} | {one['labelled']} | {_number(one['shown'], '.2f')} "
            f"| {one['proposed_above_chance']} of {one['proposed']} | {_number(one['proposed_median'], '.2f')} "
            f"| {one['examples_above_chance']} of {one['examples']} | {_number(one['examples_median'], '.2f')} |"
        )
    return lines


def _pairs(budget: int | None) -> str:
    return "all" if budget is None else f"{budget:,}"


def _number(value: float | None, spec: str) -> str:
    return MISSING if value is None else format(value, spec)


def _accuracy(one: Summary | None) -> str:
    return f"{one.accuracy:.3f}" if one else MISSING


def _with_interval(one: Summary | None) -> str:
    return f"{one.accuracy:.3f} ({one.ci95[0]:.3f} to {one.ci95[1]:.3f}; {one.seeds})" if one else MISSING


#: What each loop is called, and what its reward models are.
LOOPS = {"head": "a head", "fine-tuned": "a reward model fine-tuned in full"}
JUDGES = {
    "head-a": "head, same pairs",
    "fine-tuned-a": "fine-tuned, same pairs",
    "head-b": "head of another layer, other pairs",
    "fine-tuned-b": "fine-tuned, other pairs",
}


def alignment() -> list[str]:
    """Both loops, round after round: every reward model's win rate against the start; the one that ranks in bold."""
    found = read_results("alignment")
    lines = ["| ranked by | round | " + " | ".join(JUDGES.values()) + " | tokens | ended by itself | KL, nats an answer |"]
    lines.append("|" + "---|" * (len(JUDGES) + 5))
    for loop, title in LOOPS.items():
        for one in found.get(loop, {}).get("measures", []):
            cells = [_win_rate(one["judges"][name], name == found[loop]["ranker"]) for name in JUDGES]
            low, high = one["kl_ci95"]
            lines.append(
                f"| {title} | {one['round']} | {' | '.join(cells)} | {one['tokens']:.1f} | {one['finished']:.0%} "
                f"| {one['kl']:.2f} ({low:.2f} to {high:.2f}) |"
            )
    return lines


def climbed() -> list[str]:
    """Features of the ranking head that the policy climbed most, and what it fell in most."""
    found = read_results("alignment").get("head")
    lines = ["| feature | label | mean contribution at the start | after the last round | change |", "|" + "---|" * 5]
    if not found:
        return lines
    first, last = (found["measures"][i]["features"] for i in (0, -1))
    rows = sorted(found["features"], key=lambda one: first[str(one[0])] - last[str(one[0])])
    for number, label in rows[:5] + rows[-3:]:
        before, after = first[str(number)], last[str(number)]
        lines.append(f"| {number} | {label or 'unlabelled'} | {before:+.3f} | {after:+.3f} | {after - before:+.3f} |")
    return lines


def alignment_facts() -> list[str]:
    """How good the reward models are, how long the loops took, and what was concluded."""
    found = read_results("alignment")
    lines = ["| | |", "|---|---|"]
    lines += [
        f"| accuracy on the test pairs: {JUDGES[name]} | {value:.3f} |" for name, value in found.get("accuracy", {}).items()
    ]
    for loop, title in LOOPS.items():
        if one := found.get(loop):
            took = f"{one['seconds'] / 60:.0f} minutes; " if one["seconds"] else ""
            lines.append(f"| the loop ranked by {title} | {took}{one['conclusion']} |")
    return lines


def _win_rate(one: dict[str, Any], ranks: bool) -> str:
    low, high = one["win_ci95"]
    value = f"{one['win_rate']:.3f}"
    return f"**{value}** ({low:.3f} to {high:.3f})" if ranks else f"{value} ({low:.3f} to {high:.3f})"


def ways_of(record: Record, known: Sequence[str]) -> list[str]:
    """Ways that have cells: those of ``known`` in that order, then others."""
    there = dict.fromkeys(cell.way for cell in record.cells)
    return [way for way in known if way in there] + [way for way in there if way not in known]
