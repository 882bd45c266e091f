"""The command line: with --json one JSON object and nothing else, and for every wrong input code 2 and one line that helps."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from sparserm import __version__
from sparserm.backbone.model import Backbone
from sparserm.cli import common, entry
from sparserm.heads.saved import load_head, save_head
from sparserm.model import SparseRM
from sparserm.sae.activations import read_corpus
from sparserm.types import PairIssue
from tests.commands import Outcome
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae

FAST = ("--k", "4", "--selection", "effect_size", "--l2", "0.1")
PROMPT = "How do I boil an egg?"


@pytest.fixture
def train(run, parts, tmp_path):
    """Run `sparserm train` with the tiny backbone and SAE; later options replace earlier ones."""

    def command(pairs: object, *options: object, out: object = tmp_path / "out") -> Outcome:
        return run("train", pairs, "--out", out, "--backbone", parts.backbone, "--sae", parts.sae, *FAST, *options)

    return command


def _rows_file(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ------------------------------------------------------------------------------------------------ scores and comparisons


def test_score_prints_a_reward_that_is_the_sum_of_its_parts(run, parts) -> None:
    result = run("score", "--head", parts.head, "--prompt", PROMPT, "--response", "please do", "--json")
    found = result.json
    assert result.err == ""
    assert {"reward", "bias", "contributions", "head", "hook", "pooling", "n_tokens", "n_truncated"} <= set(found)
    assert len(found["contributions"]) == 4
    parts_of_each = {"feature", "label", "score", "weight", "contribution", "mu", "sigma", "fires", "activation", "detection"}
    assert all(set(one) == parts_of_each | {"family"} for one in found["contributions"])
    assert all(one["family"] == one["feature"] for one in found["contributions"])  # a head of projections has no families
    assert sum(one["contribution"] for one in found["contributions"]) + found["bias"] == pytest.approx(found["reward"])
    assert (found["head"], found["hook"], found["pooling"]) == ("kindness", "blocks.2.hook_resid_post", "mean")
    assert 0 < found["chance_to_beat_typical_chosen"] < found["chance_to_beat_typical_rejected"] < 1


def test_compare_prints_rewards_and_a_margin_that_is_the_sum_of_its_parts(run, parts) -> None:
    texts = ["please do", "never ☕", "go away"]
    options = [word for text in texts for word in ("--response", text)]
    found = run("compare", "--head", parts.head, "--prompt", PROMPT, *options, "--json").json
    best, following = found["ranking"][:2]
    assert found["margin"] == pytest.approx(found["rewards"][best] - found["rewards"][following])
    assert sum(one["contribution"] for one in found["contributions"]) == pytest.approx(found["margin"])
    for text, reward in zip(texts, found["rewards"], strict=True):
        alone = run("score", "--head", parts.head, "--prompt", PROMPT, "--response", text, "--json").json
        assert alone["reward"] == pytest.approx(reward, abs=1e-4)


def test_a_prompt_beyond_the_context_is_scored_with_a_warning_on_stderr(run, parts) -> None:
    result = run("score", "--head", parts.head, "--prompt", "xyz " * 600, "--response", "yes", "--json")
    assert result.json["n_truncated"] > 0
    assert result.err.startswith("warning: 1 texts exceed the backbone's context") and result.err.count("\n") == 1


def test_compare_and_best_of_n_say_so_in_the_same_words(run, parts, tmp_path) -> None:
    said, long = "warning: 2 texts exceed the backbone's context; their prompts were truncated on the left\n", "xyz " * 600
    result = run("compare", "--head", parts.head, "--prompt", long, "--response", "yes", "--response", "no", "--json")
    assert result.err == said and len(result.json["n_truncated"]) == 2 and min(result.json["n_truncated"]) > 0
    short = run("compare", "--head", parts.head, "--prompt", "x", "--response", "yes", "--response", "no", "--json")
    assert short.err == "" and short.json["n_truncated"] == [0, 0]
    rows = [{"prompt": long, "responses": ["yes", "no"]}, {"prompt": "x", "responses": ["yes", "no"]}]
    file = _rows_file(tmp_path / "candidates.jsonl", *rows)
    result = run("best-of-n", file, "--head", parts.head, "--out", tmp_path / "ranking.jsonl", "--json")
    assert result.err == said and result.json["n_truncated"] == 2


def test_compare_says_that_thinking_is_left_out_as_score_does(run, parts) -> None:
    said = "note: the thinking at the beginning of the response was left out\n"
    options = ("--head", parts.head, "--prompt", PROMPT, "--response", "<think>Hm.</think>yes")
    assert run("compare", *options, "--response", "no", "--json").err == run("score", *options, "--json").err == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--response", ""], "response is empty; pass text"),
        (["--response", "  "], "response is empty; pass text"),
        (["--response", "a", "--prompt", ""], "prompt is empty; pass text"),
        (["--response", "\udcff"], "broken Unicode"),
        ([], "nothing to score; expected --prompt and --response, or a file of pairs and --out"),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_score_refuses_what_cannot_be_scored(run, parts, options, said, as_json) -> None:
    result = run("score", "--head", parts.head, "--prompt", PROMPT, *options, *["--json"] * as_json)
    assert said in result.error


def test_a_file_is_scored_into_a_folder_and_a_second_run_finds_it_done(run, parts, tmp_path) -> None:
    rows = [*preference_rows(6, 3, seed=5), {"prompt": "p", "chosen": "a", "rejected": "a"}]
    file = _rows_file(tmp_path / "pairs.jsonl", *rows)
    command = ("score", file, "--head", parts.head, "--out", tmp_path / "scores", "--json")
    result = run(*command)
    assert (result.json["n_rows"], result.json["n_pairs"], result.json["n_unusable"]) == (7, 6, 1)
    assert result.err == "warning: 1 rows are invalid and have no rewards; the reason is in the column `problem`\n"
    table = pd.read_parquet(tmp_path / "scores")
    alone = run("score", "--head", parts.head, "--prompt", rows[2]["prompt"], "--response", rows[2]["chosen"], "--json").json
    assert table["reward_chosen"][2] == pytest.approx(alone["reward"], abs=1e-4)
    assert result.json["accuracy"] == pytest.approx((table["margin"].dropna() > 0).mean())
    assert run(*command).json["n_done_before"] == 7
    plain = run(*command[:-1])
    assert plain.code == 0 and "pairs per second" in plain.out


def test_doubtful_rows_of_a_scored_file_are_named_as_by_train(run, parts, tmp_path) -> None:
    file = tmp_path / "pairs.csv"
    doubtful = '"1,2,3\nWhat comes next?",4,5\n'
    file.write_text('prompt,chosen,rejected\n"Hello, you",Hi.,No.\n' + doubtful + "q,None,no\n" * 7)
    command = ("score", file, "--head", parts.head, "--out", tmp_path / "scores", "--json")
    result = run(*command)
    assert (result.json["n_pairs"], result.json["n_unusable"]) == (9, 0)
    warnings = result.err.splitlines()
    assert warnings[0].startswith("warning: pairs.csv: row 2, column (whole row): joins lines 3 to 4, each of")
    said = "warning: pairs.csv: row 3, column chosen: is the text 'None', which may be a missing value"
    assert warnings[1] == said and len(warnings) == 7
    assert warnings[6] == f"warning: pairs.csv: 2 more rows like this, column {said.partition('column ')[2]}"
    audited = run("audit", file, "--head", parts.head).err.splitlines()
    assert set(warnings) <= set(audited)
    assert run(*command).err == result.err  # also where an earlier run has scored them


def test_scoring_a_file_refuses_in_one_line(run, parts, tmp_path) -> None:
    file = _rows_file(tmp_path / "pairs.jsonl", *preference_rows(2, 1))
    head = ("--head", parts.head)
    assert "expected `sparserm score PAIRS --head HEAD --out FOLDER`" in run("score", file, *head).error
    both = run("score", file, *head, "--out", tmp_path / "out", "--prompt", "p", "--response", "r")
    assert "neither --prompt nor --response" in both.error
    alone = run("score", *head, "--out", tmp_path / "out", "--prompt", "p", "--response", "r")
    assert "are for a file of pairs" in alone.error
    assert "expected local or ray" in run("score", file, *head, "--out", tmp_path / "out", "--engine", "spark").error
    assert "is not empty and holds no scores" in run("score", file, *head, "--out", parts.sae).error
    assert "is the head; expected another folder" in run("score", file, *head, "--out", parts.head).error
    assert "no preference data called" in run("score", tmp_path / "none.jsonl", *head, "--out", tmp_path / "out").error


def test_compare_needs_two_responses(run, parts) -> None:
    result = run("compare", "--head", parts.head, "--prompt", PROMPT, "--response", "a", "--json")
    assert "got 1 responses; expected two or more" in result.error


def test_best_of_n_writes_the_ranking_and_pairs_that_train(run, parts, tmp_path) -> None:
    rows = [
        {"prompt": f"Question {i}?", "responses": [f"please {i}", f"go away {i}", f"gladly of course {i}"]} for i in range(3)
    ]
    file = _rows_file(tmp_path / "candidates.jsonl", *rows)
    out, pairs = tmp_path / "ranking.jsonl", tmp_path / "pairs.jsonl"
    found = run("best-of-n", file, "--head", parts.head, "--out", out, "--pairs", pairs, "--json").json
    assert (found["n_prompts"], found["n_responses"], found["n_pairs"]) == (3, 9, 3)
    ranking = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["rank"] for row in ranking] == [1, 2, 3] * 3
    compared = run(
        "compare",
        "--head",
        parts.head,
        "--prompt",
        "Question 0?",
        *[word for text in rows[0]["responses"] for word in ("--response", text)],
        "--json",
    ).json
    assert [row["reward"] for row in ranking[:3]] == pytest.approx(sorted(compared["rewards"], reverse=True), abs=1e-4)
    assert run("evaluate", parts.head, pairs, "--json").json["accuracy"] == 1.0


def test_best_of_n_refuses_in_one_line(run, parts, tmp_path) -> None:
    bad = _rows_file(tmp_path / "bad.jsonl", {"prompt": "Q", "responses": ["a", "", "b"]})
    options = ["--head", parts.head, "--out"]
    assert "response 2 is empty" in run("best-of-n", bad, *options, tmp_path / "x.jsonl").error
    assert "ends in .jsonl or .csv" in run("best-of-n", bad, *options, tmp_path / "x.txt").error
    assert "cannot read" in run("best-of-n", tmp_path / "nothing.jsonl", *options, tmp_path / "x.jsonl").error
    skipped = run("best-of-n", bad, *options, tmp_path / "x.csv", "--skip-bad", "--json")
    assert skipped.json["n_responses"] == 2 and "skipped: bad.jsonl: row 1" in skipped.err
    assert (tmp_path / "x.csv").read_text().startswith("prompt_number,prompt,rank,response,reward,")


@pytest.mark.parametrize(
    "command",
    [
        ("score", "--head", "kindnes", "--prompt", "a", "--response", "b"),
        ("compare", "--head", "kindnes", "--prompt", "a", "--response", "b", "--response", "c"),
        ("features", "kindnes"),
    ],
)
def test_an_unknown_head_is_answered_with_the_known_ones(run, command) -> None:
    error = run(*command, "--json").error
    assert "no head 'kindnes': expected a folder" in error
    assert "helpfulness" in error and "`sparserm heads` lists them" in error


def test_a_damaged_head_is_refused_with_its_path(run, parts, tmp_path) -> None:
    shutil.copytree(parts.head, tmp_path / "head")
    (tmp_path / "head" / "config.json").write_text("{")
    assert str(tmp_path / "head") in run("features", tmp_path / "head", "--json").error


def test_a_head_of_another_backbone_is_refused(run, parts, tmp_path) -> None:
    saved = load_head(parts.head)
    save_head(replace(saved, card=replace(saved.card, backbone_fingerprint="0123456789abcdef")), tmp_path / "head")
    error = run("score", "--head", tmp_path / "head", "--prompt", PROMPT, "--response", "a", "--json").error
    assert "was trained on backbone tiny-llama (0123456789abcdef), got tiny-llama" in error


# -------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_train_writes_a_head_that_scores_and_evaluates(run, train, parts, tmp_path, pooling) -> None:
    result = train(parts.train, "--pooling", pooling, "--test", parts.test, "--json")
    found = result.json
    assert result.err == ""
    assert (found["n_train"], found["n"], found["k"], found["pooling"]) == (40, 12, 4, pooling)
    assert (found["out"], found["measured_on"]) == (str(tmp_path / "out"), "test.jsonl")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "head.safetensors"]
    evaluated = run("evaluate", tmp_path / "out", parts.test, "--json").json
    assert {name: evaluated[name] for name in ("accuracy", "ci95", "n")} == {
        name: found[name] for name in ("accuracy", "ci95", "n")
    }
    scored = run("score", "--head", tmp_path / "out", "--prompt", PROMPT, "--response", "please", "--json").json
    assert math.isfinite(scored["reward"]) and scored["pooling"] == pooling and scored["head"] == "out"


def test_train_without_test_pairs_cross_validates(train, parts) -> None:
    found = train(parts.train, "--json").json
    assert (found["measured_on"], found["n"]) == ("cross-validation over prompts", 40)
    assert {"accuracy", "random_directions", "length_baseline", "train_accuracy", "l2"} <= set(found)


def test_train_keeps_away_from_length_where_that_is_asked_for(train, parts, tmp_path) -> None:
    assert train(parts.train, "--json").json["avoid_length"] is False
    assert train(parts.train, "--avoid-length", "--json", out=tmp_path / "other").json["avoid_length"] is True
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    assert config["training"]["settings"]["avoid_length"] is True


def test_training_twice_writes_the_same_head(train, parts, tmp_path) -> None:
    first, second = (train(parts.train, "--test", parts.test, "--json", out=tmp_path / n / "head").json for n in "ab")
    assert {**first, "out": 0, "fit_seconds": 0} == {**second, "out": 0, "fit_seconds": 0}
    for file in ("config.json", "head.safetensors"):
        assert (tmp_path / "a" / "head" / file).read_bytes() == (tmp_path / "b" / "head" / file).read_bytes()


def test_test_pairs_that_share_prompts_with_the_training_pairs_are_named(train, parts) -> None:
    result = train(parts.train, "--test", parts.train, "--json")
    assert result.json["n"] == 40
    assert "train.jsonl: row 1, column prompt: is also the prompt of row 1 of the training pairs" in result.err
    assert result.err.splitlines()[-1].startswith("warning: train.jsonl: 35 more rows like this")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--k", "0"], "k is 0, expected a whole number from 1 to 32"),
        (["--k", "33"], "k is 33, expected a whole number from 1 to 32"),
        (["--k", "many"], "Invalid value for '--k'"),
        (["--l2", "0"], "l2 is 0.0, expected a number above 0"),
        (["--l2", "nan"], "l2 is nan, expected a number above 0"),
        (["--selection", "best"], "selection is 'best', expected one of stable, frequency, random, sparse"),
        (["--pooling", "max"], "pooling is 'max', expected one of last, mean"),
        (["--layer", "1"], "was trained at blocks.2.hook_resid_post, but layer 1 was asked for"),
        (["--sae", "nosuch"], "no SAE 'nosuch': expected a folder, one of smollm2/layer_10"),
        (["--sae", "weights.pt"], "weights.pt is a pickle or an archive"),
        (["--backbone", "/nosuch"], "no folder /nosuch: expected a folder written by save_pretrained"),
        (["--column", "prompt"], "--column 'prompt'; expected ours=theirs"),
        (["--column", "question=prompt"], "expected names among prompt, chosen, rejected"),
        (["--column", "prompt=question"], "has no column 'question': it has 'prompt', 'chosen', 'rejected'"),
        (["--test", "/nosuch.jsonl"], "no preference data called '/nosuch.jsonl'"),
        (["--nosuch"], "No such option"),
    ],
)
def test_train_refuses_wrong_options_and_writes_nothing(train, parts, tmp_path, options, said) -> None:
    assert said in train(parts.test, *options, "--json").error
    assert not (tmp_path / "out").exists()


def test_a_layer_without_an_sae_is_refused_naming_those_there_are(run, parts, tmp_path) -> None:
    error = run("train", parts.train, "--out", tmp_path / "out", "--layer", "7", "--json").error
    assert "no SAE 'smollm2/layer_7'" in error and "smollm2/layer_10, smollm2/layer_15, smollm2/layer_20" in error


def test_another_backbone_needs_an_sae(run, parts, tmp_path) -> None:
    error = run("train", parts.train, "--out", tmp_path / "out", "--backbone", parts.backbone, "--json").error
    assert "has no shipped SAE; give one with --sae" in error


def test_an_sae_of_another_width_is_refused(train, parts, tmp_path) -> None:
    error = train(parts.train, "--sae", save_tiny_sae(tmp_path / "narrow", d_in=16), "--json").error
    assert "with width 16; backbone tiny-llama has 4 layers of width 32" in error


def test_a_head_cannot_be_written_over_a_file(train, parts) -> None:
    error = train(parts.train, "--json", out=parts.test).error
    assert str(parts.test) in error and "is a file; expected a new folder" in error
    assert "is the pairs; expected another folder" in train(parts.test, "--json", out=parts.test).error


# -------------------------------------------------------------------------------------------------------- bad pairs

GOOD = [{"prompt": f"p{i}", "chosen": f"please {i}", "rejected": f"never {i}"} for i in range(6)]
BAD = {
    "chosen equal to rejected": ({"prompt": "p", "chosen": "same", "rejected": "same"}, "equals chosen"),
    "an empty response": ({"prompt": "p", "chosen": "", "rejected": "b"}, "column chosen: is empty"),
    "no response": ({"prompt": "p", "chosen": "a", "rejected": None}, "column rejected: is empty"),
    "a missing column": ({"prompt": "p", "chosen": "a"}, "column rejected: is missing from this row"),
    "broken JSON": ('{"prompt": "p", "chosen": ', "line 7 is not valid JSON"),
    "no object": ("[1, 2]", "is list, expected an object"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_bad_rows_are_refused_by_row_and_column(run, train, parts, tmp_path, what, command) -> None:
    row, said = BAD[what]
    path = _rows_file(tmp_path / "bad.jsonl", *GOOD, row)
    result = train(path, "--json") if command == "train" else run("evaluate", parts.head, path, "--json")
    error = result.error
    assert "bad.jsonl: 1 of 7 rows cannot be used (row 7, column " in error
    assert said in error and "--skip-bad" in error


def test_skip_bad_lists_what_it_leaves_out(run, train, parts, tmp_path) -> None:
    path = _rows_file(tmp_path / "bad.jsonl", *GOOD, *(row for row, _ in BAD.values()))
    result = train(path, "--skip-bad", "--json")
    assert (result.json["n_train"], result.json["n_skipped"]) == (6, 6)
    lines = result.err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"skipped: bad.jsonl: row {n}" for n in range(7, 13)]
    for line, said in zip(lines, [said for _, said in BAD.values()], strict=True):
        assert said.split(" 7")[0] in line
    evaluated = run("evaluate", parts.head, path, "--skip-bad", "--json")
    assert (evaluated.json["n"], evaluated.json["n_skipped"]) == (6, 6)
    assert len(evaluated.err.splitlines()) == 6


def test_many_skipped_rows_of_one_kind_are_counted(train, tmp_path) -> None:
    path = _rows_file(tmp_path / "bad.jsonl", *GOOD, *[{"prompt": "p", "chosen": "a", "rejected": "a"}] * 20)
    lines = train(path, "--skip-bad", "--json").err.splitlines()
    assert len(lines) == common.LISTED + 1
    assert (
        lines[-1]
        == "warning: bad.jsonl: 15 more rows like this, column rejected: equals chosen: a pair needs two different responses"
    )


@pytest.mark.parametrize("content", ["", "\n\n", "{", '{"a": 1}', "\0\0"])
def test_a_file_without_a_usable_row_is_refused_even_with_skip_bad(train, tmp_path, content) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    assert "bad.jsonl" in train(tmp_path / "bad.jsonl", "--skip-bad", "--json").error


def test_a_missing_file_is_refused_without_asking_the_network(run, train, parts, tmp_path) -> None:
    for result in (train(tmp_path / "none.jsonl"), run("evaluate", parts.head, tmp_path / "none.csv", "--json")):
        assert "no preference data called" in result.error and "check the path" in result.error


def test_columns_may_have_other_names(run, parts, tmp_path) -> None:
    rows = [{"question": row["prompt"], "good": row["chosen"], "bad": row["rejected"]} for row in GOOD]
    columns = [word for ours in ("prompt=question", "chosen=good", "rejected=bad") for word in ("--column", ours)]
    found = run("evaluate", parts.head, _rows_file(tmp_path / "renamed.jsonl", *rows), *columns, "--json").json
    assert found["n"] == 6


# -------------------------------------------------------------------------------------- evaluation, features and lists


def test_evaluate_prints_accuracy_interval_and_baseline(run, parts) -> None:
    result = run("evaluate", parts.head, parts.test, "--json")
    found = result.json
    assert result.err == ""
    assert (found["n"], found["n_prompts"], found["n_seen_in_training"], found["n_skipped"]) == (12, 6, 0, 0)
    low, high = found["ci95"]
    assert 0 <= low <= found["accuracy"] <= high <= 1
    assert 0 <= found["length_baseline"] <= 1
    assert (found["head"], found["data"]) == ("kindness", "test.jsonl")


def test_evaluate_says_which_rows_were_trained_on(run, parts) -> None:
    result = run("evaluate", parts.head, parts.train, "--json")
    assert result.json["n_seen_in_training"] == 40
    assert len(result.err.splitlines()) == common.LISTED + 1
    assert all("is also in the head's training pairs" in line for line in result.err.splitlines())


def test_features_come_with_frequencies_and_weights(run, parts) -> None:
    found = run("features", parts.head, "--json").json
    assert found["head"] == "kindness" and found["hook"] == "blocks.2.hook_resid_post"
    assert len(found["features"]) == 4
    for row in found["features"]:
        assert {"feature", "label", "f_chosen", "f_rejected", "gap", "weight"} <= set(row)
        assert row["gap"] == pytest.approx(row["f_chosen"] - row["f_rejected"])


def test_heads_and_saes_in_the_data_folder_are_listed_beside_the_shipped_ones(run, parts, sparserm_home) -> None:
    shutil.copytree(parts.head, sparserm_home / "heads" / "kindness")
    save_tiny_sae(sparserm_home / "saes" / "tiny" / "layer_2")
    heads = {one["name"]: one for one in run("heads", "--json").json["heads"]}
    assert {"truthfulness", "safety", "redteam", "helpfulness"} <= set(heads)
    assert (heads["kindness"]["layer"], heads["kindness"]["backbone"]) == (2, "tiny-llama")
    saes = {one["name"]: one for one in run("saes", "--json").json["saes"]}
    assert {"smollm2/layer_10", "smollm2/layer_15", "smollm2/layer_20"} <= set(saes)
    assert (saes["tiny/layer_2"]["d_sae"], saes["tiny/layer_2"]["layer"]) == (64, 2)
    assert len(run("features", "kindness", "--json").json["features"]) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda head: (head / "config.json").write_text("{"),
        lambda head: (head / "config.json").write_text("[]"),
        lambda head: (head / "head.safetensors").write_bytes(b"half"),
        lambda head: (head / "head.safetensors").unlink(),
        lambda head: _edit(head / "config.json", hook="blocks.2.attn.hook_z"),
        lambda head: _edit(head / "config.json", metrics={"accuracy": math.nan}),
    ],
)
def test_a_damaged_head_is_left_out_of_the_list_with_a_warning(run, parts, sparserm_home, damage) -> None:
    for name in ("kindness", "damaged", "other"):
        shutil.copytree(parts.head, sparserm_home / "heads" / name)
    damage(sparserm_home / "heads" / "damaged")
    for options in ((), ("--json",)):
        result = run("heads", *options)
        assert result.code == 0 and "kindness" in result.out and "other" in result.out
        (warning,) = result.err.splitlines()
        assert warning.startswith("warning: damaged is skipped: ") and str(sparserm_home / "heads" / "damaged") in warning
    names = [one["name"] for one in result.json["heads"]]
    assert {"kindness", "other", "safety"} <= set(names) and "damaged" not in names


@pytest.mark.parametrize("metrics", [{"accuracy": None, "ci95": None, "n": None}, {}])
def test_a_head_without_metrics_is_listed(run, parts, sparserm_home, metrics) -> None:
    saved = load_head(parts.head)
    save_head(replace(saved, card=replace(saved.card, name="odd", metrics=metrics)), sparserm_home / "heads" / "odd")
    assert "odd" in run("heads").out and run("heads", "--json").json["heads"][-1]["name"] == "odd"


@pytest.mark.parametrize("metrics", [{"accuracy": "high"}, {"ci95": {}}, {"n": "few"}])
def test_a_head_with_metrics_of_another_type_is_left_out_of_the_list_with_a_warning(run, parts, sparserm_home, metrics) -> None:
    shutil.copytree(parts.head, sparserm_home / "heads" / "odd")
    _edit(sparserm_home / "heads" / "odd" / "config.json", metrics=metrics)
    result = run("heads", "--json")
    assert f"metrics.{next(iter(metrics))} is {next(iter(metrics.values()))!r}, expected" in result.err
    assert "odd" not in [one["name"] for one in result.json["heads"]]


def test_an_unusable_sae_is_left_out_of_the_list_with_a_warning(run, sparserm_home) -> None:
    save_tiny_sae(sparserm_home / "saes" / "tiny" / "layer_2")
    (save_tiny_sae(sparserm_home / "saes" / "tiny" / "layer_3") / "cfg.json").write_text("{")
    result = run("saes", "--json")
    names = [one["name"] for one in result.json["saes"]]
    assert "tiny/layer_2" in names and "smollm2/layer_15" in names and "tiny/layer_3" not in names
    (warning,) = result.err.splitlines()
    assert warning.startswith("warning: tiny/layer_3 is skipped: ")


def test_an_sae_of_sparsify_in_the_data_folder_is_listed(run, sparserm_home) -> None:
    folder = sparserm_home / "saes" / "tiny" / "layers.2"
    folder.mkdir(parents=True)
    decoder = torch.randn(64, 32)
    weights = {"encoder.weight": decoder, "encoder.bias": torch.zeros(64), "W_dec": decoder.clone(), "b_dec": torch.zeros(32)}
    save_file(weights, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"expansion_factor": 2, "num_latents": 64, "k": 8, "d_in": 32}))
    saes = {one["name"]: one for one in run("saes", "--json").json["saes"]}
    assert saes["tiny/layers.2"]["d_sae"] == 64


# ---------------------------------------------------------------------------------------------------------- for people


def test_without_json_the_same_figures_are_printed_for_people(run, train, parts) -> None:
    scored = run("score", "--head", parts.head, "--prompt", PROMPT, "--response", "please do")
    asjson = run("score", "--head", parts.head, "--prompt", PROMPT, "--response", "please do", "--json").json
    assert f"Reward {asjson['reward']:+.3f}" in scored.out and "add up to the reward" in scored.out
    shown = " ".join(run("compare", "--head", parts.head, "--prompt", "a", "--response", "[b]x", "--response", "y").out.split())
    assert "first minus second" in shown and "[b]x" in shown  # no markup is read into what a user wrote
    assert "kindness" in run("features", parts.head).out
    assert "accuracy" in run("evaluate", parts.head, parts.test).out
    assert "measured on" in train(parts.train, "--test", parts.test).out
    for command in ("heads", "saes"):
        assert "layer" in run(command).out


def test_version_and_help(run) -> None:
    assert run("--version") == Outcome(0, f"{__version__}\n", "")
    for asked in ((), ("--help",)):
        shown = run(*asked)
        assert shown.code == 0 and all(name in shown.out for name in ("score", "compare", "train", "evaluate", "train-sae"))


@pytest.mark.parametrize("arguments", [["nosuch"], ["--json"], ["features"], ["features", "a", "b"], ["score", "--nosuch"]])
def test_wrong_usage_is_one_line_that_points_to_the_help(run, arguments) -> None:
    assert "--help`" in run(*arguments).error


def test_an_option_without_its_value_is_one_line(run) -> None:
    assert "'--head' requires an argument" in run("score", "--head").error


def test_findings_of_one_kind_are_told_apart_by_column_and_problem_but_not_by_numbers(capfd) -> None:
    issues = [PairIssue(n, "chosen", f"repeats row {n - 1}", "warning") for n in range(2, 9)]
    common.warn([*issues, PairIssue(9, "prompt", "holds nothing", "warning")], "pairs")
    lines = capfd.readouterr().err.splitlines()
    assert lines[: common.LISTED] == [f"warning: pairs: {issue}" for issue in issues[: common.LISTED]]
    assert lines[common.LISTED :] == [
        "warning: pairs: row 9, column prompt: holds nothing",
        "warning: pairs: 2 more rows like this, column chosen: repeats row N",
    ]


@pytest.fixture
def cancelled(run, parts, monkeypatch) -> Outcome:
    """A command that was interrupted with Ctrl-C."""

    def cancel(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SparseRM, "from_pretrained", cancel)
    return run("features", parts.head, "--json")


def test_cancelling_ends_with_code_130_and_no_result(cancelled) -> None:
    assert (cancelled.code, cancelled.out) == (130, "")
    assert "Traceback" not in cancelled.err


def test_cancelling_says_that_the_work_is_kept(cancelled) -> None:
    assert cancelled.err.strip().startswith("cancelled") and cancelled.err.strip().count("\n") == 0


def test_a_full_disk_is_one_line_with_the_path(run, train, parts, monkeypatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device", "/some/where")

    monkeypatch.setattr(SparseRM, "save_pretrained", full)
    assert "No space left on device: /some/where" in train(parts.test, "--json").error


def test_an_error_of_many_lines_is_printed_on_one(capfd) -> None:
    with pytest.raises(SystemExit) as ended:
        entry.fail("first\n  second\tthird")
    assert ended.value.code == 2
    assert capfd.readouterr() == ("", "error: first second third\n")


# ----------------------------------------------------------------------------------------------------------- train-sae


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Just enough rows for the 200 that are held out and one batch to train on."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    return _rows_file(path, *({"text": f"text number {i} is about the {'cat' if i % 2 else 'rain'} " * 4} for i in range(230)))


@pytest.fixture
def train_sae(run, parts, tmp_path):
    def command(corpus: object, *options: object) -> Outcome:
        tiny = ("--backbone", parts.backbone, "--layers", "1", "--tokens", "600", "--epochs", "1", "--d-sae", "48", "--k", "6")
        return run("train-sae", corpus, "--out", tmp_path / "saes", *tiny, *options)

    return command


def test_train_sae_writes_saes_that_train_takes(run, train_sae, corpus, parts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("sparserm.sae.training.read_corpus", lambda path: read_corpus(path, n_held_out=12))  # soon measured
    result = train_sae(corpus, "--layers", "1,2", "--json")
    rows = result.json["saes"]
    assert result.err == ""
    assert [row["layer"] for row in rows] == [1, 2]
    assert {"explained_variance", "l0", "dead", "loss_recovered", "n_tokens", "path"} <= set(rows[0])
    sae = tmp_path / "saes" / "layer_2"
    assert rows[1]["path"] == str(sae)
    trained = run("train", parts.test, "--out", tmp_path / "out", "--backbone", parts.backbone, "--sae", sae, *FAST, "--json")
    assert trained.json["sae"] == str(sae)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layers", "ten"], "--layers is 'ten'; expected numbers and commas"),
        (["--layers", ""], "--layers is ''; expected numbers and commas"),
        (["--layers", "1,9"], "layer 9 does not exist: tiny-llama has layers 0 to 3"),
        (["--layers", "-1"], "layer -1 does not exist"),
        (["--tokens", "0"], "fewer than one batch of 512"),
        (["--epochs", "0"], "epochs of the SAE is 0, expected 1 or more"),
        (["--d-sae", "4", "--k", "6"], "k of the SAE is 6 active latents of 4, expected 4 or fewer"),
        (["--backbone", "/nosuch"], "no folder /nosuch"),
    ],
)
def test_train_sae_refuses_wrong_options(train_sae, corpus, options, said) -> None:
    assert said in train_sae(corpus, *options, "--json").error


def test_train_sae_refuses_a_corpus_that_is_missing_broken_or_too_small(train_sae, corpus, tmp_path) -> None:
    lines = corpus.read_text().splitlines()
    assert "cannot be read" in train_sae(tmp_path / "none.jsonl", "--json").error
    assert "has 200 rows; expected more than the 200" in train_sae(_rows_file(tmp_path / "few.jsonl", *lines[:200])).error
    assert "line 231" in train_sae(_rows_file(tmp_path / "broken.jsonl", *lines, "{"), "--json").error


# --------------------------------------------------------------------------------------------------- a process of its own


def _process(*arguments: object) -> Outcome:
    command = [sys.executable, "-c", "from sparserm.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_a_process_prints_one_json_object_and_nothing_of_the_libraries(parts, tmp_path) -> None:
    tiny = ("--backbone", parts.backbone, "--sae", parts.sae)
    result = _process("train", parts.test, "--out", tmp_path / "out", *tiny, *FAST, "--json")
    assert result.json["n_train"] == 12
    assert result.err == ""


def test_a_process_that_fails_after_loading_the_backbone_prints_one_line(parts, tmp_path) -> None:
    few = save_tiny_sae(tmp_path / "few", d_sae=16)
    options = ("--out", tmp_path / "out", "--backbone", parts.backbone, "--sae", few, "--k", "17")
    assert "k = 17 features from 12 pairs" in _process("train", parts.test, *options).error


# ------------------------------------------------------------------------------------------------- evaluation and audit


def test_evaluate_says_more_than_accuracy(run, parts) -> None:
    found = run("evaluate", parts.head, parts.test, "--json").json
    assert {"auroc", "calibration", "slices", "length_matched", "length_balanced", "mistakes", "benchmark"} <= set(found)
    assert -1 <= found["length_correlation"]["margin_spearman"] <= 1
    assert 0.5 < found["auroc"] < 1 and found["benchmark"] is None
    assert all(one["margin"] < 0 and 1 <= one["row"] <= found["n"] for one in found["mistakes"])
    assert sum(one["n"] for one in found["slices"] if one["by"] == "length") == found["n"]


def test_evaluate_scores_a_benchmark_by_its_own_rules(run, parts, tmp_path) -> None:
    rows = [
        {"prompt": f"Question {i}?", "chosen": ["please do"], "rejected": ["never", "no no", "go away"], "subset": subset}
        for i, subset in enumerate(["Focus", "Math", "Math"])
    ]
    path = _rows_file(tmp_path / "rb2.jsonl", *rows)
    found = run("evaluate", parts.head, path, "--json").json
    assert found["benchmark"]["name"] == "RewardBench 2"
    assert set(found["benchmark"]["sections"]) == {"Focus", "Math"}
    assert (found["n"], found["n_prompts"], found["n_skipped"]) == (9, 3, 0)
    shown = run("evaluate", parts.head, path)
    assert "RewardBench 2" in shown.out and "not in the file" in shown.err


def test_audit_needs_no_head_and_no_language_model(run, tmp_path) -> None:
    rows = [
        {"prompt": "Why?", "chosen": "apples", "rejected": "pears"},
        {"prompt": "Why?", "chosen": "pears", "rejected": "apples"},
    ]
    out = tmp_path / "new" / "flagged.csv"
    found = run("audit", _rows_file(tmp_path / "rows.jsonl", *rows), "--out", out, "--json").json
    assert (found["n"], found["counts"], found["agreement"], found["head"]) == (2, {"reversed": 2}, None, None)
    assert [flag["row"] for flag in found["flags"]] == [1, 2]
    first = list(csv.reader(out.read_text().splitlines()))[1]
    assert first[:9] == ["1", "", "", "reversed", "1.0", "prefers what row 2 rejects", "Why?", "apples", "pears"]


def test_audit_asks_a_head_and_compares_with_other_data(run, parts) -> None:
    found = run("audit", parts.train, "--head", parts.head, "--against", parts.test, "--json").json
    assert found["agreement"]["n_trained_on"] == found["n"]
    assert 0 <= found["surface"]["accuracy"] <= 1
    assert "surface features alone" in run("audit", parts.train).out


def test_audit_refuses_what_is_not_there(run, parts, tmp_path) -> None:
    assert "no head" in run("audit", parts.train, "--head", tmp_path / "none", "--json").error
    assert "no preference data" in run("audit", parts.train, "--against", tmp_path / "none.csv", "--json").error


# ------------------------------------------------------------------------------------------------------------ sweeps


@pytest.fixture
def sweep(run, parts, sparserm_home):
    """Run `sparserm sweep` with the tiny backbone, and SAEs of two of its layers that are kept under its name."""
    for layer in (1, 2):
        save_tiny_sae(sparserm_home / "saes" / parts.backbone.name / f"layer_{layer}", layer=layer)
    return lambda pairs, *options: run("sweep", pairs, "--backbone", parts.backbone.name, *options)


def test_a_sweep_has_a_cell_for_every_layer_method_and_size_and_names_two(sweep, parts, tmp_path, monkeypatch) -> None:
    found = sweep(parts.train, "--k", "2,4", "--methods", "frequency,random,dense", "--out", tmp_path / "c.csv", "--json").json
    assert [(cell["layer"], cell["method"], cell["k"]) for cell in found["cells"]] == [
        (layer, method, k)
        for layer in (1, 2)
        for method, k in (("frequency", 2), ("frequency", 4), ("random", 2), ("random", 4), ("dense", 0))
    ]
    assert (found["n"], found["n_prompts"], found["pooling"]) == (40, 10, "mean")
    assert found["best"]["method"] == found["simplest"]["method"] == "frequency"
    assert found["best"]["accuracy"] == max(c["accuracy"] for c in found["cells"] if c["method"] == "frequency")
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 11
    runs: list[int] = []
    monkeypatch.setattr(Backbone, "run", lambda *given: runs.append(1))
    shown = sweep(parts.train, "--layers", "2", "--k", "3", "--methods", "effect_size", "--pooling", "last").out
    assert runs == []  # all that is needed is stored
    assert "Best: effect_size, layer 2, K = 3:" in shown and "measure the head on others" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--k", "many"], "--k is 'many'; expected numbers and commas, e.g. 8,16,32"),
        (["--k", "8,33"], "k is 33, expected a whole number from 1 to 32"),
        (["--layers", "x"], "--layers is 'x'; expected numbers and commas"),
        (["--layers", "7"], "no SAE 'tiny-llama/layer_7'"),
        (["--methods", "best"], "method 'best' is unknown; expected some of stable, frequency"),
        (["--pooling", "max"], "pooling is 'max', expected one of last, mean"),
    ],
)
def test_a_sweep_refuses_in_one_line(sweep, parts, options, said) -> None:
    assert said in sweep(parts.test, *options, "--json").error


def test_a_single_pair_cannot_be_swept(sweep, tmp_path) -> None:
    file = _rows_file(tmp_path / "one.jsonl", *preference_rows(1))
    assert "too small to cross-validate heads of this size" in sweep(file, "--json").error


def test_a_backbone_of_ones_own_is_swept_with_its_own_saes(run, parts, tmp_path) -> None:
    given = ("sweep", parts.train, "--backbone", parts.backbone, "--k", "2", "--methods", "effect_size,dense", "--json")
    saes = [save_tiny_sae(tmp_path / f"layer_{layer}", layer=layer) for layer in (1, 2)]
    found = run(*given, *(part for sae in saes for part in ("--sae", sae))).json
    assert {(cell["layer"], cell["method"]) for cell in found["cells"]} == {
        (layer, method) for layer in (1, 2) for method in ("effect_size", "dense")
    }
    assert "give SAEs of different layers with --sae" in run(*given).error
