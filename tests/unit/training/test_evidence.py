"""What stands beside a head: values worked out by hand, controls that must fail, and the same figures every time."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from sparserm.evaluation.intervals import accuracy_interval
from sparserm.heads.fitting import FitSettings, fit_head
from sparserm.representations.values import PairRepresentations, firings
from sparserm.training import evidence
from sparserm.training.evidence import (
    RESAMPLES,
    SHUFFLES,
    HeadEvidence,
    baselines,
    gather_head_evidence,
    learning_curve,
    longer_baseline,
    measure,
    selection_stability,
)
from sparserm.training.sweep import sweep
from tests.unit.separable import SAE, TEST, TRAIN, noise, represented_pairs

SETTINGS = FitSettings(k=3, l2=0.1, score="projection")
FITTED = fit_head(TRAIN, SAE, SETTINGS)
GATED = FitSettings(k=3, score="gated")
both_scores = pytest.mark.parametrize("settings", [SETTINGS, GATED], ids=["projection", "gated"])


@pytest.fixture(autouse=True)
def _few_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often the prompts are halved is tested on its own; here less of it does."""
    monkeypatch.setattr("sparserm.heads.gated_selection.SPLITS", 2)


def _by_name(
    train: PairRepresentations = TRAIN, test: PairRepresentations = TEST, settings: FitSettings = SETTINGS
) -> dict[str, evidence.Measured]:
    found = baselines(fit_head(train, SAE, settings), train, test, SAE, settings)
    return {one.name: one for one in found}


@both_scores
def test_a_real_preference_is_found_by_the_head_and_the_probe_and_by_no_control(settings: FitSettings) -> None:
    found = _by_name(settings=settings)
    assert list(found) == ["head", "longer", "dense", "random", "shuffled"]
    assert found["head"].accuracy > 0.95 and found["dense"].accuracy > 0.9
    assert found["longer"].accuracy == 0.0  # all responses have one token: ties
    assert abs(found["shuffled"].accuracy - 0.5) < 0.15
    assert found["random"].accuracy < found["head"].accuracy
    assert (found["random"].heads, found["shuffled"].heads) == (5, SHUFFLES)


@both_scores
def test_noise_is_noise_to_everyone(settings: FitSettings) -> None:
    found = _by_name(noise(0, 400), noise(1, 400), settings)
    for name in ("head", "dense", "random", "shuffled"):
        low, high = found[name].ci95
        assert low - 0.03 < 0.5 < high + 0.03, name


def test_shuffling_changes_labels_and_nothing_else() -> None:
    texts = np.arange(2 * len(TRAIN.groups)).reshape(2, -1)
    shuffled = evidence.shuffled(replace(TRAIN, texts=texts), 0)
    swapped = (shuffled.chosen.h == TRAIN.rejected.h).all(1)
    assert 0.3 < swapped.mean() < 0.7
    assert np.array_equal(np.where(swapped[:, None], shuffled.rejected.h, shuffled.chosen.h), TRAIN.chosen.h)
    assert np.array_equal(shuffled.groups, TRAIN.groups)
    assert np.array_equal(np.where(swapped, shuffled.texts[1], shuffled.texts[0]), texts[0])


def test_shuffling_moves_latents_and_lengths_with_their_response() -> None:
    pairs = represented_pairs(
        *np.random.default_rng(0).normal(size=(2, 6, 8)), lengths=([1, 2, 3, 4, 5, 6], [11, 12, 13, 14, 15, 16])
    )
    first = pairs.chosen.latents
    assert first is not None
    quarter = firings(first.indices, np.full_like(first.rate, 0.25), first.peak, first.gated)
    marked = replace(pairs, chosen=replace(pairs.chosen, latents=replace(first, fired=quarter)))
    shuffled = evidence.shuffled(marked, 3)
    latents = shuffled.chosen.latents
    assert latents is not None
    is_first = shuffled.chosen.n_tokens <= 6
    assert is_first.any() and not is_first.all()
    assert np.array_equal(latents.rate.reshape(6, -1)[:, 0], np.where(is_first, 0.25, 1.0).astype(np.float32))


def test_the_mean_of_several_heads_is_over_heads_and_ties_are_wrong() -> None:
    rng = np.random.default_rng(0)
    test = represented_pairs(*rng.normal(size=(2, 4, 8)))
    up = FITTED.head
    down, flat = replace(up, weights=-up.weights), replace(up, weights=0 * up.weights)
    found = measure("all", [up, down, flat], test)
    assert found.accuracy == pytest.approx(1 / 3)
    assert (found.heads, found.lowest) == (3, 0.0)


def test_an_interval_of_several_heads_holds_the_chance_of_their_draw_too() -> None:
    up = FITTED.head
    down = replace(up, weights=-up.weights)
    one, both = measure("one", [up], TEST), measure("both", [up, down], TEST)
    assert one.ci95 == pytest.approx(accuracy_interval(np.ones(120), TEST.groups), abs=0.1)
    assert both.accuracy == 0.5  # for every pair one of the two is right, so that prompts add nothing
    drawn = 1.96 * np.std([one.accuracy, 1 - one.accuracy], ddof=1) / np.sqrt(2)
    assert both.ci95 == pytest.approx((max(0.0, 0.5 - drawn), min(1.0, 0.5 + drawn)))


def test_longer_is_measured_by_hand() -> None:
    pairs = represented_pairs(*np.zeros((2, 4, 8)), lengths=([5, 5, 5, 5], [1, 5, 9, 2]))
    found = longer_baseline(pairs)
    assert found.accuracy == 0.5
    assert found.length_correlation == pytest.approx(spearmanr([4, 0, -4, 3], [5, 1, 5 / 9, 2.5])[0])
    assert longer_baseline(TEST).length_correlation is None  # of one token all


def test_the_curve_has_nested_parts_and_ends_with_the_head_itself() -> None:
    curve = learning_curve(FITTED, TRAIN, TEST, SAE, SETTINGS)
    assert [point.n_prompts for point in curve] == [4, 8, 15, 30, 60]
    assert [point.n_pairs for point in curve] == [8, 16, 30, 60, 120]
    assert curve[-1].accuracy == measure("head", [FITTED.head], TEST).accuracy
    prompts = np.unique(TRAIN.groups)
    small, large = (set(evidence._part(TRAIN, prompts, size, seed=1)) for size in (8, 30))
    assert small < large


def test_parts_too_small_for_the_head_have_no_point() -> None:
    one_prompt = TRAIN.take(np.arange(2))
    curve = learning_curve(fit_head(one_prompt, SAE, SETTINGS), one_prompt, TEST, SAE, SETTINGS)
    assert [point.n_prompts for point in curve] == [1]


def test_a_planted_feature_is_always_selected_again_and_the_noise_beside_it_is_not() -> None:
    stability = selection_stability(FITTED, TRAIN, SAE, SETTINGS)
    planted = stability.features[0]
    assert (planted.feature, planted.selected, planted.same_sign) == (0, 1.0, 1.0)
    assert stability.jaccard > stability.chance == pytest.approx(3 / (2 * 16 - 3))
    assert planted.nearest == pytest.approx(1.0)
    assert all(other.selected < 0.6 for other in stability.features[1:])
    assert all(other.selected <= other.nearest + 1e-6 <= 1.00001 for other in stability.features)
    assert stability.resamples == RESAMPLES


def test_a_planted_gated_feature_is_always_selected_again() -> None:
    fitted = fit_head(TRAIN, SAE, GATED)
    stability = selection_stability(fitted, TRAIN, SAE, GATED)
    planted = stability.features[0]
    assert (planted.feature, planted.selected, planted.same_sign) == (0, 1.0, 1.0)
    assert stability.jaccard > stability.chance


def test_resampling_draws_whole_prompts() -> None:
    groups = np.array([7, 3, 7, 3, 9])
    rows = evidence.resample(groups, 0)
    counts = {prompt: sorted(np.bincount(rows, minlength=5)[groups == prompt]) for prompt in (3, 7, 9)}
    assert all(len(set(times)) == 1 for times in counts.values())
    assert sum(times[0] for times in counts.values()) == 3


@both_scores
def test_the_same_every_time_counted_to_the_end_and_the_same_from_json(settings: FitSettings) -> None:
    told: list[tuple[int, int]] = []
    fitted = fit_head(TRAIN, SAE, settings)
    cells = sweep({"one": TRAIN}, {"one": SAE}, settings, (3, 4))
    found = gather_head_evidence(
        fitted, TRAIN, TEST, SAE, settings, cells, progress=lambda done, total, what: told.append((done, total))
    )
    assert told[-1][0] == told[-1][1] == len(told)
    assert gather_head_evidence(fitted, TRAIN, TEST, SAE, settings, cells) == found
    assert HeadEvidence.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_cancelling_goes_through() -> None:
    def cancel(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather_head_evidence(FITTED, TRAIN, TEST, SAE, SETTINGS, progress=cancel)
