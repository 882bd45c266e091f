"""Effects of features on the win rate: by hand, against other computations, and on pairs with nothing in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import false_discovery_control, norm

from sparserm.evaluation.intervals import accuracy_interval, wilson_interval
from sparserm.heads.screening import GatedScores
from sparserm.insights.effects import LEAST_PAIRS, features_of, hold_length, measure_effects, returning
from tests.unit.features.latents import pairs_where
from tests.unit.gated import made_up_scores


def _features(n: int = 300, m: int = 12, seed: int = 0, rewarded: float = 0.0, groups: np.ndarray | None = None) -> GatedScores:
    """Random features; where one response alone has the first, it is the chosen one in a share ``.5 + rewarded``."""
    rng = np.random.default_rng(seed)
    chosen, rejected = (rng.random((2, n, m)) < 0.4).astype(float)
    alone = chosen[:, 0] != rejected[:, 0]
    chosen[alone, 0] = rng.random(alone.sum()) < 0.5 + rewarded
    rejected[alone, 0] = 1 - chosen[alone, 0]
    return made_up_scores(chosen, rejected, groups, rng.normal(0, 0.7, n))


def test_wins_are_counted_among_the_pairs_that_differ() -> None:
    fires = np.zeros((2, 60, 5), bool)
    fires[0, :30, 1], fires[1, 20:40, 1] = True, True  # 20 won, 10 both, 10 lost
    fires[0, 5:25, 3] = True  # 20 won
    fires[:, :, 4] = True  # never differs
    found = measure_effects(features_of(pairs_where(fires)))
    assert found.latents.tolist() == [1, 3] and found.n_pairs == 60
    assert (found.n.tolist(), found.wins.tolist()) == ([30, 20], [20, 20])
    assert found.z == pytest.approx([10 / np.sqrt(30), np.sqrt(20)])
    assert found.q == pytest.approx(false_discovery_control(2 * norm.sf(np.abs(found.z)), method="by"))
    assert found.sure.tolist() == [False, True]


def test_what_differs_in_too_few_pairs_is_not_tested_unless_asked_for() -> None:
    fires = np.zeros((2, 60, 5), bool)
    fires[0, : LEAST_PAIRS - 1, 2] = True
    features = features_of(pairs_where(fires))
    assert len(measure_effects(features).latents) == 0
    assert measure_effects(features, np.array([2])).win_rate.tolist() == [1.0]


def test_the_interval_of_pairs_with_prompts_of_their_own_is_wilsons() -> None:
    found = measure_effects(_features())
    low, high = wilson_interval(found.win_rate, found.n)
    assert found.interval == (pytest.approx(low), pytest.approx(high))


def test_with_several_pairs_of_a_prompt_it_is_about_the_bootstraps_over_prompts() -> None:
    features = _features(600, groups=np.arange(600) // 3, rewarded=0.2)
    found = measure_effects(features)
    one = (features.chosen - features.rejected).toarray()[:, 0]
    low, high = accuracy_interval(one[one != 0] > 0, features.groups[one != 0])
    assert [end[0] for end in found.interval] == pytest.approx([low, high], abs=0.01)


def test_pairs_that_repeat_under_one_prompt_make_no_effect_surer() -> None:
    once = _features(200, rewarded=0.2)
    rows = np.repeat(np.arange(200), 4)
    four_times = GatedScores(once.chosen[rows], once.rejected[rows], once.groups[rows], once.length_gaps[rows])
    one, four = measure_effects(once, np.arange(12)), measure_effects(four_times, np.arange(12))
    assert four.z == pytest.approx(one.z) and four.q == pytest.approx(one.q)
    assert four.interval == (pytest.approx(one.interval[0]), pytest.approx(one.interval[1]))


def test_an_interval_holds_its_rate_also_where_all_pairs_are_won() -> None:
    fires = np.zeros((2, 40, 1), bool)
    fires[0, :, 0] = True
    by_prompt = pairs_where(fires, groups=[i // 4 for i in range(40)])
    found = measure_effects(features_of(by_prompt))
    low, _ = wilson_interval(np.array(1.0), np.array(10))  # ten prompts, and not forty pairs
    assert [end[0] for end in found.interval] == pytest.approx([low, 1.0])


def test_length_is_held_by_a_regression_of_the_choice_on_both() -> None:
    rng = np.random.default_rng(3)
    n = 800
    x, length = rng.integers(-1, 2, n).astype(float), rng.normal(0, 1, n)
    length += 0.8 * x  # what has the feature is longer, and length is what is chosen
    turn = np.where(rng.random(n) < expit(0.5 * x + 1.5 * length), 1, -1)
    x, length = x * turn, length * turn
    features = made_up_scores((x > 0).astype(float)[:, None], (x < 0).astype(float)[:, None], None, length)
    found = hold_length(features, np.array([0]))

    def loss(w: np.ndarray) -> float:
        margins = x * w[0] + length * w[1] + np.sign(length) * w[2]
        return float(np.logaddexp(0, -margins).sum() + w[0] ** 2 / 8)

    expected = minimize(loss, np.zeros(3), method="BFGS").x
    assert found.win_rate[0] == pytest.approx(expit(expected[0]), abs=1e-6)
    # The score test of a right model is about the Wald test, small effects given.
    columns = np.stack([x, length, np.sign(length)])
    missing = expit(-(expected @ columns))
    hessian = (columns * missing * (1 - missing)) @ columns.T
    assert found.z[0] == pytest.approx(expected[0] / np.sqrt(np.linalg.inv(hessian)[0, 0]), rel=0.1)
    assert measure_effects(features).win_rate[0] - found.win_rate[0] > 0.1


def test_where_all_pairs_are_won_the_regression_stays_finite() -> None:
    features = made_up_scores(np.ones((50, 1)), np.zeros((50, 1)))
    found = hold_length(features, np.array([0]))
    assert 0.95 < found.win_rate[0] < 1 and np.isfinite(found.z[0])
    assert hold_length(features, np.array([], int)).win_rate.shape == (0,)


def test_what_is_planted_returns_in_every_half_and_the_noise_does_not() -> None:
    features = _features(1000, rewarded=0.3)
    found = measure_effects(features)
    back = returning(features, found)
    assert found.latents[0] == 0 and back[0] == 1.0 and back[1:].max() <= 0.1


@pytest.mark.parametrize("seed", range(20))
def test_in_pairs_with_nothing_to_find_nothing_is_sure(seed: int) -> None:
    assert not measure_effects(_features(400, 100, seed, groups=np.arange(400) // 2)).sure.any()


def test_a_feature_of_one_text_that_many_pairs_share_is_never_sure() -> None:
    chosen = np.zeros((100, 1))
    chosen[:60] = 1
    texts = np.arange(200).reshape(2, 100)
    texts[0, :60] = 0
    features = made_up_scores(chosen, np.zeros((100, 1)))
    assert measure_effects(features).sure.all()
    assert not measure_effects(replace(features, texts=texts)).sure.any()


def test_what_stands_for_length_alone_is_not_sure_beside_it_also_where_the_effect_of_length_saturates() -> None:
    """Whatever is longer wins, however much longer it is; features are in the longer response by chance, or not at all."""
    sure = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        length = rng.normal(0, 1, 500)
        turn = np.where(rng.random(500) < 0.5 + 0.3 * np.sign(length), 1, -1)
        x = (
            np.where(rng.random((500, 10)) < 0.7 * (1 - np.exp(-np.abs(length[:, None]))), np.sign(length)[:, None], 0)
            * turn[:, None]
        )
        features = made_up_scores((x > 0).astype(float), (x < 0).astype(float), None, length * turn)
        sure += int((np.abs(hold_length(features, np.arange(10)).z) > 3).sum())
    assert sure <= 4  # of 200


def test_pairs_that_share_a_text_are_one_piece_of_evidence_with_length_held_fixed_too() -> None:
    rng = np.random.default_rng(0)
    chosen, texts = np.zeros((100, 1)), np.arange(200).reshape(2, 100)
    chosen[:60], texts[0, :60] = 1, 0
    features = replace(made_up_scores(chosen, np.zeros((100, 1)), None, rng.normal(0, 1, 100)), texts=texts)
    assert (
        abs(hold_length(features, np.array([0])).z[0]) < 2 < abs(hold_length(replace(features, texts=None), np.array([0])).z[0])
    )
    low, _ = measure_effects(features, np.array([0])).interval
    assert low[0] == pytest.approx(wilson_interval(np.array(1.0), np.array(1))[0])


def test_an_effect_has_to_be_sure_again_among_all_that_were_tested() -> None:
    features = _features(300, 400, rewarded=0.25)
    every = measure_effects(features, np.arange(400))
    alone = returning(features, every.take(np.array([0])))
    assert returning(features, every)[0] < alone[0]
