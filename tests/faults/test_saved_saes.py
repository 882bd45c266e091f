"""Saved SAEs that are damaged: any flipped bit is refused or changes no latent, and SAEs of other programs load as before."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparserm.sae.autoencoder import FINGERPRINT, describe_sae, find_saes, load_sae
from sparserm.sae.formats import read_json
from sparserm.types import SparseRMError
from tests.unit.tiny import save_tiny_sae

WEIGHTS = "sae_weights.safetensors"
X = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
WRONG = ("x", "", None, True, 0, -1, 1.5, 10**18, 10**400, [], {}, ["a"], "²", "blocks.²", "y" * 20_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny SAE with its fingerprint, as it is written after training."""
    folder = save_tiny_sae(tmp_path / "tiny", d_in=8, d_sae=16, k=4)
    settings = {"apply_b_dec_to_input": True, "rescale_acts_by_decoder_norm": False, "normalize_activations": "none"}
    _edit(folder, **settings, activation_fn="relu", reshape_activations="none", dtype="float32")
    metadata = read_json(folder / "cfg.json")["metadata"]
    _edit(folder, metadata={**metadata, FINGERPRINT: load_sae(folder).fingerprint})
    return folder


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _refused_or_the_same(folder: Path, latents: torch.Tensor) -> bool:
    """Whether the SAE is refused; if not, its latents are those expected."""
    try:
        describe_sae("tiny", folder)
        assert torch.equal(load_sae(folder).encode(X), latents)
    except SparseRMError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return True
    return False


@pytest.mark.parametrize(("name", "least"), [("cfg.json", 150), (WEIGHTS, 400)])
def test_a_flipped_bit_is_refused_or_changes_no_latent(folder: Path, name: str, least: int) -> None:
    latents, whole, rng = load_sae(folder).encode(X), (folder / name).read_bytes(), random.Random(0)
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(data)
        refused += _refused_or_the_same(folder, latents)
    assert refused >= least


def test_an_entry_of_another_type_is_refused_in_a_line_or_harmless(folder: Path) -> None:
    latents, config = load_sae(folder).encode(X), json.loads((folder / "cfg.json").read_text())
    for name in config:
        for value in WRONG:
            (folder / "cfg.json").write_text(json.dumps(config | {name: value}))
            # Without the metadata there is no fingerprint either, as with the SAEs of other programs.
            _refused_or_the_same(folder, latents)
    for name in config["metadata"]:
        for value in WRONG:
            (folder / "cfg.json").write_text(json.dumps(config | {"metadata": config["metadata"] | {name: value}}))
            _refused_or_the_same(folder, latents)


@pytest.mark.parametrize(
    "change",
    [
        {"k": 5},
        {"rescale_acts_by_decoder_norm": True},
        {"apply_b_dec_to_input": False},
        {"normalize_activations": "layer_norm"},
    ],
)
def test_a_setting_that_latents_depend_on_is_not_changed_in_silence(folder: Path, change: dict[str, Any]) -> None:
    _edit(folder, **change)
    with pytest.raises(SparseRMError, match=r"tiny is not as it was saved: .*; download it again or train it again"):
        load_sae(folder)


def test_the_weights_of_another_training_are_refused(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({**weights, "W_enc": -weights["W_enc"]}, folder / WEIGHTS)
    with pytest.raises(SparseRMError, match="is not as it was saved"):
        load_sae(folder)
    _edit(folder, metadata={"hook_name": "blocks.2.hook_resid_post"})  # an SAE of another program has no fingerprint
    assert load_sae(folder).d_sae == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {**w, "W_dec": w["W_dec"] * 1e30}, "W_dec holds values beyond 1e"),
        (lambda w: {**w, "b_enc": w["b_enc"] + torch.inf}, "b_enc holds values that are not finite"),
        (lambda w: {**w, "b_dec": w["b_dec"] * torch.nan}, "b_dec holds values that are not finite"),
        (lambda w: {**w, "W_enc": w["W_enc"][:, :-1].contiguous()}, "W_enc has shape"),
        (lambda w: {**w, "W_dec": w["W_dec"][:, :0].contiguous()}, "has shape"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], message: str
) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    with pytest.raises(SparseRMError, match=message):
        load_sae(folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"k": 1, "k": 2}', '{"d_sae": 1e999}', "\ufeff{}", "[]", ""]
)
def test_a_configuration_that_cannot_be_read_is_one_line(folder: Path, text: str) -> None:
    (folder / "cfg.json").write_text(text, encoding="utf-8")
    for read in (lambda: load_sae(folder), lambda: describe_sae("tiny", folder)):
        with pytest.raises(SparseRMError, match=r"cfg\.json .*expected a JSON object"):
            read()


def test_infinities_that_python_writes_into_metadata_are_read(folder: Path) -> None:
    text = (folder / "cfg.json").read_text()
    (folder / "cfg.json").write_text(text.replace('"metadata": {', '"metadata": {"l0": Infinity, "loss": NaN, '))
    assert load_sae(folder).metadata["l0"] == float("inf")


@pytest.mark.parametrize("name", ["smollm2/layer_10", "smollm2/layer_15", "smollm2/layer_20"])
def test_shipped_saes_have_their_fingerprint(name: str) -> None:
    assert read_json(find_saes()[name] / "cfg.json")["metadata"][FINGERPRINT] == load_sae(name).fingerprint
