"""The command ``sparserm insights``: what it prints and writes, and what it refuses."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest


@pytest.fixture
def insights(run, parts):
    """``sparserm insights`` with the tiny backbone and SAE."""
    return lambda pairs, *options: run("insights", pairs, "--backbone", parts.backbone, "--sae", parts.sae, *options)


@pytest.fixture
def longer(tmp_path):
    """A file of pairs whose longer response is nearly always the chosen one."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(120):
        texts = [f"word number {i}", f"word number {i} and {'so ' * int(rng.integers(1, 5))}on"]
        rejected, chosen = texts if rng.random() < 0.95 else texts[::-1]
        rows.append({"prompt": f"question {i}", "chosen": chosen, "rejected": rejected})
    path = tmp_path / "longer.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_the_json_has_what_others_rely_on_and_the_table_the_verdict(insights, longer) -> None:
    found = insights(longer, "--json").json
    assert (found["n_pairs"], found["n_prompts"], found["out"]) == (120, 120, None)
    first = found["features"][0]
    everything = {first["label"], *(member["name"] for member in first["family"])}
    assert "is longer, in words" in everything and first["win_rate"] > 0.9 and first["q"] < 1e-6
    assert first["ci95"][0] < first["win_rate"] <= first["ci95"][1]
    printed = insights(longer).out
    assert "more tokens is chosen in 9" in printed and "120 pairs" in printed


@pytest.mark.parametrize("suffix", [".html", ".md", ".csv"])
def test_the_report_is_written_in_the_format_of_its_ending_and_not_over_another(insights, longer, tmp_path, suffix) -> None:
    out = tmp_path / "new" / f"report{suffix}"
    found = insights(longer, "--out", out, "--json").json
    text = out.read_text()
    assert found["out"] == str(out)
    if suffix == ".csv":
        assert len(list(csv.DictReader(text.splitlines()))) == len(found["features"])
    else:
        assert found["verdict"].splitlines()[0].split(" (")[0] in text
    assert "exists; expected the name of a new file" in insights(longer, "--out", out, "--json").error
    assert insights(longer, "--out", out, "--force").code == 0


def test_an_ending_that_says_nothing_is_refused_before_any_work(insights, longer, tmp_path) -> None:
    error = insights(longer, "--out", tmp_path / "report.pdf", "--json").error
    assert "report.pdf" in error and "expected .html, .md or .csv" in error


def test_few_pairs_are_told_that_they_are_few(insights, parts) -> None:
    printed = insights(parts.test).out
    assert "Nothing can be tested in 12 pairs: a feature must differ in 20 pairs" in " ".join(printed.split())


def test_against_other_pairs_it_tells_what_differs(insights, longer, tmp_path) -> None:
    rows = [json.loads(line) for line in longer.read_text().splitlines()]
    turned = [{"prompt": f"another {row['prompt']}", "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    shorter = tmp_path / "shorter.jsonl"
    shorter.write_text("\n".join(map(json.dumps, turned)))
    found = insights(longer, "--against", shorter, "--json").json["against"]
    everything = {name for one in found["features"] for name in (one["label"], *(each["name"] for each in one["family"]))}
    assert (found["data"], found["n_pairs"]) == ("shorter.jsonl", 120) and "is longer, in words" in everything
    assert {one["how"].removesuffix(" (length)") for one in found["features"]} <= {
        "rewarded here, punished there",
        "punished here, rewarded there",
    }
    assert "shorter.jsonl" in insights(longer, "--against", shorter).out
    out = tmp_path / "differences.csv"
    insights(longer, "--against", shorter, "--out", out)
    assert len(list(csv.DictReader(out.read_text().splitlines()))) == len(found["features"])
    assert "shorter.jsonl" in insights(longer, "--against", shorter, "--out", shorter, "--json").error
