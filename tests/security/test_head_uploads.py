"""Uploaded heads: whatever their files hold, they are refused in one line or safe to show, list, score with and delete."""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparserm.backbone.model import resolve
from sparserm.heads.labels import auto_labels, given_labels, save_label, user_labels
from sparserm.heads.library import delete_head, keep_head, own_entries, pack_head, read_head, rename_head
from sparserm.heads.model_card import card_markdown
from sparserm.heads.reward import rewards
from sparserm.heads.saved import SavedHead, find_head, head_files, list_heads, load_head
from sparserm.model import SparseRM
from sparserm.representations.values import LatentSummary, Representations, firings
from sparserm.sae.autoencoder import load_sae
from sparserm.support.defaults import home
from sparserm.support.parsing import MAX_DEPTH, parse_json, whole_number
from sparserm.types import HookPoint, SparseRMError
from sparserm.ui.train.tables import heads_table
from tests.unit.responses import responses
from tests.unit.tiny import save_tiny_sae

EDITED = {"parent": "safety", "parent_hash": "0123abcd", "edits": {"3": 0.5}, "parent_lineage": {"edits": {"3": -1}}}
SHIPPED = load_head("helpfulness-layer10")
SAVED = replace(
    SHIPPED,
    card=replace(SHIPPED.card, labels={158: "lists"}, training={**SHIPPED.card.training, "yardstick": "a", "lineage": EDITED}),
)
FILES = head_files(SAVED)
CONFIG: dict[str, Any] = json.loads(FILES["config.json"])


def _responses(n: int = 3) -> Representations:
    """Responses in which all features of the head fire."""
    rng, features = np.random.default_rng(0), SAVED.head.features
    figures = [rng.random(n * len(features)) + 0.1 for _ in range(3)]
    fired = LatentSummary(np.arange(n + 1) * len(features), firings(np.tile(features, n), *figures), SAVED.card.d_sae)
    return replace(responses(rng.normal(size=(n, SAVED.width)).astype(np.float32)), latents=fired)


RESPONSES = _responses()
REWARDS = rewards(SAVED.head, RESPONSES)

WRONG = ("x", "", None, True, -1, 1.5, 2**40, 1e300, [], {}, ["a", 2], {"²": "b"}, {"a": {}}, "y" * 20_000, "²", "../..")


def _upload(config: Any) -> SavedHead:
    return read_head({"config.json": json.dumps(config).encode(), "head.safetensors": FILES["head.safetensors"]})


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every entry inside a JSON value, the value itself first."""
    yield path
    for key, one in value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ():
        yield from _paths(one, (*path, key))


def _changed(path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    config = json.loads(FILES["config.json"])
    at = config
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return config


def _used(saved: SavedHead) -> None:
    """What pages and commands do with a head that they list."""
    card_markdown(saved)
    heads_table([("one", saved, True)]).to_json()
    pack_head(saved)
    given_labels(saved.card.sae_fingerprint, saved.card.labels)
    assert saved.card.backbone_source == saved.card.backbone


@pytest.mark.parametrize("path", list(_paths(CONFIG)), ids=lambda path: ".".join(map(str, path)) or "all of it")
def test_an_entry_of_another_type_is_refused_in_a_line_or_harmless(path: tuple[Any, ...]) -> None:
    for value in WRONG:
        try:
            saved = _upload(_changed(path, value))
        except SparseRMError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
        else:
            _used(saved)
            np.testing.assert_array_equal(rewards(saved.head, RESPONSES), REWARDS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metrics", "accuracy"), "x"),
        (("metrics", "accuracy"), True),
        (("metrics", "accuracy"), 74.6),
        (("metrics", "ci95"), [0.5, "x"]),
        (("metrics", "ci95"), 0.5),
        (("metrics", "n"), 1.5),
        (("metrics", "length_baseline"), {}),
        (("metrics", "measured_on"), ["a"]),
        (("training", "data"), {"a": 1}),
        (("training", "licence"), 3),
        (("training", "n_pairs"), "many"),
        (("training", "settings"), None),
        (("training", "settings", "k"), "x"),
        (("training", "settings", "activity"), 1),
        (("training", "lineage", "edits"), {"3": "x"}),
        (("training", "lineage", "parent_lineage"), "x"),
        (("versions",), {"torch": 2}),
        (("labels",), {"²": "b"}),
        (("labels",), {"1": 2}),
        (("format",), True),
        (("d_sae",), 2**40),
        (("bias",), True),
        (("backbone_fingerprint",), "../../etc"),
        (("sae_fingerprint",), "x" * 300),
        (("hook",), f"blocks.{'9' * 5000}.hook_resid_post"),
    ],
)
def test_the_refusal_names_the_entry(path: tuple[str, ...], value: Any) -> None:
    with pytest.raises(SparseRMError) as error:
        _upload(_changed(path, value))
    assert ".".join(path) in str(error.value) or "hook point" in str(error.value)


@pytest.mark.parametrize("depth", [MAX_DEPTH, 10_000, 100_000])
def test_nesting_that_would_exhaust_the_stack_is_refused(depth: int) -> None:
    nested = b'{"training": ' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(SparseRMError, match="nested more than 100 levels"):
        read_head({"config.json": nested, "head.safetensors": FILES["head.safetensors"]})


@pytest.mark.parametrize(
    "name", ["x" * 1_000_000, "x" * 201, "a\nb", "a\u202eb", "a\u2066b", "a\0b", "\x1b[31mred", "zero\u200bwidth"]
)
def test_names_and_labels_that_would_not_be_shown_as_they_are_are_refused(name: str) -> None:
    for config in (_changed(("name",), name), _changed(("labels", "158"), name)):
        with pytest.raises(SparseRMError, match=r"control or invisible characters|characters, expected at most") as error:
            _upload(config)
        assert len(str(error.value)) < 400 and str(error.value).isprintable()


@pytest.mark.parametrize("name", ["naïve ☕", "头 [x](y) <b>", "👩\u200d🔬", "می\u200cخواهم", "x" * 200])
def test_other_names_are_kept(name: str) -> None:
    assert _upload(_changed(("name",), name)).card.name == name


def test_a_head_of_another_width_than_its_backbone_is_refused_before_it_scores(
    run, parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(parts.backbone.parent)  # where the head's backbone is
    saved = load_head(parts.head)
    wide = replace(saved.head, directions=np.ones((4, 100), np.float32), center=np.zeros(100, np.float32))
    SparseRM(replace(saved, head=wide)).save_pretrained(tmp_path / "wide")
    error = run("score", "--head", tmp_path / "wide", "--prompt", "a", "--response", "b").error
    assert "reads representations of width 100, but backbone tiny-llama has width 32" in error


def test_a_head_with_more_latents_than_its_sae_is_refused(parts) -> None:
    saved = load_head(parts.head)
    model = SparseRM(replace(saved, card=replace(saved.card, d_sae=saved.card.d_sae + 1, sae=str(parts.sae))))
    with pytest.raises(SparseRMError, match=r"64 latents of width 32, but head kindness was trained with .* 65 latents"):
        model.load_sae()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_zip_is_refused_or_holds_the_head(method: int) -> None:
    packed, rng, refused = io.BytesIO(), random.Random(0), 0
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in FILES.items():
            archive.writestr(f"head/{name}", data)
    for i in range(300):
        damaged = bytearray(packed.getvalue())
        # Half of the damage is in the directory at the end.
        damaged[-rng.randrange(1, 200) if i % 2 else rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            np.testing.assert_array_equal(rewards(read_head({"a.zip": bytes(damaged)}).head, RESPONSES), REWARDS)
        except SparseRMError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 600
    assert refused > 100


def test_a_zip_of_a_million_names_is_refused_before_its_directory_is_read() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", b"")
    data = packed.getvalue()
    start = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    many = data[:start] + data[start:end] * 1_000_000 + data[end:]
    with pytest.raises(SparseRMError, match="more than 1,000 files; expected one head in a zip"):
        read_head({"a.zip": many})


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_asks_for_any_amount_of_memory_is_refused(method: int) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    with pytest.raises(SparseRMError, match="expected an ordinary zip"):
        read_head({"a.zip": packed.getvalue()})


# ------------------------------------------------------------------------------------------------------- the library


def test_one_bad_head_in_the_library_hides_no_other_and_can_be_deleted(run) -> None:
    keep_head(SAVED, "good")
    bad = {
        "accuracy": json.dumps(_changed(("metrics", "accuracy"), "x")),
        "deep": "[" * 100_000,
        "label": json.dumps(_changed(("labels",), {"²": "b"})),
    }
    for name, config in bad.items():
        (keep_head(SAVED, name) / "config.json").write_text(config)
    (home() / "heads" / "empty").mkdir()
    errors = {name: str(entry) for name, entry in own_entries().items() if isinstance(entry, SparseRMError)}
    assert list(errors) == ["accuracy", "deep", "empty", "label"]
    assert not any(str(home()) in error or "\n" in error for error in errors.values())
    result = run("heads", "--json")
    assert "good" in [one["name"] for one in result.json["heads"]]
    assert sorted(line.split(" is skipped: ")[0] for line in result.err.splitlines()) == [f"warning: {name}" for name in errors]
    for name in errors:
        with pytest.raises(SparseRMError):
            rename_head(name, "other")
    for name in own_entries():
        delete_head(name)
    assert not own_entries()


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, f"{'a/' * 3000}b", "a\0b", "~nobody-here/head", "\ud800", ""])
def test_names_that_no_file_can_have_are_refused_in_one_line(name: str) -> None:
    finders = (find_head, load_head, load_sae, delete_head, partial(rename_head, new="other"), partial(keep_head, SAVED))
    for find in finders if name == "" else (*finders, resolve):
        with pytest.raises(SparseRMError) as error:
            find(name)
        assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "command",
    [
        ("score", "--prompt", "a", "--response", "b", "--head"),
        ("features",),
        ("export", "--out", "new"),
        ("serve",),
        ("train", "pairs.jsonl", "--out", "new", "--sae"),
    ],
    ids=" ".join,
)
def test_a_name_of_300_characters_is_one_line_on_the_command_line(run, parts, command: tuple[str, ...]) -> None:
    line = run(*(str(parts.train) if one == "pairs.jsonl" else one for one in command), "x" * 300).error
    assert "(File name too long)" in line and "Errno" not in line and len(line) < 500


# ------------------------------------------------------------------------------------------------- labels and parsing


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "text", ['{"²": "a"}', '{"-1": "a"}', '{"1": 2}', "[" * 100_000, "[]", "", '{"1": "\\ud800"}', "\udcff"]
)
def test_a_damaged_file_of_labels_is_refused_and_left_as_it_is(text: str) -> None:
    path = home() / "labels" / "abc.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode(errors="surrogateescape"))
    for act in (partial(user_labels, "abc"), partial(save_label, "abc", 1, "new")):
        with pytest.raises(SparseRMError, match=r"abc\.json .*fix the file or move it away"):
            act()
    assert path.read_bytes() == text.encode(errors="surrogateescape")
    assert given_labels("abc", SAVED.card.labels) == {158: "lists"}


def test_damaged_automatic_labels_are_left_out_one_by_one() -> None:
    shipped = load_head("safety").card.sae_fingerprint
    whole = auto_labels(shipped)
    entry = json.loads((Path(__file__).parents[2] / "assets" / "labels" / f"{shipped}.auto.json").read_text(encoding="utf-8"))
    feature, one = next((key, value) for key, value in entry.items() if value["detection"] and int(key) > 5)
    wrong: dict[str, Any] = {
        "1": one | {"text": 3},
        "2": one | {"detection": one["detection"] | {"accuracy": "x"}},
        "3": one | {"terms": [1]},
        "4": [],
        "²": one,
        "5": one | {"n_firing": "x"},
    }
    _write(home() / "labels" / "abc.auto.json", json.dumps({feature: one, **wrong}))
    assert auto_labels("abc") == {int(feature): whole[int(feature)]}
    _write(home() / "labels" / "abc.auto.json", "[" * 100_000)
    assert auto_labels("abc") == {}


@pytest.mark.parametrize(
    ("text", "number"), [("12", 12), ("007", 7), ("²", None), ("٣", None), ("", None), ("-1", None), ("9" * 5000, None)]
)
def test_a_feature_id_is_written_with_plain_digits(text: str, number: int | None) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "1e999", "1" * 30, '{"a": 1, "a": 2}', '"\\udfff"', "[1", "1 2", "\ufeff1"]
)
def test_json_is_parsed_strictly(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
    assert parse_json('{"a": [1, 2.5, true, null, "\\u00e9\\ud83d\\ude00"]}') == {"a": [1, 2.5, True, None, "é😀"]}


@pytest.mark.parametrize(
    "name", ["blocks.².hook_resid_post", "blocks.٣.hook_resid_post", f"blocks.{'1' * 5000}.hook_resid_post"]
)
def test_a_layer_is_written_with_plain_digits(name: str) -> None:
    with pytest.raises(SparseRMError, match="hook point"):
        HookPoint.parse(name)


def test_a_bad_sae_is_left_out_of_the_list_and_named(run, sparserm_home: Path) -> None:
    folder = save_tiny_sae(sparserm_home / "saes" / "tiny" / "layer_2")
    for name, text in (
        ("deep", "[" * 100_000),
        ("wide", '{"d_sae": 1' + "0" * 400 + "}"),
        ("flag", json.dumps({**json.loads((folder / "cfg.json").read_text()), "apply_b_dec_to_input": "no"})),
    ):
        shutil.copytree(folder, folder.with_name(name))
        folder.with_name(name).joinpath("cfg.json").write_text(text)
    result = run("saes", "--json")
    assert "tiny/layer_2" in [one["name"] for one in result.json["saes"]]
    assert [line.split(" is skipped: ")[0] for line in result.err.splitlines()] == [
        f"warning: tiny/{name}" for name in ("deep", "flag", "wide")
    ]


def test_the_shipped_heads_pass_every_check() -> None:
    for name in list_heads():
        _used(read_head({f"{name}.zip": pack_head(load_head(name))}))
