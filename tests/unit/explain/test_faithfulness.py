"""Explanations against what the model does: by hand, on a tiny model steered for real, and with a head that lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.faithfulness import head_agreement
from benchmarks.shift import score_shift
from sparserm.explain.faithfulness import measure_faithfulness, predicted_change
from sparserm.heads.reward import Encoder, RewardHead, ScoreMoments, alignment_scores, build_head, token_activations
from sparserm.types import HookPoint, Message, SparseRMError, Text
from tests.unit.gated import SEPARABLE, gated_sae, states_of
from tests.unit.responses import responses
from tests.unit.tiny import HOOK

D = 32


def _head(pooling: str = "mean", k: int = 3, seed: int = 0) -> RewardHead:
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(k, D))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return RewardHead(
        features=np.arange(k),
        directions=directions.astype(np.float32),
        center=np.zeros(D, np.float32),
        mu=rng.normal(size=k),
        sigma=1 + rng.random(k),
        weights=rng.normal(size=k),
        bias=0.25,
        pooling=pooling,
    )


TEXTS = [Text((Message("user", f"Say {i}"),), f"here is the number {i} and more") for i in range(4)]


def test_along_orthogonal_directions_the_reward_moves_by_weight_times_amount() -> None:
    head = replace(_head(), directions=np.eye(3, D, dtype=np.float32))
    assert np.allclose(predicted_change(head, 2.0), 2.0 * head.weights)


def test_a_feature_that_lies_along_another_moves_with_it() -> None:
    directions = np.zeros((2, D), np.float32)
    directions[0, 0] = 1
    directions[1, :2] = 0.6, 0.8
    head = replace(_head(k=2), directions=directions, sigma=np.array([2.0, 1.0]), weights=np.array([3.0, 5.0]))
    # One sigma of the first is 2: its own contribution moves by 3, the second's score by 0.6 x 2, at a weight of 5.
    assert np.allclose(predicted_change(head, 1.0), [3 + 0.6 * 2 * 5, 5 + 0.6 * 1 * 3 / 2])


def _gated_by_hand() -> RewardHead:
    """The first feature fires where the first dimension is above 1, the second where the second dimension is above 0."""
    directions = np.zeros((2, D), np.float32)
    directions[0, 0], directions[1, :2] = 1, (0.6, 0.8)
    encoder = Encoder(
        HookPoint(2), "whole", 9, "jumprelu", "none", False, {"W_enc": np.eye(D, 2), "b_enc": np.ones(2), "threshold": [2, 1]}
    )
    sigma, weights = np.array([0.5, 2.0]), np.array([3.0, -4.0])
    head = replace(_head(k=2), directions=directions, mu=np.zeros(2), sigma=sigma, weights=weights)
    return replace(head, encoder=replace(encoder, weights={k: np.float32(w) for k, w in encoder.weights.items()}))


def test_the_change_of_a_gated_head_is_counted_where_features_fire_after_the_move() -> None:
    states = np.zeros((2, D), np.float32)
    states[:, :2] = (2, 1), (0.5, -1)
    # Scores: 2 and .6 x 2 + .8 = 2 at the first token; none at the second.
    # Along the first by 2 x .5 = 1: the first dimension is 3 and 1.5, so the first feature now fires at both tokens: its scores
    # are 3 and 1.5; the second still fires at the first token alone, at 2.6.
    first = 3.0 * (3 + 1.5 - 2) / 2 / 0.5 - 4.0 * (2.6 - 2) / 2 / 2
    # Along the second by 2 x 2 = 4: (2.4, 3.2) more, so all fire at both tokens, with scores 4.4, 2.9 and 6, .3 - .8 + 4 = 3.5.
    second = 3.0 * (4.4 + 2.9 - 2) / 2 / 0.5 - 4.0 * (6 + 3.5 - 2) / 2 / 2
    assert predicted_change(_gated_by_hand(), 2.0, states) == pytest.approx([first, second])
    # The other way by one sigma: the first feature closes nowhere at 1.5; the second at the first token, at 1 - 1.6 < 0.
    back = [3.0 * (1.5 - 2) / 2 / 0.5 - 4.0 * (1.7 - 2) / 2 / 2, 3.0 * (0 - 2) / 2 / 0.5 - 4.0 * (0 - 2) / 2 / 2]
    assert predicted_change(_gated_by_hand(), -1.0, states) == pytest.approx(back)


def test_the_change_of_a_gated_head_needs_a_response() -> None:
    with pytest.raises(SparseRMError, match="states of a response"):
        predicted_change(_gated_by_hand())


def _gated(backbone, pooling: str, architecture: str = "jumprelu") -> RewardHead:
    """A head of six features that fire at about a third of the tokens, signs mixed."""
    texts = [backbone.tokenize(text.prompt, text.response) for text in TEXTS]
    states = np.concatenate(states_of(texts, backbone))
    part = gated_sae(torch.from_numpy(states), architecture, rate=0.35).part(range(0, 36, 6))
    directions, center = part.directions().numpy(), part.b_dec.numpy()
    sigma = alignment_scores(states, directions, center).std(0)
    weights = np.array([1.0, -0.8, 0.6, -0.5, 0.4, 0.9])
    features = np.array(part.part_of.latents)
    return build_head(features, directions, center, ScoreMoments(np.zeros(6), sigma), weights, pooling, Encoder.of(part))


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("architecture", SEPARABLE)
def test_a_steered_backbone_gives_the_reward_that_was_predicted_for_a_gated_head(tiny_backbone, pooling, architecture) -> None:
    found = measure_faithfulness(_gated(tiny_backbone, pooling, architecture), HOOK, TEXTS, tiny_backbone, features=6)
    assert max(found.feature_sum, found.move, found.steer) < 1e-5
    assert (found.token_sum is None) == (pooling == "last")
    assert found.token_sum is None or found.token_sum < 1e-5
    assert (found.texts, found.features) == (4, 6) and found.spread > 0.01


def test_without_the_gate_in_view_the_prediction_would_be_wrong(tiny_backbone) -> None:
    head = _gated(tiny_backbone, "mean")
    texts = [tiny_backbone.tokenize(text.prompt, text.response) for text in TEXTS]
    states = [state[: text.end - text.start] for state, text in zip(states_of(texts, tiny_backbone), texts, strict=True)]
    predicted = np.stack([predicted_change(head, 2.0, own) for own in states])
    ungated = predicted_change(replace(head, encoder=None), 2.0)
    # With the gates as they were before the move.
    shifts = 2 * head.sigma[:, None] * (head.directions @ head.directions.T)
    frozen = np.stack([shifts @ ((token_activations(head, own) > 0).mean(0) * head.weights / head.sigma) for own in states])
    assert np.abs(predicted - ungated).max() > 0.1 and np.abs(predicted - frozen).max() > 0.1
    assert np.ptp(predicted, axis=0).max() > 0.1  # other texts change by other amounts


def test_a_gated_head_finds_out_a_backbone_that_is_not_steered(tiny_backbone, monkeypatch) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(type(tiny_backbone), "steering", lambda *_: nullcontext())
    found = measure_faithfulness(_gated(tiny_backbone, "mean"), HOOK, TEXTS, tiny_backbone)
    assert found.steer > 0.1 and found.move < 1e-5


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("site", ["resid_post", "resid_pre", "mlp_out", "mlp"])
def test_a_steered_backbone_gives_the_reward_that_was_predicted(tiny_backbone, pooling, site) -> None:
    found = measure_faithfulness(_head(pooling), HookPoint(2, site), TEXTS, tiny_backbone, features=2)
    assert max(found.feature_sum, found.move, found.steer) < 1e-5
    assert (found.token_sum is None) == (pooling == "last")
    assert found.token_sum is None or found.token_sum < 1e-5
    assert (found.texts, found.features) == (4, 2) and found.spread > 0.01


def test_a_backbone_that_is_not_steered_is_found_out(tiny_backbone, monkeypatch) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(type(tiny_backbone), "steering", lambda *_: nullcontext())
    found = measure_faithfulness(_head(), HookPoint(2), TEXTS, tiny_backbone)
    assert found.steer == pytest.approx(np.abs(predicted_change(_head())).max(), rel=1e-3)


def test_steering_leaves_nothing_behind_also_where_the_work_fails(tiny_backbone) -> None:
    hook, texts = HookPoint(1), [tiny_backbone.tokenize(text.prompt, text.response) for text in TEXTS]

    def states() -> torch.Tensor:
        return torch.cat([own[hook] for _, own in sorted(tiny_backbone.hidden_states(texts, [hook]), key=lambda one: one[0])])

    before = states()
    with pytest.raises(KeyError), tiny_backbone.steering(hook, torch.ones(D)):
        assert torch.allclose(states(), before + 1, atol=1e-5)
        raise KeyError
    assert torch.equal(states(), before)
    with pytest.raises(SparseRMError, match="layers"), tiny_backbone.steering(HookPoint(99), torch.ones(D)):
        pass


def test_without_texts_there_is_nothing_to_measure(tiny_backbone) -> None:
    with pytest.raises(SparseRMError, match="no texts"):
        measure_faithfulness(_head(), HookPoint(2), [], tiny_backbone)


def test_a_head_agrees_with_itself_and_a_negated_one_speaks_against_it() -> None:
    h, head = responses(np.random.default_rng(1).normal(size=(50, D))), _head()
    same = head_agreement(head, head, [h])
    assert (same.jaccard, same.nearest, same.correlation) == pytest.approx((1, 1, 1))
    against = head_agreement(head, replace(head, weights=-head.weights, features=np.array([2, 3, 4])), [h])
    assert (against.jaccard, against.nearest, against.correlation) == pytest.approx((1 / 5, 1, -1))
    assert head_agreement(head, _head(seed=5), [h], same_sae=False).jaccard is None


def test_a_shift_is_counted_in_the_references_standard_deviations() -> None:
    reference = np.random.default_rng(0).normal(10, 2, 4000)
    same, moved = score_shift(reference, reference), score_shift(reference, reference + 2 * reference.std())
    assert (same.shift, same.spread, same.distance) == pytest.approx((0, 1, 0)) and same.outside == pytest.approx(
        0.02, abs=0.001
    )
    assert moved.shift == pytest.approx(2) and moved.distance == pytest.approx(0.68, abs=0.02) and moved.outside > 0.35
    assert moved.quantiles == tuple(sorted(moved.quantiles))
    for few in (reference[:1], np.ones(5)):
        with pytest.raises(SparseRMError):
            score_shift(few, reference)
