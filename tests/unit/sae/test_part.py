"""Some latents of an SAE fire where they do in the whole one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparserm.heads.reward import Encoder, RewardHead, ScoreMoments, build_head
from sparserm.sae.autoencoder import PartOf, SparseAutoencoder
from sparserm.types import NORMALISATIONS, SparseRMError
from tests.unit.gated import SEPARABLE, gated_sae, topk_sae
from tests.unit.tiny import D_SAE, HIDDEN

LATENTS = (3, 11, 12, 40)
STATES = 2 + 3 * torch.randn(400, HIDDEN, generator=torch.Generator().manual_seed(9))


def _head(part: SparseAutoencoder) -> RewardHead:
    k = part.d_sae
    assert part.part_of is not None
    moments = ScoreMoments(torch.zeros(k).double().numpy(), torch.ones(k).double().numpy())
    weights = torch.ones(k).double().numpy()
    return build_head(
        torch.tensor(part.part_of.latents).numpy(),
        part.directions().numpy(),
        part.b_dec.numpy(),
        moments,
        weights,
        "mean",
        Encoder.of(part),
    )


@pytest.mark.parametrize("architecture", SEPARABLE)
@pytest.mark.parametrize("normalize", NORMALISATIONS)
@pytest.mark.parametrize("apply_b_dec", [True, False])
def test_a_part_fires_where_the_whole_does_and_as_strongly(architecture: str, normalize: str, apply_b_dec: bool) -> None:
    sae = gated_sae(STATES, architecture, normalize=normalize, apply_b_dec=apply_b_dec)
    whole, part = sae.encode(STATES)[:, list(LATENTS)], sae.part(LATENTS).encode(STATES)
    assert torch.equal(part > 0, whole > 0) and torch.allclose(part, whole, atol=1e-4)
    assert 0.05 < (part > 0).float().mean() < 0.4


@pytest.mark.parametrize("architecture", SEPARABLE)
@pytest.mark.parametrize("normalize", NORMALISATIONS)
@pytest.mark.parametrize("apply_b_dec", [True, False])
def test_the_part_that_a_head_carries_is_the_one_it_was_made_from(architecture: str, normalize: str, apply_b_dec: bool) -> None:
    sae = gated_sae(STATES, architecture, normalize=normalize, apply_b_dec=apply_b_dec)
    part = sae.part(LATENTS)
    gate = _head(part).gate
    assert gate is not None and gate.part_of == part.part_of == PartOf(sae.fingerprint, D_SAE, LATENTS)
    assert gate.fingerprint == part.fingerprint != sae.fingerprint
    assert torch.equal(gate.encode(STATES), part.encode(STATES)) and gate.hook == part.hook
    again = _head(gate).gate
    assert again is not None and again.fingerprint == gate.fingerprint


def test_beyond_the_largest_norm_nothing_fires_and_the_input_stays_as_it_is() -> None:
    free = gated_sae(STATES)
    limit = float(STATES.norm(dim=1).quantile(0.9))
    sae = replace(free, max_norm=limit)
    beyond = STATES.norm(dim=1) > limit
    assert beyond.sum() == 40
    part, free_part = sae.part(LATENTS), free.part(LATENTS)
    gate = _head(part).gate
    assert gate is not None
    for one, unlimited in ((sae, free), (part, free_part), (gate, free_part)):
        found, expected = one.encode(STATES), unlimited.encode(STATES)
        assert (expected[beyond] > 0).any() and not found[beyond].any()
        assert torch.equal(found[~beyond], expected[~beyond])
    assert torch.equal(sae.reconstruct(STATES)[beyond], STATES[beyond])
    assert torch.equal(sae.reconstruct(STATES)[~beyond], free.reconstruct(STATES)[~beyond])
    assert len({free.fingerprint, sae.fingerprint, replace(sae, max_norm=limit + 1).fingerprint}) == 3


def test_parts_with_other_latents_thresholds_or_settings_are_told_apart() -> None:
    sae = gated_sae(STATES)
    moved = {**sae.weights, "threshold": sae.weights["threshold"] + 1e-4}
    other = SparseAutoencoder(sae.name, sae.architecture, sae.hook, sae.model_name, moved)
    parts = [sae.part(LATENTS), sae.part((3, 11, 12, 41)), other.part(LATENTS)]
    parts += [gated_sae(STATES, apply_b_dec=False).part(LATENTS), gated_sae(STATES, "standard").part(LATENTS)]
    assert len({part.fingerprint for part in parts}) == len(parts)
    assert sae.fingerprint != other.fingerprint


def test_directions_and_projections_need_no_second_copy_of_the_decoder() -> None:
    sae = gated_sae(STATES)
    rows = sae.weights["W_dec"] / sae.weights["W_dec"].norm(dim=1, keepdim=True)
    assert torch.allclose(sae.directions(LATENTS), rows[list(LATENTS)], atol=1e-6)
    assert torch.allclose(sae.project(STATES), (STATES - sae.b_dec) @ rows.T, atol=1e-4)
    kept = [one for one in vars(sae).values() if isinstance(one, torch.Tensor)]
    assert [one.shape for one in kept] == [(D_SAE,)]  # the norms


def test_some_latents_are_encoded_as_in_the_whole() -> None:
    sae = gated_sae(STATES)
    some, columns = sae.encoder_of([LATENTS[2], LATENTS[0]])
    assert some.d_sae == 2
    whole = sae.encode(STATES)
    for latent, column in columns.items():
        assert torch.allclose(some.encode(STATES)[:, column], whole[:, latent], atol=1e-5)
    topk = replace(sae, architecture="topk", k=3)  # whether a latent fires depends on the others
    assert topk.encoder_of(LATENTS) == (topk, {latent: latent for latent in LATENTS})


def test_decoder_rows_have_norm_one_and_are_those_of_the_whole() -> None:
    sae = gated_sae(STATES)
    part = sae.part(LATENTS)
    assert torch.equal(part.directions(), sae.directions()[list(LATENTS)])
    assert torch.allclose(part.weights["W_dec"].norm(dim=1), torch.ones(len(LATENTS)), atol=1e-6)
    assert not torch.allclose(sae.weights["W_dec"].norm(dim=1), torch.ones(D_SAE), atol=0.1)
    assert part.d_sae == len(LATENTS) and part.d_in == HIDDEN and torch.equal(part.b_dec, sae.b_dec)


def test_a_part_shares_no_memory_with_the_whole() -> None:
    sae = gated_sae(STATES)
    part = sae.part(LATENTS)
    before = part.encode(STATES)
    for name in ("W_enc", "b_enc", "threshold"):
        sae.weights[name].zero_()
    assert torch.equal(part.encode(STATES), before)


def test_a_topk_sae_cannot_be_taken_apart_and_says_what_to_do() -> None:
    assert not topk_sae().separable and gated_sae(STATES).separable
    with pytest.raises(SparseRMError, match="TopK") as refused:
        topk_sae().part(LATENTS)
    assert "projection" in str(refused.value) and "train-sae" in str(refused.value)
