"""`sparserm export`: each format is written whole, the hub gets what was written, and what cannot be is refused."""

from __future__ import annotations

import json
from typing import ClassVar

import huggingface_hub
import pytest

from sparserm.heads.saved import head_hash, load_head


@pytest.mark.parametrize(
    ("form", "files"),
    [
        (
            "classifier",
            {"config.json", "model.safetensors", "classifier.py", "tokenizer.json", "README.md", "head/config.json"},
        ),
        ("head", {"config.json", "head.safetensors", "README.md"}),
        ("steering", {"steering.safetensors", "steering.json"}),
    ],
)
def test_each_format_is_written(run, parts, tmp_path, form, files):
    found = run("export", parts.head, "--out", tmp_path / "out", "--format", form, "--json").json
    assert files <= set(found["files"]) and found["format"] == form
    assert all((tmp_path / "out" / name).is_file() for name in found["files"])


def test_a_head_alone_is_the_same_head(run, parts, tmp_path):
    run("export", parts.head, "--out", tmp_path / "out", "--format", "head")
    assert head_hash(load_head(tmp_path / "out")) == head_hash(load_head(parts.head))
    assert (tmp_path / "out" / "README.md").read_text().startswith("---\nlibrary_name: sparserm\n")


def test_a_folder_that_holds_something_is_left_as_it_is(run, parts):
    before = json.loads((parts.head / "config.json").read_text())
    assert "is not empty; expected a new folder" in run("export", parts.head, "--out", parts.sae).error
    assert "is the head that is exported" in run("export", parts.head, "--out", parts.head).error
    assert json.loads((parts.head / "config.json").read_text()) == before


def test_an_unknown_format_is_refused(run, parts, tmp_path):
    assert (
        "expected one of classifier, head, steering" in run("export", parts.head, "--out", tmp_path, "--format", "gguf").error
    )


class FakeHub:
    """Takes one folder; refuses any other name."""

    uploads: ClassVar[list[dict]] = []

    def create_repo(self, repo, *, exist_ok, private):
        assert private
        if repo != "me/head":
            raise huggingface_hub.errors.HFValidationError("Repo id must be in the form 'namespace/repo_name'")
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo}")

    def upload_folder(self, **given):
        self.uploads.append(given)


def test_what_was_written_is_uploaded(run, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    options = ("--format", "head", "--private", "--push-to-hub")
    found = run("export", parts.head, "--out", tmp_path / "out", *options, "me/head", "--json").json
    assert found["address"] == "https://huggingface.co/me/head"
    assert [(one["repo_id"], one["folder_path"]) for one in FakeHub.uploads] == [("me/head", str(tmp_path / "out"))]
    error = run("export", parts.head, "--out", tmp_path / "other", *options, "nonsense").error
    assert "upload to 'nonsense' on the Hub failed" in error and "can be uploaded by hand" in error
    assert (tmp_path / "other" / "head.safetensors").is_file()
