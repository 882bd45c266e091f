"""Sparse autoencoders as SAELens has them: every architecture and normalisation that is read, and refusal of all others."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig, JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig, StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparserm.sae.autoencoder import SparseAutoencoder, check_compatible, list_saes, load_sae
from sparserm.sae.formats import NORMALISATIONS
from sparserm.types import HookPoint, SparseRMError

D_IN, D_SAE, K = 12, 40, 6
HOOK = "blocks.3.hook_resid_post"
INFERENCE = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": K}),
    "topk rescaled": (TopKSAE, TopKSAEConfig, {"k": K, "rescale_acts_by_decoder_norm": True}),
    "gated": (GatedSAE, GatedSAEConfig, {}),
}
TRAINING = {
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig, {}),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, {}),
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig, {"k": K, "rescale_acts_by_decoder_norm": False}),
    "topk rescaled": (TopKTrainingSAE, TopKTrainingSAEConfig, {"k": K}),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": K}),
    "matryoshka": (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        {"k": K, "matryoshka_widths": [10, D_SAE]},
    ),
}


def _build(kind: tuple[Any, Any, dict[str, Any]], **settings: Any) -> Any:
    """An SAE of SAELens with random weights; no bias or threshold is zero and no decoder row has norm one."""
    sae_class, config_class, more = kind
    metadata = SAEMetadata(model_name="tiny", hook_name=HOOK)
    sae = sae_class(config_class(d_in=D_IN, d_sae=D_SAE, metadata=metadata, **more, **settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weights in sae.named_parameters():
            values = torch.randn(weights.shape, generator=generator)
            weights.copy_(values.abs() if name == "threshold" else values * (D_IN**-0.5 if name.startswith("W") else 0.3))
        sae.W_dec *= torch.linspace(0.5, 2, D_SAE)[:, None]
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(1.5)
    return sae


def _inputs() -> Tensor:
    return 1 + 2 * torch.randn(4, 9, D_IN, generator=torch.Generator().manual_seed(1))


def _saved(folder: Path, kind: str = "standard", **settings: Any) -> Path:
    _build(INFERENCE[kind], **settings).save_model(folder)
    return folder


def _edit_cfg(folder: Path, **changes: Any) -> Path:
    cfg = json.loads((folder / "cfg.json").read_text()) | changes
    (folder / "cfg.json").write_text(json.dumps({key: value for key, value in cfg.items() if value is not None}))
    return folder


def _assert_same(folder: Path) -> SparseAutoencoder:
    """Encode, decode and reconstruct on this folder are as those of SAELens."""
    ours, theirs, x = load_sae(folder), SAE.load_from_disk(folder), _inputs()
    with torch.no_grad():
        z = theirs.encode(x)
        reconstruction, inside = theirs.run_with_cache(x)
    assert 0 < (z > 0).float().mean() < 0.9  # otherwise nothing would be compared
    torch.testing.assert_close(ours.encode(x), z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decode(z), inside["hook_sae_recons"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.reconstruct(x), reconstruction, atol=1e-5, rtol=1e-5)
    if ours.normalize_activations == "none":
        with torch.no_grad():
            torch.testing.assert_close(ours.decode(z), theirs.decode(z), atol=1e-5, rtol=1e-5)
    return ours


@pytest.mark.parametrize("apply_b_dec", [True, False])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("kind", INFERENCE)
def test_what_is_read_computes_what_saelens_computes(kind: str, normalisation: str, apply_b_dec: bool, tmp_path: Path) -> None:
    _saved(tmp_path, kind, normalize_activations=normalisation, apply_b_dec_to_input=apply_b_dec)
    ours = _assert_same(tmp_path)
    assert (ours.architecture, ours.d_in, ours.d_sae) == (kind.split(maxsplit=1)[0], D_IN, D_SAE)
    assert (ours.hook, ours.model_name) == (HookPoint(3), "tiny")


@pytest.mark.parametrize("apply_b_dec", [True, False])
@pytest.mark.parametrize("normalisation", ["none", "layer_norm"])
@pytest.mark.parametrize("kind", INFERENCE)
def test_an_sae_of_a_centred_model_sees_what_it_saw_in_training(
    kind: str, normalisation: str, apply_b_dec: bool, tmp_path: Path
) -> None:
    _saved(tmp_path, kind, normalize_activations=normalisation, apply_b_dec_to_input=apply_b_dec)
    theirs = SAE.load_from_disk(tmp_path)
    metadata = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    centred = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    for changes in ({"metadata": metadata | centred}, {"metadata": metadata, **centred}):  # version 6, and before
        _edit_cfg(tmp_path, **changes)
        x = _inputs()
        with torch.no_grad():
            expected = theirs.encode(x - x.mean(-1, keepdim=True))
        torch.testing.assert_close(load_sae(tmp_path).encode(x), expected, rtol=1e-4, atol=1e-4)


def test_a_centred_model_whose_norm_is_scaled_by_is_refused(tmp_path: Path) -> None:
    _saved(tmp_path, normalize_activations="constant_norm_rescale")
    _edit_cfg(tmp_path, model_from_pretrained_kwargs={"center_writing_weights": True})
    with pytest.raises(SparseRMError, match="centred writing weights"):
        load_sae(tmp_path)


def test_the_settings_matter_so_that_parity_says_something(tmp_path: Path) -> None:
    settings = itertools.product(NORMALISATIONS, [True, False])
    loaded = [
        load_sae(_saved(tmp_path / str(i), "topk rescaled", normalize_activations=norm, apply_b_dec_to_input=apply))
        for i, (norm, apply) in enumerate(settings)
    ]
    loaded.append(replace(loaded[0], rescale_acts_by_decoder_norm=False))
    encoded = [sae.encode(_inputs()) for sae in loaded]
    assert all((a - b).abs().max() > 0.1 for a, b in itertools.combinations(encoded, 2))
    assert len({sae.fingerprint for sae in loaded}) == len(loaded)


@pytest.mark.parametrize("kind", TRAINING)
def test_an_sae_saved_for_inference_is_read_as_saelens_reads_it(kind: str, tmp_path: Path) -> None:
    _build(TRAINING[kind]).save_inference_model(tmp_path)
    ours = _assert_same(tmp_path)
    assert ours.architecture == ("jumprelu" if kind in ("batchtopk", "matryoshka") else kind.split(maxsplit=1)[0])
    assert ours.hook == HookPoint(3)


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    _saved(tmp_path)
    full = load_sae(tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({key: value.half() for key, value in weights.items()}, tmp_path / "sae_weights.safetensors")
    _edit_cfg(tmp_path, dtype="float16")
    half, x = load_sae(tmp_path), _inputs()
    assert half.encode(x).dtype == torch.float32 and half.encode(x.half()).dtype == torch.float32
    torch.testing.assert_close(half.encode(x), full.encode(x), atol=0.05, rtol=0.05)


def test_a_folder_from_before_version_6_is_read_like_one_of_today(tmp_path: Path) -> None:
    _saved(tmp_path)
    _edit_cfg(tmp_path, metadata=None, hook_name=HOOK, model_name="tiny", activation_fn_str="relu")
    assert (_assert_same(tmp_path).hook, load_sae(tmp_path).model_name) == (HookPoint(3), "tiny")


@pytest.mark.parametrize("architecture", ["standard", "topk"])
@pytest.mark.parametrize("hook_key", ["hook_name", "hook_point"])
def test_a_topk_folder_from_before_version_6_is_read_as_topk(architecture: str, hook_key: str, tmp_path: Path) -> None:
    _saved(tmp_path)
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    _edit_cfg(tmp_path, metadata=None, architecture=architecture, **{hook_key: HOOK}, **topk)
    assert SAE.load_from_disk(tmp_path).cfg.architecture() == "topk"
    ours = _assert_same(tmp_path)
    assert (ours.architecture, ours.k, ours.hook) == ("topk", K, HookPoint(3))


@pytest.mark.parametrize("kwargs", [None, {}, {"k": None}, "k"])
def test_a_topk_activation_without_its_k_is_refused(kwargs: Any, tmp_path: Path) -> None:
    _saved(tmp_path)
    _edit_cfg(tmp_path, metadata=None, hook_name=HOOK, activation_fn_str="topk", activation_fn_kwargs=kwargs)
    with pytest.raises(SparseRMError, match="has k None in its configuration; expected a whole number above 0"):
        load_sae(tmp_path)


def test_directions_are_decoder_rows_of_norm_one(tmp_path: Path) -> None:
    sae = load_sae(_saved(tmp_path))
    W_dec = load_file(tmp_path / "sae_weights.safetensors")["W_dec"]
    torch.testing.assert_close(sae.directions().norm(dim=-1), torch.ones(D_SAE))
    torch.testing.assert_close(sae.directions() * W_dec.norm(dim=-1, keepdim=True), W_dec)


def test_the_fingerprint_is_of_the_contents_and_not_of_the_name(tmp_path: Path) -> None:
    first, second = load_sae(_saved(tmp_path / "a", "jumprelu")), load_sae(_saved(tmp_path / "b", "jumprelu"))
    assert first.fingerprint == second.fingerprint and first.name != second.name
    moved = {**first.weights, "threshold": first.weights["threshold"] + 1e-3}
    assert replace(first, weights=moved).fingerprint != first.fingerprint


def test_loading_a_folder_does_not_import_saelens(tmp_path: Path) -> None:
    _saved(tmp_path)
    program = (
        "import sys; from sparserm.sae.autoencoder import load_sae; load_sae(sys.argv[1]).fingerprint; "
        "assert not {'sae_lens', 'transformer_lens', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)


def test_an_unknown_release_is_refused_naming_release_and_id() -> None:
    for name in ("no-such-release:layer_3", "no-such-release/layer_3"):
        with pytest.raises(SparseRMError, match=rf"no SAE '{name}': expected .* release:sae_id of SAELens's registry"):
            load_sae(name)


# EleutherAI's sparsify.


def _sparsify(folder: Path, **cfg: Any) -> Path:
    folder.mkdir(parents=True)
    tensors = {
        "encoder.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
        "encoder.bias": torch.tensor([0.0, 0.5, -1.0]),
        "W_dec": torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]),
        "b_dec": torch.tensor([1.0, -1.0]),
    }
    save_file(tensors, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": 2, "num_latents": 3, "k": 2, "expansion_factor": 1, **cfg}))
    return folder


def test_a_sparsify_folder_by_hand(tmp_path: Path) -> None:
    sae = load_sae(_sparsify(tmp_path / "layers.3"))
    # x - b_dec = (2, 1), then (-1, 1); pre-activations (2, 1.5, 2), then (-1, 1.5, -1).
    x = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    z = torch.tensor([[2.0, 0.0, 2.0], [0.0, 1.5, 0.0]])
    torch.testing.assert_close(sae.encode(x), z)
    expected = torch.tensor([[2 + 6 + 1, 8 - 1], [1, 3 - 1]]).float()
    torch.testing.assert_close(sae.decode(z), expected)
    torch.testing.assert_close(sae.reconstruct(x), expected)
    torch.testing.assert_close(sae.directions(), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    assert (sae.architecture, sae.k, sae.d_in, sae.d_sae, sae.hook) == ("topk", 2, 2, 3, HookPoint(3))


@pytest.mark.parametrize(
    ("folder", "hook"),
    [
        ("layers.3", HookPoint(3)),
        ("layers.12.mlp", HookPoint(12, "mlp")),
        ("h.0", HookPoint(0)),
        ("model.layers.7", HookPoint(7)),
        ("layers.3/seed1", HookPoint(3)),
        ("layers.12.mlp/seed0", HookPoint(12, "mlp")),
    ],
)
def test_sparsify_names_the_hook_by_the_folder(folder: str, hook: HookPoint, tmp_path: Path) -> None:
    assert load_sae(_sparsify(tmp_path / folder)).hook == hook


def test_an_sae_of_an_mlp_has_the_fingerprint_that_heads_of_earlier_versions_recorded(tmp_path: Path) -> None:
    sae = load_sae(_sparsify(tmp_path / "layers.12.mlp"))
    assert sae.fingerprint == replace(sae, hook=HookPoint(12, "mlp_out")).fingerprint
    assert sae.fingerprint != replace(sae, hook=HookPoint(12)).fingerprint


@pytest.mark.parametrize("folder", ["encoder", "layers", "my.3", "seed1", "run/seed1", "layers.3/best", "layers.3/seed1/seed2"])
def test_a_sparsify_folder_that_names_no_layer_is_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(SparseRMError, match="names no hook point"):
        load_sae(_sparsify(tmp_path / folder))


@pytest.mark.parametrize("folder", ["layers.3.attention", "layers.3.self_attn", "layers.3.mlp.act"])
def test_a_sparsify_folder_of_a_module_that_is_no_hook_point_is_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(SparseRMError, match="names no hook point"):
        load_sae(_sparsify(tmp_path / folder))


@pytest.mark.parametrize("cfg", [{"transcode": True}, {"skip_connection": True}, {"signed": True}, {"activation": "groupmax"}])
def test_sparsify_transcoders_and_other_activations_are_refused(cfg: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SparseRMError, match="expected a plain topk SAE"):
        load_sae(_sparsify(tmp_path / "layers.3", **cfg))


# What does not fit, and what is damaged.


def test_an_sae_of_another_width_is_refused_naming_both(tmp_path: Path) -> None:
    sae = load_sae(_saved(tmp_path))
    with pytest.raises(SparseRMError) as error:
        check_compatible(sae, model_name="smollm2", d_model=576, n_layers=30)
    for said in ("tiny", HOOK, f"width {D_IN}", "smollm2", "30 layers", "width 576"):
        assert said in str(error.value)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_an_sae_of_a_deeper_layer_than_there_is_is_refused_naming_both(n_layers: int, tmp_path: Path) -> None:
    sae = load_sae(_saved(tmp_path))
    with pytest.raises(SparseRMError, match=rf"{HOOK}.*backbone small has {n_layers} layers"):
        check_compatible(sae, model_name="small", d_model=D_IN, n_layers=n_layers)


def test_an_sae_that_fits_is_accepted(tmp_path: Path) -> None:
    check_compatible(load_sae(_saved(tmp_path)), model_name="small", d_model=D_IN, n_layers=4)


@pytest.mark.parametrize("name", ["expected_average_only_in", "covariance_whitening"])
def test_a_normalisation_whose_statistics_are_not_in_the_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SparseRMError, match=f"'{name}', which needs statistics that are not stored with it"):
        load_sae(_saved(tmp_path, normalize_activations=name))


@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka"])
def test_a_training_checkpoint_of_batch_topk_is_refused_with_a_hint(kind: str, tmp_path: Path) -> None:
    _build(TRAINING[kind]).save_model(tmp_path)
    with pytest.raises(SparseRMError, match=r"batchtopk'; expected one of standard, .*are saved as jumprelu"):
        load_sae(tmp_path)


@pytest.mark.parametrize("name", ["temporal", "transcoder", "no such"])
def test_an_unknown_architecture_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SparseRMError, match=f"architecture '{name}'; expected one of standard, jumprelu, topk, gated"):
        load_sae(_edit_cfg(_saved(tmp_path), architecture=name))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model.layers.15", HookPoint(15)),
        ("model.layers.15.mlp", HookPoint(15, "mlp")),
        ("blocks.15.mlp.hook_out", HookPoint(15, "mlp")),
        ("transformer.h.3", HookPoint(3)),
        ("gpt_neox.layers.0.output", HookPoint(0)),
    ],
)
def test_a_hook_named_as_in_transformers_is_the_output_of_that_module(theirs: str, ours: HookPoint, tmp_path: Path) -> None:
    assert load_sae(_edit_cfg(_saved(tmp_path), metadata={"hook_name": theirs})).hook == ours


def test_a_hook_point_that_is_not_supported_is_refused(tmp_path: Path) -> None:
    _edit_cfg(_saved(tmp_path), metadata={"hook_name": "blocks.3.attn.hook_z"})
    with pytest.raises(SparseRMError, match=r"blocks\.3\.attn\.hook_z"):
        load_sae(tmp_path)


@pytest.mark.parametrize("change", [{"reshape_activations": "hook_z"}, {"activation_fn": "tanh-relu"}])
def test_reshaped_inputs_and_other_activations_are_refused(change: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SparseRMError, match=r"reshapes its input|has activation"):
        load_sae(_edit_cfg(_saved(tmp_path), **change))


@pytest.mark.parametrize(
    ("kind", "tensor"), [("standard", "b_enc"), ("jumprelu", "threshold"), ("topk", "W_enc"), ("gated", "r_mag")]
)
def test_a_missing_tensor_is_refused_by_name(kind: str, tensor: str, tmp_path: Path) -> None:
    weights = load_file(_saved(tmp_path, kind) / "sae_weights.safetensors")
    del weights[tensor]
    save_file(weights, tmp_path / "sae_weights.safetensors")
    with pytest.raises(SparseRMError, match=f"lacks the tensors {tensor}; found"):
        load_sae(tmp_path)


@pytest.mark.parametrize("tensor", ["W_enc", "b_enc", "threshold", "b_dec"])
def test_wrong_shapes_and_values_that_are_not_finite_are_refused_by_name(tensor: str, tmp_path: Path) -> None:
    path = _saved(tmp_path, "jumprelu") / "sae_weights.safetensors"
    weights = load_file(path)
    save_file({**weights, tensor: weights[tensor][:-1].contiguous()}, path)
    with pytest.raises(SparseRMError, match=f"{tensor} has shape .*expected"):
        load_sae(tmp_path)
    save_file({**weights, tensor: weights[tensor] / 0}, path)
    with pytest.raises(SparseRMError, match=f"{tensor} holds values that are not finite"):
        load_sae(tmp_path)


def test_pickles_are_refused_without_being_opened(tmp_path: Path) -> None:
    for name in ("sae.pt", "sae.pth", "sae.bin", "sae.pkl", "params.npz"):
        (tmp_path / name).write_bytes(b"never read")
        with pytest.raises(SparseRMError, match="pickle"):
            load_sae(tmp_path / name)
        with pytest.raises(SparseRMError, match="pickle"):
            load_sae(tmp_path / "absent" / name)


def test_a_folder_whose_only_weights_are_a_pickle_is_refused(tmp_path: Path) -> None:
    (_saved(tmp_path) / "sae_weights.safetensors").rename(tmp_path / "sae.pt")
    with pytest.raises(SparseRMError, match=r"neither sae_weights\.safetensors.*pickles and are not read"):
        load_sae(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_broken_cfg_is_refused_with_its_path(content: str, tmp_path: Path) -> None:
    (_saved(tmp_path) / "cfg.json").write_text(content)
    with pytest.raises(SparseRMError) as error:
        load_sae(tmp_path)
    assert str(tmp_path / "cfg.json") in str(error.value)


@pytest.mark.parametrize("size", [0, 7, 200, -1])
def test_truncated_weights_are_refused_with_their_path(size: int, tmp_path: Path) -> None:
    path = _saved(tmp_path) / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(SparseRMError) as error:
        load_sae(tmp_path)
    assert str(path) in str(error.value)


def test_an_empty_folder_is_refused_saying_what_belongs_in_it(tmp_path: Path) -> None:
    with pytest.raises(SparseRMError, match=r"no cfg\.json; expected .*sae_weights\.safetensors"):
        load_sae(tmp_path)


def test_saes_of_the_users_folder_go_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path))
    _saved(tmp_path / "saes" / "tiny" / "layer_3", "topk")
    info = next(info for info in list_saes() if info.name == "tiny/layer_3")
    assert (info.hook, info.layer, info.d_sae, info.architecture) == (HOOK, 3, D_SAE, "topk")
    assert load_sae("tiny/layer_3").k == K
    with pytest.raises(SparseRMError, match=r"no SAE 'tiny/layer_4'.*tiny/layer_3"):
        load_sae("tiny/layer_4")


@pytest.mark.parametrize("k", [None, 0, -3, 2.5, "6", True])
@pytest.mark.parametrize("form", ["saelens", "sparsify"])
def test_a_topk_cfg_without_a_usable_k_is_refused(form: str, k: Any, tmp_path: Path) -> None:
    folder = _saved(tmp_path / "sae", "topk") if form == "saelens" else _sparsify(tmp_path / "layers.3")
    with pytest.raises(SparseRMError, match=f"has k {k!r} in its configuration; expected a whole number above 0"):
        load_sae(_edit_cfg(folder, k=k))


def test_a_decoder_that_is_no_matrix_is_refused(tmp_path: Path) -> None:
    path = _saved(tmp_path) / "sae_weights.safetensors"
    weights = load_file(path)
    save_file({**weights, "W_dec": weights["W_dec"].ravel()}, path)
    with pytest.raises(SparseRMError, match=rf"W_dec has shape \({D_IN * D_SAE},\), expected a matrix"):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d_sae": None}, "has d_sae None in its configuration"),
        ({"d_sae": D_SAE + 1}, "W_enc has shape"),
        ({"metadata": {"hook_name": "blocks.3.attn.hook_z"}}, "blocks.3.attn.hook_z"),
        ({"metadata": {"hook_name": 3}}, "hook point '3' is not supported"),
        ({"metadata": 3}, "names no hook point"),
        ({"architecture": "batchtopk"}, "architecture 'batchtopk'"),
    ],
)
def test_one_unusable_sae_does_not_hide_the_others_and_says_what_is_wrong_when_asked_for(
    changes: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path))
    _saved(tmp_path / "saes" / "tiny" / "layer_3")
    _edit_cfg(_saved(tmp_path / "saes" / "tiny" / "other"), **changes)
    assert load_sae("tiny/layer_3").d_sae == D_SAE
    with pytest.raises(SparseRMError, match=said):
        load_sae("tiny/other")
    listed = {info.name for info in list_saes()}
    assert "tiny/layer_3" in listed and ("tiny/other" in listed) == ("W_enc" in said)  # weights are not read for a list


@pytest.mark.parametrize("content", ["", "[]", '{"l0": "many", "dead": NaN, "loss_recovered": 0.9}'])
def test_an_sae_with_damaged_metrics_is_listed_without_them(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path))
    (_saved(tmp_path / "saes" / "tiny" / "layer_3") / "metrics.json").write_text(content)
    (info,) = (info for info in list_saes() if info.name == "tiny/layer_3")
    assert info.metrics == ({"loss_recovered": 0.9} if "0.9" in content else {})


def test_a_finetuning_scale_is_refused(tmp_path: Path) -> None:
    path = _saved(tmp_path) / "sae_weights.safetensors"
    save_file({**load_file(path), "scaling_factor": torch.full((D_SAE,), 2.0)}, path)
    _edit_cfg(tmp_path, finetuning_scaling_factor=True)
    with pytest.raises(RuntimeError, match="finetuning_scaling_factor"):
        SAE.load_from_disk(tmp_path)
    with pytest.raises(SparseRMError, match="scaling_factor, which are not supported"):
        load_sae(tmp_path)


def test_a_finetuning_scale_of_ones_changes_nothing(tmp_path: Path) -> None:
    path = _saved(tmp_path) / "sae_weights.safetensors"
    save_file({**load_file(path), "scaling_factor": torch.ones(D_SAE)}, path)
    _assert_same(_edit_cfg(tmp_path, finetuning_scaling_factor=False))


def test_a_tensor_that_is_not_read_is_refused_by_name(tmp_path: Path) -> None:
    path = _sparsify(tmp_path / "layers.3") / "sae.safetensors"
    save_file({**load_file(path), "W_skip": torch.eye(2)}, path)
    with pytest.raises(SparseRMError, match="W_skip"):
        load_sae(tmp_path / "layers.3")
