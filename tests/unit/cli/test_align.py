"""``sparserm align``: figures as JSON and as tables, a run that goes on, refusals in one line."""

from __future__ import annotations

import json

import pytest

SMALL = ("--rounds", "1", "--prompts", "4", "--samples", "2", "--held-out", "2", "--max-new-tokens", "4")


@pytest.fixture
def align(run, parts, tmp_path):
    def command(prompts, *options):
        return run(
            "align", prompts, "--reward", parts.head, "--policy", parts.backbone, "--out", tmp_path / "run", *SMALL, *options
        )

    return command


def test_a_run_is_told_as_json_and_then_as_tables_without_working_again(align, parts) -> None:
    result = align(parts.train, "--json")
    found = result.json
    assert result.err == ""
    assert [one["round"] for one in found["measures"]] == [0, 1] and found["n_held_out"] == 2
    assert sum(found["measures"][1]["features"].values()) != sum(found["measures"][0]["features"].values())
    shown = align(parts.train)
    said = " ".join(shown.out.split())
    assert found["conclusion"] in said and "(ranks)" in said and "rose and fell most" in said


def test_a_command_that_cannot_be_done_is_one_line(align, parts, tmp_path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text(json.dumps({"prompt": "a"}))
    assert "got 1 distinct prompts; expected at least six" in align(few, "--json").error
    assert "no reward model 'nobody'" in align(parts.train, "--judge", "nobody").error
    assert "expected different names" in align(parts.train, "--judge", parts.head).error
