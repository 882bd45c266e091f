"""The whole model on a tiny backbone: rewards by every way of asking agree, survive saving, and refuse another backbone."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from sparserm import model as model_module
from sparserm.backbone.model import Backbone
from sparserm.model import SparseRM, shared_backbone
from sparserm.pairs.parsing import parse_pairs
from sparserm.types import Message, SparseRMError
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import CONTEXT, save_tiny, save_tiny_sae

TRAIN, TEST = parse_pairs(preference_rows(), "train"), parse_pairs(preference_rows(12, 6, seed=1), "test")
PROMPT = "How do I boil an egg?"
RESPONSES = ["please boil it for six minutes", "go away", "never", "ünïcode 🥚 is text too\nin two lines"]


@pytest.fixture(scope="module")
def sae_folder(tmp_path_factory) -> Path:
    return save_tiny_sae(tmp_path_factory.mktemp("saes") / "tiny-sae")


@pytest.fixture(scope="module", params=["mean", "last"])
def model(request, tiny_backbone, sae_folder) -> SparseRM:
    return SparseRM.fit(
        TRAIN, backbone=tiny_backbone, sae=sae_folder, k=5, l2=0.01, selection="effect_size", pooling=request.param
    )


@pytest.fixture
def no_loading(monkeypatch) -> None:
    def refuse(*given: object) -> None:
        raise AssertionError("the backbone was loaded")

    monkeypatch.setattr(model_module, "shared_backbone", refuse)


@pytest.fixture
def fresh_cache(monkeypatch):
    """No backbone is shared with other tests, and one that is loaded here is float32 on any machine."""
    monkeypatch.setattr("sparserm.backbone.device.fast_dtype", lambda device: torch.float32)
    model_module._loaded.clear()
    yield
    model_module._loaded.clear()


def _reward(model: SparseRM, response: str) -> float:
    return float(model.score(PROMPT, response)[0])


def test_a_saved_model_gives_the_same_rewards_to_the_bit(model, tiny_backbone, tmp_path) -> None:
    model.save_pretrained(tmp_path / "head")
    loaded = SparseRM.from_pretrained(tmp_path / "head", backbone=tiny_backbone)
    prompts = [PROMPT] * len(RESPONSES)
    assert loaded.score(prompts, RESPONSES).tobytes() == model.score(prompts, RESPONSES).tobytes()
    assert loaded.features() == model.features()
    assert loaded.card == model.card


def test_a_reward_is_the_same_alone_and_in_company_and_in_any_order(model, monkeypatch) -> None:
    monkeypatch.setenv("SPARSERM_STORE", "off")
    together = model.score([PROMPT] * 4, RESPONSES)
    np.testing.assert_allclose([_reward(model, one) for one in RESPONSES], together, atol=1e-4)
    np.testing.assert_allclose(model.score([PROMPT] * 4, RESPONSES[::-1])[::-1], together, atol=1e-4)
    assert len(set(together.round(3))) == 4


def test_what_the_store_holds_does_not_change_a_reward(model) -> None:
    first = model.score([PROMPT] * 4, RESPONSES)
    assert model.score([PROMPT] * 4, RESPONSES).tobytes() == first.tobytes()


def test_explaining_scoring_and_comparing_agree(model) -> None:
    rewards = model.score([PROMPT] * 4, RESPONSES)
    comparison = model.compare(PROMPT, RESPONSES)
    np.testing.assert_allclose(comparison.rewards, rewards, atol=1e-4)
    assert comparison.ranking == tuple(np.argsort(-rewards))
    assert sum(part.contribution for part in comparison.contributions) == pytest.approx(comparison.margin)
    for response, reward in zip(RESPONSES, rewards, strict=True):
        found = model.explain(PROMPT, response)
        assert found.reward == pytest.approx(reward, abs=1e-4)
        assert sum(part.contribution for part in found.contributions) + found.bias == pytest.approx(found.reward)
        assert "".join(found.tokens) == response
        assert found.token_contributions.shape == (len(found.tokens), 5)
        assert found.n_truncated == 0


def test_responses_side_by_side_are_explained_as_they_are_alone(model, monkeypatch) -> None:
    runs: list[int] = []
    run = Backbone.run
    monkeypatch.setattr(Backbone, "run", lambda *given: (runs.append(1), run(*given))[1])
    found = model.side_by_side(PROMPT, RESPONSES)
    assert len(runs) == 1  # they share the prompt, and so the pass
    np.testing.assert_allclose(found.rewards, model.compare(PROMPT, RESPONSES).rewards, atol=1e-4)
    for response, explanation in zip(RESPONSES, found.explanations, strict=True):
        alone = model.explain(PROMPT, response)
        assert explanation.tokens == alone.tokens
        np.testing.assert_allclose(explanation.token_contributions, alone.token_contributions, atol=1e-4)
    assert sum(part.contribution for part in found.differences(2, 0)) == pytest.approx(found.margin(2, 0), abs=1e-12)


def test_two_responses_are_compared_in_the_order_given(model) -> None:
    there, back = model.compare(PROMPT, RESPONSES[:2]), model.compare(PROMPT, RESPONSES[1::-1])
    assert there.margin == pytest.approx(-back.margin, abs=1e-4)
    assert there.margin == pytest.approx(there.rewards[0] - there.rewards[1])


def test_prompts_and_responses_may_be_texts_or_messages(model) -> None:
    plain = _reward(model, "never")
    asked = {"role": "user", "content": PROMPT}
    for prompt in ([asked], [Message("user", PROMPT)], (Message("user", PROMPT),)):
        assert model.score([prompt], ["never"])[0] == plain
    assert model.score([PROMPT], [[{"role": "assistant", "content": "never"}]])[0] == plain
    longer = [asked, {"role": "assistant", "content": "Why?"}, {"role": "user", "content": "I am hungry."}]
    assert model.score([longer], ["never"])[0] != plain


def test_a_prompt_matters_and_is_cut_from_the_left_where_it_is_too_long(model) -> None:
    assert _reward(model, "never") != model.score("Another question?", "never")[0]
    found = model.explain("xyz " * CONTEXT, "never")
    assert found.n_truncated > 0 and np.isfinite(found.reward)
    assert "".join(found.tokens) == "never"


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda model: model.score([PROMPT], ["a", "b"]), "got 1 prompts and 2 responses; expected one prompt per response"),
        (lambda model: model.score(PROMPT, ""), "response is empty"),
        (lambda model: model.score(PROMPT, " \n"), "response is empty"),
        (lambda model: model.score("", "a"), "prompt is empty"),
        (lambda model: model.explain(PROMPT, ""), "response is empty"),
        (lambda model: model.compare(PROMPT, ["a"]), "got 1 responses; expected two or more"),
        (lambda model: model.compare(PROMPT, []), "got 0 responses; expected two or more"),
        (lambda model: model.compare(PROMPT, ["a", ""]), "response is empty"),
        (lambda model: model.side_by_side(PROMPT, ["a"]), "got 1 responses; expected two to 8"),
        (lambda model: model.side_by_side(PROMPT, ["a"] * 9), "got 9 responses; expected two to 8"),
        (lambda model: model.side_by_side(PROMPT, ["a", ""]), "response is empty"),
    ],
)
def test_what_cannot_be_scored_is_refused(model, ask, message) -> None:
    with pytest.raises(SparseRMError, match=message):
        ask(model)


def test_scoring_nothing_gives_no_rewards(model) -> None:
    assert model.score([], []).shape == (0,)


def test_accuracy_is_the_share_of_pairs_whose_chosen_response_scores_higher(model) -> None:
    prompts = [pair.prompt for pair in TEST.pairs]
    chosen = model.score(prompts, [pair.chosen for pair in TEST.pairs])
    rejected = model.score(prompts, [pair.rejected for pair in TEST.pairs])
    found = model.evaluate(TEST)
    assert found.accuracy == (chosen > rejected).mean()
    assert found.mean_margin == pytest.approx((chosen - rejected).mean(), abs=1e-4)
    assert (found.n, found.n_prompts, found.n_truncated) == (12, 6, 0)
    assert found.ci95[0] <= found.accuracy <= found.ci95[1]


def test_the_chance_to_beat_a_typical_response_is_bradley_terrys_against_the_median(model) -> None:
    chosen, rejected = np.linspace(-9.0, 11.0, 101), np.linspace(-21.0, 19.0, 101)  # medians 1 and -1
    typical = SparseRM(replace(model.saved, quantiles_chosen=chosen, quantiles_rejected=rejected))
    assert typical.chance_to_beat(1.0) == pytest.approx((0.5, expit(2.0)))
    assert typical.chance_to_beat(-1.0) == pytest.approx((expit(-2.0), 0.5))


def test_features_come_with_their_evidence_by_absolute_weight(model, no_loading) -> None:
    rows = SparseRM(model.saved).features()
    assert [row["feature"] for row in rows] == [int(model.head.features[j]) for j in np.argsort(-np.abs(model.head.weights))]
    for row in rows:
        assert row["gap"] == row["f_chosen"] - row["f_rejected"]
        assert 0 <= row["f_chosen"] <= 1 and 0 <= row["f_rejected"] <= 1 and row["sigma"] > 0
        assert row["label"] == f"feature {row['feature']}" and row["family"] == row["feature"]
    assert json.loads(json.dumps(rows)) == rows


def test_labels_are_shown_with_features_and_contributions(model, tiny_backbone) -> None:
    feature = int(model.head.features[2])
    labelled = SparseRM(replace(model.saved, card=replace(model.card, labels={feature: "kindness"})), tiny_backbone)
    assert {row["label"] for row in labelled.features() if row["feature"] == feature} == {"kindness"}
    shown = labelled.explain(PROMPT, "never").contributions + labelled.compare(PROMPT, ["a", "b"]).contributions
    assert [part.label for part in shown if part.feature == feature] == ["kindness"] * 2


def test_training_prompts_are_recognised_white_space_aside_without_a_backbone(model, no_loading) -> None:
    rows = [
        {"prompt": prompt, "chosen": "a", "rejected": "b"} for prompt in (PROMPT, "Question 3,  set 0?\n", "question 3, set 0?")
    ]
    seen = SparseRM(model.saved).seen_in_training(parse_pairs(rows))
    assert [(issue.row, issue.column, issue.severity) for issue in seen] == [(2, "prompt", "warning")]
    assert len(SparseRM(model.saved).seen_in_training(TRAIN)) == 40
    assert SparseRM(model.saved).seen_in_training(TEST) == ()


def test_a_model_is_fitted_to_a_file_as_to_its_pairs(model, tiny_backbone, sae_folder, tmp_path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, preference_rows())))
    settings = {"k": 5, "l2": 0.01, "selection": "effect_size", "pooling": model.head.pooling}
    fitted = SparseRM.fit(path, backbone=tiny_backbone, sae=sae_folder, name="from a file", **settings)
    assert fitted.head.weights.tobytes() == model.head.weights.tobytes()
    assert fitted.card.name == "from a file"


def test_another_backbone_is_refused_naming_both(model, tmp_path) -> None:
    other = Backbone.load(save_tiny(tmp_path / "other", seed=1), dtype="float32")
    with pytest.raises(SparseRMError) as error:
        SparseRM(model.saved, other)
    for said in ("tiny-llama", "other", other.fingerprint, model.card.backbone_fingerprint):
        assert said in str(error.value)


def test_another_backbone_under_the_same_name_is_refused_when_it_is_loaded(model, tmp_path, monkeypatch, fresh_cache) -> None:
    save_tiny(tmp_path / "tiny-llama", seed=1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SparseRMError, match="was trained on backbone tiny-llama"):
        SparseRM(model.saved).score(PROMPT, "never")


def test_heads_of_one_backbone_share_one_copy_also_across_threads(model, tiny_folder, monkeypatch, fresh_cache) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    load, loads = Backbone.load, []
    monkeypatch.setattr(Backbone, "load", lambda *given, **named: (loads.append(given), load(*given, **named))[1])
    found: list[Backbone] = []
    threads = [threading.Thread(target=lambda: found.append(SparseRM(model.saved).backbone)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(map(id, found))) == 1 == len(loads)
    assert found[0] is shared_backbone("tiny-llama", 2)
    assert found[0].through_layer == 2


def test_the_backbone_is_loaded_once_and_when_it_is_first_needed(model, tiny_folder, monkeypatch, fresh_cache) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    lazy = SparseRM(model.saved)
    assert lazy.load_backbone() is lazy.backbone is lazy.load_backbone()
    assert _reward(lazy, "never") == pytest.approx(_reward(model, "never"), abs=1e-4)


def test_a_head_finds_its_backbones_folder_again_from_anywhere(tiny_folder, sae_folder, tmp_path, monkeypatch, fresh_cache):
    def offline(*given: object, **named: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    SparseRM.fit(TEST, backbone=tiny_folder, sae=sae_folder, k=3, l2=0.1).save_pretrained(tmp_path / "head")
    monkeypatch.chdir(tmp_path)
    assert np.isfinite(SparseRM.from_pretrained(tmp_path / "head").score(PROMPT, "never")).all()


def test_a_backbone_whose_folder_is_gone_is_looked_for_by_its_name(model, tiny_folder, tmp_path, monkeypatch) -> None:
    moved = Path(shutil.copytree(tiny_folder, tmp_path / "before" / "tiny-llama"))
    monkeypatch.chdir(moved.parent)
    Backbone.load("tiny-llama")
    assert model.card.backbone_source == str(moved)
    moved.rename(tmp_path / "tiny-llama")
    assert model.card.backbone_source == "tiny-llama"


def test_a_damaged_head_is_refused(model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "head")
    path = tmp_path / "head" / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SparseRMError, match="cannot be read as a head"):
        SparseRM.from_pretrained(tmp_path / "head")
    shutil.rmtree(tmp_path / "head")
    with pytest.raises(SparseRMError, match="no head"):
        SparseRM.from_pretrained(tmp_path / "head")


def test_a_deeper_copy_serves_shallower_heads_and_replaces_shallower_copies(tiny_folder, monkeypatch) -> None:
    monkeypatch.setattr(model_module, "_loaded", {})
    name = str(tiny_folder)
    shallow = shared_backbone(name, 1)
    deep = shared_backbone(name, 2)
    assert (shallow.through_layer, deep.through_layer) == (1, 2)
    assert shared_backbone(name, 1) is deep
    assert shared_backbone(name, 99) is shared_backbone(name, 99)


def test_the_inspected_input_is_the_templated_text_with_the_scored_tokens_marked(model) -> None:
    found = model.inspect(PROMPT, "Put it in water.")
    assert PROMPT in "".join(found.tokens)
    scored = "".join(token for token, read in zip(found.tokens, found.scored, strict=True) if read)
    assert scored == "Put it in water." if model.head.pooling == "mean" else sum(found.scored) == 1
    assert found.n_truncated == 0


def test_a_percentile_counts_the_training_responses_below(model) -> None:
    low, high = model.saved.quantiles_rejected[0] - 1, model.saved.quantiles_chosen[-1] + 1
    assert (model.percentile(low), model.percentile(high)) == (0, 1)
    middle = model.percentile(float(np.median([model.saved.quantiles_chosen[50], model.saved.quantiles_rejected[50]])))
    assert 0.2 < middle < 0.8
