"""Tables of what was measured about speed and scale, from the JSON files of the benchmarks."""

from __future__ import annotations

from typing import Any

from benchmarks.common import read_results

#: Ways in ``throughput.json``, and what they are called.
WAYS = {
    "tutorial": "TransformerLens bridge, `run_with_cache`, `sae.encode`, text by text",
    "output_hidden_states, float32": "`output_hidden_states=True`, padded batches of 16, `sae.encode`; float32",
    "output_hidden_states, bfloat16": "the same; bfloat16",
    "classifier": "reward model of the same backbone, all layers, our batches",
    "ours": "**ours**, with all latents of the SAE",
}

#: Dense bfloat16 multiply-adds a second of one H100 SXM as its data sheet has them.
H100 = 989e12 / 2
BILLION = 1e9


def throughput() -> list[str]:
    """Ours beside other ways to the same numbers; medians over rounds in which the ways took turns."""
    return _ways(read_results("throughput"))


def throughput_gpu() -> list[str]:
    """The same on a GPU."""
    return _ways(read_results("throughput_gpu"))


def _ways(found: dict[str, Any]) -> list[str]:
    lines = ["| pairs | way | pairs/s | tokens/s | ours is faster by | peak memory |", "|" + "---|" * 6]
    for task, one in found.items():
        for way in one["ways"]:
            floor = f"{one['share_of_floor']:.0%} of its time is the floor"
            digits = 2 if way["pairs_per_s"] < 10 else 0
            faster = floor if way["way"] == "ours" else f"{way['times_slower_than_ours']:.1f} times"
            lines.append(
                f"| {one['n_pairs']:,} of {task} | {WAYS[way['way']]} | {way['pairs_per_s']:,.{digits}f} "
                f"| {way['tokens_per_s']:,.0f} | {faster} | {way['peak_mb']:,.0f} MB |"
            )
    return lines


def latency() -> list[str]:
    """One response beside transformers' forward pass of the same tokens through the same layers."""
    one = read_results("latency")
    lines = [
        "| one response of 150 tokens, warm | median | beyond the forward pass of the same round: median (95 % interval) |",
        "|" + "---|" * 3,
    ]
    lines.append(f"| transformers' forward pass through the head's layer | {one['median_s']['forward']:.3f} s | |")
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
        "| step | seconds |",
        "|---|---|",
        f"| read the file of {one['n_pairs']:,} pairs | {seconds['pairs']:.2f} |",
        f"| states and active latents at {one['layers']} layers, stored ({one['megabytes']:,.0f} MB) "
        f"| {seconds['representations']:.2f} |",
        f"| select, fit and evaluate {one['layers']} heads | {seconds['heads']:.2f} |",
        f"| together | {seconds['all']:.2f} |",
        f"| 10,000 representations of one layer from the store | {one['seconds_per_10000_states']:.2f} |",
        f"| what the store adds to reading pairs with the backbone | {one['store_adds']:.1%} |",
    ]


def memory() -> list[str]:
    """Files scored as a stream."""
    lines = ["| pairs | scored before it was killed | peak memory | each row once |", "|" + "---|" * 4]
    for one in read_results("memory"):
        lines.append(
            f"| {one['n_rows']:,} | {one['n_done_before']:,} | {one['peak_mb']:,.0f} MB "
            f"| {'yes' if one['each_row_once'] else 'no'} |"
        )
    return lines


def billion() -> list[str]:
    """A billion pairs on accelerators, from the work of one and from the rate at which one H100 did such work."""
    lines = [
        "| pairs like | a pair's distinct tokens | its multiply-adds | one H100, measured | of its dense rate "
        "| a billion: H100 hours | the host's time for a pair | a billion: core hours |",
        "|" + "---|" * 8,
    ]
    gpu = read_results("throughput_gpu")
    for one in read_results("billion"):
        host = f"{one['host_seconds'] * 1e3:.2f} ms | {one['host_seconds'] * BILLION / 3600:,.0f}"
        measured = "– | – | –"
        if found := gpu.get(one["task"]):
            pairs_per_s = next(way["pairs_per_s"] for way in found["ways"] if way["way"] == "ours")
            rate = found["multiply_adds"] / found["n_pairs"] * pairs_per_s
            measured = f"{pairs_per_s:,.0f} pairs/s | {rate / H100:.1%} | {BILLION / pairs_per_s / 3600:,.0f}"
        lines.append(
            f"| {one['task']} | {one['distinct_tokens']:.0f} | {one['multiply_adds'] / 1e9:.1f} billion | {measured} | {host} |"
        )
    return lines


def growth() -> list[str]:
    """Exponents of the power laws nearest to what was measured; 1 is linear."""
    lines = ["| cost against | sizes | seconds | exponent |", "|" + "---|" * 4]
    for name, one in read_results("growth").items():
        sizes = ", ".join(f"{int(size):,}" for size in one["seconds"])
        seconds = ", ".join(f"{taken:.3g}" for taken in one["seconds"].values())
        lines.append(f"| {name} | {sizes} | {seconds} | {one['exponent']:.2f} |")
    return lines


def server() -> list[str]:
    """`sparserm serve` under load, beside the same texts scored offline."""
    lines = [
        "| texts of | requests | clients | failed | texts/s | offline | of offline | p50 | p95 | p99 | memory before, after |",
        "|" + "---|" * 11,
    ]
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
