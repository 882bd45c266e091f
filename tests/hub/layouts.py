"""Repositories as those that SAELens's registry points to, with random SAEs of a few latents.

Each is of a real release and id, with the files of its real repository. Some loaders take sizes from names, such as 2,304 and
16,384 for Gemma Scope: ``sizes`` replaces them in the registry's ``config_overrides``, which is what they are for.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

D_IN, D_SAE, K = 16, 40, 6
SIZES = {"d_in": D_IN, "d_sae": D_SAE}

Files = dict[str, bytes]


@dataclass(frozen=True)
class Layout:
    """An SAE of the registry and how its repository stores it.

    Attributes:
        loader: SAELens's name of what reads it.
        release, sae_id: of the registry.
        repository, path: where that is on the Hub.
        files: makes the files.
        architecture, hook: what is read.
        sizes: entries of ``config_overrides``.
        centred: whether the model was trained with centred writing weights.
        shown: name of the case, where a loader has several.
    """

    loader: str
    release: str
    sae_id: str
    repository: str
    path: str
    files: Callable[[str], Files]
    architecture: str
    hook: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    centred: bool = False
    shown: str = ""

    def __str__(self) -> str:
        return self.shown or self.loader


def weights(d_in: int = D_IN, d_sae: int = D_SAE, seed: int = 0) -> dict[str, Tensor]:
    """A random SAE: no bias is zero and no decoder row has norm one."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}
    return {name: 0.4 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def thresholds(d_sae: int = D_SAE) -> Tensor:
    return torch.linspace(0.2, 1.5, d_sae)


def saelens_before_6(path: str, **changes: Any) -> Files:
    """As gpt2-small-res-jb: the old keys, a scale of ones, and frequencies in a file of their own."""
    hook = path.rpartition("/")[2]
    cfg = {"model_name": "gpt2-small", "hook_point": hook, "hook_point_layer": 8, "hook_point_head_index": None, "l1": 8e-5}
    cfg |= {"dataset_path": "Skylion007/openwebtext", "context_size": 128, "dtype": "torch.float32", "device": "cuda"}
    tensors = {**weights(), "scaling_factor": torch.ones(D_SAE)}
    return {
        f"{path}/cfg.json": json.dumps({**cfg, **SIZES, **changes}).encode(),
        f"{path}/sae_weights.safetensors": _saved(tensors),
        f"{path}/sparsity.safetensors": _saved({"sparsity": torch.zeros(D_SAE)}),
    }


def saelens_6(path: str, hook: str, d_in: int = D_IN, d_sae: int = D_SAE, seed: int = 0) -> Files:
    """As SAELens 6 saves BatchTopK and Matryoshka SAEs: JumpReLU, with metadata."""
    metadata = {"sae_lens_version": "6.0.0", "model_name": "tiny", "hook_name": hook, "prepend_bos": True}
    cfg = {"architecture": "jumprelu", "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu", "metadata": metadata}
    cfg |= {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
    tensors = {**weights(d_in, d_sae, seed), "threshold": thresholds(d_sae)}
    return {f"{path}/cfg.json": json.dumps(cfg).encode(), f"{path}/sae_weights.safetensors": _saved(tensors)}


def gemma_scope(path: str) -> Files:
    """NumPy archives: all about them is in their names."""
    w, packed = weights(), io.BytesIO()
    np.savez(packed, **{name.replace("W_", "w_"): w[name].numpy() for name in w}, threshold=thresholds().numpy())
    return {f"{path}/params.npz": packed.getvalue()}


def gemma_scope_2(path: str, site: str = "output") -> Files:
    """Safetensors, whose header SAELens reads by a range."""
    cfg = {"architecture": "jump_relu", "model_name": "gemma-v3-270m-pt", "hf_hook_point_in": f"model.layers.5.{site}"}
    tensors = {name.replace("W_", "w_"): value for name, value in weights().items()}
    return {
        f"{path}/config.json": json.dumps(cfg).encode(),
        f"{path}/params.safetensors": _saved({**tensors, "threshold": thresholds()}),
    }


def llama_scope(path: str, hook: str = "blocks.5.hook_resid_post") -> Files:
    cfg = {"d_model": D_IN, "d_sae": D_SAE, "jump_relu_threshold": 0.4, "hook_point_in": hook}
    cfg["dataset_average_activation_norm"] = {"in": 6.0}
    return {
        f"{path}/hyperparams.json": json.dumps(cfg).encode(),
        f"{path}/checkpoints/final.safetensors": _saved(_linear(weights())),
    }


def llama_scope_r1(path: str) -> Files:
    cfg = {"d_model": D_IN, "expansion_factor": 3, "hook_point_in": "blocks.5.hook_resid_post"}
    w = weights(d_sae=3 * D_IN)
    tensors = {**_linear(w), "log_jumprelu_threshold": thresholds(3 * D_IN).log()}
    return {f"{path}/config.json": json.dumps(cfg).encode(), f"{path}/sae_weights.safetensors": _saved(tensors)}


def dictionary_learning(path: str, kind: str) -> Files:
    """A pickle of tensors, named by class."""
    w = weights()
    trainer = {"dict_class": kind, "layer": 3, "activation_dim": D_IN, "dict_size": D_SAE, "lm_name": "org/tiny", "k": K}
    both = {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T}
    tensors = {
        "AutoEncoder": {**both, "encoder.bias": w["b_enc"], "bias": w["b_dec"]},
        "AutoEncoderTopK": {**both, "encoder.bias": w["b_enc"], "b_dec": w["b_dec"], "k": torch.tensor(K)},
        "BatchTopKSAE": {**both, "encoder.bias": w["b_enc"], "b_dec": w["b_dec"], "threshold": torch.tensor(0.6)},
        "MatryoshkaBatchTopKSAE": {**w, "threshold": torch.tensor(0.6)},
        "GatedAutoEncoder": {
            **both,
            "decoder_bias": w["b_dec"],
            "gate_bias": w["b_enc"],
            "mag_bias": 0.5 * w["b_enc"],
            "r_mag": 0.3 * w["b_enc"],
        },
    }[kind]
    cfg = {"trainer": trainer, "buffer": {"ctx_len": 128}}
    return {f"{path}/config.json": json.dumps(cfg).encode(), f"{path}/ae.pt": _pickled(tensors)}


def linear_pickle(path: str) -> Files:
    """As DeepSeek R1's: a pickle of two linear layers."""
    return {path: _pickled(_linear(weights()))}


def goodfire(path: str) -> Files:
    named = {name.replace(".", "_linear.", 1): value for name, value in _linear(weights()).items()}
    return {path: _pickled(named)}


def qwen_scope(path: str) -> Files:
    w = weights()
    return {path: _pickled({**w, "W_enc": w["W_enc"].T.contiguous(), "W_dec": w["W_dec"].T.contiguous()})}


def sparsify(path: str) -> Files:
    """EleutherAI's format today: ``W_dec`` has a row for each latent."""
    w = weights()
    cfg = {"activation": "topk", "expansion_factor": 1, "normalize_decoder": False, "num_latents": D_SAE, "k": K, "d_in": D_IN}
    tensors = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    return {f"{path}/cfg.json": json.dumps(cfg).encode(), f"{path}/sae.safetensors": _saved(tensors)}


def _linear(w: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as two linear layers of PyTorch."""
    named = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T}
    return {**named, "decoder.bias": w["b_dec"]}


def _saved(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: value.contiguous() for name, value in tensors.items()})


def _pickled(tensors: Mapping[str, Tensor]) -> bytes:
    data = io.BytesIO()
    torch.save({name: value.contiguous() for name, value in tensors.items()}, data)
    return data.getvalue()


_BENCH, _PYTHIA = "sae_bench_gemma-2-2b", "sae_bench_pythia70m_sweep"

READ = (
    Layout(
        *("sae_lens", "gpt2-small-res-jb", "blocks.8.hook_resid_pre", "jbloom/GPT2-Small-SAEs-Reformatted"),
        *("blocks.8.hook_resid_pre", saelens_before_6, "standard", "blocks.8.hook_resid_pre"),
        centred=True,
        shown="sae_lens before 6, centred",
    ),
    Layout(
        *("sae_lens", "mistral-7b-res-wg", "blocks.8.hook_resid_pre", "JoshEngels/Mistral-7B-Residual-Stream-SAEs"),
        "mistral_7b_layer_8",
        lambda path: saelens_before_6(path, hook_point="blocks.8.hook_resid_pre"),
        *("standard", "blocks.8.hook_resid_pre"),
        shown="sae_lens, rescaled input",
    ),
    Layout(
        *("sae_lens", "gpt2-small-mlp-tm", "blocks.3.hook_mlp_out", "tommmcgrath/gpt2-small-mlp-out-saes"),
        "sae_group_gpt2_blocks.3.hook_mlp_out_24576:v0",
        lambda path: saelens_before_6(path, hook_point="blocks.3.hook_mlp_out", normalize_activations=True),
        *("standard", "blocks.3.hook_mlp_out"),
        centred=True,
        shown="sae_lens, scale in the registry",
    ),
    Layout(
        *("sae_lens", "gemma-2-2b-res-matryoshka-dc", "blocks.5.hook_resid_post"),
        *("chanind/gemma-2-2b-batch-topk-matryoshka-saes-w-32k-l0-40", "standard/blocks.5.hook_resid_post"),
        lambda path: saelens_6(path, "blocks.5.hook_resid_post"),
        *("jumprelu", "blocks.5.hook_resid_post"),
        shown="sae_lens 6, Matryoshka",
    ),
    Layout(
        *("gemma_2", "gemma-scope-2b-pt-res-canonical", "layer_20/width_16k/canonical", "google/gemma-scope-2b-pt-res"),
        *("layer_20/width_16k/average_l0_71", gemma_scope, "jumprelu", "blocks.20.hook_resid_post", SIZES),
    ),
    Layout(
        *("gemma_3", "gemma-scope-2-270m-pt-res", "layer_5_width_16k_l0_medium", "google/gemma-scope-2-270m-pt"),
        *("resid_post/layer_5_width_16k_l0_medium", gemma_scope_2, "jumprelu", "blocks.5.hook_resid_post"),
    ),
    Layout(
        *("llama_scope", "llama_scope_lxr_8x", "l5r_8x", "fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L5R-8x"),
        *(llama_scope, "jumprelu", "blocks.5.hook_resid_post"),
    ),
    Layout(
        *("llama_scope_r1_distill", "llama_scope_r1_distill", "l5r_800m_slimpajama", "fnlp/Llama-Scope-R1-Distill"),
        *("800M-Slimpajama-0-OpenR1-Math-220k/L5R", llama_scope_r1, "jumprelu", "blocks.5.hook_resid_post"),
    ),
    *(
        Layout(
            *("dictionary_learning_1", release, sae_id, repository, path),
            lambda path, kind=kind: dictionary_learning(path, kind),
            *(architecture, "blocks.3.hook_resid_post"),
            shown=f"dictionary_learning_1 {kind}",
        )
        for kind, architecture, release, sae_id, repository, path in (
            (
                *("AutoEncoder", "standard", f"{_PYTHIA}_standard_ctx128_0712", "blocks.3.hook_resid_post__trainer_10"),
                *("canrager/lm_sae", "pythia70m_sweep_standard_ctx128_0712/resid_post_layer_3/trainer_10"),
            ),
            (
                *("GatedAutoEncoder", "gated", f"{_PYTHIA}_gated_ctx128_0730", "blocks.3.hook_resid_post__trainer_0"),
                *("canrager/lm_sae", "pythia70m_sweep_gated_ctx128_0730/resid_post_layer_3/trainer_0"),
            ),
            (
                *("AutoEncoderTopK", "topk", f"{_PYTHIA}_topk_ctx128_0730", "blocks.3.hook_resid_post__trainer_0"),
                *("canrager/lm_sae", "pythia70m_sweep_topk_ctx128_0730/resid_post_layer_3/trainer_0"),
            ),
            (
                *("BatchTopKSAE", "jumprelu", "qwen2.5-7b-instruct-andyrdt", "resid_post_layer_3_trainer_1"),
                *("andyrdt/saes-qwen2.5-7b-instruct", "resid_post_layer_3/trainer_1"),
            ),
            (
                *("MatryoshkaBatchTopKSAE", "jumprelu", "saebench_gemma-2-2b_width-2pow12_date-0108"),
                *("blocks.12.hook_resid_post__trainer_0", "adamkarvonen/saebench_gemma-2-2b_width-2pow12_date-0108"),
                "MatryoshkaBatchTopK_gemma-2-2b__0108/resid_post_layer_12/trainer_0",
            ),
        )
    ),
    Layout(
        *("deepseek_r1", "deepseek-r1-distill-llama-8b-qresearch", "blocks.19.hook_resid_post"),
        *("qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19", "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"),
        *(linear_pickle, "standard", "blocks.19.hook_resid_post", SIZES),
    ),
    Layout(
        *("qwen_scope", "qwen-scope-3-1.7b-base-w32k-l50", "layer3", "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50"),
        *("layer3.sae.pt", qwen_scope, "topk", "blocks.3.hook_resid_post"),
        {**SIZES, "activation_fn_kwargs": {"k": K}},
    ),
    Layout(
        *("goodfire", "goodfire-llama-3.1-8b-instruct", "layer_19", "Goodfire/Llama-3.1-8B-Instruct-SAE-l19"),
        *("Llama-3.1-8B-Instruct-SAE-l19.pth", goodfire, "standard", "blocks.19.hook_resid_post", SIZES),
    ),
)


@dataclass(frozen=True)
class Refused:
    """An SAE of the registry that cannot be used here: what its repository has besides weights, and the reason."""

    loader: str
    release: str
    sae_id: str
    repository: str
    configuration: Files
    reason: str

    def __str__(self) -> str:
        return f"{self.loader} {self.release}"


def _yaml(**values: Any) -> bytes:
    return json.dumps(values).encode()  # JSON is YAML


_TEMPORAL = _yaml(
    llm={"dimin": D_IN},
    sae={
        "exp_factor": 2,
        "n_heads": 1,
        "n_attn_layers": 1,
        "bottleneck_factor": 1,
        "sae_diff_type": "topk",
        "kval_topk": K,
        "tied_weights": True,
        "scaling_factor": 1.0,
    },
    data={"dtype": "float32"},
)
_ATTENTION = "gpt2-small_L0_Hcat_z_lr1.20e-03_l11.80e+00_ds24576_bs4096_dc1.00e-06_rsanthropic_rie25000_nr4_v9"
_HOOK_Z = _yaml(act_size=D_IN, dict_size=D_SAE, act_name="blocks.0.attn.hook_z")

REFUSED = (
    Refused(
        *("sae_lens", "gpt2-small-attn-out-v5-32k", "blocks.0.hook_attn_out"),
        "jbloom/GPT2-Small-OAI-v5-32k-attn-out-SAEs",
        {"v5_32k_layer_0/cfg.json": _yaml(**SIZES, hook_name="blocks.0.hook_attn_out", dtype="float32")},
        "hook point 'blocks.0.hook_attn_out' is not supported",
    ),
    Refused(
        *("connor_rob_hook_z", "gpt2-small-hook-z-kk", "blocks.0.hook_z", "ckkissane/attn-saes-gpt2-small-all-layers"),
        {f"{_ATTENTION}_cfg.json": _HOOK_Z},
        "reshapes its input",
    ),
    Refused(
        *("gemma_2", "gemma-scope-2b-pt-att-canonical", "layer_0/width_16k/canonical", "google/gemma-scope-2b-pt-att"),
        {"README.md": b""},
        "reshapes its input",
    ),
    Refused(
        *("gemma_3", "gemma-scope-2-270m-pt-att", "layer_12_width_16k_l0_medium", "google/gemma-scope-2-270m-pt"),
        gemma_scope_2("attn_out/layer_12_width_16k_l0_medium", "self_attn.o_proj.input"),
        "hook point 'blocks.12.attn.hook_z' is not supported",
    ),
    Refused(
        *("gemma_3", "gemma-scope-2-270m-pt-transcoders", "transcoder/layer_9_width_16k_l0_small_affine"),
        "google/gemma-scope-2-270m-pt",
        gemma_scope_2("transcoder/layer_9_width_16k_l0_small_affine", "pre_feedforward_layernorm.output"),
        "architecture 'jumprelu_transcoder'",
    ),
    Refused(
        *("llama_scope", "llama_scope_lxa_8x", "l5a_8x", "fnlp/Llama3_1-8B-Base-LXA-8x"),
        llama_scope("Llama3_1-8B-Base-L5A-8x", "blocks.5.hook_attn_out"),
        "hook point 'blocks.5.hook_attn_out' is not supported",
    ),
    Refused(
        *("gemma_2_transcoder", "gemma-scope-2b-pt-transcoders", "layer_0/width_16k/average_l0_76"),
        *("google/gemma-scope-2b-pt-transcoders", {"README.md": b""}, "architecture 'jumprelu_transcoder'"),
    ),
    Refused(
        *("mwhanna_transcoder", "mwhanna-qwen3-4b-transcoders", "layer_0", "mwhanna/qwen3-4b-transcoders"),
        {
            "config.yaml": _yaml(model_name="Qwen/Qwen3-4B"),
            "wandb-config.yaml": _yaml(d_model={"value": D_IN}, d_feature={"value": D_SAE}, batch_size={"value": 8}),
        },
        "architecture 'transcoder'",
    ),
    Refused(
        *("mntss_clt_layer_transcoder", "mntss-gemma-2-2b-2.5m-clt-as-per-layer", "layer_0", "mntss/clt-gemma-2-2b-2.5M"),
        {
            "config.yaml": _yaml(model_name="google/gemma-2-2b", feature_input_hook="x", feature_output_hook="hook_mlp_out"),
            "W_enc_0.safetensors": _saved({"W_enc_0": torch.ones(3, 2), "b_enc_0": torch.ones(3), "b_dec_0": torch.ones(2)}),
        },
        "architecture 'transcoder'",
    ),
    Refused(
        *("temporal", "temporal-sae-gemma-2-2b", "blocks.12.hook_resid_post", "canrager/temporalSAEs"),
        {"gemma-2-2B/layer_12/temporal/conf.yaml": _TEMPORAL},
        "architecture 'temporal'",
    ),
)
