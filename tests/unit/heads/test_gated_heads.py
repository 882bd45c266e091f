"""Gated heads end to end on a tiny model: fitted, scored from the store, explained by token, saved, loaded, edited."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sparserm.backbone.model import Backbone
from sparserm.explain.contributions import explain_response
from sparserm.heads.fitting import FitSettings, FittedHead, fit_head, make_saved_head
from sparserm.heads.reward import Encoder, RewardHead, head_scores, rewards, token_scores
from sparserm.heads.saved import SavedHead, head_hash, load_head, save_head
from sparserm.heads.selection import feature_stats
from sparserm.heads.signed_weights import ridge_for
from sparserm.representations.represent import represent, represent_pairs
from sparserm.representations.store import Store
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.training.editing import HeadEdits, edit_head, held_out_scores, make_edited_head, measure_edits
from sparserm.training.evidence import gather_head_evidence
from sparserm.types import NORMALISATIONS, Pooling, PreferenceData, SparseRMError, pair_texts
from tests.unit.gated import SEPARABLE, gated_sae, polite_pairs, states_of, tokenized, topk_sae
from tests.unit.tiny import D_SAE, HOOK

PAIRS = polite_pairs(80)
TEXTS = pair_texts(PAIRS.pairs)


@pytest.fixture(scope="module", autouse=True)
def _few_splits() -> Iterator[None]:
    """The prompts are split once, not ten times: what is selected does not matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparserm.heads.gated_selection.SPLITS", 1)
        yield


@pytest.fixture(scope="module")
def states(tiny_backbone) -> list[np.ndarray]:
    return states_of(tokenized(PAIRS, tiny_backbone), tiny_backbone)


@pytest.fixture(scope="module")
def sae(states) -> SparseAutoencoder:
    return _sae(states)


def _sae(states: list[np.ndarray], architecture: str = "jumprelu", **settings: Any) -> SparseAutoencoder:
    return gated_sae(torch.from_numpy(np.concatenate(states)), architecture, **settings)


def _represented(backbone, sae: SparseAutoencoder, pooling: Pooling = "mean") -> PairRepresentations:
    return represent_pairs(PAIRS.pairs, backbone, {HOOK: sae}, pooling, strengths=True)[HOOK]


def _saved(backbone, sae: SparseAutoencoder, pooling: Pooling = "mean") -> SavedHead:
    settings = FitSettings(pooling=pooling)
    fitted = fit_head(_represented(backbone, sae, pooling), sae, settings)
    return make_saved_head(fitted, PAIRS, backbone, sae, settings, name="polite")


@pytest.fixture(scope="module", params=["mean", "last"])
def pooling(request) -> Pooling:
    return request.param


@pytest.fixture(scope="module")
def fitted(tiny_backbone, sae, pooling) -> FittedHead:
    return fit_head(_represented(tiny_backbone, sae, pooling), sae, FitSettings(pooling=pooling))


@pytest.fixture(scope="module")
def saved(tiny_backbone, sae, pooling) -> SavedHead:
    return _saved(tiny_backbone, sae, pooling)


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    save_head(saved, tmp_path / "head")
    return tmp_path / "head"


def _explanations(head: RewardHead, states: list[np.ndarray], texts) -> list:
    return [
        explain_response(head, state, [""] * (text.end - text.start), {}) for state, text in zip(states, texts, strict=True)
    ]


# Fit


def test_where_each_latent_has_a_threshold_the_default_head_is_gated(fitted, sae, pooling) -> None:
    head = fitted.head
    assert head.score == "gated" and head.pooling == pooling and (head.mu == 0).all() and head.bias == 0
    assert 1 <= len(head.features) <= 64 and (np.diff(head.features) > 0).all()
    assert head.encoder is not None and head.encoder.sae_fingerprint == sae.fingerprint and head.encoder.d_sae == D_SAE
    assert fitted.selected is not None and fitted.selected.shape == head.features.shape
    assert fitted.n_sure is not None and (pooling == "mean") <= fitted.n_sure <= len(head.features)
    # With last pooling both responses of many pairs are silent: they get the same reward.
    assert fitted.rewards_chosen.mean() > fitted.rewards_rejected.mean() + 0.3 and fitted.l2 == ridge_for(80)


@pytest.mark.parametrize("selection", ["stable", "frequency", "random"])
def test_every_weight_has_the_sign_of_the_mean_gap_of_its_score(tiny_backbone, sae, pooling, selection) -> None:
    pairs = _represented(tiny_backbone, sae, pooling)
    head = fit_head(pairs, sae, FitSettings(pooling=pooling, selection=selection, k=12)).head
    gaps = (head_scores(head, pairs.chosen) - head_scores(head, pairs.rejected)).mean(0)
    if selection == "frequency":  # it shows in how many of the chosen and of the rejected responses a latent fires
        stats = feature_stats(pairs, "any")
        gaps = stats.gap[head.features]
    assert (head.weights != 0).all() and np.array_equal(np.sign(head.weights), np.sign(gaps))


def test_sigma_is_the_spread_of_the_gated_scores(fitted, tiny_backbone, sae, pooling) -> None:
    pairs = _represented(tiny_backbone, sae, pooling)
    both = np.concatenate([head_scores(fitted.head, side) for side in (pairs.chosen, pairs.rejected)])
    assert fitted.head.sigma == pytest.approx(both.std(0), rel=1e-4)
    assert fitted.rewards_chosen == pytest.approx(rewards(fitted.head, pairs.chosen))


def test_the_same_pairs_give_the_same_head_to_the_bit(fitted, tiny_backbone, sae, pooling) -> None:
    again = fit_head(_represented(tiny_backbone, sae, pooling), sae, FitSettings(pooling=pooling))
    for name in ("features", "directions", "sigma", "weights"):
        assert np.array_equal(getattr(fitted.head, name), getattr(again.head, name)), name
    assert np.array_equal(fitted.selected, again.selected)


def test_latents_that_make_no_difference_leave_no_head(tiny_backbone, sae) -> None:
    pairs = _represented(tiny_backbone, sae)
    same = replace(pairs, rejected=pairs.chosen)
    with pytest.raises(SparseRMError, match=r"80 pairs no latent of SAE tiny .*more pairs"):
        fit_head(same, sae, FitSettings())


def test_a_topk_sae_gets_projections_and_cannot_be_gated(tiny_backbone) -> None:
    pairs = represent_pairs(PAIRS.pairs, tiny_backbone, {HOOK: topk_sae()}, "mean")[HOOK]
    head = fit_head(pairs, topk_sae(), FitSettings(k=4)).head
    assert head.score == "projection" and head.encoder is None and head.gate is None and (head.mu != 0).any()
    for settings in (FitSettings(score="gated"), FitSettings(selection="stable")):
        with pytest.raises(SparseRMError, match="TopK") as refused:
            fit_head(pairs, topk_sae(), settings)
        assert "projection" in str(refused.value)


# Rewards and explanations


#: Every architecture and every normalisation, with and without the decoder's bias; test_part.py has all combinations.
KINDS = [
    (architecture, normalize, (i + j) % 2 == 0)
    for i, architecture in enumerate(SEPARABLE)
    for j, normalize in enumerate(NORMALISATIONS)
]


@pytest.mark.parametrize(("architecture", "normalize", "apply_b_dec"), KINDS)
def test_the_reward_from_summaries_is_that_of_the_token_states_also_once_saved(
    tiny_backbone, states, architecture, normalize, apply_b_dec, pooling, tmp_path
) -> None:
    own = _sae(states, architecture, normalize=normalize, apply_b_dec=apply_b_dec)
    saved = _saved(tiny_backbone, own, pooling)
    assert (saved.saes[HOOK] is None) == (pooling == "last")
    responses = represent(TEXTS, tiny_backbone, saved.saes, pooling)[HOOK]
    from_store, scores = rewards(saved.head, responses), head_scores(saved.head, responses)
    texts = tokenized(PAIRS, tiny_backbone)
    explained = _explanations(saved.head, states, texts)
    assert from_store == pytest.approx([one.reward for one in explained], abs=1e-5)
    assert from_store.std() > 0.1
    for row, one in enumerate(explained):
        by_feature = {part.feature: part for part in one.contributions}
        assert [by_feature[f].score for f in saved.head.features.tolist()] == pytest.approx(scores[row], abs=1e-4)
    # Computed here from the SAE's formula alone: nothing of the head's but its features, sigma and weights.
    hand = []
    for state, text in zip(states, texts, strict=True):
        h = torch.from_numpy(state[: text.end - text.start] if pooling == "mean" else state[-1:])
        projected = ((h - own.b_dec).double() @ own.directions().double().T) * (own.encode(h) > 0)
        hand.append(projected.mean(0).numpy()[saved.head.features] @ (saved.head.weights / saved.head.sigma))
    assert from_store == pytest.approx(hand, abs=1e-5)
    save_head(saved, tmp_path / "head")
    encoder, loaded = saved.head.encoder, load_head(tmp_path / "head")
    again = loaded.head.encoder
    facts = ("hook", "sae_fingerprint", "d_sae", "architecture", "normalize_activations", "apply_b_dec_to_input")
    assert [getattr(again, name) for name in facts] == [getattr(encoder, name) for name in facts]
    assert [getattr(again, name) for name in facts[3:]] == [architecture, normalize, apply_b_dec]
    assert again.weights.keys() == encoder.weights.keys()
    assert all(np.array_equal(again.weights[name], encoder.weights[name]) for name in again.weights)
    assert np.array_equal(rewards(loaded.head, represent(TEXTS, tiny_backbone, loaded.saes, pooling)[HOOK]), from_store)


def test_contributions_are_exactly_zero_where_the_feature_is_silent(fitted, states, tiny_backbone, pooling) -> None:
    silent = loud = 0
    for one, text in zip(_explanations(fitted.head, states, tokenized(PAIRS, tiny_backbone)), TEXTS, strict=True):
        assert {part.feature for part in one.contributions} == set(fitted.head.features.tolist()), text
        assert sum(part.contribution for part in one.contributions) + one.bias == pytest.approx(one.reward, abs=1e-9)
        assert ((one.token_contributions == 0) == (one.token_activations == 0)).all()
        for part in one.contributions:
            if part.fires:
                loud += part.contribution != 0
            else:
                silent += 1
                assert str(part.contribution) == str(part.score) == "0.0"
    assert silent > 20 and loud > 20


def test_a_feature_fires_at_a_token_that_is_pooled_and_its_activation_is_the_one_there(
    fitted, states, tiny_backbone, sae, pooling
) -> None:
    both, silent_at_the_end = set(), 0
    for state, text in zip(states, tokenized(PAIRS, tiny_backbone), strict=True):
        n = text.end - text.start
        one = explain_response(fitted.head, state, [""] * n, {})
        whole = sae.encode(torch.from_numpy(state)).numpy()[:, fitted.head.features]
        for part in one.contributions:
            j = fitted.head.features.tolist().index(part.feature)
            pooled = whole[:n, j] if pooling == "mean" else whole[-1:, j]
            assert part.fires == bool((pooled > 0).any())
            assert part.activation == pytest.approx(pooled.max(), abs=1e-4)
            assert part.fires == (part.activation > 0)
            silent_at_the_end += not part.fires and bool(whole[:n, j].any())
            assert part.mu == 0 and part.contribution == pytest.approx(part.weight * part.score / part.sigma)
            both.add((part.fires, part.activation > 0))
        assert one.token_activations == pytest.approx(whole[:n], abs=1e-4)
    assert {(True, True), (False, False)} == both
    assert (pooling == "last") == bool(silent_at_the_end)  # fires in the response, but not at the token that counts


def test_token_contributions_and_the_running_reward_end_at_the_reward(fitted, states, tiny_backbone, pooling) -> None:
    for state, one in zip(states, _explanations(fitted.head, states, tokenized(PAIRS, tiny_backbone)), strict=True):
        n = len(one.tokens)
        if pooling == "mean":
            assert one.running_reward[-1] == pytest.approx(one.reward, abs=1e-9)
            assert one.token_contributions.sum() + one.bias == pytest.approx(one.reward, abs=1e-9)
            first = explain_response(fitted.head, state[:1], [""], {})
            assert one.running_reward[0] == pytest.approx(first.reward, abs=1e-9)
        else:
            at_last = explain_response(fitted.head, state[:n], [""] * n, {})
            assert one.running_reward[-1] == pytest.approx(at_last.reward, abs=1e-9)


def test_a_gated_head_is_not_scored_without_the_latents_that_gate_it(saved, tiny_backbone, pooling) -> None:
    bare = represent(TEXTS[:2], tiny_backbone, {HOOK: None}, pooling)[HOOK]
    if pooling == "last":
        assert rewards(saved.head, bare).shape == (2,)
    else:
        with pytest.raises(SparseRMError, match="strengths"):
            rewards(saved.head, bare)


# Saved


def test_a_saved_head_carries_its_own_encoder_and_scores_the_same_to_the_bit(saved, folder, tiny_backbone, states) -> None:
    loaded = load_head(folder)
    assert json.loads((folder / "config.json").read_text())["format"] == 2
    assert loaded.head.score == "gated" and head_hash(loaded) == head_hash(saved)
    assert np.array_equal(loaded.selected, saved.selected) and loaded.card.training["settings"]["score"] == "gated"
    assert loaded.card.training["n_sure"] == saved.card.training["n_sure"]
    before, after = (
        rewards(one.head, represent(TEXTS, tiny_backbone, one.saes, one.head.pooling)[HOOK]) for one in (saved, loaded)
    )
    assert np.array_equal(before, after)
    assert np.array_equal(token_scores(saved.head, states[0]), token_scores(loaded.head, states[0]))
    assert saved.head.gate.fingerprint == loaded.head.gate.fingerprint


def _with_encoder(saved: SavedHead, **changes: Any) -> SavedHead:
    encoder: Encoder = replace(saved.head.encoder, **changes)
    return replace(saved, head=replace(saved.head, encoder=encoder))


def test_the_hash_counts_all_that_decides_where_features_fire(saved) -> None:
    weights = saved.head.encoder.weights
    changed = [
        _with_encoder(saved, weights={**weights, name: weights[name] + np.float32(1e-3)})
        for name in ("threshold", "b_enc", "W_enc")
    ]
    changed += [_with_encoder(saved, apply_b_dec_to_input=False), _with_encoder(saved, normalize_activations="layer_norm")]
    changed += [_with_encoder(saved, max_norm=100.0), _with_encoder(saved, max_norm=101.0)]
    changed += [replace(saved, head=replace(saved.head, encoder=None))]
    hashes = {head_hash(one) for one in (saved, *changed)}
    assert len(hashes) == 9
    labelled = replace(saved, card=replace(saved.card, labels={1: "x"}), selected=None)
    assert head_hash(labelled) == head_hash(saved)


def test_a_limit_of_the_norm_is_saved_with_the_head_and_not_changed_in_silence(saved, tmp_path) -> None:
    folder = tmp_path / "limited"
    limited = _with_encoder(saved, max_norm=12.5)
    save_head(limited, folder)
    again = load_head(folder)
    assert again.head.encoder.max_norm == again.head.gate.max_norm == 12.5
    assert head_hash(again) == head_hash(limited) != head_hash(saved)
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["max_norm"] = 13.5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SparseRMError, match="is not as it was saved"):
        load_head(folder)


def _write(folder: Path, encoder: Any = ..., tensors: dict[str, np.ndarray | None] | None = None, *, hashed: bool = True):
    """Change the entry ``encoder`` or tensors of a saved head; None removes; without its hash as by hand."""
    config = json.loads((folder / "config.json").read_text())
    if encoder is not ...:
        config["encoder"] = encoder
        if encoder is None:
            del config["encoder"]
    if not hashed:
        del config["sha256"]
    (folder / "config.json").write_text(json.dumps(config))
    if tensors:
        found = {**load_file(folder / "head.safetensors"), **tensors}
        save_file({name: value for name, value in found.items() if value is not None}, folder / "head.safetensors")


FACTS = {"architecture": "jumprelu", "normalize_activations": "none", "apply_b_dec_to_input": True}


@pytest.mark.parametrize(
    ("encoder", "named"),
    [
        (None, "encoder.architecture"),
        ("jumprelu", "encoder.architecture"),
        ({**FACTS, "architecture": "topk"}, "encoder.architecture"),
        ({**FACTS, "architecture": ["jumprelu"]}, "encoder.architecture"),
        ({**FACTS, "normalize_activations": "expected_average_only_in"}, "encoder.normalize_activations"),
        ({"architecture": "jumprelu", "normalize_activations": "none"}, "encoder.apply_b_dec_to_input"),
        ({**FACTS, "apply_b_dec_to_input": "no"}, "encoder.apply_b_dec_to_input"),
        ({**FACTS, "apply_b_dec_to_input": 1}, "encoder.apply_b_dec_to_input"),
        ({**FACTS, "max_norm": "5"}, "encoder.max_norm"),
        ({**FACTS, "max_norm": 0}, "encoder.max_norm"),
        ({**FACTS, "max_norm": True}, "encoder.max_norm"),
    ],
)
def test_an_encoder_that_cannot_be_read_is_refused_by_name(folder, encoder, named) -> None:
    for hashed in (True, False):
        if hashed or "sha256" in json.loads((folder / "config.json").read_text()):
            _write(folder, encoder, hashed=hashed)
        with pytest.raises(SparseRMError, match=re.escape(named)) as refused:
            load_head(folder)
        assert str(folder) in str(refused.value)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "threshold"])
def test_a_tensor_of_the_encoder_that_is_missing_or_wrong_is_refused_by_name(folder, name) -> None:
    good = load_file(folder / "head.safetensors")[f"encoder.{name}"]
    infinite = good.copy()
    infinite.reshape(-1)[0] = np.inf
    wrong = [None, good[..., :-1], good[None], infinite, good.astype(np.int32), good * np.float32(1e30)]
    for tensor in wrong:
        value = None if tensor is None else np.ascontiguousarray(tensor)
        _write(folder, tensors={f"encoder.{name}": value}, hashed=True)
        with pytest.raises(SparseRMError, match=re.escape(f"encoder.{name}")):
            load_head(folder)
    _write(folder, tensors={f"encoder.{name}": good})
    load_head(folder)


def test_the_encoder_of_another_architecture_is_refused(folder) -> None:
    _write(folder, {**FACTS, "architecture": "gated"})
    with pytest.raises(SparseRMError, match=r"lacks encoder\.b_gate, encoder\.b_mag, encoder\.r_mag"):
        load_head(folder)


def test_an_encoder_that_was_changed_is_found_by_the_hash(folder) -> None:
    good = load_file(folder / "head.safetensors")
    for name in ("encoder.threshold", "encoder.W_enc", "selected"):
        _write(folder, tensors={name: good[name] + good[name].dtype.type(1e-3)})
        with pytest.raises(SparseRMError, match="not as it was saved"):
            load_head(folder)
        _write(folder, tensors={name: good[name]})
    _write(folder, {**FACTS, "apply_b_dec_to_input": False})
    with pytest.raises(SparseRMError, match="not as it was saved"):
        load_head(folder)


def test_an_encoder_in_other_floating_point_numbers_can_be_used(folder, saved, states) -> None:
    doubles = {f"encoder.{name}": weight.astype(np.float64) for name, weight in saved.head.encoder.weights.items()}
    _write(folder, tensors=doubles, hashed=False)
    assert np.array_equal(token_scores(load_head(folder).head, states[0]), token_scores(saved.head, states[0]))


def test_a_head_on_projections_is_saved_as_before(tiny_backbone, sae, tmp_path) -> None:
    pairs, settings = _represented(tiny_backbone, sae), FitSettings(score="projection", k=3, l2=0.1)
    saved = make_saved_head(fit_head(pairs, sae, settings), PAIRS, tiny_backbone, sae, settings, name="projected")
    save_head(saved, tmp_path / "head")
    config, tensors = json.loads((tmp_path / "head/config.json").read_text()), load_file(tmp_path / "head/head.safetensors")
    assert config["format"] == 1 and not {"encoder", "score"} & config.keys()
    assert not any(name.startswith("encoder") or name == "selected" for name in tensors)
    loaded = load_head(tmp_path / "head")
    assert loaded.head.score == "projection" and loaded.saes == {HOOK: None} and loaded.selected is None
    assert np.array_equal(rewards(loaded.head, pairs.chosen), rewards(saved.head, pairs.chosen))
    # Written by an earlier version: no entry for the score.
    config["training"]["settings"].pop("score"), config.pop("sha256")
    (tmp_path / "head/config.json").write_text(json.dumps(config))
    assert head_hash(load_head(tmp_path / "head")) == head_hash(saved)


# Edits and evidence


def _others(n: int = 30) -> PreferenceData:
    data = polite_pairs(n)
    return replace(
        data, pairs=tuple(replace(p, prompt=(replace(p.prompt[0], content=f"Other {i}?"),)) for i, p in enumerate(data.pairs))
    )


def test_edits_are_measured_from_gated_scores_without_running_the_model(saved, tiny_backbone, tmp_path, monkeypatch) -> None:
    data, pooling = _others(), saved.head.pooling
    store = Store(tmp_path / "store.sqlite")
    represent_pairs(data.pairs, tiny_backbone, saved.saes, pooling, store=store)

    def refuse(*_: Any) -> Any:
        raise AssertionError("the model was run")

    monkeypatch.setattr(Backbone, "run", refuse)
    pairs = represent_pairs(data.pairs, tiny_backbone, saved.saes, pooling, store=store)[HOOK]
    store.close()
    found = held_out_scores(saved, data, pairs)
    scores = [head_scores(saved.head, side) / saved.head.sigma for side in (pairs.chosen, pairs.rejected)]
    assert len(found.rows) == len(data.pairs) and found.differences == pytest.approx(scores[0] - scores[1])
    assert (found.chosen == 0).any() and found.differences[(found.chosen == 0) & (found.rejected == 0)].tolist() != []
    assert (found.differences[(found.chosen == 0) & (found.rejected == 0)] == 0).all()
    edits = HeadEdits.of({int(saved.head.features[0]): 0, int(saved.head.features[-1]): -2})
    edited = edit_head(saved.head, edits)
    margins = rewards(edited, pairs.chosen) - rewards(edited, pairs.rejected)
    assert measure_edits(found, edits).margins == pytest.approx(margins)
    made = make_edited_head(saved, "polite", edits, "edited", found)
    assert made.head.score == "gated" and made.saes.keys() == saved.saes.keys()
    assert made.quantiles_chosen[-1] == pytest.approx(rewards(edited, pairs.chosen).max())
    save_head(made, tmp_path / "edited")
    assert np.array_equal(rewards(load_head(tmp_path / "edited").head, pairs.chosen), rewards(edited, pairs.chosen))


def test_the_evidence_of_a_gated_head_is_gathered_without_running_the_model(
    fitted, tiny_backbone, sae, pooling, monkeypatch
) -> None:
    train = _represented(tiny_backbone, sae, pooling)
    test = represent_pairs(_others().pairs, tiny_backbone, {HOOK: sae}, pooling, strengths=True)[HOOK]
    monkeypatch.setattr(Backbone, "run", lambda *_: pytest.fail("the model was run"))
    monkeypatch.setattr("sparserm.training.evidence.RESAMPLES", 2)
    monkeypatch.setattr("sparserm.training.evidence.CURVE_SEEDS", 1)
    monkeypatch.setattr("sparserm.training.evidence.SHUFFLES", 5)
    found = gather_head_evidence(fitted, train, test, sae, FitSettings(pooling=pooling))
    by_name = {one.name: one for one in found.baselines}
    assert (by_name["head"].accuracy > 0.6 or pooling == "last") and by_name["head"].accuracy >= by_name["shuffled"].accuracy
    assert found.curve[-1].accuracy == by_name["head"].accuracy
    assert {one.feature for one in found.stability.features} == set(fitted.head.features.tolist())
    again = [one.same_sign for one in found.stability.features if one.selected]
    assert again and np.mean(again) > 0.8
    assert found.to_dict() == type(found).from_dict(found.to_dict()).to_dict()
