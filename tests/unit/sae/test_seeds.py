"""Latents that SAEs of other seeds have too: by direction and by what they fire on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sparserm.sae.autoencoder import FINGERPRINT, SparseAutoencoder, load_sae
from sparserm.sae.seeds import FILE, SeedStability, measure_seeds, read_seeds, save_seeds, seeds_of
from sparserm.types import HookPoint, SparseRMError
from tests.unit.tiny import firing_sae, save_tiny_sae

STATES = np.random.default_rng(0).normal(size=(5000, 6)).astype(np.float32)


def _sae(directions: torch.Tensor, encoders: torch.Tensor | None = None) -> SparseAutoencoder:
    """Fires where the projection on its own encoder is above 1."""
    rows = directions if encoders is None else encoders
    weights = {"W_enc": rows.T.contiguous(), "W_dec": directions, "b_enc": -torch.ones(len(rows)), "b_dec": torch.zeros(6)}
    return SparseAutoencoder("axes", "standard", HookPoint(1), "tiny", weights)


def test_latents_are_found_again_whatever_their_order() -> None:
    axes = torch.eye(6)
    found = measure_seeds(_sae(axes), [_sae(axes[[5, 4, 3, 2, 1, 0]] * 3, axes[[5, 4, 3, 2, 1, 0]])], STATES)
    assert found.seeds == 1 and (found.direction == 1).all() and (found.firing == 1).all()


def test_direction_and_firing_are_two_things_and_shares_are_over_the_seeds() -> None:
    """Of two other seeds one has the first latent's direction only, the other what it fires on only."""
    axes = torch.eye(6)
    turned = axes[[1, 2, 0, 3, 4, 5]]
    found = measure_seeds(_sae(axes[:1]), [_sae(axes[:1], turned[:1]), _sae(turned[:1], axes[:1])], STATES)
    assert (found.direction, found.firing) == (0.5, 0.5)


def test_a_cosine_below_the_bound_does_not_count() -> None:
    axes = torch.eye(6)
    near = torch.tensor([[0.95, (1 - 0.95**2) ** 0.5, 0, 0, 0, 0]])
    far = torch.tensor([[0.85, (1 - 0.85**2) ** 0.5, 0, 0, 0, 0]])
    assert measure_seeds(_sae(axes[:1]), [_sae(near)], STATES).direction == 1
    assert measure_seeds(_sae(axes[:1]), [_sae(far)], STATES).direction == 0


def test_a_latent_that_never_fires_is_not_found() -> None:
    silent = _sae(torch.eye(6))
    silent = replace(silent, weights={**silent.weights, "b_enc": torch.full((6,), -100.0)})
    assert (measure_seeds(silent, [silent], STATES).firing == 0).all()


def test_it_is_read_as_it_was_saved_and_not_for_another_sae(tmp_path) -> None:
    found = SeedStability(2, np.array([0.0, 0.5, 1.0]), np.array([1.0, 1.0, 0.0]))
    save_seeds(found, tmp_path)
    again = read_seeds(tmp_path, 3)
    assert again is not None and again.seeds == 2
    np.testing.assert_array_equal(again.direction, found.direction)
    np.testing.assert_array_equal(again.firing, found.firing)
    assert read_seeds(tmp_path, 4) is None and read_seeds(tmp_path / "none", 3) is None
    (tmp_path / FILE).write_text('{"seeds": 2, "direction": [0, 0, 3], "firing": [0, 0, 0]}')
    assert read_seeds(tmp_path, 3) is None


@pytest.mark.parametrize("others", [[], [firing_sae(HookPoint(2))]])
def test_no_seeds_or_another_hook_point_is_refused(others) -> None:
    with pytest.raises(SparseRMError, match="expected one or more at"):
        measure_seeds(firing_sae(HookPoint(1)), others, STATES)


FOUND = SeedStability(2, np.array([1.0, 0.5, 0.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0]))


def test_the_whole_sae_and_one_latent_are_told_in_words_and_figures() -> None:
    assert str(FOUND) == "38% of latents (direction), 75% (firing), 2 other seeds"
    assert FOUND.figures() == {"seeds": 2, "seeds_direction": 0.375, "seeds_firing": 0.75}
    assert FOUND.of(1) == "in 1 of 2 other seeds (direction), 2 of 2 (firing)"
    one = SeedStability(1, np.ones(1), np.zeros(1))
    assert one.of(0) == "in 1 of 1 other seed (direction), 0 of 1 (firing)" and str(one).endswith("1 other seed")


def _saved(folder: Path) -> str:
    """Save an SAE with its fingerprint, as those trained here have it, and what seeds it was compared with."""
    save_tiny_sae(folder, d_sae=4)
    fingerprint, config = load_sae(folder).fingerprint, json.loads((folder / "cfg.json").read_text())
    config["metadata"][FINGERPRINT] = fingerprint
    (folder / "cfg.json").write_text(json.dumps(config))
    save_seeds(FOUND, folder)
    return fingerprint


def test_a_head_finds_them_by_the_name_or_folder_of_its_sae(sparserm_home: Path) -> None:
    folder = sparserm_home / "saes" / "tiny" / "layer_2"
    fingerprint = _saved(folder)
    for name in ("tiny/layer_2", str(folder)):
        found = seeds_of(name, fingerprint, 4)
        assert found is not None and found.seeds == 2
    assert seeds_of("tiny/layer_2", "0" * 16, 4) is None  # another SAE has taken its name
    assert seeds_of("tiny/layer_2", fingerprint, 5) is None
    for name in ("tiny/layer_3", "a-release:layer_2", "n" * 300, ""):
        assert seeds_of(name, fingerprint, 4) is None
    (folder / "cfg.json").write_text("{")
    assert seeds_of("tiny/layer_2", fingerprint, 4) is None


def test_without_the_file_or_the_fingerprint_nothing_is_known(tmp_path: Path) -> None:
    fingerprint = _saved(tmp_path / "sae")
    (tmp_path / "sae" / FILE).unlink()
    assert seeds_of(str(tmp_path / "sae"), fingerprint, 4) is None
    save_tiny_sae(tmp_path / "unnamed", d_sae=4)
    save_seeds(FOUND, tmp_path / "unnamed")
    assert seeds_of(str(tmp_path / "unnamed"), load_sae(tmp_path / "unnamed").fingerprint, 4) is None
