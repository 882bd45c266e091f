"""The command ``sparserm represent``, and the commands that read its folder."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sparserm.heads.saved import load_head


@pytest.fixture
def folder(run, parts, tmp_path):
    """A folder of representations of the training pairs."""
    out = tmp_path / "represented"
    where = ("--backbone", parts.backbone, "--sae", parts.sae)
    found = run("represent", parts.train, "--out", out, *where, "--json").json
    assert (found["n_rows"], found["n_pairs"], found["n_unusable"], found["n_done_before"]) == (40, 40, 0, 0)
    again = run("represent", parts.train, "--out", out, *where, "--json").json
    assert again["n_done_before"] == 40
    return out


def test_train_and_insights_take_the_folder_and_say_what_they_say_of_the_pairs(run, parts, folder, tmp_path) -> None:
    where = ("--backbone", parts.backbone, "--sae", parts.sae)
    found = [
        run("train", source, "--out", tmp_path / name, "--k", 4, *options, "--json").json
        for name, source, options in (("one", folder, ()), ("two", parts.train, where))
    ]
    differing = ("out", "fit_seconds", "sae")
    ours, theirs = ({key: value for key, value in one.items() if key not in differing} for one in found)
    assert ours == theirs
    one, two = (load_head(str(tmp_path / name)) for name in ("one", "two"))
    np.testing.assert_array_equal(one.head.features, two.head.features)
    np.testing.assert_allclose(one.head.weights, two.head.weights, atol=1e-4)
    told = [run("insights", source, *options, "--json").json for source, options in ((folder, ()), (parts.train, where))]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--skip-bad",), "expected neither --column, --skip-bad"),
        (("--split", "test"), "expected neither --column, --skip-bad"),
        (("--layer", 10), "expected no other backbone, SAE or layer"),
    ],
)
def test_what_was_settled_when_the_pairs_were_represented_is_not_asked_again(run, folder, tmp_path, options, said) -> None:
    assert said in run("train", folder, "--out", tmp_path / "head", *options, "--json").error


def test_other_commands_say_that_they_need_the_pairs(run, folder, parts) -> None:
    error = run("evaluate", parts.head, folder, "--json").error
    assert "holds representations, which train and insights read; expected preference pairs" in error


def test_rows_that_cannot_be_used_are_told_and_left_out(run, parts, tmp_path) -> None:
    path = tmp_path / "bad.jsonl"
    rows = [*parts.train.read_text().splitlines()[:12], json.dumps({"prompt": "p", "chosen": "a", "rejected": "a"})]
    path.write_text("\n".join(rows))
    out, where = tmp_path / "out", ("--backbone", parts.backbone, "--sae", parts.sae)
    shown = run("represent", path, "--out", out, *where)
    assert "1 rows cannot be used; the reason is in the column `problem`" in shown.err
    assert run("train", out, "--out", tmp_path / "head", "--k", 2, "--json").json["n_skipped"] == 1
    assert "--engine is 'spark'; expected local or ray" in run("represent", path, "--out", out, "--engine", "spark").error
