"""`sparserm edit`: a new head with its lineage, measured on held-out pairs; what cannot be edited is refused."""

from __future__ import annotations

import json

import pytest

from sparserm.heads.saved import head_hash, load_head


@pytest.fixture
def features(parts) -> list[int]:
    return load_head(parts.head).head.features.tolist()


def test_an_edit_is_measured_and_saved_with_its_lineage(run, parts, features, tmp_path) -> None:
    a, b, c, _ = features
    bytes_before = (parts.head / "head.safetensors").read_bytes()
    edits = ("--off", a, "--flip", b, "--scale", f"{c}=0.5")
    found = run("edit", parts.head, *edits, "--out", tmp_path / "new", "--test", parts.test, "--json").json
    parent, child = load_head(parts.head), load_head(tmp_path / "new")
    assert found["edits"] == {str(a): 0.0, str(b): -1.0, str(c): 0.5}
    assert (found["parent"], found["parent_hash"]) == ("head", head_hash(parent))
    assert found["hash"] == head_hash(child)
    assert (child.head.weights / parent.head.weights).tolist() == pytest.approx([0, -1, 0.5, 1])
    evaluated = run("evaluate", tmp_path / "new", parts.test, "--json").json
    assert (found["accuracy"], found["n"]) == (evaluated["accuracy"], evaluated["n"])
    before = run("evaluate", parts.head, parts.test, "--json").json
    assert found["parent_accuracy"] == before["accuracy"]
    assert found["accuracy_change"] == pytest.approx(found["accuracy"] - found["parent_accuracy"])
    assert (len(found["mended"]) - len(found["broken"])) / found["n"] == pytest.approx(found["accuracy_change"])
    assert (parts.head / "head.safetensors").read_bytes() == bytes_before


def test_the_rows_of_pairs_that_changed_sides_are_those_of_the_file(run, parts, features, tmp_path) -> None:
    rows = parts.test.read_text().splitlines()
    shifted = tmp_path / "shifted.jsonl"
    shifted.write_text("\n".join(["{}", *rows]))  # a row that is left out moves all others
    flips = ("--flip", ",".join(map(str, features)))
    found = [
        run("edit", parts.head, *flips, "--out", tmp_path / path.stem, "--test", path, "--skip-bad", "--json").json
        for path in (parts.test, shifted)
    ]
    assert found[0]["broken"] and found[1]["broken"] == [row + 1 for row in found[0]["broken"]]


def test_without_pairs_a_warning_says_that_nothing_was_measured(run, parts, features, tmp_path) -> None:
    outcome = run("edit", parts.head, "--off", features[0], "--out", tmp_path / "new", "--json")
    assert "accuracy" not in outcome.json
    assert outcome.err.startswith("warning: nothing was measured") and "--test" in outcome.err
    assert "nothing was measured" in run("edit", parts.head, "--off", features[0], "--out", tmp_path / "other").err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "no feature is edited; switch one off"),
        (("--off", "999999"), "the head has no feature 999999; expected one of"),
        (("--off", "twelve"), "--off 'twelve' cannot be read at 'twelve'; expected e.g. --off 12,88"),
        (("--off", "12=0"), "--off '12=0' cannot be read"),
        (("--scale", "9"), "--scale '9' cannot be read at '9'; expected e.g. --scale 9=0.5,12=2"),
        (("--scale", "9=inf"), "--scale '9=inf' cannot be read"),
        (("--off", "9", "--flip", "8,9"), "feature 9 is named twice"),
    ],
)
def test_what_cannot_be_edited_is_refused_and_nothing_is_written(run, parts, tmp_path, options, said) -> None:
    assert said in run("edit", parts.head, *options, "--out", tmp_path / "new", "--test", parts.test).error
    assert not (tmp_path / "new").exists()


def test_a_head_is_not_written_over_its_parent(run, parts, features) -> None:
    assert "is the head that is edited" in run("edit", parts.head, "--off", features[0], "--out", parts.head).error


def test_training_pairs_are_no_test_of_an_edit(run, parts, features, tmp_path) -> None:
    error = run("edit", parts.head, "--off", features[0], "--out", tmp_path / "new", "--test", parts.train).error
    assert "have prompts that the head was trained on" in error
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(parts.train.read_text() + "\n" + json.dumps({"prompt": "A new one", "chosen": "x y", "rejected": "z"}))
    found = run("edit", parts.head, "--off", features[0], "--out", tmp_path / "new", "--test", mixed, "--json").json
    assert (found["n"], found["n_seen_in_training"]) == (1, 40)


def test_for_people_values_of_several_parts_are_written_out(run, parts, features, tmp_path) -> None:
    options = ("--off", f"{features[0]},{features[1]}", "--out", tmp_path / "new", "--test", parts.test)
    printed = run("edit", parts.head, *options).out
    assert "{" not in printed and f"{features[0]}: 0" in printed and "margin spearman" in printed
