"""Write every table of the READMEs from the JSON of the benchmarks: ``python -m benchmarks.readme``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from benchmarks import evidence_tables, speed_tables
from benchmarks.common import FILES, ROOT, read_results
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYERS, TASKS, assets_dir


def heads() -> list[str]:
    """The head that bears each task's name; accuracies on its test file."""
    lines = ["| head | layer, pooling, K | test accuracy (95 % interval) | dense probe | frequency | random | longer | data |"]
    lines.append("|" + "---|" * 8)
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
    """Every layer's head: what it was chosen by, and what it then reached."""
    lines = [
        "| head | layer | pooling, K | cross-validated | its dense probe | test | dense probe | frequency | random | longer |"
    ]
    lines.append("|" + "---|" * 10)
    for task, layer, one in _measured():
        found = one["validation"]
        dense = found["by_pooling_and_k"][one["pooling"]]["dense_probe"]["accuracy"]
        lines.append(
            f"| {task} | {layer} | {one['pooling']}, {one['k']} | {found['accuracy']:.3f} | {dense:.3f} "
            f"| {one['accuracy']:.3f} | {_baselines(one)} |"
        )
    return lines


def saes() -> list[str]:
    """Quality on held-out text of every shipped SAE, as `sparserm train-sae` wrote it."""
    lines = ["| SAE | explained variance | L0 | dead latents | loss recovered |", "|" + "---|" * 5]
    for layer in DEFAULT_LAYERS:
        one = json.loads((assets_dir() / "saes" / DEFAULT_BACKBONE / f"layer_{layer}" / "metrics.json").read_text())
        lines.append(
            f"| {DEFAULT_BACKBONE}/layer_{layer} | {one['explained_variance']:.3f} | {one['l0']:.1f} "
            f"| {one['dead']:.2%} | {one['loss_recovered']:.3f} |"
        )
    return lines


def app() -> list[str]:
    """How fast the app is, as `python -m benchmarks.app` measured it."""
    record = read_results("app")
    lines = ["| in the app | median | range | aim |", "|" + "---|" * 4]
    for name, (what, aim) in _SPEEDS.items():
        one = record[name]
        lines.append(f"| {what} | {one['median_s']:.3f} s | {one['min_s']:.3f} to {one['max_s']:.3f} s | {aim} |")
    (_, early), (_, late) = list(record["memory_mb"].items())
    lines.append(f"| memory of the server after 20, 200 scores | {early:.0f}, {late:.0f} MB | | no growth |")
    return lines


def length() -> list[str]:
    """What the heads reward beside content, as `python -m benchmarks.length` measured it on the test files."""
    record = read_results("length")
    lines = [
        "| head | | length correlation | accuracy | change (95 % interval, paired) | length-balanced | about as long (n) |",
        "|" + "---|" * 7,
    ]
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


#: Names in ``length.json``, and what they are called; numbers of features that track length, and of all.
_LENGTH = {"as_it_is": "as it is", "switched_off": "{} of {} features off", "avoid_length": "trained with `--avoid-length`"}

#: Names in ``app.json``, what they are called, and what they should be.
_SPEEDS = {
    "first_paint_from_start": ("first paint, from the command", "3 s"),
    "first_paint_new_tab": ("first paint in a new tab", "3 s"),
    "score_150_tokens": ("a new response of 150 tokens, from click to drawn", "0.5 s"),
    "engine_score": ("of that, the engine alone", "as little as can be"),
    "slider_1092_pairs": ("from a switched feature to the accuracy on 1,092 pairs", "0.4 s"),
    "page_switch": ("from one page to another", "0.7 s"),
    "health_during_job": ("the server's health while a job works", "0.2 s"),
}


def _measured() -> list[tuple[str, int, dict]]:
    results = read_results("heads")
    return [(task, int(layer), one) for task in TASKS if task in results for layer, one in results[task]["layers"].items()]


def _baselines(one: dict) -> str:
    return " | ".join(f"{one[name]:.3f}" for name in ("dense_probe", "frequency", "random_directions", "length_baseline"))


#: Each stands in a README between ``<!-- table: NAME -->`` and ``<!-- end of table -->``.
TABLES: dict[str, Callable[[], list[str]]] = {
    "heads": heads,
    "layers": layers,
    "saes": saes,
    "app": app,
    "quality": evidence_tables.quality,
    "quality_full": evidence_tables.quality_full,
    "costs": evidence_tables.costs,
    "shift": evidence_tables.shift,
    "samples": evidence_tables.samples,
    "faithfulness": evidence_tables.faithfulness,
    "stability": evidence_tables.stability,
    "labels": evidence_tables.labels,
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
    "billion": speed_tables.billion,
}

PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
_TABLE = re.compile("(<!-- table: (\\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def main() -> None:
    """Replace what stands between the marks of every table."""
    for path in PAGES:
        path.write_text(_TABLE.sub(lambda found: found[1] + "\n".join([*TABLES[found[2]](), found[3]]), path.read_text()))


if __name__ == "__main__":
    main()
