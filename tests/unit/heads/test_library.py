"""The user's own heads: nothing shipped is touched, no name is taken twice, and an upload is sound or refused."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparserm.heads import library
from sparserm.heads.library import (
    check_name,
    delete_head,
    free_name,
    keep_head,
    own_entries,
    own_heads,
    pack_head,
    read_head,
    rename_head,
)
from sparserm.heads.saved import SavedHead, list_heads, load_head
from sparserm.types import SparseRMError

SHIPPED = load_head("safety")


def _zip(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def _files(saved: SavedHead = SHIPPED) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(pack_head(saved))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _same(a: SavedHead, b: SavedHead) -> bool:
    def parts(saved: SavedHead) -> dict[str, object]:
        found = dict(vars(saved.head))
        encoder = found.pop("encoder")
        return found | ({"about": str(encoder.hook), **encoder.weights} if encoder else {})

    one, other = parts(a), parts(b)
    return a.card == b.card and one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_kept_head_is_found_by_its_name_and_says_it() -> None:
    folder = keep_head(SHIPPED, "my-head")
    assert own_heads() == {"my-head": folder}
    assert _same(load_head("my-head"), replace(SHIPPED, card=replace(SHIPPED.card, name="my-head")))


def test_renaming_leaves_nothing_under_the_old_name() -> None:
    keep_head(SHIPPED, "old")
    rename_head("old", "new")
    assert list(own_heads()) == ["new"]
    assert load_head("new").card.name == "new"


def test_deleting_removes_the_folder() -> None:
    folder = keep_head(SHIPPED, "mine")
    delete_head("mine")
    assert not folder.exists() and not own_heads()


@pytest.mark.parametrize("act", [delete_head, lambda name: rename_head(name, "mine")])
def test_shipped_heads_stay(act) -> None:
    with pytest.raises(SparseRMError, match="shipped head and cannot be changed"):
        act("safety")
    assert "safety" in list_heads()


@pytest.mark.parametrize("name", ["safety", "Safety", "mine", "MINE"])
def test_a_taken_name_is_refused_and_another_one_suggested(name: str) -> None:
    keep_head(SHIPPED, "mine")
    with pytest.raises(SparseRMError, match=rf"is already .*; choose another name, such as {name}-2"):
        keep_head(SHIPPED, name)


def test_a_name_that_another_session_takes_in_between_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_head(SHIPPED, "mine")
    monkeypatch.setattr(library, "check_name", lambda name: None)
    with pytest.raises(SparseRMError, match="taken in the meantime"):
        keep_head(replace(SHIPPED, head=replace(SHIPPED.head, bias=9.0)), "mine")
    assert load_head("mine").head.bias == SHIPPED.head.bias


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "a\\b", ".hidden", "-x", "a b", "end.", "<b>", "x" * 65, "nul\0"]
)
def test_names_that_would_not_do_as_folders_are_refused(name: str) -> None:
    with pytest.raises(SparseRMError, match="cannot be a head's name"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "my-head", "v1.2", "näive_Kopf", "头", "x" * 64])
def test_names_that_do(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("wanted", "free"),
    [("safety", "safety-2"), ("my pairs (1).csv", "my-pairs-1-.csv"), ("../..", "head"), ("", "head"), ("x" * 99, "x" * 56)],
)
def test_a_free_name_can_be_used(wanted: str, free: str) -> None:
    assert free_name(wanted) == free
    check_name(free)


def test_a_packed_head_comes_back_the_same_and_packs_to_the_same_bytes() -> None:
    packed = pack_head(SHIPPED)
    assert _same(read_head({"safety.zip": packed}), SHIPPED)
    assert pack_head(read_head({"safety.zip": packed})) == packed


@pytest.mark.parametrize("names", [("config.json", "head.safetensors"), ("config (1).json", "head (1).safetensors")])
def test_the_two_files_do_as_well(names: tuple[str, str]) -> None:
    assert _same(read_head(dict(zip(names, _files().values(), strict=True))), SHIPPED)


def test_a_zipped_folder_with_what_other_systems_add_is_read() -> None:
    inside = {f"safety/{name}": data for name, data in _files().items()}
    assert _same(
        read_head({"a.zip": _zip(**inside, **{"__MACOSX/safety/config.json": b"?", "safety/.DS_Store": b"?"})}), SHIPPED
    )


def test_a_path_that_leads_out_of_the_archive_leads_nowhere(tmp_path: Path) -> None:
    inside = {f"../../../{tmp_path.name}/{name}": data for name, data in _files().items()}
    before = sorted(tmp_path.rglob("*"))
    assert _same(read_head({"a.zip": _zip(**inside)}), SHIPPED)
    assert sorted(tmp_path.rglob("*")) == before


def _upload(case: str) -> dict[str, bytes]:
    config, tensors = _files().values()
    return {
        "no zip": {"a.zip": b"PNG"},
        "cut zip": {"a.zip": pack_head(SHIPPED)[:-100]},
        "empty zip": {"a.zip": _zip()},
        "zip without config": {"a.zip": _zip(**{"head.safetensors": tensors})},
        "two heads": {"a.zip": _zip(**{f"{n}/{name}": data for n in "ab" for name, data in _files().items()})},
        "cut tensors": {"a.zip": _zip(**{"config.json": config, "head.safetensors": tensors[:-50]})},
        "config is no JSON": {"config.json": b"{", "head.safetensors": tensors},
        "tensors alone": {"head.safetensors": tensors},
        "a pickle": {"head.pt": tensors, "config.json": config},
        "nothing": {},
        "three files": {"config.json": config, "head.safetensors": tensors, "b.json": config},
    }[case]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no zip", "a.zip cannot be read as a zip"),
        ("cut zip", "a.zip cannot be read as a zip"),
        ("empty zip", "got a.zip without config.json and head.safetensors; expected a zip of"),
        ("zip without config", "without config.json;"),
        ("two heads", "2 files named config.json; expected one head"),
        ("cut tensors", "a.zip cannot be read as a head"),
        ("config is no JSON", "the upload cannot be read as a head"),
        ("tensors alone", "got head.safetensors without config.json;"),
        ("a pickle", "got head.pt, config.json without head.safetensors;"),
        ("nothing", "got nothing without"),
        ("three files", "got config.json, head.safetensors, b.json; expected a zip"),
    ],
)
def test_an_upload_that_is_no_head_is_refused_in_a_sentence(case: str, message: str) -> None:
    with pytest.raises(SparseRMError, match=message):
        read_head(_upload(case))


def test_an_archive_that_unpacks_to_more_than_any_head_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "MAX_BYTES", 1 << 20)
    bomb = _zip(**{"config.json": b"{}", "head.safetensors": bytes(4 << 20)})
    assert len(bomb) < 1 << 16
    with pytest.raises(SparseRMError, match=r"head.safetensors is too large; expected at most 1 MB"):
        read_head({"a.zip": bomb})


def test_a_head_for_another_backbone_is_refused_with_both_named() -> None:
    SHIPPED.card.require_backbone("smollm2", SHIPPED.card.backbone_fingerprint)
    with pytest.raises(SparseRMError, match=r"trained on backbone smollm2.*, got qwen \(0123\); choose that backbone"):
        SHIPPED.card.require_backbone("qwen", "0123")


@pytest.mark.parametrize("lost", ["config.json", "head.safetensors"])
def test_a_folder_that_is_no_head_is_listed_with_the_reason_and_can_be_deleted(lost: str) -> None:
    keep_head(SHIPPED, "whole")
    folder = keep_head(SHIPPED, "half")
    (folder / lost).unlink()
    (folder.parent / ".half.being-written").mkdir()
    entries = own_entries()
    assert list(entries) == ["half", "whole"] and isinstance(entries["whole"], SavedHead)
    assert isinstance(entries["half"], SparseRMError) and lost in str(entries["half"])
    assert free_name("half") == "half-2"
    delete_head("half")
    assert not folder.exists() and list(own_entries()) == ["whole"]


def test_nothing_outside_the_library_is_deleted(tmp_path: Path) -> None:
    folder = keep_head(SHIPPED, "mine")
    (tmp_path / "kept").write_text("kept")
    (folder.parent / "link").symlink_to(tmp_path)
    delete_head("link")
    assert (tmp_path / "kept").is_file() and list(own_entries()) == ["mine"]
    for name in ("..", "../heads/mine", ".", "", str(folder)):
        with pytest.raises(SparseRMError, match="not one of your heads"):
            delete_head(name)


@pytest.mark.parametrize("name", ["con", "CON", "nul.txt", "Com1", "lpt9.tar.gz", "aux", "prn", "COM²"])
def test_names_that_windows_keeps_for_devices_are_not_given(name: str) -> None:
    with pytest.raises(SparseRMError, match=r"reserved by Windows"):
        check_name(name)
    assert free_name(name) == f"head-{name}"
    check_name(free_name(name))


@pytest.mark.parametrize("name", ["x" * 300, "\U00010400" * 64, "\U00010400" * 400])
def test_names_that_file_systems_have_no_room_for_are_not_given(name: str) -> None:
    with pytest.raises(SparseRMError, match="cannot be a head's name") as error:
        check_name(name)
    assert len(str(error.value)) < 500
    keep_head(SHIPPED, free_name(name))
