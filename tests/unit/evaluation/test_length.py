"""Length: correlations and balanced accuracy by hand, and heads that are kept from following it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from benchmarks.length import feature_length_correlation
from sparserm.evaluation.length import TRACKS, length_balanced, length_correlation
from sparserm.heads.fitting import FitSettings, fit_head, fit_statistics
from sparserm.heads.reward import RewardHead, rewards
from sparserm.heads.selection import SELECTORS
from sparserm.representations.values import LatentSummary, PairRepresentations, Representations, firings
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import HookPoint

D, N = 6, 600
DECODER = torch.cat([torch.eye(D), torch.ones(1, D) / D**0.5])
#: Every latent fires everywhere.
SAE = SparseAutoencoder(
    "made up",
    "standard",
    HookPoint(0),
    "",
    {"W_enc": DECODER.T.contiguous(), "b_enc": torch.full((D + 1,), 1e3), "W_dec": DECODER, "b_dec": torch.zeros(D)},
)


def _pairs(seed: int = 0) -> PairRepresentations:
    """Dimension 0 is log length, dimension 1 is good; the better and the longer response are preferred."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, N, D))
    tokens = [np.exp(3 + x[:, 0]).round().clip(1).astype(np.int32) for x in (a, b)]
    wins = (a - b)[:, 0] + (a - b)[:, 1] + rng.logistic(size=N) > 0

    def side(first: np.ndarray) -> Representations:
        h = np.where(first[:, None], a, b).astype(np.float32)
        ones, gated = np.ones(N * (D + 1), np.float32), (h @ DECODER.numpy().T).ravel()
        latents = LatentSummary(np.arange(N + 1) * (D + 1), firings(np.tile(np.arange(D + 1), N), ones, ones, gated), D + 1)
        return Representations("mean", h, np.where(first, *tokens), np.zeros(N, np.int32), latents)

    return PairRepresentations(side(wins), side(~wins), np.arange(N) // 2)


TRAIN, TEST = _pairs(0), _pairs(1)


def _margins(head: RewardHead, pairs: PairRepresentations) -> np.ndarray:
    return rewards(head, pairs.chosen) - rewards(head, pairs.rejected)


def test_gaps_are_of_log_lengths() -> None:
    few = TRAIN.take(np.arange(3))
    assert few.log_lengths.tolist() == np.log([*few.chosen.n_tokens, *few.rejected.n_tokens]).tolist()
    assert few.length_gaps == pytest.approx(np.log(few.chosen.n_tokens / few.rejected.n_tokens))


def test_what_does_not_vary_has_no_correlation_and_is_none_in_json() -> None:
    found = length_correlation(np.array([1.0, 2, 3, 4]), np.zeros(2), np.array([1.0, 2, 4, 3]), np.array([1.0, -1]))
    assert found.to_dict() == {
        "reward_pearson": pytest.approx(0.8),
        "reward_spearman": pytest.approx(0.8),
        "margin_pearson": None,
        "margin_spearman": None,
    }


def test_balanced_accuracy_by_hand() -> None:
    # Longer is chosen in three pairs, two of them right; shorter in two, one right; one pair is of equal length.
    margins, gaps = np.array([1.0, 1, 0, -1, 2, 1]), np.array([1, 2, 3, -1, -2, 0])
    found = length_balanced(margins, gaps, np.arange(6))
    assert found is not None
    assert (found.longer, found.shorter, found.n_longer, found.n_shorter) == (pytest.approx(2 / 3), 0.5, 3, 2)
    assert found.accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert 0 <= found.ci95[0] < found.accuracy < found.ci95[1] <= 1


def test_longer_is_better_and_shorter_is_better_are_coins_in_balance() -> None:
    gaps = TRAIN.length_gaps
    for margins in (gaps, -gaps):
        found = length_balanced(margins, gaps, TRAIN.groups)
        assert found is not None and found.accuracy == 0.5


def test_without_two_sides_or_two_prompts_nothing_is_claimed() -> None:
    assert length_balanced(np.ones(3), np.array([1, 2, 0]), np.arange(3)) is None
    one_prompt = length_balanced(np.ones(2), np.array([1, -1]), np.zeros(2))
    assert one_prompt is not None and one_prompt.ci95 == (0.0, 1.0)


def test_where_both_kinds_are_all_correct_few_pairs_leave_much_open() -> None:
    found = length_balanced(np.ones(12), np.array([1, -1] * 6), np.arange(12))
    assert found is not None and found.accuracy == 1 and 0.5 < found.ci95[0] < 0.7 and found.ci95[1] == 1


def test_a_feature_that_reads_length_tracks_it_and_no_other_does() -> None:
    head = fit_head(TRAIN, SAE, FitSettings(k=D, selection="effect_size", l2=0.1, score="projection")).head
    found = dict(zip(head.features.tolist(), feature_length_correlation(head, TRAIN), strict=True))
    lengths = np.concatenate([TRAIN.chosen.n_tokens, TRAIN.rejected.n_tokens])
    assert found[0] == pytest.approx(spearmanr(TRAIN.stacked[:, 0], lengths)[0], abs=1e-3)
    assert {feature for feature, one in found.items() if abs(one) >= TRACKS} <= {0, 6}


@pytest.mark.parametrize("selection", SELECTORS)
def test_margins_stop_following_length_and_what_is_good_stays(selection: str) -> None:
    settings = FitSettings(k=5, selection=selection, l2=0.1, score="projection")
    kept, avoided = (fit_head(TRAIN, SAE, replace(settings, avoid_length=avoid)).head for avoid in (False, True))
    for pairs, most in ((TRAIN, 0.02), (TEST, 0.12)):
        assert abs(np.corrcoef(_margins(avoided, pairs), pairs.length_gaps)[0, 1]) < most
    if 0 in kept.features:
        assert np.corrcoef(_margins(kept, TEST), TEST.length_gaps)[0, 1] > 0.3
    before, after = (length_balanced(_margins(head, TEST), TEST.length_gaps, TEST.groups) for head in (kept, avoided))
    assert before is not None and after is not None
    if 1 in avoided.features:
        assert after.accuracy > before.accuracy - 0.02


def test_without_the_option_statistics_are_unchanged_and_equal_lengths_need_none() -> None:
    assert fit_statistics(TRAIN, SAE, FitSettings(k=3, score="projection")).length_axis is None
    same = replace(TRAIN, chosen=replace(TRAIN.chosen, n_tokens=TRAIN.rejected.n_tokens))
    for settings in (FitSettings(k=3, l2=0.1, score="projection"), FitSettings(k=3, l2=0.1, score="gated")):
        heads = [fit_head(same, SAE, replace(settings, avoid_length=avoid)).head for avoid in (False, True)]
        assert np.array_equal(heads[0].weights, heads[1].weights)


def test_gated_features_that_only_length_explains_hardly_count_and_what_is_good_stays() -> None:
    settings = FitSettings(score="gated")
    kept, avoided = (fit_head(TRAIN, SAE, replace(settings, avoid_length=avoid)).head for avoid in (False, True))
    assert {0, 1} <= set(kept.features.tolist()) and 1 in avoided.features
    of_length = [abs(dict(zip(head.features.tolist(), head.weights, strict=True)).get(0, 0.0)) for head in (kept, avoided)]
    assert of_length[1] < of_length[0] / 3
    follows = [abs(np.corrcoef(_margins(head, TEST), TEST.length_gaps)[0, 1]) for head in (kept, avoided)]
    assert follows[1] < follows[0] / 2
