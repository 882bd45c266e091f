"""What a command writes replaces nothing of the user's: an existing output needs --force, an input is never replaced."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparserm.cli import outputs
from sparserm.heads.saved import load_head
from tests.unit.pairs_data import preference_rows

FAST = ("--k", "4", "--selection", "effect_size", "--l2", "0.1")


@pytest.fixture(autouse=True)
def _beside_the_backbone(monkeypatch, tiny_folder):
    """In a data folder that is new, heads know a backbone's folder by its last part."""
    monkeypatch.chdir(tiny_folder.parent)
    monkeypatch.delenv("SPARSERM_DATA", raising=False)


@pytest.fixture
def commands(parts, tmp_path):
    """Every command that writes one output, without --out; and the kind of head, file or folder that it writes."""
    tiny = ("--backbone", parts.backbone, "--sae", parts.sae)
    candidates = tmp_path / "candidates.jsonl"
    candidates.write_text(json.dumps({"prompt": "Q?", "responses": ["please", "go away", "gladly"]}))
    feature = load_head(parts.head).head.features[0]
    return {
        "train": ("train", parts.train, *tiny, *FAST),
        "edit": ("edit", parts.head, "--off", feature),
        "export": ("export", parts.head, "--format", "head"),
        "export classifier": ("export", parts.head),
        "export steering": ("export", parts.head, "--format", "steering"),
        "sweep": ("sweep", parts.train, *tiny, "--k", "2", "--methods", "frequency"),
        "audit": ("audit", parts.train),
        "insights": ("insights", parts.train, *tiny),
        "best-of-n": ("best-of-n", candidates, "--head", parts.head),
    }


FOLDERS = ("train", "edit", "export", "export classifier", "export steering")
FILES = ("sweep", "audit", "insights", "best-of-n")


@pytest.fixture
def no_work(monkeypatch):
    """Loading a model or pairs fails: what is refused has to be refused before."""

    def fail(*args: object, **keywords: object) -> None:
        raise AssertionError("work was begun")

    for name in ("sparserm.backbone.model.Backbone.load", "sparserm.model.shared_backbone", "sparserm.pairs.load.load_pairs"):
        monkeypatch.setattr(name, fail)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", FOLDERS)
def test_existing_folder_is_kept_without_force(run, commands, tmp_path, request, name) -> None:
    command = (*commands[name], "--out", tmp_path / "new")
    assert run(*command).code == 0
    written = content(tmp_path / "new")
    (tmp_path / "new" / next(iter(written))).write_bytes(b"of another run")
    before = content(tmp_path / "new")
    request.getfixturevalue("no_work")
    assert "or --force to replace" in run(*command).error
    assert content(tmp_path / "new") == before


@pytest.mark.parametrize("name", FOLDERS)
def test_force_replaces_a_folder_as_a_whole(run, commands, tmp_path, name) -> None:
    command = (*commands[name], "--out", tmp_path / "new", "--force")
    assert run(*command).code == 0
    names = set(content(tmp_path / "new"))
    for one in names:
        (tmp_path / "new" / one).write_bytes(b"old")
    assert run(*command, "--json").json
    assert b"old" not in content(tmp_path / "new").values() and set(content(tmp_path / "new")) == names
    assert sorted(os.listdir(tmp_path)) == ["candidates.jsonl", "new"]


@pytest.mark.parametrize("name", FOLDERS)
def test_folder_with_other_files_is_kept_even_with_force(run, commands, tmp_path, no_work, name) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    (other / "config.json").write_text("{}")
    for force in ((), ("--force",)):
        error = run(*commands[name], "--out", other, *force).error
        assert "is not empty" in error and "is no part of" in error
    assert content(other) == {"thesis.tex": b"years of work", "config.json": b"{}"}


@pytest.mark.parametrize("name", FILES)
def test_existing_file_is_kept_without_force_and_replaced_with_it(run, commands, tmp_path, name) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparserm.backbone.model.Backbone.load", None)
        patch.setattr("sparserm.pairs.load.load_pairs", None)
        patch.setattr("sparserm.model.shared_backbone", None)
        assert f"--out {out} exists; expected the name of a new file" in run(*commands[name], "--out", out).error
    assert out.read_text() == "mine"
    assert run(*commands[name], "--out", out, "--force", "--json").json
    assert out.read_text() != "mine" and sorted(os.listdir(tmp_path)) == ["candidates.jsonl", "out.csv"]


def test_pairs_of_best_of_n_are_an_output_like_the_other(run, commands, tmp_path) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    pairs.write_text("mine")
    command = (*commands["best-of-n"], "--out", out, "--pairs")
    assert f"--pairs {pairs} exists" in run(*command, pairs).error
    assert pairs.read_text() == "mine" and not out.exists()
    assert "--out and --pairs are both" in run(*command, out).error
    assert "--out and --pairs are both" in run(*command, tmp_path / "x" / ".." / "OUT.jsonl").error
    assert "is the candidates" in run(*command, tmp_path / "candidates.jsonl", "--force").error


def spellings(source: Path, folder: Path) -> dict[str, Path]:
    """Other names of a file."""
    names = {"same": source, "relative": Path(os.path.relpath(source)), "detour": source.parent / "x" / ".." / source.name}
    names |= {"symbolic": folder / "symbolic.csv", "hard": folder / "hard.csv"}
    (source.parent / "x").mkdir(exist_ok=True)
    names["symbolic"].symlink_to(source)
    names["hard"].hardlink_to(source)
    return names


def test_input_is_never_the_output_under_any_name(run, parts, tmp_path, no_work) -> None:
    source = tmp_path / "data" / "train.csv"
    source.parent.mkdir()
    shutil.copy(parts.train, source)
    before = source.read_bytes()
    for name in spellings(source, tmp_path).values():
        for command in (
            ("audit", source),
            ("audit", parts.train, "--against", source),
            ("best-of-n", source, "--head", "safety"),
        ):
            assert "since what is read is never replaced" in run(*command, "--out", name, "--force").error
    assert source.read_bytes() == before


def test_input_folder_is_never_the_output(run, parts, tmp_path, no_work) -> None:
    head, link = tmp_path / "head", tmp_path / "link"
    shutil.copytree(parts.head, head)
    link.symlink_to(head)
    before = content(head)
    feature = load_head(head).head.features[0]
    for out in (head, link, head.parent / "x" / ".." / "head"):
        (head.parent / "x").mkdir(exist_ok=True)
        for command in (("edit", head, "--off", feature), ("export", head, "--format", "head")):
            assert "is the head that is" in run(*command, "--out", out, "--force").error
    assert "is in the head" in run("audit", parts.train, "--head", head, "--out", head / "config.json", "--force").error
    assert content(head) == before


@pytest.mark.parametrize("name", ["train", "audit"])
def test_places_that_cannot_be_written_are_one_line_before_any_work(run, commands, tmp_path, no_work, name) -> None:
    (tmp_path / "file").write_text("")
    long = "n" * 300
    for out, said in (
        (tmp_path / "file" / "x" / "y", f"{tmp_path / 'file'} is a file; expected a folder"),
        (tmp_path / long, "has a name of 300 bytes; expected at most 255"),
        (tmp_path / "new" / long / "x", "has a name of 300 bytes; expected at most 255"),
        (tmp_path / ("x/" * 3000), "File name too long"),
        (tmp_path / "x\udcff", "is not UTF-8; expected a name in UTF-8"),
        (Path("/proc") / "x", "cannot be written"),
        (Path("/dev/null"), "is no regular file" if name == "audit" else "is a file; expected a new folder"),
    ):
        assert said in run(*commands[name], "--out", out).error
    assert sorted(os.listdir(tmp_path)) == ["candidates.jsonl", "file"]
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "is a folder; expected the name of a file" in run(*commands["audit"], "--out", folder, "--force").error
    assert "is a file; expected a new folder" in run(*commands["train"], "--out", tmp_path / "file", "--force").error


def test_current_folder_is_not_replaced(run, commands, tmp_path, monkeypatch, no_work) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    for out in (".", "..", tmp_path / "here"):
        assert "is the current folder, or holds it" in run(*commands["train"], "--out", out, "--force").error


def test_full_or_read_only_place_is_found_before_any_work(run, commands, tmp_path, monkeypatch, no_work) -> None:
    for number, said in ((28, "No space left on device"), (30, "Read-only file system")):

        def refuse(folder: Path, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(outputs, "_probe", refuse)
        for name in commands:
            assert said in run(*commands[name], "--out", tmp_path / "out.csv").error


def test_link_is_replaced_and_what_it_points_to_stays(run, commands, tmp_path) -> None:
    (tmp_path / "kept.csv").write_text("mine")
    (tmp_path / "out.csv").symlink_to(tmp_path / "kept.csv")
    (tmp_path / "nothing.csv").symlink_to(tmp_path / "missing.csv")
    for name in ("out.csv", "nothing.csv"):
        assert "exists; expected the name of a new file" in run(*commands["audit"], "--out", tmp_path / name).error
        assert run(*commands["audit"], "--out", tmp_path / name, "--force").code == 0
        assert not (tmp_path / name).is_symlink()
    assert (tmp_path / "kept.csv").read_text() == "mine" and not (tmp_path / "missing.csv").exists()


def test_output_that_appears_during_the_work_is_kept(run, commands, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out.csv"

    def appear(*args: object, **keywords: object) -> None:
        out.write_text("of another run")

    monkeypatch.setattr("sparserm.cli.evaluate_commands.warn", appear, raising=False)
    monkeypatch.setattr("sparserm.cli.common.warn", appear)
    assert f"--out {out} exists" in run(*commands["audit"], "--out", out).error
    assert out.read_text() == "of another run"


def test_runs_resume_only_what_is_theirs(run, parts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("sparserm.backbone.model.Backbone.load", None)
    monkeypatch.setattr("sparserm.model.shared_backbone", None)
    monkeypatch.setattr("sparserm.policy.language_model.Policy.load", None)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"text": "a"}))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    prompts = ("align", parts.train, "--reward", parts.head, "--policy", parts.backbone)
    scores = ("score", parts.test, "--head", parts.head)
    saes = ("train-sae", corpus, "--backbone", parts.backbone, "--layers", "1")
    cells = ("benchmark", parts.train, "--sae", parts.sae, "--backbone", parts.backbone)
    for command, said in (
        (prompts, "holds no alignment run"),
        (scores, "holds no scores"),
        (saes, "holds thesis.tex, which is no"),
    ):
        assert said in run(*command, "--out", mine).error
        assert "is a file; expected a new folder, or that of a run" in run(*command, "--out", mine / "thesis.tex").error
    assert "is not a file of benchmark results" in run(*cells, "--out", mine / "thesis.tex").error
    assert "is a folder; expected the name of a file" in run(*cells, "--out", mine).error
    assert "is the pairs" in run(*cells, "--out", parts.train).error
    layer = tmp_path / "saes" / "layer_1"
    layer.mkdir(parents=True)
    (layer / "notes.txt").write_text("mine")
    assert "holds notes.txt, which is no part of an SAE" in run(*saes, "--out", tmp_path / "saes").error
    assert content(mine) == {"thesis.tex": b"years of work"} and content(layer) == {"notes.txt": b"mine"}


def test_second_run_on_the_same_output_is_refused(run, parts, tmp_path) -> None:
    script = (
        "import sys; from pathlib import Path; from sparserm.support.files import only_writer\n"
        f"with only_writer(Path({str(tmp_path / 'out')!r})): print('in', flush=True); sys.stdin.read()"
    )
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(map(json.dumps, preference_rows(2, 1))))
    command = ("score", pairs, "--head", parts.head, "--out", tmp_path / "out")
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "in\n"
        assert f"another run is writing to {tmp_path / 'out'}" in run(*command).error
        other.communicate("")
    assert run(*command).code == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["_scoring.json", "part-000000.parquet"]


def test_two_trainings_into_one_folder_never_mix(run, commands, parts, tmp_path, monkeypatch) -> None:
    """The second one ends while the first one computes; with --force the last one wins whole, without it is refused."""
    from sparserm.training import train as training

    out, whole = tmp_path / "out", {}
    first = training.train_head

    def slow(*args: object, **keywords: object) -> object:
        monkeypatch.setattr(training, "train_head", first)
        shutil.copytree(parts.head, out)
        whole.update(content(out))
        return first(*args, **keywords)

    monkeypatch.setattr(training, "train_head", slow)
    assert "is not empty; expected a new folder" in run(*commands["train"], "--out", out).error
    assert content(out) == whole
    assert run(*commands["train"], "--out", out, "--force").code == 0
    assert content(out).keys() == whole.keys() and load_head(out).card.name == "out"


def test_a_tilde_is_the_home_folder_for_every_command(run, parts, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    feature = load_head(parts.head).head.features[0]
    assert run("edit", parts.head, "--off", feature, "--out=~/new", "--json").code == 0
    assert (tmp_path / "new" / "config.json").is_file() and not (tmp_path / "~").exists()
    (tmp_path / "new.csv").write_text("mine")
    assert "exists" in run("audit", parts.train, "--out=~/new.csv").error
