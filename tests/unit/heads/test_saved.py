"""Saved heads: nothing is lost on the way, and what is damaged is refused with its path and never read wrongly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sparserm.heads.reward import RewardHead
from sparserm.heads.saved import HeadCard, SavedHead, find_head, head_hash, list_heads, load_head, save_head
from sparserm.types import HookPoint, SparseRMError


def _saved(k: int = 3, d: int = 5) -> SavedHead:
    rng = np.random.default_rng(0)
    head = RewardHead(
        features=np.array([2, 30, 4000]),
        directions=rng.normal(size=(k, d)).astype(np.float32),
        center=rng.normal(size=d).astype(np.float32),
        mu=rng.normal(size=k),
        sigma=rng.uniform(1, 2, k),
        weights=rng.normal(size=k) / 3,
        bias=0.1 + 0.2,
        pooling="last",
    )
    card = HeadCard(
        name="naïve ☕",
        backbone="smollm2",
        backbone_fingerprint="abc",
        hook="blocks.15.hook_resid_post",
        sae="smollm2/layer_15",
        sae_fingerprint="def",
        d_sae=4608,
        training={"source": "pairs.csv", "n_pairs": 7, "settings": {"k": 3, "l2": None}},
        metrics={"accuracy": 1 / 3, "ci95": [0.2, 0.4]},
        labels={2: "politeness", 4000: 'says "no"'},
        versions={"torch": "2.6"},
    )
    return SavedHead(
        head=head,
        card=card,
        f_chosen=rng.random(k),
        f_rejected=rng.random(k),
        quantiles_chosen=np.sort(rng.normal(size=101)),
        quantiles_rejected=np.sort(rng.normal(size=101)),
        prompt_keys=np.array([-(2**63), 2**63 - 1]),
    )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_head(_saved(), tmp_path / "my head")
    return tmp_path / "my head"


def _edit_config(folder: Path, **changes: Any) -> None:
    """Set entries of config.json; None takes an entry out."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _edit_tensor(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray] | None) -> None:
    tensors = load_file(folder / "head.safetensors")
    if change is None:
        del tensors[name]
    else:
        tensors[name] = np.ascontiguousarray(change(tensors[name]))
    save_file(tensors, folder / "head.safetensors")


def _with_nan(array: np.ndarray) -> np.ndarray:
    return np.where(np.arange(array.size).reshape(array.shape) == 1, np.nan, array).astype(array.dtype)


def test_what_was_saved_is_loaded_to_the_bit(folder: Path) -> None:
    saved, loaded = _saved(), load_head(folder)
    for ours, theirs in ((saved.head, loaded.head), (saved, loaded)):
        for field in fields(ours):
            before, after = getattr(ours, field.name), getattr(theirs, field.name)
            if isinstance(before, np.ndarray):
                assert (after.dtype, after.shape, after.tobytes()) == (before.dtype, before.shape, before.tobytes())
    assert (loaded.head.bias, loaded.head.pooling) == (saved.head.bias, "last")
    assert loaded.card == saved.card
    assert loaded.card.hook_point == HookPoint(15)


def test_saving_what_was_loaded_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    save_head(load_head(folder), tmp_path / "again")
    for name in ("config.json", "head.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_saved_head_is_two_files_for_people_and_for_numbers(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "head.safetensors"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["features"], config["name"]) == ("sparserm", [2, 30, 4000], "naïve ☕")
    assert "☕" in (folder / "config.json").read_text(encoding="utf-8")


def test_saving_over_a_head_replaces_it(folder: Path) -> None:
    other = replace(_saved(), card=replace(_saved().card, name="other"))
    save_head(other, folder)
    assert load_head(folder).card.name == "other"


def test_views_are_saved_as_what_they_show(tmp_path: Path) -> None:
    saved = _saved()
    wide = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    save_head(replace(saved, head=replace(saved.head, directions=wide.T[::2])), tmp_path / "view")
    np.testing.assert_array_equal(load_head(tmp_path / "view").head.directions, wide.T[::2])


@pytest.mark.parametrize("name", ["head.safetensors", "config.json"])
def test_a_missing_file_is_refused_with_the_path(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(SparseRMError) as error:
        load_head(folder)
    assert str(folder) in str(error.value) and name in str(error.value)


@pytest.mark.parametrize("size", [0, 4, 100, -8])
def test_truncated_numbers_are_refused_with_the_path(folder: Path, size: int) -> None:
    path = folder / "head.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(SparseRMError) as error:
        load_head(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"format": 1', b"\xff\xfe", b"[1, 2]", b'"text"', b"null"])
def test_a_broken_config_is_refused_with_the_path(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(SparseRMError) as error:
        load_head(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("changes", [{"format": 3}, {"format": "1"}, {"pooling": "max"}, {"pooling": ["last"]}])
def test_another_format_or_pooling_is_refused_naming_what_was_found(folder: Path, changes: dict[str, Any]) -> None:
    _edit_config(folder, **changes)
    with pytest.raises(SparseRMError) as error:
        load_head(folder)
    assert str(folder) in str(error.value) and repr(*changes.values()) in str(error.value)


@pytest.mark.parametrize("key", ["format", "pooling", "bias", "backbone", "backbone_fingerprint", "hook", "sae_fingerprint"])
def test_a_config_that_lacks_what_a_reward_depends_on_is_refused(folder: Path, key: str) -> None:
    _edit_config(folder, **{key: None})
    with pytest.raises(SparseRMError, match=rf"config\.json lacks {key}"):
        load_head(folder)


@pytest.mark.parametrize("name", ["directions", "center", "mu", "sigma", "weights", "f_chosen", "quantiles_rejected"])
def test_values_that_are_not_finite_are_refused_by_name(folder: Path, name: str) -> None:
    _edit_tensor(folder, name, _with_nan)
    with pytest.raises(SparseRMError, match=f"{name} holds values that are not finite") as error:
        load_head(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["features", "directions", "center", "mu", "sigma", "weights", "f_rejected", "prompt_keys"])
def test_a_missing_tensor_is_refused_by_name(folder: Path, name: str) -> None:
    _edit_tensor(folder, name, None)
    with pytest.raises(SparseRMError, match=rf"lacks {name}") as error:
        load_head(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("features", lambda a: a[:2]),
        ("center", lambda a: a[:4]),
        ("mu", lambda a: a[:, None]),
        ("sigma", lambda a: a[:1]),
        ("weights", lambda a: np.append(a, 1.0)),
        ("directions", lambda a: a[:2]),
        ("directions", lambda a: a.T),
        ("directions", lambda a: a.ravel()),
    ],
)
def test_shapes_that_do_not_fit_are_refused(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    _edit_tensor(folder, name, change)
    with pytest.raises(SparseRMError, match=r"has shape .*expected") as error:
        load_head(folder)
    assert str(folder) in str(error.value)


def test_a_head_is_found_by_name_and_by_path(folder: Path, home: Path) -> None:
    save_head(_saved(), home / "heads" / "kindness")
    assert find_head("kindness") == list_heads()["kindness"] == home / "heads" / "kindness"
    assert find_head(folder) == find_head(str(folder)) == folder
    assert load_head("kindness").card.name == "naïve ☕"


def test_an_unknown_name_is_answered_with_the_known_ones(home: Path) -> None:
    for name in ("kindness", "brevity"):
        save_head(_saved(), home / "heads" / name)
    (home / "heads" / "unfinished").mkdir()
    with pytest.raises(SparseRMError, match="no head 'kindnes'") as error:
        find_head("kindnes")
    assert "brevity, kindness" in str(error.value) and "unfinished" not in str(error.value)


# Heads that are refused as damaged.


def test_a_bias_that_is_not_finite_is_refused(folder: Path) -> None:
    _edit_config(folder, bias=float("nan"))
    with pytest.raises(SparseRMError):
        load_head(folder)


@pytest.mark.parametrize("key", ["name", "d_sae"])
def test_a_card_that_lacks_its_name_or_width_is_refused(folder: Path, key: str) -> None:
    _edit_config(folder, **{key: None})
    with pytest.raises(SparseRMError):
        load_head(folder)


@pytest.mark.parametrize("changes", [{"bias": "high"}, {"bias": []}, {"labels": ["a"]}, {"labels": {"two": "a"}}])
def test_config_entries_of_the_wrong_type_are_refused_with_the_path(folder: Path, changes: dict[str, Any]) -> None:
    _edit_config(folder, **changes)
    with pytest.raises(SparseRMError):
        load_head(folder)


@pytest.mark.parametrize("changes", [{"hook": "blocks.3.attn.hook_z"}, {"metrics": {"accuracy": float("nan")}}])
def test_a_hook_or_a_figure_that_cannot_be_used_is_refused_with_the_path(folder: Path, changes: dict[str, Any]) -> None:
    _edit_config(folder, **changes)
    with pytest.raises(SparseRMError) as error:
        load_head(folder)
    assert str(folder) in str(error.value)


def test_a_sigma_of_zero_is_refused(folder: Path) -> None:
    _edit_tensor(folder, "sigma", lambda a: a * 0)
    with pytest.raises(SparseRMError):
        load_head(folder)


@pytest.mark.parametrize("name", ["f_chosen", "f_rejected", "quantiles_chosen", "quantiles_rejected"])
def test_evidence_of_another_length_is_refused(folder: Path, name: str) -> None:
    _edit_tensor(folder, name, lambda a: a[:2])
    with pytest.raises(SparseRMError):
        load_head(folder)


def test_a_head_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    saved = _saved()
    with pytest.raises(SparseRMError):
        save_head(replace(saved, head=replace(saved.head, weights=saved.head.weights * np.nan)), tmp_path / "bad")


def test_a_hash_is_of_what_decides_the_rewards_and_the_same_after_a_round_trip(folder: Path) -> None:
    saved = _saved()
    assert re.fullmatch("[0-9a-f]{8}", head_hash(saved))
    assert head_hash(load_head(folder)) == head_hash(saved)
    card = replace(saved.card, name="other", labels={2: "manners"}, metrics={}, training={}, versions={})
    assert head_hash(replace(saved, card=card, f_chosen=saved.f_rejected)) == head_hash(saved)


@pytest.mark.parametrize("name", ["features", "directions", "center", "mu", "sigma", "weights", "bias", "pooling"])
def test_a_head_that_rewards_otherwise_has_another_hash(name: str) -> None:
    saved = _saved()
    changed = "mean" if name == "pooling" else getattr(saved.head, name) + 1
    assert head_hash(replace(saved, head=replace(saved.head, **{name: changed}))) != head_hash(saved)


@pytest.mark.parametrize("name", ["hook", "backbone_fingerprint", "sae_fingerprint"])
def test_a_head_for_another_place_has_another_hash(name: str) -> None:
    saved = _saved()
    assert head_hash(replace(saved, card=replace(saved.card, **{name: "other"}))) != head_hash(saved)


@pytest.mark.parametrize("change", [lambda x: x + 5000, lambda x: x - 100, lambda x: x.astype(np.float64)])
def test_features_that_the_sae_does_not_have_are_refused(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    _edit_tensor(folder, "features", change)
    with pytest.raises(SparseRMError, match="features must be latent ids from 0 to 4607"):
        load_head(folder)
