"""The paired test over prompts, by hand and against computations of another kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.stats import norm

from sparserm.heads.screening import ENOUGH, MOST_CANDIDATES, GatedScores, as_candidates, few_sure, grouped_z, screen
from sparserm.representations.represent import represent_pairs
from sparserm.representations.values import ActiveLatents
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import SparseRMError
from tests.unit.gated import gated_sae, made_up_scores, polite_pairs, sparse_scores, states_of, tokenized
from tests.unit.tiny import HOOK

GROUPS = np.array([7, 7, 3, 9, 9, 9])


def test_z_by_hand_with_several_pairs_of_a_prompt() -> None:
    # Sums over the prompts 3, 7, 9: 2, 1 + 2 = 3, -1 + 0 + 3 = 2; z = 7 / sqrt(4 + 9 + 4). The second column is silent, the
    # third differs in one prompt alone, in which its pairs cancel out.
    columns = np.array([[1, 2, 2, -1, 0, 3], [0, 0, 0, 0, 0, 0], [0, 0, 0, 4, -4, 0]], float).T
    assert grouped_z(csr_matrix(columns), GROUPS) == pytest.approx([7 / np.sqrt(17), 0, 0])


def test_pairs_of_one_prompt_do_not_count_as_so_many_pieces_of_evidence() -> None:
    once = csr_matrix(np.random.default_rng(0).normal(0.5, 1, (12, 1)))
    five_times = csr_matrix(np.repeat(once.toarray(), 5, axis=0))
    alone, repeated = grouped_z(once, np.arange(12)), grouped_z(five_times, np.repeat(np.arange(12), 5))
    assert repeated == pytest.approx(alone)
    assert grouped_z(five_times, np.arange(60)) == pytest.approx(alone * np.sqrt(5))


def test_means_count_a_large_group_no_more_than_a_small_one() -> None:
    # Means of the groups 3, 7, 9: 2, 3 / 2, 2 / 3.
    column = np.array([[1, 2, 2, -1, 0, 3]], float).T
    expected = (2 + 3 / 2 + 2 / 3) / np.sqrt(4 + 9 / 4 + 4 / 9)
    assert grouped_z(csr_matrix(column), GROUPS, means=True) == pytest.approx([expected])


def test_a_latent_that_fires_in_one_text_alone_is_never_sure_however_many_pairs_have_it() -> None:
    """Latent 0 fires in a text that 100 of 300 pairs choose, latent 1 in it and in 60 others, latent 2 in 60 others alone."""
    chosen, rejected = np.zeros((2, 300, 3))
    chosen[:100, 0] = chosen[:160, 1] = chosen[100:160, 2] = 1.0
    texts = np.arange(600).reshape(2, 300)
    texts[0, :100] = 0
    scores = made_up_scores(chosen, rejected)
    assert scores.z(np.arange(3)) == pytest.approx(np.sqrt([100, 160, 60]))
    by_text = replace(scores, texts=texts)
    assert by_text.z(np.arange(3)) == pytest.approx(np.sqrt([1, 61, 60]))
    found = screen(by_text)
    assert set(found.latents[found.q <= 0.05]) == {1, 2}
    turned = replace(scores, chosen=scores.rejected, rejected=scores.chosen, texts=texts[::-1])
    assert turned.z(np.arange(3)) == pytest.approx(-by_text.z(np.arange(3)))


def test_a_latent_whose_sign_one_repeated_text_decides_has_no_z() -> None:
    chosen, rejected = np.zeros((2, 60, 1))
    chosen[:40], rejected[40:] = 1.0, 1.0
    texts = np.arange(120).reshape(2, 60)
    texts[0, :40] = 0
    assert made_up_scores(chosen, rejected).z(np.zeros(1, int)) == pytest.approx([20 / np.sqrt(60)])
    assert replace(made_up_scores(chosen, rejected), texts=texts).z(np.zeros(1, int)).tolist() == [0.0]


def test_z_does_not_depend_on_the_order_of_the_pairs_or_the_numbers_of_the_prompts() -> None:
    rng = np.random.default_rng(1)
    columns, groups = rng.normal(size=(30, 4)), rng.integers(0, 9, 30)
    order = rng.permutation(30)
    z = grouped_z(csr_matrix(columns), groups)
    assert grouped_z(csr_matrix(columns[order]), groups[order] * 1000 - 5) == pytest.approx(z)


def test_with_length_held_fixed_it_is_the_z_of_the_residuals() -> None:
    rng = np.random.default_rng(2)
    columns, groups, lengths = rng.normal(0.3, 1, (60, 5)), rng.integers(0, 20, 60), rng.normal(0.5, 1, 60)
    columns[rng.random((60, 5)) < 0.6] = 0
    columns[:, 0] += lengths
    # A line through the origin: which of two responses is called chosen must not matter.
    slopes = [np.linalg.lstsq(lengths[:, None], column, rcond=None)[0][0] for column in columns.T]
    residuals = columns - np.outer(lengths, slopes)
    expected = grouped_z(csr_matrix(residuals), groups)
    assert grouped_z(csr_matrix(columns), groups, lengths) == pytest.approx(expected)
    assert grouped_z(csr_matrix(columns), groups, np.zeros(60)) == pytest.approx(grouped_z(csr_matrix(columns), groups))


def test_a_column_that_only_follows_length_has_no_z_left() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        lengths = np.log(rng.integers(5, 300, 100) / rng.integers(5, 300, 100))
        assert abs(grouped_z(csr_matrix(0.37 * lengths[:, None]), rng.integers(0, 40, 100), lengths)[0]) < 0.01


def _benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p)
    q, least = np.empty(len(p)), 1.0
    for place in range(len(p) - 1, -1, -1):
        least = min(least, p[order[place]] * len(p) / (place + 1))
        q[order[place]] = least
    return q


def test_q_is_benjamini_hochbergs_over_all_tested_latents_and_the_sure_ones_are_kept() -> None:
    rng = np.random.default_rng(3)
    chosen, rejected = (sparse_scores(rng, (200, 60), 0.3) for _ in range(2))
    chosen[:, :17] += sparse_scores(rng, (200, 17), 0.5)
    rejected[:, 17:20] += sparse_scores(rng, (200, 3), 0.5)
    scores = made_up_scores(chosen, rejected, np.arange(200) // 2)
    z = grouped_z(scores.chosen - scores.rejected, scores.groups)
    q = _benjamini_hochberg(2 * norm.cdf(-np.abs(z)))
    found = screen(scores)
    assert set(found.latents) == set(np.flatnonzero(q <= 0.05)) >= set(range(20))
    assert ENOUGH <= len(found.latents) < 30
    assert found.q == pytest.approx(q[found.latents]) and found.z == pytest.approx(z[found.latents])
    assert (np.diff(np.abs(found.z)) <= 0).all()
    assert dict(zip(found.latents.tolist(), found.signs.tolist(), strict=True))[17] == -1
    assert (np.sign((chosen - rejected).mean(0))[found.latents] == found.signs).all()


def test_candidates_describe_their_scores() -> None:
    rng = np.random.default_rng(4)
    chosen, rejected = (sparse_scores(rng, (50, 6), 0.4) for _ in range(2))
    latents = np.array([4, 1])
    found = as_candidates(made_up_scores(chosen, rejected), latents)
    both = np.concatenate([chosen, rejected])[:, latents]
    assert found.sigma == pytest.approx(both.std(0)) and found.rate == pytest.approx((both != 0).mean(0))
    gaps = (chosen - rejected)[:, latents]
    assert found.differences == pytest.approx(gaps / both.std(0) * np.sign(gaps.sum(0)), abs=1e-6)
    assert (found.differences.sum(0) >= 0).all() and found.q.tolist() == [1, 1]


def test_a_latent_that_differs_in_too_few_pairs_is_not_tested() -> None:
    chosen, rejected = np.zeros((2, 200, 3))
    chosen[:9, 0], chosen[:10, 1], chosen[:100, 2], rejected[:100, 2] = 1, 1, 5, 5  # the last fires, but never differs
    found = screen(made_up_scores(chosen, rejected))
    assert found.latents.tolist() == [1]
    few = screen(made_up_scores(chosen[:20, :], rejected[:20, :]))  # of 20 pairs a tenth is 2
    assert set(few.latents) == {0, 1}


def test_where_nothing_differs_there_are_no_candidates() -> None:
    found = screen(made_up_scores(np.zeros((20, 5)), np.zeros((20, 5))))
    assert len(found.latents) == len(found.z) == 0 and found.differences.shape == (20, 0)


def test_where_none_is_sure_the_likeliest_are_returned_and_say_so() -> None:
    rng = np.random.default_rng(5)
    chosen, rejected = (sparse_scores(rng, (12, 200), 0.5) for _ in range(2))
    found = screen(made_up_scores(chosen, rejected))
    z = grouped_z(csr_matrix(chosen - rejected), np.arange(12))
    firing = grouped_z(csr_matrix((chosen != 0).astype(float) - (rejected != 0)), np.arange(12))
    order = np.argsort(-np.abs(z), kind="stable")
    likely = order[((np.abs(z) >= 1) & (np.sign(z) * firing >= 0))[order]]
    assert 20 < len(likely) < 150
    assert (found.q > 0.05).all() and found.latents.tolist() == likely.tolist()


def test_there_are_only_so_many_candidates() -> None:
    rng = np.random.default_rng(6)
    chosen = sparse_scores(rng, (100, MOST_CANDIDATES + 40), 0.9)
    assert len(screen(made_up_scores(chosen, np.zeros_like(chosen))).latents) == MOST_CANDIDATES


def test_a_latent_of_length_is_not_sure_once_length_is_held_fixed() -> None:
    rng = np.random.default_rng(7)
    gaps = rng.normal(0.8, 1, 400)
    chosen, rejected = (sparse_scores(rng, (400, 20), 0.3) for _ in range(2))
    chosen[:, 0] += np.maximum(gaps, 0) + 3
    rejected[:, 0] += np.maximum(-gaps, 0) + 3
    chosen[:, 1] += sparse_scores(rng, (400, 1), 0.5)[:, 0]
    scores = made_up_scores(chosen, rejected, length_gaps=gaps)
    plain, held = screen(scores), screen(scores, hold_length=True)
    assert {0, 1} <= set(plain.latents[plain.q <= 0.05])
    assert set(held.latents[held.q <= 0.05]) == {1}


def test_a_latent_that_turns_round_when_length_is_held_fixed_is_left_out() -> None:
    rng = np.random.default_rng(8)
    gaps = np.full(300, 1.0) + rng.normal(0, 0.5, 300)
    # More of it in chosen responses, which are longer, but less of it than their length would give.
    chosen, rejected = np.zeros((2, 300, 2))
    chosen[:, 0] = 5 + np.maximum(4 * (gaps - 0.8), -4) + rng.normal(0, 0.1, 300)
    rejected[:, 0] = 5
    chosen[:, 1] = sparse_scores(rng, (300, 1), 0.5)[:, 0]
    scores = made_up_scores(chosen, rejected, length_gaps=gaps)
    assert (chosen - rejected)[:, 0].mean() > 0 > grouped_z(scores.chosen - scores.rejected, scores.groups, gaps)[0]
    held = screen(scores, hold_length=True)
    assert held.latents.tolist() == [1]
    assert 0 in screen(scores).latents


def test_a_latent_that_is_stronger_on_one_side_but_fires_more_on_the_other_is_left_out() -> None:
    chosen, rejected = np.zeros((2, 100, 2))
    chosen[:60, 0], rejected[:90, 0] = 5, 1  # more of it in chosen responses, though it fires in fewer of them
    chosen[:60, 1], rejected[:50, 1] = 5, 1
    scores = made_up_scores(chosen, rejected)
    assert (grouped_z(scores.chosen - scores.rejected, scores.groups) > 5).all()
    assert screen(scores).latents.tolist() == [1]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_gated_scores_are_projections_where_the_latent_fires_and_zero_elsewhere(tiny_backbone, pooling) -> None:
    data = polite_pairs(6)
    texts = tokenized(data, tiny_backbone)
    states = [torch.from_numpy(state) for state in states_of(texts, tiny_backbone)]
    sae = gated_sae(torch.cat(states))
    pairs = represent_pairs(data.pairs, tiny_backbone, {HOOK: sae}, pooling, strengths=True)[HOOK]
    scores = GatedScores.of(pairs, sae)
    w = sae.weights
    directions = (w["W_dec"] / w["W_dec"].norm(dim=1, keepdim=True)).double()
    expected = []
    for text, state in zip(texts, states, strict=True):
        h = state[: text.end - text.start] if pooling == "mean" else state[-1:]
        fires = (h - w["b_dec"]) @ w["W_enc"] + w["b_enc"] > w["threshold"]
        expected.append((fires * ((h - w["b_dec"]).double() @ directions.T)).mean(0).numpy())
    got = np.concatenate([scores.chosen.toarray(), scores.rejected.toarray()])
    assert got == pytest.approx(np.stack(expected), abs=1e-4)
    assert ((got == 0) == (np.stack(expected) == 0)).all() and 0 < (got != 0).mean() < 1
    assert np.array_equal(scores.groups, pairs.groups) and np.array_equal(scores.length_gaps, pairs.length_gaps)


def test_last_states_are_encoded_in_batches_that_latents_make_smaller(tiny_backbone, monkeypatch) -> None:
    data = polite_pairs(6)
    sae = gated_sae(torch.cat([torch.from_numpy(one) for one in states_of(tokenized(data, tiny_backbone), tiny_backbone)]))
    pairs = represent_pairs(data.pairs, tiny_backbone, {HOOK: sae}, "last", strengths=True)[HOOK]
    at_once = GatedScores.of(pairs, sae)
    sizes: list[int] = []
    encode = SparseAutoencoder.encode
    monkeypatch.setattr(SparseAutoencoder, "encode", lambda self, x: (sizes.append(len(x)), encode(self, x))[1])
    monkeypatch.setattr("sparserm.heads.screening._ACTIVATIONS", 2 * sae.d_sae)
    batched = GatedScores.of(pairs, sae)
    assert set(sizes) == {2}
    assert batched.chosen.toarray() == pytest.approx(at_once.chosen.toarray(), abs=1e-5)


def test_mean_pooling_without_latent_strengths_is_refused(tiny_backbone) -> None:
    data = polite_pairs(2)
    sae = gated_sae(torch.randn(20, 32))
    pairs = represent_pairs(data.pairs, tiny_backbone, {HOOK: sae}, "mean")[HOOK]
    assert isinstance(pairs.chosen.latents, ActiveLatents)
    for latents in (pairs.chosen.latents, None):
        with pytest.raises(SparseRMError, match="strengths"):
            GatedScores.of(replace(pairs, chosen=replace(pairs.chosen, latents=latents)), sae)


@pytest.mark.parametrize(
    ("n_sure", "n_features", "few"), [(0, 1, True), (1, 1, False), (2, 2, False), (1, 3, True), (2, 4, False), (31, 64, True)]
)
def test_few_features_are_sure_where_it_is_less_than_half(n_sure: int, n_features: int, few: bool) -> None:
    assert few_sure(n_sure, n_features) == few
