"""Every ranker on pairs whose preference is known, and what each of them may not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparserm.benchmark.rankers import RANKERS, Ranking, head_ranker, random_dictionary_ranker
from sparserm.heads.fitting import FitSettings, fit_head
from sparserm.representations.values import PairRepresentations
from sparserm.types import SparseRMError
from tests.unit.benchmark.material import SAE, make_material
from tests.unit.separable import TEST, TRAIN, noise

SMALL = {name: ranker for name, ranker in RANKERS.items() if name in ("dense", "latents", "latents-32", "latents-last")} | {
    "sparse": head_ranker("sparse", 3),
    "gated": RANKERS["gated"],
}


@pytest.mark.parametrize("name", SMALL)
def test_a_real_preference_is_found(name: str) -> None:
    material = make_material()
    ranking = SMALL[name](material, 0)
    assert ranking.evaluate(material.pairs[1]).accuracy > 0.85
    assert ranking.margins.shape == (len(TEST.groups),)


@pytest.mark.parametrize("name", SMALL)
def test_noise_is_noise(name: str) -> None:
    material = make_material(noise(0, 400), noise(1, 400))
    assert abs(SMALL[name](material, 0).evaluate(material.pairs[1]).accuracy - 0.5) < 0.1


def test_the_labels_of_the_test_pairs_change_nothing_but_the_sign() -> None:
    material = make_material()
    test = material.test["mean"]
    swapped = replace(
        material, test={pooling: PairRepresentations(test.rejected, test.chosen, test.groups) for pooling in ("mean", "last")}
    )
    for name, ranker in {**SMALL, "longer": RANKERS["longer"]}.items():
        assert np.allclose(ranker(material, 0).margins, -ranker(swapped, 0).margins), name


def test_longer_is_the_difference_in_tokens_and_a_tie_is_wrong() -> None:
    material = make_material()
    test = material.pairs[1]
    lengths = np.where(np.arange(len(test.groups)) == 0, 3, 1).astype(np.int32)
    chosen = replace(test.chosen, n_tokens=np.full_like(lengths, 3))
    test = PairRepresentations(chosen, replace(test.rejected, n_tokens=lengths), test.groups)
    material = replace(material, test={"mean": test})
    ranking = RANKERS["longer"](material, 0)
    assert ranking.margins[0] == 0 and (ranking.margins[1:] == 2).all() and ranking.n_parameters == 0
    assert ranking.evaluate(test).accuracy == pytest.approx(1 - 1 / len(test.groups))


def test_taking_rows_takes_them_in_both_poolings_and_leaves_the_test_pairs() -> None:
    part = make_material().take(np.array([5, 1]))
    for pairs in part.train.values():
        assert np.array_equal(pairs.chosen.h, TRAIN.chosen.h[[5, 1]])
    assert len(part.pairs[1].groups) == len(TEST.groups)


def test_few_latents_are_few_and_random_directions_change_with_the_seed() -> None:
    material = make_material()
    assert RANKERS["latents-32"](material, 0).n_parameters <= 32
    first, again, other = (RANKERS["random-directions"](material, seed) for seed in (0, 0, 1))
    assert isinstance(first, Ranking) and first.n_parameters == 32
    assert np.array_equal(first.margins, again.margins) and not np.array_equal(first.margins, other.margins)


def test_the_number_of_parameters_of_a_gated_head_is_that_of_its_features() -> None:
    material = make_material()
    fitted = fit_head(material.pairs[0], material.sae, FitSettings())
    assert fitted.head.score == "gated"
    assert RANKERS["gated"](material, 0).n_parameters == len(fitted.head.features) < SAE.d_sae
    drawn = [RANKERS["random-latents-gated"](material, seed) for seed in (0, 1)]
    assert all(0 < one.n_parameters <= SAE.d_sae for one in drawn)


def test_gated_rankers_are_refused_for_an_sae_that_cannot_be_taken_apart() -> None:
    material = make_material()
    material = replace(material, sae=replace(material.sae, architecture="topk", k=3))
    for name in ("gated", "random-latents-gated"):
        with pytest.raises(SparseRMError, match="is a TopK SAE"):
            RANKERS[name](material, 0)


def test_a_random_dictionary_is_selected_from_as_an_sae_is_but_not_the_sae() -> None:
    material, rank = make_material(), random_dictionary_ranker(6)
    empty = replace(material.sae, weights={**SAE.weights, "W_dec": torch.zeros_like(SAE.weights["W_dec"])})
    first, again, other = (rank(material, seed) for seed in (0, 0, 1))
    assert first.n_parameters == 6 and first.evaluate(material.pairs[1]).accuracy > 0.7
    assert np.array_equal(first.margins, again.margins) and not np.array_equal(first.margins, other.margins)
    # The decoder is not looked at, only how its latents fired.
    assert np.array_equal(first.margins, rank(replace(material, sae=empty), 0).margins)
