"""``sparserm benchmark``: a table of ways and budgets, kept cells, and refusals before any work."""

from __future__ import annotations

import json

import pytest

FIXTURES = pytest.mark.usefixtures("tiny_backbone")


@FIXTURES
def test_every_way_that_can_be_is_measured_and_kept(run, parts, tmp_path) -> None:
    out = tmp_path / "cells.json"
    given = ("benchmark", parts.train, "--test", parts.test, "--out", out, "--sae", parts.sae, "--backbone", parts.backbone)
    found = run(*given, "--budgets", "12,all", "--seeds", "2", "--json").json
    ways = {(row["way"], row["budget"]) for row in found["rows"]}
    assert {("dense", 12), ("dense", None), ("longer", 12), ("latents", None)} <= ways
    dense = next(row for row in found["rows"] if (row["way"], row["budget"]) == ("dense", 12))
    assert dense["seeds"] == 2 and dense["ci95"][0] <= dense["accuracy"] <= dense["ci95"][1]
    before = out.read_text()
    assert run(*given, "--budgets", "12,all", "--seeds", "2", "--json").json == found
    assert out.read_text() == before  # nothing was computed again
    table = run(*given, "--budgets", "12,all", "--seeds", "2")
    assert table.code == 0 and "tested on 12 pairs" in table.out
    assert "12 pairs" in table.out and "All pairs" in table.out and "random-directions" in table.out


@FIXTURES
def test_without_test_pairs_prompts_are_held_out(run, parts, tmp_path) -> None:
    given = ("--sae", parts.sae, "--backbone", parts.backbone, "--budgets", "all", "--seeds", "1", "--json")
    found = run("benchmark", parts.train, "--out", tmp_path / "cells.json", *given).json
    rows = len([json.loads(line) for line in parts.train.read_text().splitlines()])
    assert found["n_train"] + found["n_test"] == rows and found["n_test"] > 0


@FIXTURES
@pytest.mark.parametrize(
    ("options", "expected"),
    [(("--budgets", "many"), "expected numbers of pairs"), (("--fine-tune", "half"), "expected one of full, lora")],
)
def test_what_cannot_be_is_refused(run, parts, tmp_path, options, expected) -> None:
    given = ("--sae", parts.sae, "--backbone", parts.backbone)
    assert expected in run("benchmark", parts.train, "--out", tmp_path / "cells.json", *given, *options).error


@FIXTURES
def test_fine_tuning_stands_beside_it(run, parts, tmp_path) -> None:
    given = (
        "--sae",
        parts.sae,
        "--backbone",
        parts.backbone,
        "--budgets",
        "8",
        "--seeds",
        "1",
        "--fine-tune",
        "full",
        "--json",
    )
    found = run("benchmark", parts.train, "--test", parts.test, "--out", tmp_path / "cells.json", *given).json
    (full,) = [row for row in found["rows"] if row["way"] == "full"]
    assert full["n_train"] == 8 and full["peak_mb"] > 100 and full["cpu_seconds"] > 0
