"""The logit lens against the models themselves, whatever their family calls and computes its final norm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparserm.features.logit_lens import TOKENS, load_unembedding, logit_lens
from sparserm.types import SparseRMError
from tests.unit.features.latents import tiny_sae
from tests.unit.tiny import HIDDEN, save_tiny

FEATURES = np.array([3, 0])


@pytest.mark.parametrize(
    ("family", "settings"),
    [("llama", {}), ("llama", {"tie_word_embeddings": True}), ("qwen2", {}), ("gemma", {}), ("gpt2", {}), ("gpt_neox", {})],
)
def test_promoted_tokens_are_those_whose_logits_grow_most_along_the_direction(tmp_path, family, settings) -> None:
    from transformers import AutoModelForCausalLM

    folder = save_tiny(tmp_path / family, family, **settings)
    sae = tiny_sae(d_in=HIDDEN)
    unembedding = load_unembedding(folder)
    lens = logit_lens(sae, unembedding, FEATURES)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    base = getattr(model, model.base_model_prefix)
    norm = next(module for name, module in base.named_children() if name in ("norm", "ln_f", "final_layer_norm"))
    for row, feature in enumerate(FEATURES):
        # Where the state has nothing along the direction, nor a mean, the norm's own derivative is its gain over a scale.
        direction = sae.directions()[feature].double()
        basis = torch.stack([torch.ones(HIDDEN).double(), direction])
        state = torch.randn(HIDDEN, dtype=torch.double)
        state = state - basis.T @ torch.linalg.lstsq(basis.T, state[:, None]).solution[:, 0]
        head = model.get_output_embeddings().double()
        grown = torch.autograd.functional.jvp(lambda x, head=head: head(norm.double()(x[None])[0]), state, direction)[1]
        grown = grown - grown.mean()
        order = grown.argsort(descending=True)
        values = np.concatenate([lens.promoted_logits[row], lens.suppressed_logits[row]])
        ends = torch.cat([order[:TOKENS], order.flip(0)[:TOKENS]])
        scale = values[0] / float(grown[order[0]])
        np.testing.assert_allclose(values, scale * grown[ends].numpy(), rtol=1e-3, atol=1e-5)
        assert list(lens.promoted[row]) == list(unembedding.texts(order[:TOKENS].numpy()))


def test_many_latents_are_looked_up_as_one_at_a_time(tmp_path) -> None:
    unembedding = load_unembedding(save_tiny(tmp_path / "model"))
    sae = tiny_sae(d_in=HIDDEN, d_sae=70)  # more than one chunk
    every = logit_lens(sae, unembedding, np.arange(70))
    one = logit_lens(sae, unembedding, np.array([66]))
    assert list(every.promoted[66]) == list(one.promoted[0]) and list(every.suppressed[66]) == list(one.suppressed[0])
    assert every.promoted.shape == every.suppressed_logits.shape == (70, TOKENS)
    assert (every.promoted_logits > every.suppressed_logits).all()


def test_a_vocabulary_in_bfloat16_and_in_blocks_gives_the_same_tokens_as_at_once(tmp_path, monkeypatch) -> None:
    import sparserm.features.logit_lens as module

    sae, vocabulary = tiny_sae(d_in=HIDDEN, d_sae=70), torch.randn(300, HIDDEN).to(torch.bfloat16)
    unembedding = replace(load_unembedding(save_tiny(tmp_path / "model")), weight=vocabulary)
    monkeypatch.setattr(unembedding.tokenizer.__class__, "decode", lambda self, ids, **given: f"token {ids[0]}")
    monkeypatch.setattr(module, "_BLOCK", 7)  # fewer tokens than are kept
    monkeypatch.setattr(module, "_CHUNK", 32)
    reported: list[int] = []
    found = logit_lens(sae, unembedding, np.arange(70), lambda done, total, what: reported.append(done))
    logits = (sae.directions() * unembedding.gain) @ (vocabulary.float() - vocabulary.float().mean(0)).T
    for sign, tokens, values in ((1, found.promoted, found.promoted_logits), (-1, found.suppressed, found.suppressed_logits)):
        expected = (sign * logits).topk(TOKENS)
        assert tokens.tolist() == [[f"token {one}" for one in row] for row in expected.indices.tolist()]
        np.testing.assert_allclose(values, sign * expected.values, rtol=1e-4, atol=1e-5)
    assert reported == sorted(reported) and reported[-1] == 70


def test_an_sae_of_another_width_is_refused(tmp_path) -> None:
    with pytest.raises(SparseRMError, match="width 6, expected the unembedding's 32"):
        logit_lens(tiny_sae(), load_unembedding(save_tiny(tmp_path / "model")), FEATURES)


def test_weights_without_an_unembedding_are_refused(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_tiny(tmp_path / "model", tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(SparseRMError, match="no unembedding"):
        load_unembedding(folder)
