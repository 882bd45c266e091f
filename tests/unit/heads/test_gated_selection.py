"""Selection of gated features: what is planted comes back, what is not there is not found, and the limits hold."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from sparserm.heads.gated_selection import (
    GATED_SELECTORS,
    MOST_FIRING,
    OFTEN,
    OTHERS,
    SPLITS,
    GatedSelector,
    GatedStatistics,
    prefer_named,
    select_frequency,
    select_random,
    select_stable,
)
from sparserm.heads.screening import Candidates, GatedScores
from tests.unit.gated import made_up_scores, sparse_scores, stats_of

N, M = 300, 400


def _statistics(scores: GatedScores, seed: int = 0) -> GatedStatistics:
    return GatedStatistics(scores, stats_of(scores), seed)


def _noise(seed: int, n: int = N, m: int = M) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents from rare to frequent that have nothing to do with the preference; two pairs a prompt, which are alike."""
    rng = np.random.default_rng(seed)
    rates = np.geomspace(0.02, 0.9, m)
    chosen, rejected = (sparse_scores(rng, (n, m), rates) for _ in range(2))
    groups = np.arange(n) // 2
    chosen[1::2, ::3], rejected[1::2, ::3] = chosen[::2, ::3], rejected[::2, ::3]
    return chosen, rejected, groups


@functools.cache
def _planted() -> GatedStatistics:
    """Latent 5 fires more in chosen responses, 17 more in rejected ones."""
    chosen, rejected, groups = _noise(0)
    rng = np.random.default_rng(1)
    chosen[:, 5] += sparse_scores(rng, (N, 1), 0.5)[:, 0]
    rejected[:, 17] += sparse_scores(rng, (N, 1), 0.5)[:, 0]
    return _statistics(made_up_scores(chosen, rejected, groups))


def test_planted_latents_come_back_in_every_half_and_are_chosen_with_their_signs() -> None:
    statistics = _planted()
    assert statistics.frequency[[5, 17]].tolist() == [1.0, 1.0]
    found, places = select_stable(statistics, 64)
    signs = dict(zip(found.latents[places].tolist(), found.signs[places].tolist(), strict=True))
    assert signs[5] == 1 and signs[17] == -1
    assert (found.q[places] <= 0.05).sum() >= 2 and set(found.latents[places[:2]]) == {5, 17}


def test_frequencies_are_shares_of_halves_and_zero_for_what_was_screened_out() -> None:
    statistics = _planted()
    frequency, screened = statistics.frequency, statistics.screened.latents
    assert np.allclose(frequency * 2 * SPLITS, np.round(frequency * 2 * SPLITS)) and frequency.max() <= 1
    assert (np.delete(frequency, screened) == 0).all()


def test_the_halves_hold_whole_prompts(monkeypatch) -> None:
    statistics = _statistics(_planted().scores)
    seen = []
    take, groups = Candidates.take, statistics.scores.groups

    def watched(self: Candidates, rows: np.ndarray) -> Candidates:
        seen.append(set(groups[rows].tolist()))
        assert set(np.flatnonzero(np.isin(groups, list(seen[-1])))) == set(rows.tolist())
        return take(self, rows)

    monkeypatch.setattr(Candidates, "take", watched)
    assert statistics.frequency.any()
    assert len(seen) == 2 * SPLITS and {len(prompts) for prompts in seen} == {N // 4}
    assert len({frozenset(prompts) for prompts in seen}) == 2 * SPLITS
    assert sum(not one & other for one in seen for other in seen) == 2 * SPLITS  # each has its complement


def test_a_latent_that_differs_one_way_in_one_half_and_the_other_way_in_the_other_does_not_come_back() -> None:
    turns = np.where(np.arange(100) < 51, 1.0, -1.0)  # hardly more in chosen than in rejected responses
    scores = made_up_scores(np.maximum(turns, 0)[:, None], np.maximum(-turns, 0)[:, None])
    assert _statistics(scores).frequency[0] <= 0.6  # in the half of each two in which it has the sign that it has in all pairs


def test_with_labels_shuffled_over_pairs_nothing_is_sure() -> None:
    chosen, rejected, groups = _noise(0)
    # Latents that do differ; their labels are shuffled too.
    chosen[:, ::7] += sparse_scores(np.random.default_rng(1), chosen[:, ::7].shape, 0.3)
    surely_found = _statistics(made_up_scores(chosen, rejected, groups)).screened
    assert (surely_found.q <= 0.05).sum() > 40
    n_sure = []
    for seed in range(20):
        swap = np.random.default_rng(seed).random(N)[:, None] < 0.5
        scores = made_up_scores(np.where(swap, rejected, chosen), np.where(swap, chosen, rejected), groups)
        n_sure.append(int((_statistics(scores).screened.q <= 0.05).sum()))
    assert sum(n > 0 for n in n_sure) <= 3 and max(n_sure) <= 3, n_sure


@functools.cache
def _many(n_good: int = 60, rate: float = 0.5) -> GatedStatistics:
    """Many latents that all differ, and fire in a share ``rate`` of the responses."""
    rng = np.random.default_rng(2)
    chosen = sparse_scores(rng, (N, n_good), np.linspace(rate, min(1, rate + 0.3), n_good))
    rejected = sparse_scores(rng, (N, n_good), rate)
    return _statistics(made_up_scores(chosen, rejected))


@pytest.mark.parametrize("name", GATED_SELECTORS)
@pytest.mark.parametrize("k", [1, 2, 5, 64])
def test_at_most_k_are_chosen_each_once(name: str, k: int) -> None:
    for statistics in (_planted(), _many()):
        found, places = GATED_SELECTORS[name](statistics, k)
        assert 1 <= len(places) <= k and len(set(places.tolist())) == len(places)
        assert statistics.usable[found.latents[places]].all()


@pytest.mark.parametrize("name", ["stable", "frequency"])
@pytest.mark.parametrize("rate", [0.2, 0.5, 0.7])
def test_no_more_than_about_a_dozen_fire_in_a_response(name: str, rate: float) -> None:
    found, places = GATED_SELECTORS[name](_many(rate=rate), 64)
    assert 3 < found.rate[places].sum() <= MOST_FIRING
    firing = [
        side[:, found.latents[places]] != 0 for side in (_many(rate=rate).scores.chosen, _many(rate=rate).scores.rejected)
    ]
    assert np.mean([side.sum(1).mean() for side in firing]) == pytest.approx(found.rate[places].sum())


def test_of_more_latents_than_may_be_chosen_that_enter_together_it_is_the_strongest(monkeypatch) -> None:
    rng = np.random.default_rng(3)
    chosen = sparse_scores(rng, (60, 1), 0.9) * (1 + 0.01 * rng.random((60, 30)))
    statistics = _statistics(made_up_scores(chosen, sparse_scores(rng, (60, 30), 0.1)))
    monkeypatch.setitem(statistics.__dict__, "frequency", np.zeros(30))
    found, places = select_stable(statistics, 1)
    assert places.tolist() == [np.abs(found.z).argmax()]


def test_in_too_few_pairs_for_enough_sure_ones_those_that_differ_most_are_chosen() -> None:
    rng = np.random.default_rng(4)
    chosen, rejected = (sparse_scores(rng, (30, 200), 0.2) for _ in range(2))
    found, places = select_stable(_statistics(made_up_scores(chosen, rejected)), 8)
    assert 1 <= len(places) <= 8 and (found.q[places] > 0.05).all()
    assert np.abs(found.z[places]).min() >= np.delete(np.abs(found.z), places).max()
    assert (found.differences[:, places].mean(0) > 0).all()


def test_those_that_come_back_most_often_are_chosen_first() -> None:
    statistics = _many()
    found, places = select_stable(statistics, 6)
    frequency = statistics.frequency[found.latents]
    assert (np.diff(frequency[places]) <= 0).all() and frequency[places].min() >= OFTEN
    assert frequency[places].min() >= np.delete(frequency, places).max()


def test_the_papers_selector_takes_the_largest_frequency_gaps_of_both_signs_in_turn() -> None:
    f_chosen = np.array([9, 5, 5, 1, 6, 0, 3, 0]) / 10
    f_rejected = np.array([1, 5, 4, 8, 1, 0, 9, 0]) / 10
    rows = np.arange(10)[:, None]
    statistics = _statistics(made_up_scores((rows < 10 * f_chosen) * 1.0, (rows < 10 * f_rejected) * 1.0))
    found, places = select_frequency(statistics, 4)
    # Gaps: 0: .8, 4: .5, 2: .1 ...; 3: -.7, 6: -.6; 5 and 7 never fire.
    assert found.latents[places].tolist() == [0, 3, 4, 6]
    assert found.signs[places].tolist() == [1, -1, 1, -1]
    assert found.rate[places] == pytest.approx([0.5, 0.45, 0.35, 0.6])


def test_random_latents_depend_on_the_seed_alone_and_are_not_the_best() -> None:
    one, other = (select_random(_statistics(_planted().scores, seed), 20) for seed in (0, 1))
    again = select_random(_statistics(_planted().scores, 0), 20)
    assert np.array_equal(one[0].latents, again[0].latents) and not np.array_equal(one[0].latents, other[0].latents)
    drawn = [select_random(_statistics(_planted().scores, seed), 20)[0].latents for seed in range(60)]
    assert 0 < np.mean([5 in latents for latents in drawn]) < 0.3  # expected: 20 of 400


def test_the_same_statistics_give_the_same_choice_to_the_bit() -> None:
    for select in GATED_SELECTORS.values():
        (one, first), (other, second) = (select(_statistics(_planted().scores), 16) for _ in range(2))
        assert np.array_equal(first, second) and np.array_equal(one.differences, other.differences)
        assert np.array_equal(one.latents, other.latents) and np.array_equal(one.sigma, other.sigma)


def test_the_choice_does_not_depend_on_the_order_of_the_pairs() -> None:
    statistics = _planted()
    rows, scores = np.random.default_rng(0).permutation(N), statistics.scores
    mixed = _statistics(GatedScores(scores.chosen[rows], scores.rejected[rows], scores.groups[rows], scores.length_gaps[rows]))
    (one, first), (other, second) = (select_stable(each, 16) for each in (statistics, mixed))
    assert set(one.latents[first]) == set(other.latents[second])


@pytest.mark.parametrize("name", GATED_SELECTORS)
def test_of_the_latents_that_may_be_chosen_no_other_is(name: str) -> None:
    among = np.zeros(M, bool)
    among[[5, 40, 60, 80]] = True
    statistics = replace(_planted(), among=among)
    found, places = GATED_SELECTORS[name](statistics, 64)
    assert len(places) >= 1 and among[found.latents[places]].all()
    assert not statistics.frequency[~among].any()


def test_what_may_not_be_chosen_is_not_tested_either() -> None:
    """The false discovery rate is that of the tests that were made."""
    statistics = _planted()
    among = np.arange(M) == 17
    assert replace(statistics, among=among).screened.latents.tolist() == [17]
    assert replace(statistics, among=np.ones(M, bool)).screened.latents.tolist() == statistics.screened.latents.tolist()


def test_most_features_are_named_where_they_are_to_be() -> None:
    """Of forty that differ alike a quarter has a name: all of these may be chosen, and a fifth as many of the others."""
    statistics = _many()
    named = np.zeros(statistics.scores.chosen.shape[1], bool)
    named[:20] = True
    preferred = prefer_named(statistics, named, select_stable, 10)
    assert preferred.among is not None and preferred.among[named].all()
    assert 20 < preferred.among.sum() <= 20 + 10 // OTHERS
    assert statistics.frequency[preferred.among & ~named].min() >= statistics.frequency[~preferred.among].max()
    found, places = select_stable(preferred, 64)
    assert preferred.among[found.latents[places]].all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("select", [select_stable, select_frequency])
def test_of_the_chosen_features_at_most_one_in_six_has_no_label(seed: int, select: GatedSelector) -> None:
    """Also where those without one differ most, and would take the place of those that have one."""
    statistics = _many()
    strongest = np.argsort(-statistics.frequency, kind="stable")
    named = np.ones(len(strongest), bool)
    named[np.random.default_rng(seed).permutation(strongest[:40])[:30]] = False
    preferred = prefer_named(statistics, named, select, 16)
    found, places = select(preferred, 16)
    has_name = named[found.latents[places]]
    assert has_name.sum() > 0 and (~has_name).sum() <= has_name.sum() // OTHERS
