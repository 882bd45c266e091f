"""Families: features that fire together contribute as one, named by one that fires, and nothing is lost in the sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparserm.explain.contributions import (
    Contribution,
    FeatureDifference,
    compare_responses,
    explain_difference,
    explain_response,
)
from sparserm.explain.families import by_family, has_families, takes_part
from sparserm.heads.reward import RewardHead, token_scores
from tests.unit.explain.random_heads import random_head
from tests.unit.features.latents import D
from tests.unit.ui.gated import FEATURES, gated_head


def _part(feature: int, contribution: float, family: int = -1, fires: bool | None = True) -> Contribution:
    return Contribution(feature, f"label {feature}", contribution, 1.0, contribution, fires=fires, family=family)


def _shape(parts: list[Contribution]) -> list[tuple[tuple[int, ...], str, float]]:
    return [(one.features, one.first.label, one.contribution) for one in by_family(parts)]


def test_a_family_is_the_sum_of_its_members_and_is_named_after_its_leader() -> None:
    parts = [_part(3, -1.0), _part(8, 0.75, 5), _part(5, 0.5, 5), _part(9, 0.125, 5)]
    assert _shape(parts) == [((5, 8, 9), "label 5", 1.375), ((3,), "label 3", -1.0)]
    assert has_families(parts)


def test_where_the_leader_is_silent_the_largest_that_fires_names_the_family() -> None:
    silent = _part(5, 0.0, 5, fires=False)
    assert _shape([_part(9, 0.25, 5), _part(8, -0.75, 5), silent]) == [((8, 9), "label 8", -0.5)]
    assert _shape([_part(9, 0.25, 5), silent]) == [((9,), "label 9", 0.25)]
    assert _shape([silent]) == []


def test_features_of_their_own_stay_apart_largest_first() -> None:
    parts = [_part(3, 0.5), _part(4, -2.0), _part(7, 0.0, fires=False), _part(8, 0.0)]
    assert [(part.feature, part.family) for part in parts] == [(3, 3), (4, 4), (7, 7), (8, 8)]
    assert _shape(parts) == [((4,), "label 4", -2.0), ((3,), "label 3", 0.5), ((8,), "label 8", 0.0)]
    assert not has_families(parts) and _shape([]) == []


def test_projections_take_part_also_where_they_are_silent_or_unknown() -> None:
    assert takes_part(_part(3, 0.5, fires=False)) and takes_part(_part(3, 0.0, fires=None))
    assert not takes_part(_part(3, 0.0, fires=False))
    sides = FeatureDifference(3, "label 3", 0.0, 0.0, 1.0, 0.0, fires_a=False, fires_b=False)
    assert sides.family == 3 and not takes_part(sides) and takes_part(replace(sides, fires_b=True))


#: Scores are the coordinates, so that the contributions of h are h * (2, 1, 4).
HEAD = RewardHead(
    features=np.array([4, 6, 9]),
    directions=np.eye(3, dtype=np.float32),
    center=np.zeros(3, np.float32),
    mu=np.zeros(3),
    sigma=np.array([0.5, 1.0, 0.5]),
    weights=np.array([1.0, 1.0, 2.0]),
    bias=0.0,
    pooling="mean",
    families=np.array([9, 6, 9]),
)


def _bars(head: RewardHead) -> list[tuple[tuple[int, ...], float]]:
    h = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]], np.float32)  # the second closes the turn
    found = explain_response(head, h, ["yes"], {})
    assert {part.feature: part.family for part in found.contributions} == dict(zip((4, 6, 9), head.leaders, strict=True))
    return [(one.features, one.contribution) for one in by_family(found.contributions)]


def test_the_families_of_a_head_by_hand() -> None:
    assert _bars(HEAD) == [((9, 4), 14.0), ((6,), 2.0)]
    assert HEAD.family(4) == HEAD.family(9) == (9, 4) and HEAD.family(6) == (6,)


def test_a_head_without_families_has_a_bar_for_each_feature() -> None:
    assert _bars(replace(HEAD, families=None)) == [((9,), 12.0), ((4,), 2.0), ((6,), 2.0)]


def test_features_whose_weights_were_edited_apart_share_no_bar() -> None:
    flipped = replace(HEAD, weights=np.array([1.0, 1.0, -2.0]))
    assert _bars(flipped) == [((9,), -12.0), ((4,), 2.0), ((6,), 2.0)]
    assert _bars(replace(HEAD, weights=np.array([1.0, 1.0, 0.0])))[0] == ((4,), 2.0)


def test_the_heaviest_after_an_edit_leads() -> None:
    edited = replace(HEAD, weights=np.array([-3.0, 1.0, -2.0]))
    assert edited.leaders.tolist() == [4, 6, 4] and edited.family(9) == (4, 9)
    assert _bars(edited) == [((4, 9), -18.0), ((6,), 2.0)]


def test_differences_and_comparisons_are_grouped_alike() -> None:
    h = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]], np.float32)
    a, b = (explain_response(HEAD, np.stack([one, one]), ["x"], {}) for one in h)
    for parts in (explain_difference(a, b), compare_responses(HEAD, token_scores(HEAD, h), {}).contributions):
        assert [(one.features, one.contribution) for one in by_family(parts)] == [((9, 4), 2.0), ((6,), 0.0)]


@pytest.mark.parametrize("seed", range(20))
def test_families_add_up_to_the_reward_and_to_the_margin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    head, h = random_head(seed, "mean")
    head = replace(head, families=rng.choice(head.features, len(head.features)))
    a, b = (explain_response(head, one, ["x"] * (len(one) - 1), {}) for one in (h, 0.5 * h[::-1]))
    assert sum(one.contribution for one in by_family(a.contributions)) == pytest.approx(a.reward - a.bias, abs=1e-9)
    difference = by_family(explain_difference(a, b))
    assert sum(one.contribution for one in difference) == pytest.approx(a.reward - b.reward, abs=1e-9)
    assert sorted(feature for one in difference for feature in one.features) == sorted(head.features.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_families_of_a_gated_head_hold_what_fires(seed: int) -> None:
    head = replace(gated_head(), weights=np.array([1.0, 2.0, 0.5]), families=np.array([2, 2, 2]))  # feature 2 never fires
    h = np.random.default_rng(seed).normal(scale=2, size=(7, D)).astype(np.float32)
    found = explain_response(head, h, ["x"] * 6, {})
    (family,) = by_family(found.contributions)
    assert set(family.features) == {part.feature for part in found.contributions if part.fires} < set(FEATURES)
    assert {part.family for part in found.contributions} == {2} and family.first.feature != 2
    assert family.contribution == pytest.approx(found.reward, abs=1e-9)
