"""Selection of a gated head's features. All selectors share one signature.

The features of such a head mean what they show: each surely differs between chosen and rejected responses, is chosen again on
other prompts, and its weight has the sign of the difference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sparserm.heads.screening import ENOUGH, FALSE_DISCOVERIES, Candidates, GatedScores, as_candidates, screen
from sparserm.heads.selection import FeatureStats
from sparserm.heads.signed_weights import elastic_net_path
from sparserm.support.defaults import MAX_GATED_FEATURES
from sparserm.support.threads import in_threads

#: Features that may fire in a response on average: more bars are not read.
MOST_FIRING = 12.0
#: Times that the prompts are split into complementary halves (Shah and Samworth, 2013).
SPLITS = 10
#: Share of the halves in which a feature must be chosen to be kept.
OFTEN = 0.4
#: Features with a label for each without, where most are to have one.
OTHERS = 5


@dataclass(frozen=True)
class GatedStatistics:
    """Statistics of the training pairs that the selectors of gated heads use.

    Attributes:
        scores: gated scores of every latent.
        stats: activation frequencies of the latents.
        seed: of what is drawn at random.
        hold_length: screen with length held fixed.
        among: ``[d_sae]`` bool, the latents that may be chosen; all if None.
    """

    scores: GatedScores
    stats: FeatureStats
    seed: int = 0
    hold_length: bool = False
    among: np.ndarray | None = None

    @functools.cached_property
    def usable(self) -> np.ndarray:
        """``[d_sae]`` bool: latents that may be chosen, are active in some response, and whose score is not always zero."""
        scored = np.zeros(len(self.stats.gap), bool)
        for latents, scores in self.scores.blocks():
            for side in (scores.chosen, scores.rejected):
                scored[latents[side.indices[side.data != 0]]] = True
        allowed = True if self.among is None else self.among
        return scored & allowed & ((self.stats.f_chosen + self.stats.f_rejected) > 0)

    def seeded(self, seed: int) -> GatedStatistics:
        """The same statistics with another seed; what does not depend on it is computed once."""
        found = replace(self, seed=seed)
        vars(found).update(usable=self.usable, screened=self.screened)
        return found

    @functools.cached_property
    def screened(self) -> Candidates:
        """The latents that surely differ, or in few pairs those that may."""
        return screen(self.scores, hold_length=self.hold_length, among=self.among)

    @functools.cached_property
    def frequency(self) -> np.ndarray:
        """``[d_sae]`` share of the halves of the prompts in which the path chooses each screened latent; zero for others.

        Stability selection, Meinshausen and Buhlmann (2010).
        """
        found = self.screened
        prompts = np.unique(self.scores.groups)
        rng = np.random.default_rng(self.seed)
        halves = [half for _ in range(SPLITS) for half in np.array_split(rng.permutation(prompts), 2) if len(half)]

        def choose(half: np.ndarray) -> np.ndarray:
            rows = np.flatnonzero(np.isin(self.scores.groups, half))
            return found.latents[_path(found.take(rows), MAX_GATED_FEATURES)]

        counts = np.zeros(self.scores.chosen.shape[1])
        for latents in in_threads(choose, halves):
            counts[latents] += 1
        return counts / len(halves)


#: A selector takes the statistics and the maximum number of features, and returns candidates and the places of the chosen ones.
GatedSelector = Callable[[GatedStatistics, int], tuple[Candidates, np.ndarray]]


def select_stable(statistics: GatedStatistics, k: int) -> tuple[Candidates, np.ndarray]:
    """Screened latents that the path chooses in a share of :data:`OFTEN` or more of the halves, the most frequent first.

    Where the pairs are too few for enough sure latents, or for any to come back that often, those that differ most: heads from
    100 pairs ranked 1 to 4 points better on held-out prompts than with those that the path chooses.
    """
    found = statistics.screened
    if (found.q <= FALSE_DISCOVERIES).sum() < ENOUGH:
        return found, _readable(found, np.argsort(-np.abs(found.z), kind="stable"), k)
    frequency = statistics.frequency[found.latents]
    order = np.lexsort((-np.abs(found.z), -frequency))
    often = order[frequency[order] >= OFTEN]
    return found, _readable(found, often if len(often) else order, k)


def select_frequency(statistics: GatedStatistics, k: int) -> tuple[Candidates, np.ndarray]:
    """The paper's selector: the latents with the largest frequency gaps, as many of each sign (arXiv 2511.07896)."""
    live = np.flatnonzero(statistics.usable)
    order = live[np.argsort(-statistics.stats.gap[live], kind="stable")]
    # From both ends in turn, which after half of the way has had every latent once.
    turns = np.stack([order, order[::-1]], axis=1).ravel()[: len(order)]
    latents = turns[: 2 * k]
    gaps = statistics.stats.gap[latents]
    if not gaps.all():  # what fires equally often may still fire more strongly
        gaps = np.where(gaps == 0, as_candidates(statistics.scores, latents).z, gaps)
    found = as_candidates(statistics.scores, latents, gaps)
    return found, _readable(found, np.arange(len(found.latents)), k)


def select_random(statistics: GatedStatistics, k: int) -> tuple[Candidates, np.ndarray]:
    """Latents drawn at random: the baseline for all other selectors."""
    usable = np.flatnonzero(statistics.usable)
    drawn = np.random.default_rng(statistics.seed).choice(usable, min(k, len(usable)), replace=False)
    found = as_candidates(statistics.scores, drawn)
    return found, np.arange(len(drawn))


#: Selectors by name, as offered on the command line and in the app; the first is the default.
GATED_SELECTORS: dict[str, GatedSelector] = {"stable": select_stable, "frequency": select_frequency, "random": select_random}


def prefer_named(statistics: GatedStatistics, named: np.ndarray, select: GatedSelector, k: int) -> GatedStatistics:
    """The same statistics, of the latents that a head may use of which most features are to have a name.

    These are all that have one, and of the others those that come back most often: as many that no more than one in
    ``OTHERS + 1`` of the chosen features has no name. On held-out prompts such heads ranked as well as those of any latents;
    without the others they ranked one to two points worse.

    Args:
        named: ``[d_sae]`` bool.
    """

    def selected(limited: GatedStatistics) -> np.ndarray:
        found, places = select(limited, k)
        return named[found.latents[places]]

    only_named = replace(statistics, among=named)
    frequency = np.where(named, 0, statistics.frequency)
    others = np.argsort(-frequency, kind="stable")[: (frequency >= OFTEN).sum()]
    n_others = len(selected(only_named)) // OTHERS
    while len(others := others[:n_others]):
        among = named.copy()
        among[others] = True
        limited = replace(statistics, among=among)
        has_name = selected(limited)
        allowed = int(has_name.sum()) // OTHERS
        if (~has_name).sum() <= allowed:
            return limited
        n_others = min(allowed, len(others) - 1)  # they took the place of features with a name
    return only_named


def _path(found: Candidates, k: int) -> np.ndarray:
    """Places of the candidates that the elastic-net path chooses: up to ``k``, while no more than :data:`MOST_FIRING` fire.

    Where even its first step has more, the one that differs most, with which every path starts.
    """
    means = found.differences.mean(0, dtype=np.float64)
    chosen = np.argsort(-means, kind="stable")[:1] if (means > 0).any() else np.zeros(0, np.int64)
    for places in elastic_net_path(found.differences):
        if len(places) > k or found.rate[places].sum() > MOST_FIRING:
            break
        chosen = places
    return chosen


def _readable(found: Candidates, order: np.ndarray, k: int) -> np.ndarray:
    """The first of ``order``, up to ``k``, while no more than :data:`MOST_FIRING` fire; at least one."""
    return order[: max(1, min(k, int((found.rate[order].cumsum() <= MOST_FIRING).sum())))]
