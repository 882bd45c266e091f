"""Statistics of latents over pairs: by hand, against scipy's own, and unmoved by what must not move them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, false_discovery_control

from sparserm.features.table import DENSE_RATE, FeatureTable, feature_table
from sparserm.representations.values import PairRepresentations
from sparserm.types import SparseRMError
from tests.unit.features.latents import D_SAE, pairs_where, tiny_sae


def _random_pairs(n: int = 40, groups: list[int] | None = None, seed: int = 0) -> PairRepresentations:
    rng = np.random.default_rng(seed)
    return pairs_where(rng.random((2, n, D_SAE)) < np.array([0.9, 0.1, 0.5, 0.5, 0.0]), groups, seed=seed)


def _columns(table: FeatureTable) -> dict[str, np.ndarray]:
    return {name: value for name, value in vars(table).items() if isinstance(value, np.ndarray)}


def test_the_gap_of_gated_scores_by_hand() -> None:
    fires = np.zeros((2, 4, 2), bool)
    fires[0, :3, 0] = True
    pairs = pairs_where(fires)
    table = feature_table(pairs, tiny_sae(d_sae=2), score="gated")
    scores = np.concatenate([side.strengths.dense_gated(np.array([0]))[:, 0] for side in (pairs.chosen, pairs.rejected)])
    assert scores.tolist() == [1, 2, 3, 0, 0, 0, 0, 0]  # zero where it is silent
    assert table.score_gap == pytest.approx([1.5 / scores.std(), 0])
    assert table.length_correlation[0] == pytest.approx(np.corrcoef(scores, pairs.log_lengths)[0, 1])
    assert table.length_correlation[1] == 0


def test_shares_gap_and_density_by_hand() -> None:
    fires = np.zeros((2, 4, 3), bool)
    fires[0, :3, 0] = True  # latent 0: three chosen and one rejected; latent 1: every response; latent 2: none
    fires[1, 0, 0] = True
    fires[:, :, 1] = True
    pairs = pairs_where(fires)
    table = feature_table(pairs, tiny_sae(d_sae=3))
    np.testing.assert_allclose(table.f_chosen, [0.75, 1, 0])
    np.testing.assert_allclose(table.f_rejected, [0.25, 1, 0])
    np.testing.assert_allclose(table.gap, [0.5, 0, 0])
    np.testing.assert_allclose(table.share, [0.5, 1, 0])
    lengths = np.concatenate([pairs.chosen.n_tokens[:3], pairs.rejected.n_tokens[:1]])
    every = pairs.chosen.n_tokens.sum() + pairs.rejected.n_tokens.sum()
    np.testing.assert_allclose(table.rate, [0.25 * lengths.sum() / every, 0.25, 0])
    assert list(table.dead) == [False, False, True]
    assert list(table.dense) == [table.rate[0] > DENSE_RATE, True, False]
    assert (table.n_pairs, table.n_prompts) == (4, 4)


def test_mean_peak_is_over_the_responses_in_which_it_fires() -> None:
    fires = np.zeros((2, 3, 1), bool)
    fires[0, :2, 0] = fires[1, 2, 0] = True  # peaks 1 and 2 of the chosen, 1 of the rejected
    assert feature_table(pairs_where(fires), tiny_sae(d_sae=1)).mean_peak == pytest.approx([4 / 3])


def test_most_counts_responses_with_half_of_the_tokens_or_more() -> None:
    fires = np.ones((2, 3, 1), bool)
    sae = tiny_sae(d_sae=1)
    assert feature_table(pairs_where(fires, rate=0.4), sae, activity="most").f_chosen == 0
    assert feature_table(pairs_where(fires, rate=0.5), sae, activity="most").f_chosen == 1


def test_intervals_are_wilsons_where_every_prompt_has_one_pair() -> None:
    table = feature_table(_random_pairs(), tiny_sae())
    for f, low, high in (
        (table.f_chosen, table.chosen_low, table.chosen_high),
        (table.f_rejected, table.rejected_low, table.rejected_high),
    ):
        for j in range(D_SAE):
            expected = binomtest(round(f[j] * 40), 40).proportion_ci(method="wilson")
            assert (low[j], high[j]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_gap_is_tested_by_mcnemars_mid_p() -> None:
    fires = np.zeros((2, 14, 1), bool)
    fires[0, :8] = fires[1, 8:10] = fires[:, 10:] = True  # 8 pairs for chosen, 2 for rejected, 4 for neither
    # 2 P(X <= 2) - P(X = 2) for 10 throws of a coin: (2 * 56 - 45) / 1024
    assert feature_table(pairs_where(fires), tiny_sae(d_sae=1)).p == pytest.approx([67 / 1024])


def test_no_difference_and_no_firing_have_p_1() -> None:
    fires = np.zeros((2, 4, 2), bool)
    fires[0, :2, 0] = fires[1, 2:, 0] = True
    np.testing.assert_allclose(feature_table(pairs_where(fires), tiny_sae(d_sae=2)).p, [1, 1])


def test_q_values_are_among_the_latents_that_fire() -> None:
    table = feature_table(_random_pairs(), tiny_sae())
    assert list(table.dead) == [False] * 4 + [True]
    np.testing.assert_allclose(table.q[:4], false_discovery_control(table.p[:4]))
    assert table.q[4] == 1


def test_copies_of_pairs_within_their_prompts_prove_nothing_more() -> None:
    once = _random_pairs()
    thrice = once.take(np.repeat(np.arange(40), 3))
    one, three = feature_table(once, tiny_sae()), feature_table(thrice, tiny_sae())
    for name, column in _columns(one).items():
        np.testing.assert_allclose(_columns(three)[name], column, rtol=1e-6, atol=1e-9, err_msg=name)
    assert (three.n_pairs, three.n_prompts) == (120, 40)


def test_pairs_of_other_prompts_prove_more_than_those_of_the_same() -> None:
    fires = np.random.default_rng(1).random((2, 40, D_SAE)) < 0.5
    fires[0, :, 0] = np.arange(40) % 8 < 7
    together = feature_table(pairs_where(fires, [i // 8 for i in range(40)]), tiny_sae())
    alone = feature_table(pairs_where(fires), tiny_sae())
    assert together.p[0] > alone.p[0]
    assert (together.chosen_high - together.chosen_low >= alone.chosen_high - alone.chosen_low - 1e-12).all()


def test_swapping_sides_turns_the_gaps_round() -> None:
    pairs = _random_pairs()
    one = feature_table(pairs, tiny_sae())
    two = feature_table(replace(pairs, chosen=pairs.rejected, rejected=pairs.chosen), tiny_sae())
    np.testing.assert_allclose(two.gap, -one.gap)
    np.testing.assert_allclose(two.score_gap, -one.score_gap, atol=1e-6)
    for name in ("p", "q", "share", "rate", "length_correlation"):
        np.testing.assert_allclose(_columns(two)[name], _columns(one)[name], atol=1e-6, err_msg=name)


def test_scores_are_described_as_if_they_had_been_computed() -> None:
    pairs, sae = _random_pairs(), tiny_sae()
    table = feature_table(pairs, sae)
    scores = (pairs.stacked - sae.b_dec.numpy()) @ sae.directions().numpy().T
    lengths = np.log(np.concatenate([pairs.chosen.n_tokens, pairs.rejected.n_tokens]))
    expected = [np.corrcoef(scores[:, j], lengths)[0, 1] for j in range(D_SAE)]
    np.testing.assert_allclose(table.length_correlation, expected, atol=1e-5)
    np.testing.assert_allclose(table.score_gap, (scores[:40] - scores[40:]).mean(0) / scores.std(0), atol=1e-5)


def test_responses_of_one_length_have_no_correlation_with_it() -> None:
    pairs = _random_pairs()
    same = np.full(40, 7, np.int32)
    pairs = replace(pairs, chosen=replace(pairs.chosen, n_tokens=same), rejected=replace(pairs.rejected, n_tokens=same))
    np.testing.assert_allclose(feature_table(pairs, tiny_sae()).length_correlation, 0, atol=1e-12)


def test_openings_say_which_latents_begin_texts_and_without_them_none_does() -> None:
    pairs, sae = _random_pairs(), tiny_sae()
    assert not feature_table(pairs, sae).begin_of_text.any()
    opening = np.array([0.9, 0.5, 0.49, 0.0, 0.0])
    assert list(feature_table(pairs, sae, opening=opening).begin_of_text) == [True, True, False, False, False]


def test_one_pair_is_enough_and_none_is_refused() -> None:
    pairs = _random_pairs()
    one = feature_table(pairs.take(np.array([0])), tiny_sae())
    assert all(np.isfinite(column).all() for name, column in _columns(one).items() if name != "opening")
    with pytest.raises(SparseRMError, match="no pairs"):
        feature_table(pairs.take(np.array([], int)), tiny_sae())


def test_latents_of_another_sae_or_none_are_refused() -> None:
    pairs = _random_pairs()
    with pytest.raises(SparseRMError, match="5 latents, expected the 7"):
        feature_table(pairs, tiny_sae(d_sae=7))
    with pytest.raises(SparseRMError, match="have no latent strengths"):
        feature_table(replace(pairs, chosen=replace(pairs.chosen, latents=None)), tiny_sae())


def test_representations_are_not_changed_by_looking_at_them() -> None:
    """Also where latents fire too seldom to count, which the table leaves out of its own matrix and no other."""
    pairs = _random_pairs()
    pairs.chosen.latents.rate[1::2] = 0.75  # every second firing counts
    before = [pairs.chosen.latents.indices.copy(), pairs.chosen.latents.rate.copy(), pairs.chosen.latents.indptr.copy()]
    feature_table(pairs, tiny_sae(), activity="most")
    feature_table(pairs.take(np.arange(10, 30)), tiny_sae(), activity="most")
    after = [pairs.chosen.latents.indices, pairs.chosen.latents.rate, pairs.chosen.latents.indptr]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
