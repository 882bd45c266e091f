"""Cards of single latents: the right examples, each once, and per-token activations as the SAE has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparserm.features.cards import Example, Reading, feature_card, pooled_scores, read_examples, similar_latents
from sparserm.features.listing import fire_on_text
from sparserm.features.table import MIN_FIRINGS, measure_openings
from sparserm.heads.reward import RewardHead, alignment_scores
from sparserm.representations.represent import represent_pairs
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import load_sae
from sparserm.types import Message, PreferencePair, SparseRMError
from tests.unit.features.latents import D_SAE, pairs_where, tiny_sae
from tests.unit.pairs_data import TRAIN
from tests.unit.tiny import HOOK, save_tiny_sae
from tests.unit.ui.gated import gated_head

N = 30
PAIRS = pairs_where(np.random.default_rng(3).random((2, N, D_SAE)) < 0.6)
TEXTS = [PreferencePair((Message("user", f"Question {i}"),), f"good {i}", f"bad {i}") for i in range(N)]


@pytest.fixture(scope="module")
def tiny(tiny_backbone, tmp_path_factory):
    """A tiny SAE, its backbone, and the training pairs of the other tests as they see them."""
    sae = load_sae(save_tiny_sae(tmp_path_factory.mktemp("saes") / "sae"))
    return sae, tiny_backbone, represent_pairs(TRAIN.pairs, tiny_backbone, {HOOK: sae}, "mean", strengths=True)[HOOK]


def _head(pairs: PairRepresentations, feature: int, weight: float) -> RewardHead:
    sae = tiny_sae()
    one = np.array([1.0])
    return RewardHead(
        np.array([feature]), sae.directions().numpy()[[feature]], sae.b_dec.numpy(), one, 2 * one, weight * one, 0.0, "mean"
    )


def test_peaks_are_those_of_the_latent_and_zero_where_it_is_silent() -> None:
    latents = PAIRS.chosen.latents
    for feature in range(D_SAE):
        peaks = latents.peaks(feature)
        for row in range(N):
            inside = slice(latents.indptr[row], latents.indptr[row + 1])
            found = latents.peak[inside][latents.indices[inside] == feature]
            assert peaks[row] == (found[0] if len(found) else 0)


def test_top_examples_are_the_strongest_of_each_side() -> None:
    card = feature_card(1, TEXTS, PAIRS, tiny_sae())
    for side, peaks in (("chosen", card.peaks_chosen), ("rejected", card.peaks_rejected)):
        shown = [example for example in card.top if example.side == side]
        assert [example.peak for example in shown] == sorted(peaks, reverse=True)[:5]
        assert all(peaks[example.pair] == example.peak for example in shown)


def test_a_response_that_is_in_several_pairs_is_shown_once() -> None:
    texts = [replace(pair, prompt=TEXTS[0].prompt, chosen="the same") for pair in TEXTS]
    card = feature_card(1, texts, PAIRS, tiny_sae())
    assert sum(example.side == "chosen" for example in card.top) == 1
    assert sum(example.side == "rejected" for example in card.top) == 5


def test_bands_are_quarters_of_the_peaks_from_the_highest_down() -> None:
    card = feature_card(1, TEXTS, PAIRS, tiny_sae())
    firing = np.concatenate([card.peaks_chosen, card.peaks_rejected])
    edges = np.quantile(firing[firing > 0], [1, 0.75, 0.5, 0.25, 0])
    assert [band.high for band in card.bands] == pytest.approx(edges[:-1])
    assert [band.low for band in card.bands] == pytest.approx(edges[1:])
    for band in card.bands:
        assert band.examples and all(band.low <= example.peak <= band.high for example in band.examples)
        assert max(sum(example.side == side for example in band.examples) for side in ("chosen", "rejected")) <= 2


def test_a_silent_latent_has_scores_and_no_examples() -> None:
    fires = np.zeros((2, N, D_SAE), bool)
    card = feature_card(0, TEXTS, pairs_where(fires), tiny_sae())
    assert card.top == card.bands == ()
    assert len(card.scores_chosen) == N and len(card.similar) == D_SAE - 1


@pytest.mark.parametrize("weight", [1.5, -1.5])
def test_wrong_side_pairs_are_those_in_which_it_lowered_the_margin_most(weight: float) -> None:
    sae = tiny_sae()
    card = feature_card(2, TEXTS, PAIRS, sae, _head(PAIRS, 2, weight))
    direction = sae.directions().numpy()[[2]]
    scores = [alignment_scores(side.h, direction, sae.b_dec.numpy())[:, 0] for side in (PAIRS.chosen, PAIRS.rejected)]
    parts = weight * (scores[0] - scores[1]) / 2
    worst = np.argsort(parts)[:5]
    assert [one.pair for one in card.wrong] == list(worst)
    assert [one.contribution for one in card.wrong] == pytest.approx(parts[worst])
    assert (card.wrong[0].score_chosen, card.wrong[0].score_rejected) == pytest.approx([s[worst[0]] for s in scores])


def test_outside_the_head_wrong_is_against_its_mean_difference() -> None:
    card = feature_card(2, TEXTS, PAIRS, tiny_sae())
    lean = np.sign((card.scores_chosen - card.scores_rejected).mean())
    assert card.wrong and all(np.sign(one.score_chosen - one.score_rejected) == -lean for one in card.wrong)


def test_similar_latents_are_ordered_by_cosine_without_itself() -> None:
    sae = tiny_sae()
    decoder = sae.weights["W_dec"].numpy().astype(float)
    unit = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    expected = sorted(((j, float(unit[j] @ unit[0])) for j in range(1, D_SAE)), key=lambda one: -one[1])
    found = similar_latents(sae, 0)
    assert [j for j, _ in found] == [j for j, _ in expected]
    assert [c for _, c in found] == pytest.approx([c for _, c in expected], abs=1e-5)


@pytest.mark.parametrize("feature", [-1, D_SAE])
def test_a_latent_that_is_not_there_is_refused(feature: int) -> None:
    with pytest.raises(SparseRMError, match="expected 0 to 4"):
        feature_card(feature, TEXTS, PAIRS, tiny_sae())


def test_readings_peak_where_the_stored_summary_says(tiny) -> None:
    sae, backbone, pairs = tiny
    feature = int(np.bincount(pairs.chosen.latents.indices).argmax())
    card = feature_card(feature, TRAIN.pairs, pairs, sae)
    read = read_examples({feature: card.examples}, TRAIN.pairs, backbone, sae)[feature]
    assert set(read) == {(example.pair, example.side) for example in card.examples}
    for example in card.examples:
        reading = read[example.pair, example.side]
        assert reading.activations.max() == pytest.approx(example.peak, rel=1e-4)
        assert len(reading.activations) == getattr(pairs, example.side).n_tokens[example.pair]
        pooled = {"chosen": card.scores_chosen, "rejected": card.scores_rejected}[example.side][example.pair]
        assert reading.scores.mean() == pytest.approx(pooled, abs=1e-4)  # mean pooling


def test_a_text_gives_its_latents_strongest_first_token_by_token(tiny) -> None:
    sae, backbone, pairs = tiny
    pair = TRAIN.pairs[4]
    found = fire_on_text(pair.prompt, pair.chosen, backbone, sae, "mean")
    assert "".join(found.tokens) == pair.chosen
    assert list(found.peaks) == sorted(found.peaks, reverse=True) and found.peaks.min() > 0
    latents = pairs.chosen.latents.take(np.array([4]))
    assert set(found.features) == set(latents.indices)
    np.testing.assert_allclose(found.h, pairs.chosen.h[4], atol=1e-5)
    first = int(found.features[0])
    read = read_examples({first: [Example(4, "chosen", 0)]}, TRAIN.pairs, backbone, sae)[first]
    np.testing.assert_allclose(found.of(first), read[4, "chosen"].activations, atol=1e-5)
    silent = next(j for j in range(sae.d_sae) if j not in found.features)
    assert not found.of(silent).any() and len(found.of(silent)) == len(found.tokens)


def test_an_empty_text_is_refused(tiny) -> None:
    sae, backbone, _ = tiny
    with pytest.raises(SparseRMError, match="no tokens"):
        fire_on_text((Message("user", "Hi"),), "", backbone, sae, "mean")


def test_openings_are_first_token_firings_over_all_firings(tiny) -> None:
    sae, backbone, pairs = tiny
    first, every = np.zeros(sae.d_sae), np.zeros(sae.d_sae)
    for pair in TRAIN.pairs:
        for response in (pair.chosen, pair.rejected):
            text = backbone.tokenize(pair.prompt, response)
            ((_, states),) = backbone.hidden_states([text], [HOOK])
            z = sae.encode(states[HOOK][: text.end - text.start]).numpy() > 0
            first, every = first + z[0], every + z.sum(0)
    expected = np.where(every >= MIN_FIRINGS, first / np.maximum(every, 1), 0)
    np.testing.assert_allclose(measure_openings(TRAIN.pairs, pairs, backbone, sae), expected)
    assert 0 < expected.max() < 1


def test_openings_of_other_pairs_are_refused(tiny) -> None:
    sae, backbone, pairs = tiny
    with pytest.raises(SparseRMError, match="got 3 pairs and representations of 40"):
        measure_openings(TRAIN.pairs[:3], pairs, backbone, sae)


def test_scores_of_a_gated_head_are_zero_where_the_latent_is_silent() -> None:
    card = feature_card(4, TEXTS, PAIRS, tiny_sae(), gated_head())
    for side, scores in ((PAIRS.chosen, card.scores_chosen), (PAIRS.rejected, card.scores_rejected)):
        np.testing.assert_allclose(scores, side.strengths.dense_gated(np.array([4]))[:, 0])
        assert ((scores == 0) == (side.by_latent.peaks(4) == 0)).all()
    last = replace(PAIRS.chosen, pooling="last")
    states, sae = last.h, tiny_sae()
    fires = sae.encode(torch.from_numpy(states))[:, 4].numpy() > 0
    projections = pooled_scores(last, 4, sae, "projection")
    np.testing.assert_allclose(pooled_scores(last, 4, sae, "gated"), projections * fires)
    assert 0 < fires.sum() < len(fires)


def test_scores_of_tokens_are_gated_on_demand() -> None:
    reading = Reading(np.array([0.0, 2.0], np.float32), np.array([-1.5, 3.0], np.float32))
    assert reading.scores_of("projection").tolist() == [-1.5, 3.0]
    assert reading.scores_of("gated").tolist() == [0.0, 3.0]
