"""A head from a stranger makes no machine download the models that the stranger names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from sparserm.backbone.model import Backbone
from sparserm.features.logit_lens import load_unembedding
from sparserm.heads.saved import load_head, save_head
from sparserm.integrations.hf import export_classifier
from sparserm.model import SparseRM
from sparserm.types import SparseRMError

STRANGE = "someone/private-model"


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The names that the Hub is asked for."""
    import sae_lens  # takes seconds, in each process that collects the tests

    names: list[str] = []

    def snapshot(repo: str, *, local_files_only: bool = False, **more: object) -> str:
        if not local_files_only:
            names.append(repo)
        raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")

    def from_pretrained(release: str, sae_id: str, **more: object) -> None:
        names.append(release)
        raise OSError("no network in tests")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(sae_lens.SAE, "from_pretrained", from_pretrained)
    return names


@pytest.fixture
def head(parts, tmp_path) -> Path:
    """A head whose card names a backbone and an SAE of the Hub."""
    saved = load_head(parts.head)
    card = replace(saved.card, backbone=STRANGE, backbone_fingerprint="0123456789abcdef", sae=f"{STRANGE}:layer_1")
    save_head(replace(saved, card=card), tmp_path / "head")
    return tmp_path / "head"


def test_commands_do_not_ask_the_hub_for_a_heads_backbone(run, parts, head, tmp_path, asked) -> None:
    pair = ("--prompt", "a", "--response", "b")
    for command in (
        ("score", "--head", head, *pair),
        ("compare", "--head", head, *pair, "--response", "c"),
        ("score", parts.test, "--head", head, "--out", tmp_path / "scores"),
        ("evaluate", head, parts.test),
        ("export", head, "--out", tmp_path / "exported"),
    ):
        error = run(*command).error
        assert f"backbone '{STRANGE}' was not found on this machine, and is not downloaded" in error
    assert asked == []


def test_nothing_else_asks_for_it(head, tmp_path, asked) -> None:
    for use in (
        lambda: SparseRM.from_pretrained(head).load_backbone(),
        lambda: load_unembedding(STRANGE),
        lambda: export_classifier(head, tmp_path / "exported"),
    ):
        with pytest.raises(SparseRMError, match="only a head names it"):
            use()
    assert asked == []


def test_the_sae_that_a_head_names_is_not_downloaded_either(head, asked) -> None:
    with pytest.raises(SparseRMError, match=f"SAE '{STRANGE}:layer_1' was not found on this machine, and is not downloaded"):
        SparseRM.from_pretrained(head).load_sae()
    assert asked == []


def test_a_name_that_the_user_gives_is_asked_for(run, parts, tmp_path, asked) -> None:
    train = ("train", parts.train, "--out", tmp_path / "out")
    assert "and cannot be downloaded from the Hugging Face Hub" in run(*train, "--backbone", STRANGE, "--sae", parts.sae).error
    assert "'other/saes:x' cannot be downloaded" in run(*train, "--sae", "other/saes:x").error
    assert asked == [STRANGE, "other/saes"]


def test_a_backbone_in_the_cache_is_used(head, tiny_folder, monkeypatch) -> None:
    """The user has downloaded it before."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **more: str(tiny_folder))
    assert Backbone.load(STRANGE, may_download=False).name == STRANGE
