"""Cost as a function of pairs, length, K and d_sae: ``python -m benchmarks.growth [--rounds 3]``.

Each is measured at four sizes that take turns; medians over rounds. "Read" is computing representations with the real
backbone on real texts, the store off. "Fitted" is fitting a head to representations of real pairs, resampled to the number of
pairs, with the shipped SAE's latents subsampled or repeated to d_sae; in fits each firing goes to one of the copies, as SAEs of
any width have about as many firings. The plot is ``benchmarks/growth.svg``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.common import ROOT, task_pairs, write_results
from sparserm.backbone.model import Backbone
from sparserm.heads.fitting import FitSettings, fit_head
from sparserm.heads.reward import rewards
from sparserm.representations.represent import represent_pairs
from sparserm.representations.store import stored
from sparserm.representations.values import ActiveLatents, LatentSummary, PairRepresentations, Representations
from sparserm.sae.autoencoder import SparseAutoencoder, load_sae
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER
from sparserm.types import PreferencePair

SAE = f"{DEFAULT_BACKBONE}/layer_{DEFAULT_LAYER}"
PAIRS, LENGTHS = (15, 30, 60, 120), (64, 128, 256, 512)
FITTED, KS, WIDTHS = (1250, 2500, 5000, 10_000), (8, 16, 32, 64), (1024, 8192, 32_768, 131_072)
#: Numbers of pairs per length, of pairs to resample fits from, of pairs of fits in which something else grows, and of scored
#: responses.
OF_A_LENGTH, DRAWN_FROM, OF_A_FIT, SCORED = 8, 2000, 2500, 20_000

#: The work to time, by size.
Series = Mapping[int, Callable[[], Any]]


def series(backbone: Backbone) -> dict[str, Series]:
    """All series, by the name of the axis in the plot."""
    sae = load_sae(SAE)
    pairs = alike(task_pairs("safety", "train").pairs)
    short = task_pairs("truthfulness", "train").pairs

    def read(some: Sequence[PreferencePair], dictionary: SparseAutoencoder = sae) -> Callable[[], Any]:
        return partial(represent_pairs, some, backbone, {sae.hook: dictionary}, "mean")

    known = represented(backbone, sae)

    def fit(n: int, k: int = 32, width: int = sae.d_sae) -> Callable[[], Any]:
        return partial(fit_head, drawn(known, n, width), of_width(sae, width), FitSettings(k))

    responses = drawn(known, SCORED, sae.d_sae).chosen
    heads = {k: fit(OF_A_FIT, k)().head for k in KS}
    return {
        "pairs read": {n: read(pairs[:n]) for n in PAIRS},
        "tokens of a response, read": {n: read(of_length(backbone, short[:OF_A_LENGTH], n)) for n in LENGTHS},
        "d_sae, read": {width: read(pairs[: PAIRS[0]], of_width(sae, width)) for width in WIDTHS},
        "pairs fitted": {n: fit(n) for n in FITTED},
        "K, fitted": {k: fit(OF_A_FIT, k) for k in KS},
        "d_sae, fitted": {width: fit(OF_A_FIT, width=width) for width in WIDTHS},
        "K, states to rewards": {k: partial(rewards, heads[k], responses) for k in KS},
    }


def alike(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """The pairs sorted by closeness to the median length, so that the amount of text grows with the number of pairs."""
    lengths = np.array([sum(map(len, (pair.prompt[-1].content, pair.chosen, pair.rejected))) for pair in pairs])
    return [pairs[i] for i in np.argsort(np.abs(lengths - np.median(lengths)), kind="stable")]


def of_length(backbone: Backbone, pairs: Sequence[PreferencePair], n: int) -> list[PreferencePair]:
    """The pairs with responses repeated and truncated to about ``n`` tokens."""
    tokenizer = backbone.chat.tokenizer

    def cut(text: str) -> str:
        once = len(tokenizer(text, add_special_tokens=False).input_ids)
        ids = tokenizer(" ".join([text] * (n // once + 1)), add_special_tokens=False).input_ids
        return str(tokenizer.decode(ids[:n]))

    return [replace(pair, chosen=cut(pair.chosen), rejected=cut(pair.rejected)) for pair in pairs]


def represented(backbone: Backbone, sae: SparseAutoencoder) -> PairRepresentations:
    """Representations of real pairs, from the store if they are stored."""
    with stored() as store:
        pairs = task_pairs("truthfulness", "train").pairs[:DRAWN_FROM]
        saes = {sae.hook: sae}
        return represent_pairs(pairs, backbone, saes, "mean", strengths=sae.separable, store=store)[sae.hook]


def drawn(known: PairRepresentations, n: int, width: int) -> PairRepresentations:
    """``n`` resampled pairs, with the latents of :func:`of_width`."""
    found = known.take(np.random.default_rng(n).integers(len(known.groups), size=n))

    def resized(side: Representations) -> Representations:
        assert side.latents is not None
        own = np.arange(width) * side.latents.d_sae // width
        if isinstance(side.latents, LatentSummary):
            return replace(side, latents=_resized(side.latents, own))
        assert isinstance(side.latents, ActiveLatents)
        active = np.unpackbits(side.latents.bits, axis=-1, count=side.latents.d_sae)[..., own]
        return replace(side, latents=ActiveLatents(np.packbits(active, axis=-1), width))

    return replace(found, chosen=resized(found.chosen), rejected=resized(found.rejected))


def _resized(latents: LatentSummary, own: np.ndarray) -> LatentSummary:
    """The latents ``own``, ascending, numbered from 0; a firing of one that is there several times goes to any one of them."""
    times = np.bincount(own, minlength=latents.d_sae)
    first = np.cumsum(times) - times
    kept = times[latents.indices] > 0
    fired = latents.fired[kept]
    drawn = np.random.default_rng(0).random(len(fired))
    fired["latent"] = first[fired["latent"]] + (drawn * times[fired["latent"]]).astype(np.int32)
    ends = np.concatenate([[0], np.cumsum(kept)])
    return LatentSummary(ends[latents.indptr], fired, len(own))


def of_width(sae: SparseAutoencoder, width: int) -> SparseAutoencoder:
    """The SAE with its latents subsampled or repeated to ``width``."""
    latents = np.arange(width) * sae.d_sae // width
    by_row = {name: weight[latents] for name, weight in sae.weights.items() if weight.shape[0] == sae.d_sae}
    by_column = {"W_enc": sae.weights["W_enc"][:, latents]}
    return replace(sae, weights={**sae.weights, **by_row, **by_column})


def measure(works: Series, rounds: int) -> dict[int, float]:
    """Median seconds by size; the first round is a warm-up."""
    seconds: dict[int, list[float]] = {size: [] for size in works}
    for number in range(rounds + 1):
        for size, work in works.items():
            started = time.perf_counter()
            work()
            if number:
                seconds[size].append(time.perf_counter() - started)
    return {size: statistics.median(taken) for size, taken in seconds.items()}


def exponent(seconds: Mapping[int, float]) -> float:
    """Exponent of the fitted power law; 1 is linear."""
    return float(np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0])


def plot(found: Mapping[str, Mapping[int, float]]) -> None:
    """Draw one panel per series, both axes logarithmic, with a line for linear growth."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "sparserm", "font.size": 9}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(12, 5.2), layout="constrained")
    for axis, (name, seconds) in zip(axes.flat, found.items(), strict=False):
        sizes, taken = np.array(list(seconds)), np.array(list(seconds.values()))
        axis.loglog(sizes, taken[-1] * sizes / sizes[-1], color="#9aa0a6", linestyle="--", linewidth=1, label="linear")
        axis.loglog(sizes, taken, color="#2a6fdb", marker="o", label="measured")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.set_yticks(ends := taken[[0, -1]], [f"{one:.2g}" for one in ends])
        axis.minorticks_off()
        axis.set_title(f"{name}: exponent {exponent(seconds):.2f}", fontsize=9)
        axis.set_ylabel("seconds")
    axes.flat[0].legend(frameon=False)
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    figure.savefig(ROOT / "benchmarks" / "growth.svg", metadata={"Date": None})


def main() -> None:
    """Measure all series, write the results and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=DEFAULT_LAYER, device="cpu")
    found = {}
    for name, works in series(backbone).items():
        found[name] = measure(works, rounds)
        print(name, found[name], f"exponent {exponent(found[name]):.2f}", flush=True)
    write_results("growth", {name: {"seconds": one, "exponent": exponent(one)} for name, one in found.items()})
    plot(found)


if __name__ == "__main__":
    main()
