"""A disk that is full while a command writes: one line, code 2, nothing half and nothing left; what was there stays.

No file may grow beyond a limit of the operating system, so that every library meets a real error in its own writer.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from sparserm.cli import entry, outputs
from sparserm.heads.saved import load_head
from sparserm.policy.language_model import Policy
from sparserm.sae.activations import read_corpus
from sparserm.support.files import replacing_folder
from tests.commands import Outcome

resource = pytest.importorskip("resource")

FAST = ("--k", "4", "--selection", "effect_size", "--l2", "0.1")
SMALL = ("--rounds", "1", "--prompts", "4", "--samples", "2", "--held-out", "2", "--max-new-tokens", "4")


@contextmanager
def full(limit: int) -> Iterator[None]:
    """Inside the block no file grows beyond ``limit`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tiny_folder):
    """Heads know a backbone's folder by its last part. The disk is found to be full only after the work."""
    monkeypatch.chdir(tiny_folder.parent)
    monkeypatch.delenv("SPARSERM_DATA", raising=False)
    monkeypatch.setattr(outputs, "PROBE", 1)
    monkeypatch.setattr("sparserm.sae.training.read_corpus", lambda path: read_corpus(path, n_held_out=12))


@pytest.fixture
def commands(parts, tmp_path):
    """Every command that writes, without --out."""
    tiny = ("--backbone", parts.backbone, "--sae", parts.sae)
    candidates, corpus = tmp_path / "candidates.jsonl", tmp_path / "corpus.jsonl"
    candidates.write_text(json.dumps({"prompt": "Q?", "responses": ["please", "go away" * 100, "gladly" * 100]}))
    corpus.write_text(
        "\n".join(json.dumps({"text": f"text {i} is about the {'cat' if i % 2 else 'rain'} " * 4}) for i in range(40))
    )
    sizes = ("--layers", "1", "--tokens", "600", "--epochs", "1", "--d-sae", "48", "--k", "6")
    return {
        "train": ("train", parts.train, *tiny, *FAST),
        "edit": ("edit", parts.head, "--off", load_head(parts.head).head.features[0]),
        "export": ("export", parts.head, "--format", "head"),
        "export classifier": ("export", parts.head),
        "export steering": ("export", parts.head, "--format", "steering"),
        "sweep": ("sweep", parts.train, *tiny, "--k", "1,2,3,4,5,6,7,8", "--methods", "frequency,effect_size,dense"),
        "audit": ("audit", parts.train, "--against", parts.train),
        "insights": ("insights", parts.train, *tiny),
        "best-of-n": ("best-of-n", candidates, "--head", parts.head),
        "score": ("score", parts.test, "--head", parts.head),
        "train-sae": ("train-sae", corpus, "--backbone", parts.backbone, *sizes),
        "align": ("align", parts.train, "--reward", parts.head, "--policy", parts.backbone, *SMALL),
        "benchmark": ("benchmark", parts.train, *tiny, "--budgets", "all", "--seeds", "1"),
    }


RUNS = ("score", "train-sae", "align", "benchmark")
OTHERS = ("train", "edit", "export", "export classifier", "export steering", "sweep", "audit", "insights", "best-of-n")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def last_line(outcome: Outcome) -> str:
    """The error, after warnings."""
    *warnings, line = outcome.err.splitlines()
    assert outcome.code == 2 and outcome.out == "" and line.startswith("error: ")
    assert all(one.startswith("warning: ") for one in warnings)
    return line


@pytest.mark.parametrize("name", OTHERS)
def test_full_disk_leaves_what_was_there(run, commands, tmp_path, name) -> None:
    out = tmp_path / "results" / ("out.html" if name == "insights" else "out.csv")  # its table would be short
    command = (*commands[name], "--out", out, "--force")
    out.parent.mkdir()
    with full(600):
        assert "File too large" in last_line(run(*command))
    assert content(out.parent) == {}
    assert run(*command).code == 0
    before = content(out.parent)
    with full(600):
        assert "File too large" in last_line(run(*command))
    assert content(out.parent) == before and os.listdir(out.parent) == [out.name]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("limit", [600, 30_000])
def test_run_goes_on_where_the_disk_was_full(run, commands, tmp_path, name, limit) -> None:
    out = tmp_path / "results" / "out.json"
    with full(limit):
        outcome = run(*commands[name], "--out", out)
    assert outcome.code in (0, 2) and "Traceback" not in outcome.err
    if outcome.code:
        assert any(said in outcome.err for said in ("File too large", "could not be written whole")), outcome.err
    hidden = [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert hidden == []
    assert run(*commands[name], "--out", out).code == 0


def test_disk_errors_of_libraries_are_told_from_other_errors() -> None:
    with full(600), pytest.raises(RuntimeError) as torchs:
        torch.save({"x": torch.zeros(1000)}, Path("x.pt"))
    Path("x.pt").unlink()
    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    for error, said in (
        (OSError(28, "No space left on device", "/x"), "No space left on device: /x"),
        (OSError("100 requested and 10 written"), "100 requested and 10 written"),
        (sqlite3.OperationalError("database or disk is full"), "database or disk is full"),
        (SafetensorError(text), "No space left on device"),
        (torchs.value, "a file could not be written whole"),
    ):
        assert entry._disk_error(error) == said
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), SafetensorError("HeaderTooLarge"), KeyError("x")):
        assert entry._disk_error(error) is None


def test_policy_is_saved_whole_or_not_at_all(tiny_folder, tmp_path) -> None:
    policy = Policy.load(tiny_folder)
    folder = tmp_path / "policy"
    with full(5_000), pytest.raises(SafetensorError, match="os error 27"), replacing_folder(folder, replace=True) as new:
        policy.save(new)
    assert os.listdir(tmp_path) == []


def test_labels_that_could_not_be_kept_are_not_made(run, parts, monkeypatch) -> None:
    monkeypatch.setattr(outputs, "PROBE", 4096)
    monkeypatch.setattr("sparserm.pairs.load.load_pairs", None)
    with full(600):
        assert "labels cannot be kept in" in last_line(run("label", parts.head, parts.test))
