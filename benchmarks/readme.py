"""Generate every table of README.md and benchmarks/README.md from the benchmarks' results: ``python -m benchmarks.readme``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from benchmarks import evidence_tables, speed_tables
from benchmarks.common import FILES, ROOT, header, read_results
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYERS, TASKS, assets_dir


def heads() -> list[str]:
    """The default head of each task: accuracies on the task's test file."""
    lines = header(
        "head",
        "layer, pooling, K",
        "test accuracy (95% interval)",
        "dense probe",
        "frequency",
        "random latents",
        "longer",
        "data",
    )
    for task, layer, one in _measured():
        if layer == read_results("heads")[task]["layer"]:
            low, high = one["ci95"]
            lines.append(
                f"| {task} | {layer}, {one['pooling']}, {one['k']} "
                f"| {one['accuracy']:.3f} ({low:.3f} to {high:.3f}, n = {one['n']}) | "
                + _baselines(one)
                + f" | {FILES[task][1]} |"
            )
    return lines


def layers() -> list[str]:
    """The heads of all layers: cross-validated accuracy, which they were chosen by, and accuracies on the test file."""
    lines = header(
        "head",
        "layer",
        "pooling, K",
        "CV accuracy",
        "CV, any features",
        "CV, dense probe",
        "test accuracy",
        "dense probe",
        "frequency",
        "random latents",
        "longer",
    )
    for task, layer, one in _measured():
        found = one["validation"]
        lines.append(
            f"| {task} | {layer} | {one['pooling']}, {one['k']} | {found['accuracy']:.3f} | {found['unnamed']['accuracy']:.3f} "
            f"| {found['dense_probe']:.3f} "
            f"| {one['accuracy']:.3f} | {_baselines(one)} |"
        )
    return lines


def saes() -> list[str]:
    """Quality of every shipped SAE on held-out text, as measured by ``sparserm train-sae``."""
    lines = header("SAE", "explained variance", "L0", "dead latents", "loss recovered")
    for layer in DEFAULT_LAYERS:
        one = json.loads((assets_dir() / "saes" / DEFAULT_BACKBONE / f"layer_{layer}" / "metrics.json").read_text())
        lines.append(
            f"| {DEFAULT_BACKBONE}/layer_{layer} | {one['explained_variance']:.3f} | {one['l0']:.1f} "
            f"| {one['dead']:.2%} | {one['loss_recovered']:.3f} |"
        )
    return lines


def app() -> list[str]:
    """Speed of the app, measured by ``python -m benchmarks.app``."""
    record = read_results("app")
    lines = header("in the app", "median", "range", "target")
    for name, (what, target) in _SPEEDS.items():
        one = record[name]
        lines.append(f"| {what} | {one['median_s']:.3f} s | {one['min_s']:.3f} to {one['max_s']:.3f} s | {target} |")
    (_, early), (_, late) = list(record["memory_mb"].items())
    lines.append(f"| memory of the server after 20 and after 200 scores | {early:.0f}, {late:.0f} MB | | no growth |")
    return lines


def length() -> list[str]:
    """How far the heads follow length on the test files, measured by ``python -m benchmarks.length``."""
    record = read_results("length")
    lines = header(
        "head",
        "variant",
        "length correlation",
        "accuracy",
        "change (95% interval, paired)",
        "length-balanced",
        "length-matched (n)",
    )
    for task, found in record.items():
        for name, what in _LENGTH.items():
            one = found[name]
            low, high = (f"{100 * end:+.1f}" for end in one["accuracy_change_ci95"])
            change = f"{100 * one['accuracy_change']:+.1f} ({low} to {high})" if name != "as_it_is" else ""
            lines.append(
                f"| {task} | {what.format(len(found['tracking']), found['k'])} | {one['margin_spearman']:+.2f} "
                f"| {one['accuracy']:.3f} | {change} | {one['length_balanced']['accuracy']:.3f} "
                f"| {one['length_matched']['accuracy']:.3f} ({one['length_matched']['n']}) |"
            )
    return lines


#: Names in ``length.json``, and their titles, filled in with the numbers of features that track length and of all features.
_LENGTH = {"as_it_is": "unchanged", "switched_off": "{} of {} features off", "avoid_length": "trained with `--avoid-length`"}

#: Names in ``app.json``, with their titles and targets.
_SPEEDS = {
    "first_paint_from_start": ("first page, from the command", "3 s"),
    "first_paint_new_tab": ("first page in a new tab", "3 s"),
    "score_150_tokens": ("score a new response of 150 tokens, from click to display", "0.5 s"),
    "engine_score": ("of which the engine", "as low as possible"),
    "slider_1092_pairs": ("switch a feature off, until the accuracy on 1,092 pairs is updated", "0.4 s"),
    "page_switch": ("change pages", "0.7 s"),
    "insights_first": ("Insights of 1,092 stored pairs, the first time, in a new tab", "3 s"),
    "insights_page": ("the same from another page", "1 s"),
    "health_during_job": ("health check of the server during a job", "0.2 s"),
}


def _measured() -> list[tuple[str, int, dict]]:
    results = read_results("heads")
    return [(task, int(layer), one) for task in TASKS if task in results for layer, one in results[task]["layers"].items()]


def _baselines(one: dict) -> str:
    return " | ".join(f"{one[name]:.3f}" for name in ("dense_probe", "frequency", "random_directions", "length_baseline"))


#: The functions that generate tables, by the NAME of the marker ``<!-- table: NAME -->``.
TABLES: dict[str, Callable[[], list[str]]] = {
    "heads": heads,
    "layers": layers,
    "saes": saes,
    "app": app,
    "second_sae": evidence_tables.second_sae,
    "second_backbone": evidence_tables.second_backbone,
    "quality": evidence_tables.quality,
    "meaning": evidence_tables.meaning,
    "quality_full": evidence_tables.quality_full,
    "costs": evidence_tables.costs,
    "shift": evidence_tables.shift,
    "samples": evidence_tables.samples,
    "faithfulness": evidence_tables.faithfulness,
    "stability": evidence_tables.stability,
    "explanations": evidence_tables.explanations,
    "bars": evidence_tables.bars,
    "null": evidence_tables.null,
    "insights": evidence_tables.insights,
    "insights_planted": evidence_tables.insights_planted,
    "planted": evidence_tables.planted,
    "labels": evidence_tables.labels,
    "faults": evidence_tables.faults,
    "length": length,
    "throughput": speed_tables.throughput,
    "throughput_gpu": speed_tables.throughput_gpu,
    "latency": speed_tables.latency,
    "retraining": speed_tables.retraining,
    "alignment": evidence_tables.alignment,
    "alignment_facts": evidence_tables.alignment_facts,
    "climbed": evidence_tables.climbed,
    "server": speed_tables.server,
    "memory": speed_tables.memory,
    "growth": speed_tables.growth,
    "scale_out": speed_tables.scale_out,
    "shapes": speed_tables.shapes,
    "billion": speed_tables.billion,
}

PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
_TABLE = re.compile("(<!-- table: (\\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def main() -> None:
    """Replace the text between the markers of every table."""
    for path in PAGES:
        path.write_text(_TABLE.sub(lambda found: found[1] + "\n".join([*TABLES[found[2]](), found[3]]), path.read_text()))


if __name__ == "__main__":
    main()
