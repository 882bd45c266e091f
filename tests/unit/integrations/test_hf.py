"""An exported head gives the rewards of its model, in transformers' own terms, and loads without SparseRM."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from sparserm.backbone.model import Backbone
from sparserm.heads.saved import load_head, save_head
from sparserm.integrations import classifier as code
from sparserm.integrations.classifier import GatedScores
from sparserm.integrations.hf import export_classifier, export_steering, fold
from sparserm.model import SparseRM
from sparserm.pairs.parsing import parse_pairs
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import NORMALISATIONS, HookPoint, Message, SparseRMError
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny, save_tiny_sae, tiny_model, tiny_tokenizer

PROMPTS = ["How do I boil an egg?", "And two?", "Hi"]
RESPONSES = ["please boil it for six minutes", "go away", "ünïcode 🥚 is text too\nin two lines"]


def _trained(folder: Path, tmp: Path, pooling: str = "mean", score: str = "projection", **settings) -> SparseRM:
    """A head on the model in ``folder``, saved in ``tmp/head``."""
    if score == "gated":
        settings["threshold"] = 10
    backbone = Backbone.load(folder, dtype="float32")
    sae = save_tiny_sae(tmp / "sae", **settings)
    model = SparseRM.fit(
        parse_pairs(preference_rows(), "tiny"),
        backbone=backbone,
        sae=sae,
        k=3 if score == "projection" else 12,
        l2=0.01,
        pooling=pooling,
        name="tiny",
    )
    model.save_pretrained(tmp / "head")
    return model


EXPORTS = [
    *(("llama", "mean", "projection"), ("llama", "last", "projection")),
    *(("qwen2", "mean", "projection"), ("gpt2", "mean", "projection")),
    *(("llama", "mean", "gated"), ("llama", "last", "gated"), ("qwen2", "mean", "gated")),
]


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict[tuple[str, str, str], tuple[SparseRM, Path]]:
    """Heads on backbones of several families and their exports, by family, pooling and score; read only."""
    found = {}
    for family, pooling, score in EXPORTS:
        tmp = tmp_path_factory.mktemp(f"{family}-{pooling}-{score}")
        model = _trained(save_tiny(tmp / "backbone", family), tmp, pooling, score)
        assert model.head.score == score
        export_classifier(tmp / "head", tmp / "out")
        found[family, pooling, score] = model, tmp / "out"
    return found


@pytest.fixture(params=EXPORTS)
def exported(request, exports) -> tuple[SparseRM, Path]:
    return exports[request.param]


@pytest.fixture(scope="module")
def logits_without_sparserm(exports) -> dict[Path, float]:
    """Logits of the first conversation, by folder, from one process that cannot import sparserm."""
    code = (
        "import sys; sys.modules['sparserm'] = None\n"
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n"
        "for folder, text in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)\n"
        "    tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        "    print(model(**{k: v for k, v in tokenizer(text, return_tensors='pt', add_special_tokens=False).items()\n"
        "                   if k != 'token_type_ids'}).logits.item())\n"
    )
    folders = [folder for _, folder in exports.values()]
    given = [one for folder in folders for one in (str(folder), _conversations(AutoTokenizer.from_pretrained(folder))[0])]
    run = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return dict(zip(folders, map(float, run.stdout.split()), strict=True))


def _conversations(tokenizer, prompts=PROMPTS, responses=RESPONSES) -> list[str]:
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}], tokenize=False
        )
        for prompt, response in zip(prompts, responses, strict=True)
    ]


@pytest.mark.parametrize("side", ["right", "left"])
def test_logits_are_the_rewards_however_texts_are_padded(exported, side):
    model, folder = exported
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side, pad_token="<|endoftext|>")
    inputs = tokenizer(_conversations(tokenizer), return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.no_grad():
        logits = classifier(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    assert logits.shape == (3, 1) and classifier.config.num_labels == 1
    np.testing.assert_allclose(logits[:, 0].numpy(), model.score(PROMPTS, RESPONSES), atol=1e-4)
    assert len(next(m for m in classifier.modules() if isinstance(m, torch.nn.ModuleList))) == model.card.hook_point.layer + 1


def test_the_pipeline_that_reward_benchmarks_call_gives_the_rewards(exported):
    """The calls of RewardBench's and RM-Bench's run_rm.py: a text-classification pipeline over templated texts."""
    model, folder = exported
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    tokenizer.truncation_side = "left"
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    pipe = pipeline("text-classification", model=classifier, tokenizer=tokenizer)
    if pipe.tokenizer.pad_token_id is None:
        pipe.model.config.pad_token_id = pipe.tokenizer.pad_token_id = pipe.tokenizer.eos_token_id
    found = pipe(
        _conversations(tokenizer),
        batch_size=2,
        truncation=True,
        padding=True,
        max_length=2048,
        function_to_apply="none",
        return_token_type_ids=False,
    )
    np.testing.assert_allclose([one["score"] for one in found], model.score(PROMPTS, RESPONSES), atol=1e-4)


@pytest.mark.parametrize(("layer", "site"), [(2, "resid_pre"), (3, "resid_pre")])
def test_what_enters_a_layer_leaves_the_one_below(tiny_folder, tmp_path, layer, site):
    model = _trained(tiny_folder, tmp_path, layer=layer, site=site)
    export_classifier(tmp_path / "head", tmp_path / "out")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text, prompt, response in zip(_conversations(tokenizer), PROMPTS, RESPONSES, strict=True):
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            assert classifier(ids).logits.item() == pytest.approx(model.score(prompt, response)[0], abs=1e-4)
    assert classifier.config.backbone.num_hidden_layers == layer


@pytest.mark.parametrize(("layer", "site"), [(2, "mlp_out"), (2, "mlp"), (0, "resid_pre")])
def test_a_place_where_no_cut_model_ends_is_refused(tiny_folder, tmp_path, layer, site):
    _trained(tiny_folder, tmp_path, layer=layer, site=site)
    with pytest.raises(SparseRMError, match="expected the residual stream after a layer"):
        export_classifier(tmp_path / "head", tmp_path / "out")


def test_it_loads_where_sparserm_is_not_installed(exported, logits_without_sparserm):
    model, folder = exported
    assert logits_without_sparserm[folder] == pytest.approx(model.score(PROMPTS[0], RESPONSES[0])[0], abs=1e-4)


def test_the_head_travels_with_it_and_its_card_says_what_it_is(exported):
    model, folder = exported
    again = SparseRM.from_pretrained(folder / "head", backbone=model.backbone)
    np.testing.assert_array_equal(again.head.weights, model.head.weights)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n") and "## Limits" in card
    assert all(f"| {feature} |" in card for feature in model.head.features)


def test_a_turn_that_says_nothing_gets_the_least_reward_and_none_is_an_error(exported):
    model, folder = exported
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    least = min(model.saved.quantiles_chosen[0], model.saved.quantiles_rejected[0])
    ids = torch.tensor([tokenizer(_conversations(tokenizer, ["Hi"], [""])[0], add_special_tokens=False)["input_ids"]])
    assert classifier(input_ids=ids).logits.item() == pytest.approx(least)
    with pytest.raises(ValueError, match=r"text 1 of the batch has no assistant turn .*apply_chat_template"):
        classifier(input_ids=torch.tensor([[5, 6, 7]]))


def test_a_text_that_was_cut_before_its_end_is_read_to_where_it_was_cut(exported):
    model, folder = exported
    if model.head.pooling == "last":
        pytest.skip("reads where the turn is closed")
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = _conversations(tokenizer)[0].removesuffix("<|im_end|>\n")
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    assert classifier(input_ids=ids).logits.item() == pytest.approx(model.score(PROMPTS[0], RESPONSES[0])[0], abs=1e-4)


def test_in_bfloat16_the_head_stays_in_single_precision(exported):
    model, folder = exported
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    assert next(classifier.backbone.parameters()).dtype == torch.bfloat16
    assert classifier.score.weight.dtype == torch.float32
    head = model.head
    weights = fold(head)[0] if head.score == "projection" else head.weights / head.sigma
    np.testing.assert_allclose(classifier.score.weight[0].detach().numpy(), weights, rtol=1e-5, atol=1e-7)
    if head.score == "gated":
        assert {parameter.dtype for parameter in classifier.score.parameters()} == {torch.float32}
        np.testing.assert_array_equal(classifier.score.directions.detach().numpy(), head.directions)


def test_a_backbone_in_bfloat16_is_exported_as_it_is_and_not_twice_in_memory(tmp_path, monkeypatch):
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path / "half")
    tiny_tokenizer().save_pretrained(tmp_path / "half")
    _trained(tmp_path / "half", tmp_path, score="gated")
    built: list[torch.device] = []
    start = code.SparseRMForSequenceClassification.post_init
    monkeypatch.setattr(
        code.SparseRMForSequenceClassification,
        "post_init",
        lambda self: (built.append(next(self.backbone.parameters()).device), start(self)),
    )
    export_classifier(tmp_path / "head", tmp_path / "exported")
    assert built == [torch.device("meta")]
    with safe_open(tmp_path / "exported" / "model.safetensors", "pt") as file:
        names = file.keys()
        stored = {name: file.get_slice(name).get_dtype() for name in names}
    assert {kind for name, kind in stored.items() if name.startswith("backbone.")} == {"BF16"}
    assert {kind for name, kind in stored.items() if name.startswith("score.")} == {"F32"}
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported", dtype=torch.float32)
    model = SparseRM.from_pretrained(tmp_path / "head", backbone=Backbone.load(tmp_path / "half", dtype="float32"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    texts = [tokenizer(one, return_tensors="pt", add_special_tokens=False) for one in _conversations(tokenizer)]
    with torch.inference_mode():
        rewards = [classifier(**text).logits.item() for text in texts]
    np.testing.assert_allclose(rewards, model.score(PROMPTS, RESPONSES), atol=1e-4)


@pytest.mark.parametrize(
    "response",
    [
        " please boil it for six minutes",
        "\n\nplease boil it for six minutes\n",
        "<think>Eggs, go away</think>\n\nplease boil it for six minutes \n\n",
        "<think>\n\n</think>\n\nplease boil it for six minutes<|im_end|>\n",
        "Eggs …\n</think>please boil it for six minutes",
    ],
)
def test_white_space_and_thinking_are_left_out_as_by_the_engine(exported, response):
    model, folder = exported
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    earlier = [{"role": "user", "content": " Hi \n"}, {"role": "assistant", "content": "<think>Hm.</think> Yes? \n"}]
    for before in ([], earlier):
        messages = [*before, {"role": "user", "content": "How do I boil an egg?"}]
        text = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": response}], tokenize=False)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = classifier(ids).logits
        assert logits.item() == pytest.approx(model.score([messages], [response])[0], abs=1e-4)
        assert logits.item() == pytest.approx(model.score([messages], [RESPONSES[0]])[0], abs=1e-4)


def test_thinking_without_an_answer_gets_the_least_reward(exported):
    model, folder = exported
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(_conversations(tokenizer, ["Hi"], ["<think>Hm"])[0], return_tensors="pt", add_special_tokens=False)
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    assert classifier(ids["input_ids"]).logits.item() == pytest.approx(model.saved.least_reward)


def test_the_card_says_what_the_template_leaves_out(exported):
    card = (exported[1] / "README.md").read_text()
    assert "leaves out white space around the response, thinking" in card and "but not an assistant's mark" in card
    assert "read as it is, with all of these" in " ".join(card.split())


def test_a_gated_export_counts_features_where_they_fire(exported):
    """The rewards of its texts are of some features, not of all."""
    model, folder = exported
    if model.head.score == "projection":
        pytest.skip("of gated heads")
    parts = [model.explain(prompt, response).contributions for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    assert {part.fires for own in parts for part in own} == {True, False}
    gate = AutoModelForSequenceClassification.from_pretrained(folder).config.gate
    assert gate["features"] == len(model.head.features) and gate["architecture"] == "jumprelu"
    assert "| scores | gated:" in (folder / "README.md").read_text()


def test_an_export_keeps_the_norm_beyond_which_nothing_fires(exports, tmp_path):
    model, folder = exports["llama", "mean", "gated"]
    tokenizer, backbone = AutoTokenizer.from_pretrained(folder), Backbone.load(folder.parent / "backbone", dtype="float32")
    text = backbone.tokenize((Message("user", PROMPTS[0]),), RESPONSES[0])
    ((_, states),) = backbone.hidden_states([text], [model.card.hook_point])
    limit = float(states[model.card.hook_point][: text.end - text.start].norm(dim=1).median())
    head = replace(model.head, encoder=replace(model.head.encoder, max_norm=limit))
    save_head(replace(model.saved, head=head), tmp_path / "head")
    export_classifier(tmp_path / "head", tmp_path / "out")
    limited = SparseRM(load_head(tmp_path / "head"), backbone).score(PROMPTS[:1], RESPONSES[:1])
    assert abs(limited[0] - model.score(PROMPTS[:1], RESPONSES[:1])[0]) > 1e-3
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    ids = tokenizer(_conversations(tokenizer)[0], return_tensors="pt", add_special_tokens=False)["input_ids"]
    assert classifier(ids).logits.item() == pytest.approx(limited[0], abs=1e-4)


@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@pytest.mark.parametrize("normalize_activations", NORMALISATIONS)
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated"])
@pytest.mark.parametrize("max_norm", [None, 12.0])
def test_every_kind_of_gate_is_that_of_the_sae(architecture, normalize_activations, apply_b_dec_to_input, max_norm):
    generator = torch.Generator().manual_seed(0)
    names = ("W_enc", "b_enc", "threshold", "b_gate", "b_mag", "r_mag")
    gate = {
        "features": 40,
        "architecture": architecture,
        "normalize_activations": normalize_activations,
        "apply_b_dec_to_input": apply_b_dec_to_input,
        "max_norm": max_norm,
    }
    ours = GatedScores(16, gate)
    for parameter in ours.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    weights = {"W_dec": ours.directions, "b_dec": ours.center, **{n: getattr(ours, n) for n in names if hasattr(ours, n)}}
    del gate["features"]
    sae = SparseAutoencoder(name="", hook=HookPoint(0), model_name="", weights=weights, **gate)
    h = 3 * torch.randn(50, 16, generator=generator)
    fires = sae.encode(h) > 0
    assert 0.1 < fires.float().mean() < 0.9
    assert fires.any(1).all() == (max_norm is None)
    torch.testing.assert_close(ours.pool(h), (((h - ours.center) @ ours.directions.T) * fires).mean(0), rtol=1e-5, atol=1e-5)


def test_an_export_of_an_earlier_version_loads(exports, tmp_path):
    model, folder = exports["llama", "mean", "projection"]
    shutil.copytree(folder, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    config.pop("gate", None)
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    old, new = (AutoModelForSequenceClassification.from_pretrained(one) for one in (tmp_path / "old", folder))
    assert old.state_dict().keys() == new.state_dict().keys() and old.score.weight.shape == (1, model.backbone.d_model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(_conversations(tokenizer)[0], return_tensors="pt", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(old(ids).logits, new(ids).logits)


def test_transformers_4_reads_the_rotary_positions_that_5_writes(monkeypatch):
    monkeypatch.setattr(code, "_TRANSFORMERS", 4)
    written = {"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}
    assert code._readable(written) == {**written, "rope_theta": 1e5, "rope_scaling": None}
    scaled = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "partial_rotary_factor": 0.5}
    found = code._readable({"model_type": "llama", "rope_parameters": scaled})
    assert found["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0}
    assert (found["rope_theta"], found["partial_rotary_factor"]) == (5e5, 0.5)
    by_layer = {"model_type": "gemma3", "rope_parameters": {"full_attention": {"rope_theta": 1e6}}}
    with pytest.raises(ValueError, match=r"got transformers .* expected 5 or later: .*gemma3"):
        code._readable(by_layer)


def test_an_export_has_a_tokenizer_that_transformers_4_reads_and_no_path_of_this_machine(exports):
    for _, folder in exports.values():
        written = json.loads((folder / "tokenizer_config.json").read_text())
        assert written["tokenizer_class"] in ("PreTrainedTokenizerFast", "Qwen2Tokenizer")
        assert "extra_special_tokens" not in written and AutoTokenizer.from_pretrained(folder).extra_special_tokens
        assert not json.loads((folder / "config.json").read_text())["backbone"].get("_name_or_path")


def test_a_response_whose_white_space_merged_with_the_opening_is_found_behind_earlier_turns(exported):
    _, folder = exported
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    opening, closing = classifier.config.response_start, classifier.config.response_end
    merged = [*opening[:-1], 250]  # one token of the opening's last character and the response's first
    ids = [7, *opening, 8, 9, *closing, 7, *merged, 10, *closing]
    start, end = classifier._response(ids, 0)
    assert ids[start:end] == [250, 10]
    assert classifier._response([7, *opening, 8, 9, *closing], 0) == (1 + len(opening), 3 + len(opening))


def test_one_direction_gives_the_sum_over_directions(exported):
    model, _ = exported
    if model.head.score == "gated":
        pytest.skip("one direction is not enough")
    h = np.random.default_rng(0).normal(size=(5, len(model.head.center)))
    direction, offset = fold(model.head)
    scores = (h - model.head.center) @ model.head.directions.astype(float).T
    by_hand = ((scores - model.head.mu) / model.head.sigma) @ model.head.weights + model.head.bias
    np.testing.assert_allclose(h @ direction + offset, by_hand, atol=1e-6)


def test_steering_vectors_are_the_features_directions_and_their_sum(exported, tmp_path):
    model, folder = exported
    export_steering(folder / "head", tmp_path / "steer")
    tensors = load_file(tmp_path / "steer" / "steering.safetensors")
    np.testing.assert_array_equal(tensors["directions"], model.head.directions)
    np.testing.assert_allclose(np.linalg.norm(tensors["directions"], axis=1), 1, atol=1e-5)
    about = json.loads((tmp_path / "steer" / "steering.json").read_text())
    assert (about["hook"], about["layer"]) == (model.card.hook, model.card.hook_point.layer)
    assert about["score"] == model.head.score
    combined = sum(
        one["weight"] / one["sigma"] * direction
        for one, direction in zip(about["features"], tensors["directions"], strict=True)
    )
    np.testing.assert_allclose(tensors["reward"], combined, atol=1e-5)


def test_a_template_whose_text_is_tokenised_otherwise_is_refused(tmp_path):
    _trained(save_tiny(tmp_path / "backbone", chat_template=None), tmp_path)  # "Assistant: " ends within a token
    with pytest.raises(SparseRMError, match=r"tokenised as one text, .* use the head through SparseRM"):
        export_classifier(tmp_path / "head", tmp_path / "out")
    assert not (tmp_path / "out").exists()
