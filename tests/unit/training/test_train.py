"""Training end to end on a tiny backbone: the head, its figures and its card belong together, and come out the same again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparserm.backbone.model import Backbone
from sparserm.evaluation.accuracy import cross_validate, evaluate_head
from sparserm.evaluation.baselines import random_settings
from sparserm.heads.fitting import FitSettings, fit_head, fit_settings
from sparserm.heads.inputs import load_parts
from sparserm.heads.selection import feature_stats
from sparserm.model import SparseRM
from sparserm.pairs.parsing import parse_pairs
from sparserm.pairs.split import short_key
from sparserm.representations.represent import represent_pairs
from sparserm.sae.autoencoder import load_sae
from sparserm.training.train import TrainedHead, train_head
from sparserm.types import PreferenceData, SparseRMError
from tests.unit.pairs_data import SETTINGS, TEST, TRAIN, preference_rows
from tests.unit.tiny import CONTEXT, HOOK, LAYERS, save_tiny_sae


@pytest.fixture(scope="module")
def sae_folder(tmp_path_factory) -> Path:
    return save_tiny_sae(tmp_path_factory.mktemp("saes") / "tiny-sae")


@pytest.fixture(scope="module")
def trained(tiny_backbone, sae_folder) -> TrainedHead:
    return train_head(TRAIN, backbone=tiny_backbone, sae=sae_folder, test=TEST, licence="CC0", **SETTINGS)


def _represented(data: PreferenceData, backbone: Backbone, sae_folder: Path):
    sae = load_sae(sae_folder)
    return sae, represent_pairs(data.pairs, backbone, {HOOK: sae}, "mean")[HOOK]


def _run_counter(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    calls: Counter[str] = Counter()
    run = Backbone.run
    monkeypatch.setattr(Backbone, "run", lambda *given: (calls.update(["run"]), run(*given))[1])
    return calls


def test_measured_on_test_pairs_where_they_are_given(trained, tiny_backbone, sae_folder) -> None:
    sae, train = _represented(TRAIN, tiny_backbone, sae_folder)
    _, test = _represented(TEST, tiny_backbone, sae_folder)
    settings = FitSettings(**SETTINGS)
    assert trained.measurement.measured_on == "test.jsonl"
    assert trained.measurement.evaluation == evaluate_head(fit_head(train, sae, settings).head, test)
    assert trained.measurement.evaluation == trained.model.evaluate(TEST)
    drawn = [evaluate_head(fit_head(train, sae, one).head, test).accuracy for one in random_settings(settings)]
    assert trained.measurement.random_accuracy == pytest.approx(np.mean(drawn))
    assert trained.measurement.evaluation.accuracy > 0.6


def test_measured_by_cross_validation_where_there_are_no_test_pairs(tiny_backbone, sae_folder) -> None:
    found = train_head(TRAIN, backbone=tiny_backbone, sae=sae_folder, **SETTINGS)
    sae, pairs = _represented(TRAIN, tiny_backbone, sae_folder)
    settings = FitSettings(**SETTINGS)
    assert found.measurement.measured_on == "cross-validation over prompts"
    assert found.measurement.evaluation == cross_validate(pairs, sae, settings)
    assert found.measurement.evaluation.n == len(TRAIN.pairs) and found.measurement.evaluation.n_prompts == 10
    drawn = [cross_validate(pairs, sae, one).accuracy for one in random_settings(settings)]
    assert found.measurement.random_accuracy == pytest.approx(np.mean(drawn))


def test_the_summary_is_plain_json_and_agrees_with_the_card(trained) -> None:
    summary = trained.summary()
    assert json.loads(json.dumps(summary)) == summary
    card = trained.model.card
    assert (summary["n_train"], summary["n_prompts"], summary["n"]) == (40, 10, 14)
    assert (summary["k"], summary["selection"], summary["l2"], summary["pooling"]) == (4, "effect_size", 0.1, "mean")
    assert (summary["hook"], summary["sae"]) == (card.hook, card.sae)
    for ours, theirs in (("accuracy", "accuracy"), ("ci95", "ci95"), ("random_directions", "random_directions"), ("n", "n")):
        assert summary[ours] == card.metrics[theirs]
    assert summary["train_accuracy"] == card.training["accuracy"]


def test_the_card_says_what_the_head_is_valid_for_and_made_from(trained, tiny_backbone, sae_folder) -> None:
    card, sae = trained.model.card, load_sae(sae_folder)
    assert (card.backbone, card.backbone_fingerprint) == (tiny_backbone.name, tiny_backbone.fingerprint)
    assert (card.hook_point, card.d_sae, card.sae_fingerprint) == (HOOK, 64, sae.fingerprint)
    assert card.name == card.training["data"] == "train.jsonl"
    assert card.training["data_hash"] == TRAIN.content_hash
    assert (card.training["licence"], card.training["n_pairs"], card.training["n_skipped"]) == ("CC0", 40, 0)
    assert card.training["settings"] == {**vars(FitSettings()), **SETTINGS, "score": "projection"}
    assert {"sparserm", "torch", "transformers"} <= set(card.versions)


def test_the_evidence_is_of_the_training_responses(trained, tiny_backbone, sae_folder) -> None:
    saved = trained.model.saved
    _, pairs = _represented(TRAIN, tiny_backbone, sae_folder)
    stats = feature_stats(pairs, "any")
    np.testing.assert_array_equal(saved.f_chosen, stats.f_chosen[saved.head.features])
    np.testing.assert_array_equal(saved.f_rejected, stats.f_rejected[saved.head.features])
    for side, quantiles in (("chosen", saved.quantiles_chosen), ("rejected", saved.quantiles_rejected)):
        values = trained.model.score([pair.prompt for pair in TRAIN.pairs], [getattr(pair, side) for pair in TRAIN.pairs])
        np.testing.assert_allclose(quantiles[[0, 50, 100]], [values.min(), np.median(values), values.max()], atol=1e-4)
    assert saved.prompt_keys.tolist() == sorted({short_key(pair.prompt) for pair in TRAIN.pairs})


def test_training_again_writes_the_same_bytes_and_does_not_run_the_backbone(tiny_backbone, sae_folder, tmp_path, monkeypatch):
    calls = _run_counter(monkeypatch)
    runs = []
    for name in ("first", "second"):
        calls.clear()
        result = train_head(TRAIN, backbone=tiny_backbone, sae=sae_folder, test=TEST, **SETTINGS)
        result.model.save_pretrained(tmp_path / name)
        runs.append(calls["run"])
    assert runs[0] > 0 and runs[1] == 0
    for file in ("config.json", "head.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_without_the_store_the_head_is_the_same(trained, tiny_backbone, sae_folder, monkeypatch) -> None:
    monkeypatch.setenv("SPARSERM_STORE", "off")
    calls = _run_counter(monkeypatch)
    again = train_head(TRAIN, backbone=tiny_backbone, sae=sae_folder, test=TEST, **SETTINGS)
    assert calls
    assert again.model.head.weights.tobytes() == trained.model.head.weights.tobytes()


def test_fitting_alone_gives_the_same_head_without_figures(trained, tiny_backbone, sae_folder) -> None:
    model = SparseRM.fit(TRAIN, backbone=tiny_backbone, sae=load_sae(sae_folder), name="mine", **SETTINGS)
    assert model.head.weights.tobytes() == trained.model.head.weights.tobytes()
    assert model.head.features.tolist() == trained.model.head.features.tolist()
    assert (model.card.name, model.card.metrics) == ("mine", {})


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_head_remembers_its_pooling_and_a_chosen_l2(tiny_backbone, sae_folder, pooling) -> None:
    model = SparseRM.fit(TRAIN, backbone=tiny_backbone, sae=sae_folder, k=3, pooling=pooling)
    assert model.head.pooling == pooling == model.card.training["settings"]["pooling"]
    assert model.card.training["settings"]["l2"] > 0


def test_progress_hears_of_every_response(tiny_backbone, sae_folder) -> None:
    heard: list[tuple[int, int, str]] = []
    SparseRM.fit(TEST, backbone=tiny_backbone, sae=sae_folder, progress=lambda *one: heard.append(one), **SETTINGS)
    assert heard[-1][:2] == (28, 28)
    assert all(done <= total for done, total, _ in heard)


def test_a_cancelled_training_leaves_no_result(tiny_backbone, sae_folder) -> None:
    def cancel(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_head(TRAIN, backbone=tiny_backbone, sae=sae_folder, progress=cancel, **SETTINGS)


def test_pairs_beyond_the_context_are_counted(tiny_backbone, sae_folder) -> None:
    rows = preference_rows(8)
    rows[3]["prompt"] = "xyz " * CONTEXT
    found = train_head(parse_pairs(rows), backbone=tiny_backbone, sae=sae_folder, test=TEST, **SETTINGS)
    assert found.n_truncated == 1 == found.summary()["n_truncated"]


def test_one_pair_needs_test_pairs(tiny_backbone, sae_folder) -> None:
    one = parse_pairs(preference_rows(1))
    with pytest.raises(SparseRMError, match="at least 2 pairs, got 1"):
        train_head(one, backbone=tiny_backbone, sae=sae_folder, **SETTINGS)
    assert train_head(one, backbone=tiny_backbone, sae=sae_folder, test=TEST, **SETTINGS).measurement.evaluation.n == 14


def test_settings_that_are_none_keep_their_defaults() -> None:
    assert fit_settings(k=None, pooling=None, l2=None) == FitSettings()
    assert fit_settings(k=7, pooling="last") == replace(FitSettings(), k=7, pooling="last")


def test_an_unknown_setting_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SparseRMError, match=r"unknown setting 'depth'; expected one of k, pooling"):
        fit_settings(depth=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "max"}, "pooling is 'max', expected one of last, mean; choose one"),
        ({"activity": "sometimes"}, "activity is 'sometimes', expected one of any, most; choose one"),
        ({"selection": "best"}, "'best', expected one of stable, frequency, random, sparse, effect_size; choose one"),
        ({"k": 33, "score": "projection"}, "k is 33, expected a whole number from 1 to 32; choose one"),
        ({"k": 33, "selection": "sparse"}, "k is 33, expected a whole number from 1 to 32; choose one"),
        ({"k": 65}, "k is 65, expected a whole number from 1 to 64; choose one"),
        ({"score": "activations"}, "score is 'activations', expected one of gated, projection; choose one"),
        ({"score": "gated", "selection": "sparse"}, "selection is 'sparse' with score gated, expected one of stable, freq"),
        ({"score": "projection", "selection": "stable"}, "'stable' with score projection, expected one of sparse, freq"),
        ({"k": 0}, "k is 0, expected"),
        ({"k": 2.5}, "k is 2.5, expected"),
        ({"k": "8"}, "k is '8', expected"),
        ({"l2": 0.0}, "l2 is 0.0, expected a number above 0; leave it out"),
        ({"l2": -1.0}, "l2 is -1.0, expected"),
        ({"l2": float("inf")}, "l2 is inf, expected"),
        ({"l2": float("nan")}, "l2 is nan, expected"),
        ({"l2": "much"}, "l2 is 'much', expected"),
    ],
)
def test_settings_out_of_range_are_refused_with_what_was_got_and_expected(settings, message) -> None:
    with pytest.raises(SparseRMError, match=message):
        fit_settings(**settings)


def test_settings_at_the_ends_of_their_range_are_taken() -> None:
    for settings in ({"k": 1}, {"k": 32}, {"k": np.int64(5)}, {"l2": 1e-9}, {"l2": 3}, {"activity": "most"}):
        assert fit_settings(**settings) == replace(FitSettings(), **settings)
    assert json.dumps(vars(fit_settings(k=np.int64(5), l2=np.float32(0.5)))) == json.dumps(
        {**vars(FitSettings()), "k": 5, "l2": 0.5}
    )


def test_settings_are_checked_before_any_work(tiny_backbone, sae_folder, monkeypatch) -> None:
    calls = _run_counter(monkeypatch)
    for train in (train_head, SparseRM.fit):
        with pytest.raises(SparseRMError, match="k is 65"):
            train(TEST, backbone=tiny_backbone, sae=sae_folder, **{**SETTINGS, "k": 65})
    assert not calls


def test_more_features_than_latents_fire_are_refused(tiny_backbone, tmp_path) -> None:
    with pytest.raises(SparseRMError, match=r"k = 9 features from 14 pairs in which \d latents fire"):
        train_head(TEST, backbone=tiny_backbone, sae=save_tiny_sae(tmp_path / "sae", d_sae=8), **{**SETTINGS, "k": 9})


def test_a_backbone_is_loaded_no_further_than_its_sae_reads(tiny_folder, sae_folder) -> None:
    sae, backbone = load_parts(tiny_folder, sae_folder, None)
    assert (sae.hook, backbone.through_layer, backbone.n_layers) == (HOOK, HOOK.layer, LAYERS)
    again = load_parts(backbone, sae, HOOK.layer)
    assert again[0] is sae and again[1] is backbone


def test_another_backbone_needs_an_sae_of_its_own(tiny_folder) -> None:
    with pytest.raises(SparseRMError, match="has no shipped SAE; give one with --sae"):
        load_parts(tiny_folder, None, None)


def test_a_layer_that_is_not_the_saes_is_refused(tiny_folder, sae_folder) -> None:
    with pytest.raises(SparseRMError, match=r"blocks\.2\.hook_resid_post, but layer 1 was asked for"):
        load_parts(tiny_folder, sae_folder, 1)


def test_a_layer_without_a_shipped_sae_is_refused_naming_those_there_are() -> None:
    with pytest.raises(SparseRMError, match=r"no SAE 'smollm2/layer_7'.*smollm2/layer_15"):
        load_parts("smollm2", None, 7)


@pytest.mark.parametrize("wrong", [{"d_in": 16}, {"layer": LAYERS}])
def test_an_sae_of_another_backbone_is_refused(tiny_backbone, tmp_path, wrong) -> None:
    with pytest.raises(SparseRMError, match="choose an SAE of this backbone"):
        load_parts(tiny_backbone, save_tiny_sae(tmp_path / "sae", **wrong), None)


def test_prompts_that_differ_in_white_space_are_one_prompt_everywhere(tiny_backbone, sae_folder) -> None:
    rows = preference_rows(20, 5)
    for row in rows[::2]:
        row["prompt"] += " "
    found = train_head(parse_pairs(rows), backbone=tiny_backbone, sae=sae_folder, **SETTINGS)
    assert found.measurement.evaluation.n_prompts == found.summary()["n_prompts"] == 5
