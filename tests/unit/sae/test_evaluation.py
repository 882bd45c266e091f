"""How good an SAE is: every measure by hand on an SAE that one can read, and against transformers' own loss."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparserm.backbone.model import load_language_model
from sparserm.sae import evaluation as module
from sparserm.sae.activations import corpus_states, tokenize_conversation
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.sae.evaluation import SAEQuality, evaluate_sae
from sparserm.types import HookPoint, Message
from tests.unit.tiny import HIDDEN

HOOK = HookPoint(1)
SITES = [HookPoint(1), HookPoint(2, "resid_pre"), HookPoint(1, "mlp_out"), HookPoint(1, "mlp")]
TEXTS = ["the rain in the hills", "Yes, it rains all the time and then it stops.", "no", "never again, never"]
CONVERSATIONS = [(Message("user", text), Message("assistant", "It is so.")) for text in TEXTS]


def relu_sae(encoder: list[list[float]], decoder: list[list[float]], hook: HookPoint = HOOK) -> SparseAutoencoder:
    """``relu(x W_enc) W_dec``, without biases."""
    W_enc, W_dec = torch.tensor(encoder), torch.tensor(decoder)
    weights = {"W_enc": W_enc, "b_enc": torch.zeros(len(W_dec)), "W_dec": W_dec, "b_dec": torch.zeros(len(W_enc))}
    return SparseAutoencoder("made up", "standard", hook, "tiny", weights)


def identity_sae(hook: HookPoint = HOOK) -> SparseAutoencoder:
    """Two latents for each dimension, one for each sign: the reconstruction is the input."""
    eye = torch.eye(HIDDEN)
    return relu_sae(torch.cat([eye, -eye], 1).tolist(), torch.cat([eye, -eye]).tolist(), hook)


def silent_sae(hook: HookPoint = HOOK) -> SparseAutoencoder:
    """Reconstructs everything as zero, as the ablation does."""
    return relu_sae([[0.0, 0.0]] * HIDDEN, [[1.0] * HIDDEN] * 2, hook)


@pytest.fixture(scope="module")
def language_model(tiny_folder) -> torch.nn.Module:
    return load_language_model(tiny_folder)


@pytest.fixture
def states(monkeypatch):
    """Measure on these activations, in these batches, and with these losses, instead of a backbone's."""

    def given(*batches: list[list[float]], losses: tuple[float, float, float] = (1.0, 2.0, 5.0)) -> None:
        rows = [{HOOK: np.array(batch, np.float32)} for batch in batches]
        monkeypatch.setattr(module, "corpus_states", lambda *_: rows)
        monkeypatch.setattr(module, "_losses", lambda *_: losses)

    return given


def _measured(sae: SparseAutoencoder) -> SAEQuality:
    return evaluate_sae(sae, None, None, [])  # type: ignore[arg-type]


#: Latents read +x, +y and (never, here) -y; negative values of x are lost.
BY_HAND = relu_sae([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0]], [[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_variance_activity_and_deadness_by_hand_however_the_text_is_batched(states, cut) -> None:
    rows = [[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [2.0, 2.0]]
    states(rows[:cut], rows[cut:])
    found = _measured(BY_HAND)
    # Lost: (-1)^2 = 1. About the mean (1, 1): 4+1, 1+1, 4+1, 1+1 = 14.
    assert found.explained_variance == pytest.approx(1 - 1 / 14)
    assert found.l0 == pytest.approx((1 + 1 + 0 + 2) / 4)
    assert found.dead == pytest.approx(1 / 3)
    assert found.n_tokens == 4


def test_a_latent_that_fires_once_in_any_batch_is_not_dead(states) -> None:
    states([[1.0, 1.0]] * 5, [[0.0, -1.0]])
    assert _measured(BY_HAND).dead == 0


def test_reconstructing_the_mean_explains_nothing_and_everything_explains_all(states) -> None:
    states([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
    mean = replace(BY_HAND, weights={**BY_HAND.weights, "W_enc": torch.zeros(2, 3), "b_dec": torch.tensor([3.0, 2.0])})
    found = _measured(mean)
    assert (found.explained_variance, found.l0, found.dead) == (pytest.approx(0), 0, 1)
    assert _measured(BY_HAND).explained_variance == pytest.approx(1)


def test_a_large_common_offset_does_not_spoil_the_variance(states) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2)).astype(np.float32) + np.float32(1000)
    states(x[:100].tolist(), x[100:].tolist())
    half = relu_sae([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]])
    total = ((x.astype(np.float64) - x.mean(0, dtype=np.float64)) ** 2).sum()
    expected = 1 - (x[:, 1].astype(np.float64) ** 2).sum() / total
    assert _measured(half).explained_variance == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("losses", "recovered"), [((1, 2, 5), 0.75), ((1, 1, 5), 1.0), ((1, 5, 5), 0.0), ((1, 7, 5), -0.5)])
def test_loss_recovered_by_hand(states, losses, recovered) -> None:
    states([[1.0, 2.0], [0.0, 1.0]], losses=losses)
    found = _measured(BY_HAND)
    assert found.loss_recovered == pytest.approx(recovered)
    assert (found.loss_clean, found.loss_sae, found.loss_zero) == losses


@pytest.mark.parametrize("hook", SITES, ids=lambda hook: hook.name)
def test_an_identity_recovers_all_of_the_loss(tiny_backbone, language_model, hook) -> None:
    found = evaluate_sae(identity_sae(hook), tiny_backbone, language_model, CONVERSATIONS)
    assert found.loss_sae == pytest.approx(found.loss_clean, abs=1e-6)
    assert found.loss_recovered == pytest.approx(1, abs=1e-4)
    assert found.loss_zero != pytest.approx(found.loss_clean, abs=1e-3)
    assert found.explained_variance == pytest.approx(1)
    assert found.l0 == pytest.approx(HIDDEN)  # of each pair of latents one fires


@pytest.mark.parametrize("hook", SITES, ids=lambda hook: hook.name)
def test_zeros_recover_nothing(tiny_backbone, language_model, hook) -> None:
    found = evaluate_sae(silent_sae(hook), tiny_backbone, language_model, CONVERSATIONS)
    assert found.loss_sae == found.loss_zero
    assert (found.loss_recovered, found.l0, found.dead) == (0, 0, 1)


def test_the_clean_loss_is_transformers_own(tiny_backbone, language_model) -> None:
    skip, total, n = tiny_backbone.chat.shared_prefix(), 0.0, 0
    for conversation in CONVERSATIONS:
        ids = torch.tensor([tokenize_conversation(tiny_backbone, conversation).ids])
        labels = ids.clone()
        labels[:, : skip + 1] = -100  # the first token after the opening is predicted from the opening
        count = int((labels != -100).sum())
        total += float(language_model(input_ids=ids, labels=labels).loss) * count
        n += count
    found = evaluate_sae(identity_sae(), tiny_backbone, language_model, CONVERSATIONS)
    assert found.loss_clean == pytest.approx(total / n, rel=1e-5)


def test_the_ablation_is_zeros_after_the_opening_tokens_only(tiny_backbone, language_model) -> None:
    skip = tiny_backbone.chat.shared_prefix()
    ids = torch.tensor([tokenize_conversation(tiny_backbone, CONVERSATIONS[1]).ids])

    def ablate(_module, _inputs, output):
        output = output.clone()
        output[:, skip:] = 0
        return output

    handle = language_model.model.layers[HOOK.layer].register_forward_hook(ablate)
    try:
        logits = language_model(input_ids=ids).logits[0]
    finally:
        handle.remove()
    expected = torch.nn.functional.cross_entropy(logits[skip:-1], ids[0, skip + 1 :])
    found = evaluate_sae(silent_sae(), tiny_backbone, language_model, CONVERSATIONS[1:2])
    assert found.loss_zero == pytest.approx(float(expected), rel=1e-5)
    assert found.loss_zero != pytest.approx(found.loss_clean, abs=1e-3)


def test_only_tokens_after_the_opening_are_measured(tiny_backbone, language_model) -> None:
    skip = tiny_backbone.chat.shared_prefix()
    lengths = [len(tokenize_conversation(tiny_backbone, one).ids) - skip for one in CONVERSATIONS]
    found = evaluate_sae(identity_sae(), tiny_backbone, language_model, CONVERSATIONS)
    assert found.n_tokens == sum(lengths)
    x = np.concatenate([one[HOOK] for one in corpus_states(tiny_backbone, CONVERSATIONS, [HOOK])])
    narrow = replace(identity_sae(), weights={**identity_sae().weights, "W_dec": torch.zeros(2 * HIDDEN, HIDDEN)})
    expected = 1 - (x.astype(np.float64) ** 2).sum() / ((x - x.mean(0)).astype(np.float64) ** 2).sum()
    found = evaluate_sae(narrow, tiny_backbone, language_model, CONVERSATIONS)
    assert found.explained_variance == pytest.approx(expected, rel=1e-4)


def test_measuring_leaves_the_language_model_as_it_was(tiny_backbone, language_model) -> None:
    ids = torch.tensor([tokenize_conversation(tiny_backbone, CONVERSATIONS[0]).ids])
    before = language_model(input_ids=ids).logits
    evaluate_sae(silent_sae(), tiny_backbone, language_model, CONVERSATIONS)
    assert torch.equal(language_model(input_ids=ids).logits, before)
    broken = replace(identity_sae(), weights={})
    with pytest.raises(KeyError):
        module._loss(language_model, ids, identity_sae(), broken.reconstruct, 2)
    assert torch.equal(language_model(input_ids=ids).logits, before)


def test_measuring_twice_gives_the_same_and_progress_counts_the_texts(tiny_backbone, language_model) -> None:
    heard: list[tuple[int, int]] = []
    first, second = (
        evaluate_sae(
            identity_sae(),
            tiny_backbone,
            language_model,
            CONVERSATIONS,
            progress=lambda done, total, _: heard.append((done, total)),
        )
        for _ in range(2)
    )
    assert first == second
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2


def test_metrics_are_rounded_numbers_that_make_the_same_quality_again() -> None:
    quality = SAEQuality(0.123456789, 64.0, 0.0, 0.987654321, 2.0, 2.1, 9.0, 100)
    plain = json.loads(json.dumps(quality.to_dict()))
    assert plain["explained_variance"] == 0.12346 and plain["n_tokens"] == 100
    assert SAEQuality(**plain).to_dict() == quality.to_dict()
