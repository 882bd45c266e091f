"""Saved heads that are damaged: any flipped bit is refused or changes no reward, and a kill while saving loses no head."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from sparserm.heads import saved as module
from sparserm.heads.reward import RewardHead, rewards
from sparserm.heads.saved import HeadCard, SavedHead, find_head, head_files, list_heads, load_head, parse_head, save_head
from sparserm.types import SparseRMError
from tests.unit.responses import responses

K, D = 4, 6
H = np.random.default_rng(1).normal(size=(5, D)).astype(np.float32)


def _head(seed: int = 0) -> SavedHead:
    rng = np.random.default_rng(seed)
    head = RewardHead(
        features=np.arange(K) + 10 * seed,
        directions=rng.normal(size=(K, D)).astype(np.float32),
        center=rng.normal(size=D).astype(np.float32),
        mu=rng.normal(size=K),
        sigma=rng.uniform(1, 2, K),
        weights=rng.normal(size=K),
        bias=0.25,
        pooling="mean",
    )
    card = HeadCard(
        name=f"head {seed}",
        backbone="tiny",
        backbone_fingerprint="abc",
        hook="blocks.2.hook_resid_post",
        sae="tiny/layer_2",
        sae_fingerprint="def",
        d_sae=64,
        training={"data": "pairs.csv", "n_pairs": 7, "settings": {"k": K, "l2": None}},
        metrics={"accuracy": 0.75, "ci95": [0.5, 1], "n": 12},
        labels={1: "politeness"},
        versions={"torch": "2.6"},
    )
    quantiles = np.sort(rng.normal(size=(2, 101)))
    return SavedHead(head, card, rng.random(K), rng.random(K), *quantiles, np.array([-5, 7]))


SAVED = _head()
FILES = head_files(SAVED)
REWARDS = rewards(SAVED.head, responses(H))


def _parse(files: Mapping[str, bytes]) -> SavedHead:
    return parse_head(files["config.json"], files["head.safetensors"], Path("head"))


def _with(**changes: Any) -> bytes:
    """``config.json`` with other entries; None takes an entry out."""
    config = json.loads(FILES["config.json"]) | changes
    return json.dumps({name: value for name, value in config.items() if value is not None}).encode()


@pytest.mark.parametrize("name", ["config.json", "head.safetensors"])
def test_a_flipped_bit_is_refused_or_changes_no_reward(name: str) -> None:
    rng, refused = random.Random(0), 0
    for _ in range(1200):
        data = bytearray(FILES[name])
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            loaded = _parse({**FILES, name: bytes(data)})
        except SparseRMError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 1000
        else:
            assert name == "config.json"
            np.testing.assert_array_equal(rewards(loaded.head, responses(H)), REWARDS)
            assert loaded.least_reward == SAVED.least_reward
    assert refused > 400 if name == "config.json" else refused == 1200


@pytest.mark.parametrize("name", ["features", "directions", "center", "mu", "sigma", "weights", "f_chosen", "f_rejected"])
def test_a_tensor_that_was_changed_is_refused(name: str) -> None:
    tensors = load(FILES["head.safetensors"])
    tensors[name] = np.flip(tensors[name], 0).copy()
    config = _with(features=tensors["features"].tolist())
    with pytest.raises(SparseRMError, match="head is not as it was saved"):
        _parse({"config.json": config, "head.safetensors": save(tensors)})


@pytest.mark.parametrize(
    "change",
    [
        {"bias": 0.5},
        {"pooling": "last"},
        {"hook": "blocks.1.hook_resid_post"},
        {"backbone_fingerprint": "other"},
        {"sae_fingerprint": "other"},
        {"d_sae": 65},
        {"sha256": "0" * 64},
        {"sha256": None, "features": [0, 1, 2, 4]},
    ],
)
def test_a_fact_that_rewards_depend_on_is_not_changed_in_silence(change: dict[str, Any]) -> None:
    with pytest.raises(SparseRMError, match=r"is not as it was saved|are not those in head.safetensors"):
        _parse({**FILES, "config.json": _with(**change)})


def test_the_config_of_one_head_with_the_tensors_of_another_is_refused() -> None:
    other = head_files(replace(SAVED, head=replace(SAVED.head, weights=-SAVED.head.weights)))
    with pytest.raises(SparseRMError, match="expected the two files of one head, unchanged"):
        _parse({**FILES, "head.safetensors": other["head.safetensors"]})


def test_name_labels_and_versions_may_be_edited_by_hand() -> None:
    edited = _parse({**FILES, "config.json": _with(name="mine", labels={"3": "new"}, versions={})})
    assert (edited.card.name, edited.card.labels) == ("mine", {3: "new"})
    np.testing.assert_array_equal(rewards(edited.head, responses(H)), REWARDS)


def test_heads_of_earlier_versions_are_loaded_without_a_hash() -> None:
    np.testing.assert_array_equal(rewards(_parse({**FILES, "config.json": _with(sha256=None)}).head, responses(H)), REWARDS)


@pytest.mark.parametrize("folder", list_heads().values(), ids=lambda folder: folder.name)
def test_shipped_heads_have_a_hash(folder: Path) -> None:
    assert len(json.loads((folder / "config.json").read_text(encoding="utf-8"))["sha256"]) == 64
    assert head_files(load_head(folder)) == {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.replace(b'"bias"', b'"bias": 9, "bias"'),
        lambda config: config.replace(b'"bias": 0.25', b'"bias": 1' + b"0" * 400),
        lambda config: config.replace(b'"bias": 0.25', b'"bias": 1e999'),
        lambda config: config.replace(b'"name": "head 0"', b'"name": "\\ud800"'),
        lambda config: config + b"{}",
        lambda config: b"[" * 100_000,
        lambda config: b'{"a":' * 100_000,
        lambda config: b"\xef\xbb\xbf" + config,
        lambda config: config + b" " * (5 << 20),
    ],
)
def test_json_that_readers_take_differently_or_not_at_all_is_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(SparseRMError, match="head cannot be read as a head") as error:
        _parse({**FILES, "config.json": change(FILES["config.json"])})
    assert len(str(error.value)) < 1000


def _safetensors(header: Mapping[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "data",
    [
        FILES["head.safetensors"] + b"\0",
        FILES["head.safetensors"][:-1],
        (2**63).to_bytes(8, "little") + b"{}",
        _safetensors({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
        _safetensors({"a": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}, b""),
        _safetensors({"a": {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}}, b"1234"),
        _safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, b"12345678"),
    ],
    ids=("longer", "shorter", "long header", "bfloat16", "huge and empty", "100 dimensions", "other offsets"),
)
def test_a_tensor_file_that_says_other_than_it_holds_is_refused(data: bytes) -> None:
    with pytest.raises(SparseRMError, match="head cannot be read as a head"):
        _parse({**FILES, "head.safetensors": data})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("weights", lambda a: a * 1e300, "weights holds values beyond 1e"),
        ("center", lambda a: a * np.float32(1e30), "center holds values beyond 1e"),
        ("sigma", lambda a: a * 1e-300, "sigma has values that are not positive, or tiny"),
        ("weights", lambda a: a.astype(np.int64), "weights holds int64, expected floating-point numbers"),
        ("mu", lambda a: a.astype(np.complex64), "mu holds complex64"),
        ("f_chosen", lambda a: a > 0.5, "f_chosen holds bool"),
        ("prompt_keys", lambda a: a.astype(np.float64), "prompt_keys holds float64, expected whole numbers"),
        ("prompt_keys", lambda a: a[None], "prompt_keys has shape"),
        ("features", lambda a: a * 0, "features holds a latent id more than once"),
        ("directions", lambda a: a[:0], "has shape"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused_whether_there_is_a_hash(
    name: str, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    tensors = load(FILES["head.safetensors"])
    tensors[name] = np.ascontiguousarray(change(tensors[name]))
    with pytest.raises(SparseRMError, match=message):
        _parse({"config.json": _with(sha256=None), "head.safetensors": save(tensors)})


def test_a_head_without_features_is_refused() -> None:
    tensors = load(FILES["head.safetensors"])
    for name in ("features", "directions", "mu", "sigma", "weights", "f_chosen", "f_rejected"):
        tensors[name] = tensors[name][:0]
    with pytest.raises(SparseRMError, match="expected one row a feature"):
        _parse({"config.json": _with(sha256=None, features=[]), "head.safetensors": save(tensors)})


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: replace(saved, head=replace(saved.head, weights=saved.head.weights * 1e300)),
        lambda saved: replace(saved, card=replace(saved.card, metrics={"accuracy": float("nan")})),
        lambda saved: replace(saved, card=replace(saved.card, metrics={"accuracy": "high"})),
        lambda saved: replace(saved, card=replace(saved.card, name="\ud800")),
    ],
)
def test_what_could_not_be_loaded_is_not_saved_and_the_old_head_stays(
    change: Callable[[SavedHead], SavedHead], tmp_path: Path
) -> None:
    save_head(SAVED, tmp_path / "head")
    with pytest.raises(SparseRMError):
        save_head(change(SAVED), tmp_path / "head")
    assert {path.name: path.read_bytes() for path in (tmp_path / "head").iterdir()} == FILES


# ------------------------------------------------------------------------------------------------- kills while saving

KILLED = """
import os, sys
from pathlib import Path
from tests.faults.test_saved_heads import _head
from sparserm.heads.saved import save_head

calls, rename = [0], {"rename": os.rename, "replace": os.replace}
def counting(name):
    def move(*arguments, **named):
        if calls[0] == int(sys.argv[2]):
            os._exit(9)
        calls[0] += 1
        return rename[name](*arguments, **named)
    return move
os.rename, os.replace = counting("rename"), counting("replace")
save_head(_head(1), Path(sys.argv[1]))
"""


def _killed_at(move: int, folder: Path) -> int:
    """Save another head over the one in ``folder`` in a process that is killed at its n-th move of a file, from 0."""
    return subprocess.run([sys.executable, "-c", KILLED, str(folder), str(move)], check=False).returncode


@pytest.mark.parametrize(("beside", "swapped"), [("", True), ("README.md", True), ("notes.txt", False)])
def test_a_kill_between_two_moves_never_mixes_two_heads(tmp_path: Path, beside: str, swapped: bool) -> None:
    folder = tmp_path / "head"
    before, after = (rewards(_head(seed).head, responses(H)) for seed in (0, 1))
    save_head(SAVED, folder)
    if beside:
        (folder / beside).write_text("kept")
    if not beside:
        assert _killed_at(0, folder) == 9
        np.testing.assert_array_equal(rewards(load_head(folder).head, responses(H)), before)
    assert _killed_at(1, folder) == 9
    with pytest.raises(SparseRMError) as error:
        load_head(folder)
    if swapped:
        (old,) = tmp_path.glob(".head.*.old")
        assert f"the old head is in {old}" in str(error.value)
        np.testing.assert_array_equal(rewards(load_head(old).head, responses(H)), before)
        old.rename(folder)
    else:
        assert "are not those in head.safetensors" in str(error.value)
    save_head(_head(1), folder)
    np.testing.assert_array_equal(rewards(load_head(folder).head, responses(H)), after)
    assert not beside or (folder / beside).read_text() == "kept"


def test_a_save_over_a_head_leaves_other_files_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "head"
    save_head(SAVED, folder)
    (folder / "README.md").write_text("the model card")
    (folder / "more").mkdir()
    (folder / "more" / "notes.txt").write_text("notes")
    save_head(_head(1), folder)
    assert load_head(folder).card.name == "head 1"
    assert (folder / "README.md").read_text() == "the model card" and (folder / "more" / "notes.txt").read_text() == "notes"


def test_the_current_folder_stays_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "head"
    save_head(SAVED, folder)
    monkeypatch.chdir(folder)
    save_head(_head(1), Path())
    assert load_head(Path()).card.name == "head 1" and Path.cwd().samefile(folder)


def test_an_error_while_saving_leaves_the_old_head_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "head"
    save_head(SAVED, folder)
    written = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "head.safetensors":
            written(path, data[:10])
            raise OSError(28, "No space left on device")
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_head(_head(1), folder)
    monkeypatch.undo()
    assert load_head(folder).card.name == "head 0"
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


# ------------------------------------------------------------------------------------------------------------ commands


def test_a_damaged_head_is_left_out_of_the_list_and_named(run, sparserm_home: Path) -> None:
    for name in ("flipped", "mixed", "half", "whole"):
        shutil.copytree(list_heads()["safety"], sparserm_home / "heads" / name)
    flipped = sparserm_home / "heads" / "flipped" / "head.safetensors"
    data = bytearray(flipped.read_bytes())
    data[-5] ^= 1
    flipped.write_bytes(data)
    shutil.copy(list_heads()["redteam"] / "head.safetensors", sparserm_home / "heads" / "mixed" / "head.safetensors")
    (sparserm_home / "heads" / "half" / "head.safetensors").unlink()
    result = run("heads", "--json")
    assert {"whole", "safety"} <= {one["name"] for one in result.json["heads"]}
    assert not {"flipped", "mixed", "half"} & {one["name"] for one in result.json["heads"]}
    warnings = result.err.splitlines()
    assert [line.split(" is skipped")[0] for line in warnings] == [f"warning: {name}" for name in ("flipped", "half", "mixed")]
    assert "is not as it was saved" in run("score", "--head", "flipped", "--prompt", "a", "--response", "b").error


def test_the_reader_knows_every_file_of_a_head() -> None:
    assert tuple(FILES) == module.FILES


@pytest.mark.parametrize(("entry", "name", "value"), [("metrics", "accuracy", 0.99), ("training", "data", "elsewhere.jsonl")])
def test_figures_changed_in_the_config_are_refused(entry, name, value, tmp_path):
    shutil.copytree(find_head("safety"), tmp_path / "head")
    path = tmp_path / "head" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert config[entry][name] != value
    config[entry][name] = value
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(SparseRMError, match="not as it was saved"):
        load_head(tmp_path / "head")
