"""What explanations mean: ``python -m benchmarks.explanations [WAY ...] [--tasks TASK ...]``.

A reward is an exact sum of contributions. This measures what a reader can make of them, on test responses: whether the feature
behind a bar fires in the text, whether a weight has the sign that its latent shows in the training pairs, and whether heads
from other training prompts have the same features. ``benchmarks.bars`` measures whether labels are true of the texts. Results
of other ways and tasks are kept in ``benchmarks/results/explanations.json``; the picture is ``benchmarks/explanations.svg``.

The way ``shipped`` is the head of that name; the others are fitted to the same training pairs at the same layer and pooling.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from benchmarks.common import ROOT, read_results, task_pairs, write_results
from sparserm.evaluation.baselines import dense_probe_margins, random_latent_heads
from sparserm.evaluation.intervals import mean_interval
from sparserm.heads.fitting import FitSettings, fit_head
from sparserm.heads.reward import RewardHead, contributions, head_scores, reward_margins
from sparserm.heads.selection import FeatureStats, feature_stats
from sparserm.model import SparseRM
from sparserm.representations.values import LatentSummary, PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.defaults import MAX_FEATURES, TASKS
from sparserm.training.evidence import resample
from sparserm.types import PreferencePair

#: Resamples of the training prompts.
RESAMPLES = 10
#: The shipped head, which prefers features with a label, and heads of any features. They need an SAE whose latents have
#: thresholds of their own.
SHIPPED, GATED = "shipped", "gated"
#: Correlation of firing over the training responses from which two latents count as firing together.
TOGETHER = 0.7


@dataclass(frozen=True)
class Task:
    """The material of one task: a shipped head, its SAE, and training and test pairs with latent strengths."""

    model: SparseRM
    sae: SparseAutoencoder
    train: PairRepresentations
    test: PairRepresentations
    test_pairs: Sequence[PreferencePair]

    @property
    def stats(self) -> FeatureStats:
        """Activation frequencies of the latents over the training pairs."""
        return feature_stats(self.train, "any")

    def settings(self, selection: str) -> FitSettings:
        """Settings of a head with the shipped head's pooling; all ways but the first two are selectors of projections."""
        if selection in (SHIPPED, GATED):
            named = selection == SHIPPED and self.model.card.training["settings"]["named"]
            return FitSettings(pooling=self.train.pooling, score="gated", named=named)
        return FitSettings(k=MAX_FEATURES, score="projection", pooling=self.train.pooling, selection=selection)


@dataclass(frozen=True)
class Meaning:
    """What the explanations of one head mean.

    Attributes:
        accuracy: share of the test pairs ranked correctly.
        silent_share: share of the sum of absolute contributions that belongs to latents which fire nowhere in the response.
        sign_agreement: share of the weights with the sign that their latent shows in the training pairs, see
            :func:`shown_signs`.
        firing: median number of the head's latents that fire in a response.
        minus_dense, minus_frequency, minus_random: accuracy minus that of the dense probe, of the paper's selector with as many
            features, and of as many random latents (mean of five), each with its 95 % interval over prompts.
    """

    k: int
    accuracy: float
    silent_share: float
    sign_agreement: float
    firing: float
    minus_dense: tuple[float, float, float]
    minus_frequency: tuple[float, float, float]
    minus_random: tuple[float, float, float]


@dataclass(frozen=True)
class Agreement:
    """Agreement of heads fitted to resampled training prompts, each with all its choices; means over pairs of heads.

    Attributes:
        jaccard: Jaccard index of their features.
        families: the same of their families: one is found in another head that has any of its features.
        matched: share of the features of one that the other has, or has one that fires together with it (:data:`TOGETHER`).
    """

    jaccard: float
    families: float
    matched: float


def load_task(name: str) -> Task:
    """Represent the pairs of a task with the SAE of its shipped head."""
    model = SparseRM.from_pretrained(name)
    sae = model.load_sae()
    data = [task_pairs(name, split) for split in ("train", "test")]
    train, test = (model.represent(one, sae=sae, strengths=True) for one in data)
    return Task(model, sae, train, test, data[1].pairs)


def fires(latents: LatentSummary, features: np.ndarray) -> np.ndarray:
    """``[n, K]`` bool, in which responses each of ``features [K]`` fires."""
    place = np.full(latents.d_sae, -1)
    place[features] = np.arange(len(features))
    rows, columns = np.repeat(np.arange(len(latents.indptr) - 1), np.diff(latents.indptr)), place[latents.indices]
    found = np.zeros((len(latents.indptr) - 1, len(features)), bool)
    found[rows[columns >= 0], columns[columns >= 0]] = True
    return found


def shown_signs(head: RewardHead, stats: FeatureStats, train: PairRepresentations) -> np.ndarray:
    """``[K]`` sign of each feature's frequency gap over the training pairs, or of its score's gap if that is zero."""
    gaps = stats.gap[head.features]
    scores = (head_scores(head, train.chosen) - head_scores(head, train.rejected)).mean(0)
    return np.asarray(np.sign(np.where(gaps == 0, scores, gaps)))


def meaning(task: Task, head: RewardHead, baselines: Mapping[str, Sequence[np.ndarray]]) -> Meaning:
    """Measure a head on the test responses, beside the margins of its baselines."""
    parts = np.abs(contributions_in_pairs(head, task.test))
    fired = fires_in_pairs(task.test, head.features)
    correct = reward_margins(head, task.test) > 0

    def against(name: str) -> tuple[float, float, float]:
        differences = np.stack([correct.astype(np.int8) - (margins > 0).astype(np.int8) for margins in baselines[name]])
        return (float(differences.mean()), *mean_interval(differences, task.test.groups))

    return Meaning(
        k=len(head.features),
        accuracy=float(correct.mean()),
        silent_share=float(parts[~fired].sum() / parts.sum()),
        sign_agreement=float((np.sign(head.weights) == shown_signs(head, task.stats, task.train)).mean()),
        firing=float(np.median(fired.sum(1))),
        minus_dense=against("dense"),
        minus_frequency=against("frequency"),
        minus_random=against("random"),
    )


def agreement(task: Task, settings: FitSettings) -> Agreement:
    """Fit heads to resampled training prompts and compare their features."""
    found = [fit_head(task.train.take(resample(task.train.groups, seed)), task.sae, settings).head for seed in range(RESAMPLES)]
    used = np.unique(np.concatenate([head.features for head in found]))
    fired = fires_in_pairs(task.train, used).astype(np.float32)
    fired = (fired - fired.mean(0)) / np.maximum(fired.std(0), 1e-9)
    together = (fired.T @ fired / len(fired) >= TOGETHER) | np.eye(len(used), dtype=bool)
    has = np.array([np.isin(used, head.features) for head in found])

    def matched(a: np.ndarray, b: np.ndarray) -> float:
        return float((together[np.ix_(a, b)].any(1).mean() + together[np.ix_(b, a)].any(1).mean()) / 2)

    pairs = list(combinations(has, 2))
    return Agreement(
        jaccard=float(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs])),
        families=float(np.mean([shared_families(a, b) for a, b in combinations(found, 2)])),
        matched=float(np.mean([matched(a, b) for a, b in pairs])),
    )


def _families(head: RewardHead) -> list[int]:
    """The family of each feature; each its own where they were not grouped."""
    return (head.features if head.families is None else head.families).tolist()


def families_found(head: RewardHead, other: RewardHead) -> int:
    """Number of a head's families of which another head has a feature."""
    has = set(other.features.tolist())
    return len({family for feature, family in zip(head.features.tolist(), _families(head), strict=True) if feature in has})


def shared_families(a: RewardHead, b: RewardHead) -> float:
    """Jaccard index of the families of two heads, see :func:`families_found`."""
    common = (families_found(a, b) + families_found(b, a)) / 2
    return common / (sum(len(set(_families(one))) for one in (a, b)) - common)


def contributions_in_pairs(head: RewardHead, pairs: PairRepresentations) -> np.ndarray:
    """Contributions ``[2n, K]``, for all chosen responses, then for all rejected ones."""
    return contributions(head, np.concatenate([head_scores(head, pairs.chosen), head_scores(head, pairs.rejected)]))


def fires_in_pairs(pairs: PairRepresentations, features: np.ndarray) -> np.ndarray:
    """In which responses features fire, ``[2n, K]`` bool, for all chosen responses, then for all rejected ones."""
    return np.concatenate([fires(pairs.chosen.strengths, features), fires(pairs.rejected.strengths, features)])


def measure(task: Task, name: str, ways: Sequence[str]) -> dict[str, Any]:
    """The results of the ways for one task."""
    margins = {
        "dense": [dense_probe_margins(task.train, task.test)],
        "frequency": [reward_margins(_fit(task, "frequency"), task.test)],
        "random": [
            reward_margins(head, task.test) for head in random_latent_heads(task.train, task.sae, task.settings("random"))
        ],
    }
    found: dict[str, Any] = {}
    for way in ways:
        if way in (SHIPPED, GATED) and not task.sae.separable:
            continue
        head = task.model.head if way == SHIPPED else _fit(task, way)
        found[way] = {"layer": task.sae.hook.layer, "pooling": task.train.pooling, **asdict(meaning(task, head, margins))}
        found[way] |= asdict(agreement(task, task.settings(way)))
        print(name, way, found[way], flush=True)
    return found


def _fit(task: Task, way: str) -> RewardHead:
    return fit_head(task.train, task.sae, task.settings(way)).head


#: Ways in the picture, with their colours; the marker is the task's.
DRAWN = {"shipped": "#c2318b", "gated": "#2a6fdb", "sparse": "#d0582b", "frequency": "#3d8f5f", "effect_size": "#8a63c7"}
MARKERS = ("o", "s", "^", "D")


def plot(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the accuracy of all ways, minus the dense probe's, against the silent share and against the stability."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "sparserm", "font.size": 9}
    from matplotlib import pyplot

    titles = {
        "silent_share": "contributions of silent features (less is better)",
        "families": "overlap over resampled prompts (more is better)",
    }
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
    for axis, (measure_name, title) in zip(axes, titles.items(), strict=True):
        axis.axhline(0, color="#9aa0a6", linewidth=1, linestyle="--")
        for (way, colour), (marker, task) in product(DRAWN.items(), zip(MARKERS, results, strict=False)):
            if one := results[task].get(way):
                axis.plot(one[measure_name], 100 * one["minus_dense"][0], marker, color=colour, markersize=7)
        axis.set_xlabel(title)
    axes[0].set_ylabel("accuracy minus dense probe, points")
    kinds = [axes[0].plot([], [], "o", color=colour, label=way)[0] for way, colour in DRAWN.items()]
    tasks = [
        axes[0].plot([], [], marker, color="#5f6368", label=task)[0] for marker, task in zip(MARKERS, results, strict=False)
    ]
    figure.legend(handles=kinds + tasks, loc="outside right center", frameon=False)
    figure.savefig(ROOT / "benchmarks" / "explanations.svg", metadata={"Date": None})


WAYS = (SHIPPED, GATED, "sparse", "frequency", "effect_size")


def main() -> None:
    """Measure the ways given on the command line, or all, on all tasks or those given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ways", nargs="*", default=WAYS, metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    given = parser.parse_args()
    if unknown := set(given.ways) - set(WAYS):
        parser.error(f"unknown way {', '.join(sorted(unknown))}; expected some of {', '.join(WAYS)}")
    results = read_results("explanations")
    for name in given.tasks:
        results[name] = results.get(name, {}) | measure(load_task(name), name, given.ways)
        write_results("explanations", results)
    plot(results)


if __name__ == "__main__":
    main()
