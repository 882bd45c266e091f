"""The backbone gives the states of the ordinary model, in any company, and runs no further than it must."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import time

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import nn

from sparserm.backbone.model import (
    Backbone,
    attention_window,
    decoder_layers,
    folder_fingerprint,
    hooked_module,
    load_language_model,
    look_for,
    resolve,
)
from sparserm.support.defaults import noted_folder
from sparserm.types import HookPoint, Message, SparseRMError, TokenizedText
from tests.unit.tiny import CONTEXT, FAMILIES, LAYERS, save_tiny, tiny_model, tiny_tokenizer

SITES = ("resid_post", "resid_pre", "mlp_out")  # "mlp" has a test of its own
ATOL = 1e-4
#: The module whose output attention adds to the residual stream.
ATTENTION = {"gpt2": "attn", "gpt_neox": "attention", "gemma2": "post_attention_layernorm"}
SHORT, LONG = "Hi", "Tell me all about the thing that sings 🙂, and then the other one."


def user(text):
    return (Message("user", text),)


def states_of(backbone, texts, hooks, **settings):
    """The states of each text in the order of the texts."""
    states = dict(backbone.hidden_states(texts, hooks, **settings))
    assert sorted(states) == list(range(len(texts)))
    return [states[i] for i in range(len(texts))]


def state_of(backbone, text, hook):
    return states_of(backbone, [text], [hook])[0][hook]


def hooks_on(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_a_second_thread_waits_until_the_model_has_its_hook(tiny_folder, monkeypatch):
    backbone, found, asked = Backbone.load(tiny_folder, dtype="float32"), [], threading.Event()

    def slow(model, hook):
        asked.set()
        time.sleep(0.2)
        return hooked_module(model, hook)

    monkeypatch.setattr("sparserm.backbone.model.hooked_module", slow)
    text, hook = backbone.tokenize(user("Hi"), SHORT), HookPoint(1)
    threads = [threading.Thread(target=lambda: found.append(state_of(backbone, text, hook))) for _ in range(2)]
    threads[0].start()
    asked.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and torch.equal(*found)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """The name of a family, its whole model of transformers, and the backbone of the same weights."""
    from transformers import AutoModel

    folder = save_tiny(tmp_path_factory.mktemp("families") / request.param, request.param)
    return request.param, AutoModel.from_pretrained(folder).eval(), Backbone.load(folder, dtype="float32")


@pytest.fixture
def own_backbone(tiny_folder):
    """A backbone that a test may change."""
    return Backbone.load(tiny_folder, dtype="float32")


@pytest.fixture
def copied(tiny_folder, tmp_path):
    """A copy of the tiny model's folder that a test may change."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("site", SITES)
def test_states_are_those_of_the_uncut_model(family, site, layer):
    name, model, backbone = family
    text = backbone.tokenize(user(LONG), "The end.")
    added = []
    attention = getattr(decoder_layers(model)[layer], ATTENTION.get(name, "self_attn"))
    handle = attention.register_forward_hook(
        lambda _module, _inputs, out: added.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        hidden = model(torch.tensor([text.ids]), output_hidden_states=True, use_cache=False).hidden_states
    handle.remove()
    expected = {
        "resid_pre": hidden[layer],
        "resid_post": hidden[layer + 1],
        # What the layer adds to the stream, less what its attention adds: no norm of any family can hide from it.
        "mlp_out": hidden[layer + 1] - hidden[layer] - added[0],
    }[site][0, text.start :]
    got = state_of(backbone, text, HookPoint(layer, site))
    assert got.shape == (len(text.ids) - text.start, backbone.d_model)
    torch.testing.assert_close(got, expected, atol=ATOL, rtol=0)


@pytest.mark.parametrize("layer", [0, 2])
def test_the_output_of_the_mlp_is_that_of_the_module_as_sparsify_reads_it(family, layer):
    """On Gemma 2 it is another thing than what the layer adds to the stream: a norm comes between them."""
    name, model, backbone = family
    text = backbone.tokenize(user(LONG), "The end.")
    path = next(path for path, _ in model.named_modules() if path.endswith(f".{layer}.mlp"))
    given = []
    handle = model.base_model.get_submodule(path).register_forward_hook(lambda _module, _inputs, out: given.append(out))
    with torch.no_grad():
        model(torch.tensor([text.ids]))
    handle.remove()
    got = state_of(backbone, text, HookPoint(layer, "mlp"))
    torch.testing.assert_close(got, given[0][0, text.start :], atol=ATOL, rtol=0)
    added = state_of(backbone, text, HookPoint(layer, "mlp_out"))
    assert torch.allclose(got, added, atol=ATOL) == (name != "gemma2")


#: Families whose layers apply something to the output of the MLP before they add it, with their settings.
AFTER_MLP: dict[str, dict[str, object]] = {
    **{name: {} for name in ("gemma2", "gemma3_text", "olmo2", "olmo3", "flex_olmo", "exaone4", "glm4", "afmoe", "kolibri1")},
    "hyperclovax": {"use_post_norm": True},
    "lfm3": {"use_sandwich_norm": True},
    "inkling_text": {},
    "chameleon": {"swin_norm": True, "vocabulary_map": {"<image>": 4}, "vq_config": {"base_channels": 32}},
    "molmo2_text": {"norm_after": True},
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


@pytest.mark.parametrize("name", AFTER_MLP)
def test_what_the_mlp_adds_is_read_after_what_the_layer_does_to_it(name):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if name not in CONFIG_MAPPING_NAMES:
        pytest.skip(f"this version of transformers has no {name}")
    model = tiny_model(name, pad_token_id=0, **EXPERTS, **AFTER_MLP[name])
    ids = torch.arange(5, 20)[None]

    def layer_and_module(hook, silent):
        """The outputs of a layer and of the module of the hook point, which may be silenced."""
        outputs = []

        def hear(_module, _inputs, output):
            outputs.append(output[0] if isinstance(output, tuple) else output)
            return torch.zeros_like(output) if silent else None

        module, layer = hooked_module(model, hook), decoder_layers(model)[hook.layer]
        handles = [module.register_forward_hook(hear), layer.register_forward_hook(lambda *given: outputs.append(given[2]))]
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
        for handle in handles:
            handle.remove()
        added, after = outputs
        return (after[0] if isinstance(after, tuple) else after), added

    for layer in range(LAYERS):
        after, added = layer_and_module(HookPoint(layer, "mlp_out"), silent=False)
        without, _ = layer_and_module(HookPoint(layer, "mlp_out"), silent=True)
        torch.testing.assert_close(after - without, added, atol=ATOL, rtol=ATOL)
        if hasattr(decoder_layers(model)[layer], "mlp"):
            assert hooked_module(model, HookPoint(layer, "mlp")) is decoder_layers(model)[layer].mlp


@pytest.mark.parametrize(
    ("name", "settings", "site", "said"),
    [
        ("granite", {"residual_multiplier": 0.22}, "mlp_out", "multiplies it by its residual_multiplier"),
        ("opt", {"ffn_dim": 64}, "mlp_out", "has no module called mlp"),
        ("opt", {"ffn_dim": 64}, "mlp", "has no module called mlp"),
    ],
)
def test_what_is_no_output_of_a_module_is_refused(name, settings, site, said):
    model = tiny_model(name, **settings)
    with pytest.raises(SparseRMError, match=f"{said}.*; expected .*; choose an SAE on"):
        hooked_module(model, HookPoint(1, site))
    assert hooked_module(model, HookPoint(1)) is decoder_layers(model)[1]


def test_the_last_layers_state_is_what_the_final_norm_receives(family):
    _, model, backbone = family
    text = backbone.tokenize(user(SHORT), "The end.")
    received = []
    final = next(m for n, m in model.named_modules() if n in ("norm", "ln_f", "final_layer_norm"))
    handle = final.register_forward_pre_hook(lambda _module, inputs: received.append(inputs[0]))
    with torch.no_grad():
        model(torch.tensor([text.ids]))
    handle.remove()
    got = state_of(backbone, text, HookPoint(LAYERS - 1))
    torch.testing.assert_close(got, received[0][0, text.start :], atol=ATOL, rtol=0)


@pytest.mark.parametrize("batch_tokens", [1, 150, 4096])
def test_a_text_has_the_same_states_alone_and_in_any_company(family, monkeypatch, batch_tokens):
    _, _, backbone = family
    hooks = [HookPoint(1, "resid_pre"), HookPoint(2, "mlp_out"), HookPoint(2)]
    pairs = [(LONG, "No."), (SHORT, "A rather longer answer."), (LONG, "你好 🙂"), (SHORT, "No."), ("Why?", "No.")]
    pairs += [(LONG, "the the the the the"), (LONG, "No."), (SHORT, "Yes")]
    texts = [backbone.tokenize(user(prompt), response) for prompt, response in pairs]
    alone = [states_of(backbone, [text], hooks)[0] for text in texts]
    monkeypatch.setattr("sparserm.backbone.model.CPU_BATCH_TOKENS", batch_tokens)
    for seed in range(2):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        together = states_of(backbone, [texts[i] for i in order], hooks)
        for i, states in zip(order, together, strict=True):
            for hook in hooks:
                torch.testing.assert_close(states[hook], alone[i][hook], atol=ATOL, rtol=0)
    # The same response to another prompt has other states by far: the tolerance could not hide a mix-up.
    assert (alone[0][hooks[2]] - alone[3][hooks[2]]).abs().max() > 1000 * ATOL


def test_texts_cut_from_the_left_have_the_states_of_what_is_left(tiny_backbone):
    hook = HookPoint(2)
    cut = [TokenizedText((5, 6, 7, i), 0, 3, n_truncated=9) for i in (8, 9)]
    for text, got in zip(cut, states_of(tiny_backbone, cut, [hook]), strict=True):
        torch.testing.assert_close(got[hook], state_of(tiny_backbone, text, hook), atol=ATOL, rtol=0)
        assert len(got[hook]) == 4


@pytest.mark.parametrize("site, ran", [("resid_post", [1, 1, 0, 0]), ("mlp_out", [1, 0, 0, 0]), ("resid_pre", [1, 0, 0, 0])])
def test_layers_above_the_hook_never_run(own_backbone, site, ran):
    finished = [0] * LAYERS
    for i, layer in enumerate(decoder_layers(own_backbone.model)):
        layer.register_forward_hook(lambda *_, i=i: finished.__setitem__(i, finished[i] + 1))
    state_of(own_backbone, own_backbone.tokenize(user(SHORT), "Yes"), HookPoint(1, site))
    assert finished == ran


def test_several_hooks_are_read_in_one_pass(own_backbone):
    passes = []
    own_backbone.model.register_forward_pre_hook(lambda *_: passes.append(1))
    text = own_backbone.tokenize(user(SHORT), "Yes")
    hooks = [HookPoint(layer, site) for layer in (2, 0) for site in SITES]
    together = states_of(own_backbone, [text], hooks)[0]
    assert len(passes) == 1
    assert set(together) == set(hooks)
    for hook in hooks:
        torch.testing.assert_close(together[hook], state_of(own_backbone, text, hook))


def test_layers_above_through_layer_are_dropped_from_memory(tiny_folder, tiny_backbone):
    cut = Backbone.load(tiny_folder, dtype="float32", through_layer=1)
    assert (cut.through_layer, cut.n_layers, tiny_backbone.through_layer) == (1, LAYERS, LAYERS - 1)
    names = [name for name, _ in cut.model.named_parameters()]
    assert any(name.startswith("layers.1.") for name in names)
    assert not any(name.startswith(("layers.2.", "layers.3.")) for name in names)
    text = cut.tokenize(user(SHORT), "Yes")
    for site in SITES:
        hook = HookPoint(1, site)
        torch.testing.assert_close(state_of(cut, text, hook), state_of(tiny_backbone, text, hook))


@pytest.mark.parametrize("name", [*FAMILIES, "olmo2", "lfm2"])
def test_a_model_loaded_through_a_layer_has_the_states_of_the_whole_one(tmp_path, name):
    settings = {"layer_types": ["conv", "full_attention"] * 2} if name == "lfm2" else {}
    folder = save_tiny(tmp_path / name, name, **settings)
    whole, cut = (Backbone.load(folder, dtype="float32", through_layer=layer) for layer in (None, 1))
    assert type(cut.model).__name__ == type(whole.model).__name__
    text = whole.tokenize(user(LONG), "The end.")
    torch.testing.assert_close(state_of(cut, text, HookPoint(1)), state_of(whole, text, HookPoint(1)))


def test_a_layer_that_depends_on_the_number_of_layers_is_as_in_the_whole_model(tmp_path):
    settings = {"scale_depth": 1.4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4}
    folder = save_tiny(tmp_path / "minicpm3", "minicpm3", v_head_dim=8, num_key_value_heads=4, **settings)
    whole, cut = (Backbone.load(folder, dtype="float32", through_layer=layer) for layer in (None, 1))
    text = whole.tokenize(user(SHORT), "Yes")
    torch.testing.assert_close(state_of(cut, text, HookPoint(1)), state_of(whole, text, HookPoint(1)))


def test_weights_of_layers_above_are_not_read(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_tiny(tmp_path / "split")
    file = folder / "model.safetensors"
    weights = load_file(file)
    above = {name: one for name, one in weights.items() if ".layers.3." in name}
    assert above
    for name in above:  # loading it would fail
        weights[name] = torch.zeros(1)
    save_file(weights, file, metadata={"format": "pt"})
    cut = Backbone.load(folder, dtype="float32", through_layer=1)
    assert len(state_of(cut, cut.tokenize(user(SHORT), "Yes"), HookPoint(1)))
    with pytest.raises(SparseRMError, match="cannot be loaded"):
        Backbone.load(folder, dtype="float32")


def test_a_hook_above_the_cut_is_refused_naming_both(tiny_folder):
    cut = Backbone.load(tiny_folder, dtype="float32", through_layer=1)
    with pytest.raises(SparseRMError, match=r"blocks\.2\.hook_resid_pre .* through layer 1; choose a lower layer"):
        states_of(cut, [cut.tokenize(user(SHORT), "Yes")], [HookPoint(2, "resid_pre")])


def test_a_hook_above_the_model_is_refused(tiny_backbone):
    with pytest.raises(SparseRMError, match=r"blocks\.4\.hook_resid_post .* has 4 layers"):
        states_of(tiny_backbone, [tiny_backbone.tokenize(user(SHORT), "Yes")], [HookPoint(4)])


def test_each_hook_point_has_one_hook_however_often_it_is_read(own_backbone):
    hooks = [HookPoint(1, site) for site in SITES]
    good, bad = own_backbone.tokenize(user(SHORT), "Yes"), TokenizedText((1, 10_000), 1, 2)
    expected = states_of(own_backbone, [good], hooks)[0]
    before = hooks_on(own_backbone.model)
    assert before == len(hooks)
    with pytest.raises(IndexError):
        states_of(own_backbone, [bad], hooks)
    assert hooks_on(own_backbone.model) == before
    assert torch.equal(states_of(own_backbone, [good], hooks)[0][hooks[0]], expected[hooks[0]])


def test_threads_may_share_a_backbone(tiny_backbone):
    texts = [tiny_backbone.tokenize(user(f"Question {i}"), f"Answer {i}") for i in range(4)]
    hooks = [HookPoint(i) for i in range(4)]
    expected = [state_of(tiny_backbone, text, hook) for text, hook in zip(texts, hooks, strict=True)]
    wrong = []

    def work(i):
        for _ in range(10):
            if not torch.allclose(state_of(tiny_backbone, texts[i], hooks[i]), expected[i], atol=ATOL):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_progress_counts_responses_up_to_all_of_them(tiny_backbone, monkeypatch):
    seen = []
    monkeypatch.setattr("sparserm.backbone.model.CPU_BATCH_TOKENS", 150)
    texts = [tiny_backbone.tokenize(user(f"Question {i % 3}"), f"Answer {i}") for i in range(9)]
    states_of(tiny_backbone, texts, [HookPoint(0)], progress=lambda *call: seen.append(call[:2]))
    assert len(seen) > 1
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (9, 9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_state_that_is_no_number_is_refused_naming_text_and_hook(own_backbone, value):
    texts = [own_backbone.tokenize(user(prompt), "Yes.") for prompt in (SHORT, LONG)]
    only_of_the_second = next(token for token in texts[1].ids if token not in texts[0].ids)
    own_backbone.model.embed_tokens.weight[only_of_the_second, 0] = value
    expected = r"blocks.1.hook_resid_post .* is NaN or infinite for text 2 of 2 or .*; expected finite numbers; "
    with pytest.raises(SparseRMError, match=expected + "check its weights"):
        states_of(own_backbone, texts, [HookPoint(1)])
    own_backbone.model.to(torch.bfloat16)
    with pytest.raises(SparseRMError, match=expected + "load it with dtype='float32'"):
        states_of(own_backbone, texts, [HookPoint(1)])


def test_no_texts_have_no_states(tiny_backbone):
    assert states_of(tiny_backbone, [], [HookPoint(0)]) == []


def test_a_backbone_knows_its_shape_and_context(tiny_backbone, tiny_folder):
    assert (tiny_backbone.n_layers, tiny_backbone.d_model, tiny_backbone.name) == (LAYERS, 32, tiny_folder.name)
    assert tiny_backbone.chat.max_length == CONTEXT
    assert tiny_backbone.dtype == torch.float32
    assert not tiny_backbone.model.training
    assert not any(parameter.requires_grad for parameter in tiny_backbone.model.parameters())


def test_a_backbone_runs_where_the_user_says(tiny_folder, monkeypatch):
    assert Backbone.load(tiny_folder).device.type == "cpu"
    monkeypatch.setenv("SPARSERM_DEVICE", "meta")  # the one device beside the CPU that every machine has
    assert Backbone.load(tiny_folder).device.type == "meta"
    assert Backbone.load(tiny_folder, device="cpu").device.type == "cpu"


@pytest.mark.parametrize("device", ["banana", "cuda:99", "vulkan"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(tiny_folder, monkeypatch, device):
    monkeypatch.setenv("SPARSERM_DEVICE", device)
    with pytest.raises(SparseRMError, match=f"the device is '{device}'.*expected cpu, cuda.*SPARSERM_DEVICE"):
        Backbone.load(tiny_folder)


def test_bfloat16_agrees_with_float32_to_five_percent(tiny_folder, tiny_backbone):
    half = Backbone.load(tiny_folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    text = half.tokenize(user(LONG), "The end.")
    for hook in (HookPoint(0), HookPoint(3), HookPoint(3, "mlp_out")):
        exact, rough = state_of(tiny_backbone, text, hook), state_of(half, text, hook)
        assert rough.dtype == torch.float32
        assert not torch.equal(exact, rough)
        assert (exact - rough).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    ("stored", "native", "expected"),
    [
        (torch.bfloat16, True, torch.bfloat16),
        (torch.bfloat16, False, torch.float32),
        (torch.float32, True, torch.float32),  # rounding its weights would change rewards
    ],
)
def test_weights_stored_in_bfloat16_stay_so_where_the_cpu_multiplies_it(tmp_path, monkeypatch, stored, native, expected):
    model = tiny_model().to(stored)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    monkeypatch.setattr("sparserm.backbone.device._cpu_has", lambda units: native and units == "avx512_bf16")
    loaded = Backbone.load(tmp_path, device="cpu")
    assert {one.dtype for one in loaded.model.parameters()} == {expected}
    assert state_of(loaded, loaded.tokenize(user("Hello?"), "The end."), HookPoint(1)).isfinite().all()


def test_the_same_files_have_the_same_fingerprint_wherever_they_lie(tiny_backbone, copied):
    (copied / "generation_config.json").write_text("{}")
    (copied / "README.md").write_text("about")
    for settings in ({"dtype": "float32"}, {"dtype": "bfloat16"}, {"through_layer": 0}):
        assert Backbone.load(copied, **settings).fingerprint == tiny_backbone.fingerprint


def test_one_changed_weight_changes_the_fingerprint(tiny_backbone, copied):
    assert Backbone.load(copied).fingerprint == tiny_backbone.fingerprint
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copied / "model.safetensors").write_bytes(weights)
    changed = Backbone.load(copied).fingerprint
    assert changed != tiny_backbone.fingerprint
    assert Backbone.load(copied).fingerprint == changed


def test_how_texts_are_opened_without_a_chat_template_is_in_the_fingerprint(tmp_path):
    """Heads of earlier versions read these models without their opening token, and would now give other rewards."""
    tiny_model().save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer(None)
    tokenizer.save_pretrained(tmp_path)
    assert (plain := Backbone.load(tmp_path).fingerprint) == folder_fingerprint(tmp_path)
    tokenizer.bos_token = "<|im_start|>"
    added = [("<|im_start|>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=added)
    tokenizer.save_pretrained(tmp_path)
    backbone = Backbone.load(tmp_path)
    assert backbone.fingerprint not in (plain, folder_fingerprint(tmp_path))
    assert noted_folder(backbone.fingerprint) == tmp_path.resolve()


def test_another_chat_template_changes_the_fingerprint(tiny_backbone, copied):
    (copied / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert Backbone.load(copied).fingerprint != tiny_backbone.fingerprint


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such", "~/no/such", "no/such/folder"])
def test_a_folder_that_is_not_there_is_named(name):
    with pytest.raises(SparseRMError, match=r"no folder .*no.*such.*save_pretrained; check the path"):
        Backbone.load(name)


def test_a_download_that_the_client_did_not_stop_is_still_cancelled(monkeypatch, tmp_path):
    """Such as one by code that is not Python's, which drops what a progress bar raises."""
    import huggingface_hub

    class Cancelled(Exception):
        pass

    def download(*_args, tqdm_class, **_settings):
        bar = tqdm_class(total=4e6, unit="B", desc="Reconstructing")
        for _ in range(4):
            with contextlib.suppress(Exception):
                bar.update(1e6)
        return str(tmp_path)

    def progress(done, total, what):
        seen.append((done, total))
        if done == 2:
            raise Cancelled

    seen = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(Cancelled):
        resolve("org/model", progress)
    assert seen == [(1, 4), (2, 4)]


@pytest.mark.parametrize("name", ["org/model", "gpt2"])
def test_looking_for_a_model_downloads_its_configuration_alone(monkeypatch, name):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("all of it was downloaded"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *given, **settings: asked.append((given, settings)))
    look_for(name)
    assert asked == [((name, "config.json"), {"revision": None})]


def test_a_hub_name_that_cannot_be_had_says_what_else_to_give(monkeypatch):
    import huggingface_hub

    def offline(*_args, **_settings):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(SparseRMError, match=r"'some/model' was not found.*\(ConnectionError: no route\); check the network"):
        Backbone.load("some/model")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_without_all_files_says_which_are_expected(copied, missing):
    (copied / missing).unlink()
    with pytest.raises(SparseRMError, match=r"cannot be loaded from .*; expected config.json, tokenizer files and safe"):
        Backbone.load(copied)


def test_a_model_without_a_list_of_layers_is_refused():
    model = nn.Linear(2, 2)
    model.config = tiny_model().config
    with pytest.raises(SparseRMError, match=r"no list of 4 layers was found in a Linear"):
        decoder_layers(model)


def test_the_language_model_is_whole_and_frozen(tiny_folder):
    model = load_language_model(tiny_folder)
    text = torch.arange(5)[None]
    assert model(text).logits.shape == (1, 5, 300)
    torch.testing.assert_close(model(text).logits, tiny_model()(text).logits, atol=ATOL, rtol=0)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("cut", ["truncated", "empty"])
def test_damaged_weights_are_refused_with_a_message(copied, cut):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: 1000 if cut == "truncated" else 0])
    for load in (Backbone.load, load_language_model):
        with pytest.raises(SparseRMError, match=r"^the backbone .* cannot be loaded from .*; expected config.json[^\n]*$"):
            load(copied)


@pytest.mark.parametrize("shown", [True, False])
def test_loading_shows_no_bars_and_leaves_the_users_setting(tiny_folder, capfd, shown):
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    (enable_progress_bars if shown else disable_progress_bars)()
    try:
        for load in (Backbone.load, load_language_model):
            load(tiny_folder)
            assert capfd.readouterr().err == ""
            assert (logging.is_progress_bar_enabled(), are_progress_bars_disabled()) == (True, not shown)
    finally:
        enable_progress_bars()


def alone_and_packed(model):
    backbone = Backbone(model, tiny_tokenizer(), name="x", fingerprint="x")
    texts = [backbone.tokenize(user(SHORT), response) for response in ("Yes.", "No, never.", "the thing")]
    packed = states_of(backbone, texts, [HookPoint(2)])
    return [(state_of(backbone, t, HookPoint(2)), p[HookPoint(2)]) for t, p in zip(texts, packed, strict=True)]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_packing_holds_with_eager_attention_too(name):
    model = tiny_model(name).base_model
    model.set_attn_implementation("eager")
    for alone, packed in alone_and_packed(model):
        torch.testing.assert_close(packed, alone, atol=ATOL, rtol=0)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("lfm2", {"layer_types": ["conv", "full_attention"] * 2}),
        ("gpt_neo", {"num_layers": LAYERS, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 8}),
        ("bloom", {"n_layer": LAYERS, "n_head": 4}),
        ("mamba", {}),
    ],
)
def test_packing_holds_or_is_left_out_where_a_mask_does_not_keep_texts_apart(name, settings):
    model = tiny_model(name, **settings).base_model
    for alone, packed in alone_and_packed(model):
        torch.testing.assert_close(packed, alone, atol=ATOL, rtol=0)


#: Families with sliding windows or chunks, of which some take attention of ours and some only a mask.
WINDOWS = {
    **{
        name: {"sliding_window": 24}
        for name in ("gemma3_text", "gemma2", "mistral", "phi3", "olmo3", "cohere2", "afmoe", "gpt_oss")
    },
    "qwen2": {"sliding_window": 24, "use_sliding_window": True, "max_window_layers": 0},
    "llama4_text": {"attention_chunk_size": 24, "intermediate_size_mlp": 64},
}


@pytest.mark.parametrize("name", WINDOWS)
def test_texts_within_the_models_window_share_their_prompt_and_longer_ones_are_left_to_its_mask(name):
    model = tiny_model(name, pad_token_id=0, **EXPERTS, **WINDOWS[name]).base_model
    backbone = Backbone(model, tiny_tokenizer(), name="x", fingerprint="x")
    lengths = [(12, 6), (12, 5), (12, 14), (12, 40), (20, 4), (20, 5), (9, 3)]
    texts = [
        TokenizedText((*range(5, 5 + before), *range(40 + i, 40 + i + own)), before, before + own)
        for i, (before, own) in enumerate(lengths)
    ]
    expected = []
    handle = decoder_layers(model)[2].register_forward_hook(
        lambda _module, _inputs, out: expected.append((out[0] if isinstance(out, tuple) else out)[0])
    )
    with torch.no_grad():
        for text in texts:
            model(torch.tensor([text.ids]), use_cache=False)
    handle.remove()
    widths = []
    handle = model.register_forward_pre_hook(
        lambda _module, _inputs, given: widths.append(given["input_ids"].numel()), with_kwargs=True
    )
    for text, found, whole in zip(texts, states_of(backbone, texts, [HookPoint(2)]), expected, strict=True):
        torch.testing.assert_close(found[HookPoint(2)], whole[text.start :], atol=ATOL, rtol=0)
    handle.remove()
    assert backbone.share_up_to == 24
    beyond = 3 * (12 + 40)  # three texts, padded
    assert sum(widths) == beyond + ((12 + 6 + 5) + (20 + 4) + (9 + 3) if backbone._takes_attention else 3 * (20 + 4))


def test_a_model_whose_tokens_see_later_ones_or_whose_windows_differ_has_a_row_for_each_text():
    see_all = tiny_model("gemma3_text", pad_token_id=0, use_bidirectional_attention=True).base_model
    assert Backbone(see_all, tiny_tokenizer(), name="x", fingerprint="x").share_up_to == 0

    class Differing:
        @property
        def sliding_window(self):
            raise RuntimeError("'sliding_window' is a per-layer attribute and may vary across layers")

    assert attention_window(Differing()) == 0


def test_layers_that_mask_their_attention_themselves_are_refused():
    model = tiny_model("doge", pad_token_id=0).base_model
    backbone = Backbone(model, tiny_tokenizer(), name="x", fingerprint="x")
    with pytest.raises(SparseRMError, match=r"DogeAttention mask their attention themselves.*; choose another language model"):
        state_of(backbone, backbone.tokenize(user(SHORT), "Yes."), HookPoint(1))


def test_a_row_packed_beyond_the_context_does_not_stop_its_neighbours():
    backbone = Backbone(tiny_model("gpt2", context=64).transformer, tiny_tokenizer(), name="x", fingerprint="x")
    texts = [backbone.tokenize(user(SHORT), f"answer number {i}") for i in range(8)]
    texts.append(backbone.tokenize(user("Why?"), "No."))
    states_of(backbone, texts, [HookPoint(1)])
