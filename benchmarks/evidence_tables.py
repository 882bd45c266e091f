"""Tables about quality, shift, faithfulness, stability, alignment and labels, from the JSON files of the benchmarks."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.common import RESULTS, header, read_results
from sparserm.benchmark.results import Record, Results
from sparserm.benchmark.run import BUDGETS
from sparserm.benchmark.tables import Difference, Summary, difference, summarise
from sparserm.support.defaults import TASKS

#: Methods in the order of the tables, with their titles.
WAYS = {
    "gated": "**SparseRM**",
    "sparse": "projections, 32 features (`sparse`)",
    **{f"frequency-{k}": f"projections, {k} features (paper's selector)" for k in (16, 32, 64, 128)},
    "dense": "dense linear probe",
    "latents": "linear on all SAE latents (max over tokens)",
    "latents-32": "linear on 32 SAE latents (max over tokens)",
    "latents-last": "linear on all SAE latents (last token, as SARM)",
    "random-latents": "projections, 32 random latents",
    "random-latents-gated": "32 random latents, gated",
    "random-directions": "32 random directions",
    "random-dictionary": "32 features selected from random directions, as many as the SAE has latents",
    "longer": "prefer the longer response",
    "full": "full fine-tuning (TRL)",
    "lora": "LoRA fine-tuning (TRL)",
    "frozen": "classification head on the frozen backbone (TRL)",
}
#: Titles of the loops, by what ranks in them, and of the reward models.
LOOPS = {"head": "a head", "fine-tuned": "a reward model fine-tuned in full"}
JUDGES = {
    "head-a": "head, same pairs",
    "fine-tuned-a": "fine-tuned, same pairs",
    "head-b": "head of another layer, other pairs",
    "fine-tuned-b": "fine-tuned, other pairs",
}
MISSING = "–"


def quality() -> list[str]:
    """Accuracies of the main methods, and the differences of SparseRM and of the dense probe to full fine-tuning."""
    return _quality(("gated", "sparse", "dense", "latents", "full", "lora"), BUDGETS, ("gated", "dense"))


def _quality(ways: Sequence[str], budgets: Sequence[int | None], compared: Sequence[str]) -> list[str]:
    """A row per task and budget: accuracies of ``ways``, then differences of ``compared`` to full fine-tuning."""
    found = Results(RESULTS / "quality.json").read()
    minus = {"gated": "SparseRM minus full", "dense": "probe minus full"}
    lines = header("task", "pairs", *(WAYS[way] for way in ways), *(minus[way] for way in compared))
    for task in TASKS:
        for budget in budgets:
            cells = [summarise(found, task, way, budget) for way in ways]
            if any(cells):
                row = [task, _pairs(budget), *(_accuracy(one) for one in cells)]
                row += [_gap(difference(found, task, budget, way, "full")) for way in compared]
                lines.append(f"| {' | '.join(row)} |")
    return lines


def quality_full() -> list[str]:
    """Accuracy of every method at every budget, with interval and number of draws of the pairs."""
    found = Results(RESULTS / "quality.json").read()
    lines = header("task", "method", *(f"{_pairs(budget)} pairs" for budget in BUDGETS), "trained parameters")
    for task in TASKS:
        for way in ways_of(found, tuple(WAYS)):
            cells = [summarise(found, task, way, budget) for budget in BUDGETS]
            known = [one for one in cells if one]
            if known:
                row = " | ".join(_with_interval(one) for one in cells)
                lines.append(f"| {task} | {WAYS.get(way, way)} | {row} | {known[-1].n_parameters:,} |")
    return lines


def second_backbone() -> list[str]:
    """Heads on another language model beside those on the default one, at the same budgets."""
    ways = {
        "gated": "SparseRM",
        "dense": "dense probe",
        "latents": "all SAE latents",
        "random-latents-gated": "32 random latents",
    }
    models = {"SmolLM2 135M": RESULTS / "quality.json", "Gemma 3 270M": RESULTS / "second_backbone_cells.json"}
    found = {model: Results(path).read() for model, path in models.items()}
    lines = header("task", "pairs", *(f"{model}: {title}" for model in models for title in ways.values()), "longer")
    for task in TASKS:
        for budget in (300, 1000):
            cells = [
                summarise(record, task, way, None if model != "SmolLM2 135M" and budget == 1000 else budget)
                for model, record in found.items()
                for way in (*ways, "longer")
            ]
            del cells[len(ways)]  # the same for both
            if all(cells):
                lines.append(f"| {' | '.join([task, _pairs(budget), *map(_accuracy, cells)])} |")
    return lines


def second_sae() -> list[str]:
    """The SAE of the other language model, on held-out conversations."""
    one = read_results("second_backbone")
    sae = one["sae"]
    lines = header("model, layer", "tokens", "explained variance", "L0", "dead latents", "loss recovered")
    figures = f"{sae['explained_variance']:.3f} | {sae['l0']:.1f} | {sae['dead']:.2%} | {sae['loss_recovered']:.3f}"
    return [*lines, f"| {one['name']}, {one['layer']} | {one['tokens']:,} | {figures} |"]


def costs() -> list[str]:
    """Cost of training without a GPU: wall time, processor time and peak memory of the process."""
    results = Results(RESULTS / "quality.json")
    on_gpu = {name for name, found in results.environments().items() if "accelerator" in found}
    found = results.read()
    found = replace(found, cells=tuple(cell for cell in found.cells if cell.environment not in on_gpu))
    lines = header("task", "pairs", "method", "wall time", "processor time", "peak memory", "trained parameters")
    heads = [cost for cost in results.costs() if cost.environment not in on_gpu]
    for cost in sorted(heads, key=lambda one: (TASKS.index(one.task), one.budget or 0)):
        lines.append(
            f"| {cost.task} | {_pairs(cost.budget)} | {WAYS['gated']}: backbone {cost.backbone_seconds:.1f} s, fit "
            f"{cost.fit_seconds:.2f} s | {cost.backbone_seconds + cost.fit_seconds:.1f} s | {cost.cpu_seconds:.0f} s "
            f"| {cost.peak_mb:,.0f} MB | up to 64 |"
        )
        for way in ("full", "lora"):
            if one := summarise(found, cost.task, way, cost.budget):
                lines.append(
                    f"| {cost.task} | {_pairs(cost.budget)} | {WAYS[way]} | {one.seconds:,.0f} s | {one.cpu_seconds:,.0f} s "
                    f"| {one.peak_mb or 0:,.0f} MB | {one.n_parameters:,} |"
                )
    return lines


def shift() -> list[str]:
    """Accuracy of models trained on one task and tested on another."""
    found = Results(RESULTS / "shift.json").read()
    lines = header("trained on", "method", "pairs", *(f"tested on {task}" for task in TASKS))
    for trained in TASKS:
        for way, budget in (("gated", 300), ("dense", 300), ("full", 300), ("gated", None), ("sparse", None), ("dense", None)):
            cells = [summarise(found, f"{trained} > {judged}", way, budget) for judged in TASKS]
            if any(cells):
                row = " | ".join(_accuracy(one) for one in cells)
                lines.append(f"| {trained} | {WAYS[way]} | {_pairs(budget)} | {row} |")
    return lines


def samples() -> list[str]:
    """How the rewards of the backbone's own answers are distributed, compared with those of chosen and rejected responses."""
    lines = header("head", "responses", "n", "shift of the mean (sd)", "sd ratio", "Kolmogorov-Smirnov", "outside 1 to 99%")
    for task, found in read_results("samples").items():
        for side in ("chosen", "rejected", "samples"):
            one = found[side]
            name = "the backbone's answers" if side == "samples" else side
            lines.append(
                f"| {task} | {name} | {one['n']} | {one['shift']:+.2f} | {one['spread']:.2f} | {one['distance']:.2f} "
                f"| {one['outside']:.1%} |"
            )
    return lines


def faithfulness() -> list[str]:
    """Largest errors of explanations, in units of the reward."""
    lines = header(
        "head", "texts", "sum over features", "sum over tokens", "moved representation", "steered backbone", "sd of rewards"
    )
    for task, one in read_results("faithfulness").items():
        token = MISSING if one["token_sum"] is None else f"{one['token_sum']:.1e}"
        lines.append(
            f"| {task} | {one['texts']} | {one['feature_sum']:.1e} | {token} | {one['move']:.1e} | {one['steer']:.1e} "
            f"| {one['spread']:.2f} |"
        )
    return lines


def stability() -> list[str]:
    """How much of a head stays the same with resampled training prompts, or with another SAE."""
    lines = header(
        "head", "changed", "overlap (Jaccard)", "by chance", "nearest direction (cosine)", "by chance", "correlation of rewards"
    )
    for task, found in read_results("stability").items():
        for what, one in found.items():
            overlap, chance = (_number(one[name], ".2f") for name in ("jaccard", "jaccard_chance"))
            lines.append(
                f"| {task} | {what} | {overlap} | {chance} | {one['nearest']:.2f} | {one['nearest_chance']:.2f} "
                f"| {one['correlation']:.2f} |"
            )
    return lines


def explanations() -> list[str]:
    """What a reader can make of the explanations of heads, by task and way."""
    names = ["head", "way", "features", "test accuracy", "minus dense probe (95% interval)", "share of silent features"]
    names += ["weights with the sign of the pairs", "features that fire in a response", "overlap (Jaccard)"]
    lines = header(*names, "overlap of families", "found again, counting features that fire together")
    for task, found in read_results("explanations").items():
        for way, one in found.items():
            less, low, high = one["minus_dense"]
            lines.append(
                f"| {task} | {way} | {one['k']} | {one['accuracy']:.3f} | {less:+.3f} ({low:+.3f} to {high:+.3f}) "
                f"| {one['silent_share']:.2f} | {one['sign_agreement']:.2f} | {one['firing']:g} "
                f"| {' | '.join(_number(one.get(name), '.2f') for name in ('jaccard', 'families', 'matched'))} |"
            )
    return lines


#: Ways of :func:`meaning`, with their titles.
MEANING = {
    "shipped": "**gated, prefers labels** (shipped)",
    "gated": "gated, any features (default)",
    "sparse": "projections (`sparse`)",
    "frequency": "projections (paper's selector)",
}


def meaning() -> list[str]:
    """Accuracy beside what a reader can make of the bars, by task and way, on all training pairs."""
    names = ["task", "head", "features", "test accuracy", "minus dense probe (95% interval)", "share of silent features"]
    lines = header(*names, "weights with the sign of the pairs", "bars in a response", "overlap", "label found in the text")
    judged = read_results("bars").get("heads", {})
    for task, found in read_results("explanations").items():
        for way, title in MEANING.items():
            one = found[way]
            less, low, high = (100 * value for value in one["minus_dense"])
            bars_in = one["firing"] if way in ("shipped", "gated") else one["k"]
            right = (
                f"{judged[task]['right'] / judged[task]['labelled']:.0%}" if way == "shipped" and task in judged else MISSING
            )
            lines.append(
                f"| {task} | {title} | {one['k']} | {one['accuracy']:.3f} | {less:+.1f} ({low:+.1f} to {high:+.1f}) "
                f"| {one['silent_share']:.0%} | {one['sign_agreement']:.0%} | {bars_in:g} | {one['families']:.2f} | {right} |"
            )
    return lines


def bars() -> list[str]:
    """The ten largest bars of test responses, read against the labels beside them."""
    names = [
        "head",
        "responses",
        "bars",
        "feature fires in the text",
        "with a label",
        "label found in the text and counted as present",
    ]
    lines = header(
        *names, "counted as present, not found", "backwards", "labels of silent features found", "features with a label"
    )
    for task, one in read_results("bars").get("heads", {}).items():
        shares = [one["firing"] / one["n"], *(one[name] / one["labelled"] for name in ("right", "not_found", "backwards"))]
        fires, right, missing, backwards, silent = (f"{share:.0%}" for share in [*shares, one["silent_found"] / one["silent"]])
        lines.append(
            f"| {task} | {one['responses']} | {one['n']:,} | {fires} | {one['labelled']:,} | {right} | {missing} | {backwards} "
            f"| {silent} | {one['features_labelled']} of {one['features']} |"
        )
    return lines


def null() -> list[str]:
    """Sure features of pairs as they are and with shuffled labels."""
    lines = header("task", "features that surely differ and come back", "with shuffled labels: mean", "largest", "shuffles")
    for task, one in read_results("planted")["null"].items():
        counts = one["shuffled"]
        lines.append(f"| {task} | {one['labels']} | {statistics.mean(counts):g} | {max(counts)} | {len(counts)} |")
    return lines


def planted() -> list[str]:
    """Rank of the first feature that names a planted property."""
    lines = header("planted", "features of the head", "rank of the first that names it", "label, and words at which it fires")
    for name, one in read_results("planted")["planted"].items():
        rank = one["rank"]
        label = one["labels"][rank - 1] if rank is not None and rank <= len(one["labels"]) else "–"
        lines.append(f"| {name} | {one['features']} | {rank or '–'} | {label.replace('|', ' ')} |")
    return lines


def insights() -> list[str]:
    """How far insights are silent where there is nothing, and hold on other prompts."""
    names = (
        "pairs",
        "tested",
        "sure",
        "families",
        "with a name",
        "sure if shuffled",
        "halves differ",
        "same sign",
        "sure again",
    )
    lines = header("task", *names, "seconds")
    for task, one in read_results("insights")["tasks"].items():
        lines.append(
            f"| {task} | {one['pairs']:,} | {one['tested']:,} | {one['sure']:,} | {one['families']:,} | {one['named']:,} "
            f"| {max(one['shuffled'])} | {max(one['halves'])} | {one['same_sign']:.1%} | {one['sure_again']:.0%} "
            f"| {one['seconds']:.1f} |"
        )
    return lines


def insights_planted() -> list[str]:
    """Rank of the first finding that is a planted property, and what the first finding says."""
    lines = header("property", "rank", "findings", "the first finding, with the words at which it fires and its family")
    for name, one in read_results("insights")["planted"].items():
        rank = MISSING if one["rank"] is None else one["rank"]
        first = textwrap.shorten(one["first"][0], 150, placeholder=" …") if one["first"] else MISSING
        lines.append(f"| {name} | {rank} | {one['findings']} | {first.replace('|', '/')} |")
    return lines


def labels() -> list[str]:
    """Labels of the latents that heads may use, by the pairs and the layer on which they were read, and detection scores."""
    names = ["pairs, layer", "latents read", "labels shown", "detection score (median)"]
    names += ["proposed labels above chance", "score (median)", "examples above chance", "score (median)"]
    lines = header(*names)
    for source, one in read_results("labels").items():
        lines.append(
            f"| {source.replace('-layer', ', ')} | {one['features']} | {one['labelled']} | {_number(one['shown'], '.2f')} "
            f"| {one['proposed_above_chance']} of {one['proposed']} | {_number(one['proposed_median'], '.2f')} "
            f"| {one['examples_above_chance']} of {one['examples']} | {_number(one['examples_median'], '.2f')} |"
        )
    return lines


def _pairs(budget: int | None) -> str:
    return "all" if budget is None else f"{budget:,}"


def _number(value: float | None, spec: str) -> str:
    return MISSING if value is None else format(value, spec)


def _gap(one: Difference | None) -> str:
    return f"{one.mean:+.3f} ({one.ci95[0]:+.3f} to {one.ci95[1]:+.3f}; {one.seeds})" if one else MISSING


def _accuracy(one: Summary | None) -> str:
    return f"{one.accuracy:.3f}" if one else MISSING


def _with_interval(one: Summary | None) -> str:
    return f"{one.accuracy:.3f} ({one.ci95[0]:.3f} to {one.ci95[1]:.3f}; {one.seeds})" if one else MISSING


def alignment() -> list[str]:
    """Win rates against the initial policy by every reward model, for each loop and round; the ranking model is bold."""
    found = read_results("alignment")
    lines = header("ranked by", "round", *JUDGES.values(), "tokens", "finished", "KL, nats per answer")
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
    """The ranking head's features whose mean contribution rose and fell most."""
    found = read_results("alignment").get("head")
    lines = header("feature", "label", "mean contribution of the initial policy", "after the last round", "change")
    if not found:
        return lines
    first, last = (found["measures"][i]["features"] for i in (0, -1))
    rows = sorted(found["features"], key=lambda one: first[str(one[0])] - last[str(one[0])])
    for number, label in rows[:5] + rows[-3:]:
        before, after = first[str(number)], last[str(number)]
        lines.append(f"| {number} | {label or 'unlabelled'} | {before:+.3f} | {after:+.3f} | {after - before:+.3f} |")
    return lines


def alignment_facts() -> list[str]:
    """Accuracies of the reward models, and the duration and conclusion of each loop."""
    found = read_results("alignment")
    lines = header("", "")
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
    """Methods in the record: those of ``known`` in that order, then the others."""
    present = dict.fromkeys(cell.way for cell in record.cells)
    return [way for way in known if way in present] + [way for way in present if way not in known]


def faults() -> list[str]:
    """Rounds of random kills and flipped bits, by action and what was found afterwards."""
    lines = header("action", "fault", "rounds", "as before", "as after", "in part", "refused", "lost", "wrong")
    for key, counts in read_results("faults").get("counts", {}).items():
        shown = [counts.get(found, 0) for found in ("before", "after", "between", "refused", "lost", "wrong")]
        lines.append(f"| {key.replace(', ', ' | ')} | {' | '.join(map(str, [sum(shown), *shown]))} |")
    return lines
