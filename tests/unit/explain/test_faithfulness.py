"""Explanations against what the model does: by hand, on a tiny model steered for real, and with a head that lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.faithfulness import head_agreement
from benchmarks.shift import score_shift
from sparserm.explain.faithfulness import measure_faithfulness, predicted_change
from sparserm.heads.reward import RewardHead
from sparserm.types import HookPoint, Message, SparseRMError
from tests.unit.responses import responses

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


def _texts(backbone):
    return [backbone.tokenize((Message("user", f"Say {i}"),), f"here is the number {i} and more") for i in range(4)]


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


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("site", ["resid_post", "resid_pre", "mlp_out"])
def test_a_steered_backbone_gives_the_reward_that_was_predicted(tiny_backbone, pooling, site) -> None:
    found = measure_faithfulness(_head(pooling), HookPoint(2, site), _texts(tiny_backbone), tiny_backbone, features=2)
    assert max(found.feature_sum, found.move, found.steer) < 1e-5
    assert (found.token_sum is None) == (pooling == "last")
    assert found.token_sum is None or found.token_sum < 1e-5
    assert (found.texts, found.features) == (4, 2) and found.spread > 0.01


def test_a_backbone_that_is_not_steered_is_found_out(tiny_backbone, monkeypatch) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(type(tiny_backbone), "steering", lambda *_: nullcontext())
    found = measure_faithfulness(_head(), HookPoint(2), _texts(tiny_backbone), tiny_backbone)
    assert found.steer == pytest.approx(np.abs(predicted_change(_head())).max(), rel=1e-3)


def test_steering_leaves_nothing_behind_also_where_the_work_fails(tiny_backbone) -> None:
    hook, texts = HookPoint(1), _texts(tiny_backbone)

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
    same = head_agreement(head, head, h)
    assert (same.jaccard, same.nearest, same.correlation) == pytest.approx((1, 1, 1))
    against = head_agreement(head, replace(head, weights=-head.weights, features=np.array([2, 3, 4])), h)
    assert (against.jaccard, against.nearest, against.correlation) == pytest.approx((1 / 5, 1, -1))
    assert head_agreement(head, _head(seed=5), h, same_sae=False).jaccard is None


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
