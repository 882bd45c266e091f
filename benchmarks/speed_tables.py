"""Tables about speed and scale, from the JSON files of the benchmarks."""

from __future__ import annotations

from typing import Any

from benchmarks.common import header, read_results

#: Methods in ``throughput.json``, with their titles.
WAYS = {
    "tutorial": "TransformerLens bridge, `run_with_cache`, `sae.encode`, one text at a time",
    "output_hidden_states, float32": "`output_hidden_states=True`, padded batches of 16, `sae.encode`; float32",
    "output_hidden_states, bfloat16": "the same; bfloat16",
    "classifier": "reward model of the same backbone: all layers, SparseRM's batches",
    "ours": "**SparseRM**, with all latents of the SAE",
    "ours, compiled layers": "the same with compiled layers",
    "ours, 2 processes": "the same in two processes that share the GPU",
    "ours, 4 processes": "the same in four",
}

#: Dense bfloat16 multiply-adds per second of one H100 SXM, from its data sheet.
H100 = 989e12 / 2
BILLION = 1e9


def throughput() -> list[str]:
    """SparseRM and other ways to compute the same numbers on two cores; medians over interleaved rounds."""
    return _ways(read_results("throughput"))


def throughput_gpu() -> list[str]:
    """The same on a GPU."""
    return _ways(read_results("throughput_gpu"))


def _ways(found: dict[str, Any]) -> list[str]:
    lines = header("pairs", "method", "pairs/s", "tokens/s", "SparseRM's speed-up", "peak memory")
    for task, one in found.items():
        for way in one["ways"]:
            floor = f"{one['share_of_floor']:.0%} of its time is the lower bound"
            digits = 2 if way["pairs_per_s"] < 10 else 0
            faster = floor if way["way"] == "ours" else f"{way['times_slower_than_ours']:.1f}x"
            lines.append(
                f"| {one['n_pairs']:,} of {task} | {WAYS[way['way']]} | {way['pairs_per_s']:,.{digits}f} "
                f"| {way['tokens_per_s']:,.0f} | {faster} | {way['peak_mb']:,.0f} MB |"
            )
        if files := one.get("files"):
            lines += [
                f"| {files['n_pairs']:,} of {task} in a file | `sparserm score`, parts {how} | {rate:,.0f} | | | |"
                for how, rate in files["pairs_per_s"].items()
            ]
    return lines


def latency() -> list[str]:
    """Latency of one response, compared with transformers' forward pass of the same tokens through the same layers."""
    one = read_results("latency")
    lines = header("one response of 150 tokens, warm", "median", "overhead over the forward pass: median (95% interval)")
    lines.append(f"| transformers' forward pass up to the head's layer | {one['median_s']['forward']:.3f} s | |")
    for name in ("score", "explain"):
        more = {key: 1000 * value for key, value in one["beyond_forward_s"][name].items()}
        lines.append(
            f"| `model.{name}` | {one['median_s'][name]:.3f} s "
            f"| {more['median']:+.0f} ms ({more['low']:+.0f} to {more['high']:+.0f}) |"
        )
    return lines


def retraining() -> list[str]:
    """From stored representations to evaluated heads."""
    one = read_results("retraining")
    seconds = one["seconds"]
    return [
        *header("step", "seconds"),
        f"| read a file of {one['n_pairs']:,} pairs | {seconds['pairs']:.2f} |",
        f"| load hidden states and active latents at {one['layers']} layers from the store ({one['megabytes']:,.0f} MB) "
        f"| {seconds['representations']:.2f} |",
        f"| select, fit and evaluate {one['layers']} heads | {seconds['heads']:.2f} |",
        f"| total | {seconds['all']:.2f} |",
        f"| load 10,000 representations of one layer from the store | {one['seconds_per_10000_states']:.2f} |",
        f"| overhead of writing to the store, relative to the backbone | {one['store_adds']:.1%} |",
    ]


def memory() -> list[str]:
    """Peak memory of scoring files of two sizes."""
    lines = header("pairs", "scored before the process was killed", "peak memory", "every row exactly once")
    for one in read_results("memory"):
        lines.append(
            f"| {one['n_rows']:,} | {one['n_done_before']:,} | {one['peak_mb']:,.0f} MB "
            f"| {'yes' if one['each_row_once'] else 'no'} |"
        )
    return lines


def billion() -> list[str]:
    """Cost of a billion pairs, extrapolated from the work per pair and the measured rate of one H100."""
    lines = header(
        "pairs like",
        "distinct tokens per pair",
        "multiply-adds per pair",
        "one H100, measured",
        "of its peak rate",
        "H100 hours for a billion",
        "host time per pair",
        "of it in the GPU's process",
        "core hours for a billion",
    )
    gpu = read_results("throughput_gpu")
    for one in read_results("billion"):
        host = f"{one['host_seconds'] * 1e3:.2f} ms | {one['beside_seconds'] * 1e3:.2f} ms"
        host += f" | {one['host_seconds'] * BILLION / 3600:,.0f}"
        measured = "– | – | –"
        if found := gpu.get(one["task"]):
            pairs_per_s = next(way["pairs_per_s"] for way in found["ways"] if way["way"] == "ours")
            rate = found["multiply_adds"] / found["n_pairs"] * pairs_per_s
            measured = f"{pairs_per_s:,.0f} pairs/s | {rate / H100:.1%} | {BILLION / pairs_per_s / 3600:,.0f}"
        lines.append(
            f"| {one['task']} | {one['distinct_tokens']:.0f} | {one['multiply_adds'] / 1e9:.1f} billion | {measured} | {host} |"
        )
    return lines


def shapes() -> list[str]:
    """All commands on models of other sizes, with random weights."""
    lines = header(
        "shape, layer",
        "weights held",
        "resident memory, loading and reading 8 pairs",
        "loaded in",
        "tokens/s",
        "latents",
        *(f"`{command}`" for command in ("train", "score", "compare", "features", "insights", "export")),
        "`serve`: ready, first score",
    )
    for name, one in read_results("shapes").items():
        load = one["load"]
        for latents, took in one["saes"].items():
            cells = [
                f"{found['seconds']:.1f} s, {found['peak_mb'] / 1024:.1f} ({found['resident_mb'] / 1024:.1f}) GB"
                for command, found in took.items()
                if command != "serve"
            ]
            answered = f"{took['serve']['seconds']:.1f} s, {took['serve']['request_s']:.1f} s"
            lines.append(
                f"| {name}, {one['layer']} | {load['weights_mb'] / 1024:.1f} GB "
                f"| {load['resident_mb'] / load['weights_mb']:.2f} of them | {load['load_s']:.1f} s "
                f"| {load['tokens_per_s']:,.0f} | {int(latents):,} | {' | '.join(cells)} | {answered} |"
            )
    return lines


def scale_out() -> list[str]:
    """Representing, training and insights of many pairs in files, and the head of the same pairs in memory."""
    one = read_results("scale_out")
    lines = header("", "time", "peak memory of the command", "of all its processes")
    now = f"{one['pairs'] - one['resumed_rows']:,} of {one['pairs']:,} pairs"
    for name, what in {"represent": f"`represent`, {now}", "train": "`train`", "insights": "`insights`"}.items():
        found = one[name]
        memory = f"{found['peak_mb']:,.0f} MB | {found['peak_mb_of_all']:,.0f} MB"
        lines.append(f"| {what} | {found['seconds']:,.0f} s | {memory} |")
    found = one["in_memory"]
    same = f"largest difference of weights {found['largest_difference']:.1g}" if found["same_features"] else "other features"
    lines.append(f"| fit with all latents in memory: {same} | {found['seconds']:,.0f} s | {found['peak_mb']:,.0f} MB | |")
    return lines


def growth() -> list[str]:
    """Measured times and the exponent of the fitted power law; 1 is linear."""
    lines = header("cost against", "sizes", "seconds", "exponent")
    for name, one in read_results("growth").items():
        sizes = ", ".join(f"{int(size):,}" for size in one["seconds"])
        seconds = ", ".join(f"{taken:.3g}" for taken in one["seconds"].values())
        lines.append(f"| {name} | {sizes} | {seconds} | {one['exponent']:.2f} |")
    return lines


def server() -> list[str]:
    """``sparserm serve`` under load, compared with the same texts scored offline."""
    lines = header(
        "texts of",
        "requests",
        "clients",
        "failed",
        "texts/s",
        "offline texts/s",
        "ratio",
        "p50",
        "p95",
        "p99",
        "memory before, after",
    )
    for task, one in read_results("server").items():
        failed = one["requests"] - one["outcomes"].get("200", 0)
        before, after = one["memory_mb"]["before"], one["memory_mb"]["after"]
        share = one["texts_per_s"] / one["offline_texts_per_s"]
        lines.append(
            f"| {task} | {one['requests']:,} | {one['clients']} | {failed} | {one['texts_per_s']:.1f} "
            f"| {one['offline_texts_per_s']:.1f} | {share:.0%} | {one['p50_s']:.2f} s | {one['p95_s']:.2f} s "
            f"| {one['p99_s']:.2f} s | {before:,.0f}, {after:,.0f} MB |"
        )
    return lines
