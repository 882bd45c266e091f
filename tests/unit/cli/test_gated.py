"""Commands with gated heads: what is silent is counted and not listed, what is not sure is said, wrong options help."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparserm.heads.labels import AutoLabel, Detection, save_auto_label
from sparserm.heads.saved import load_head, save_head
from sparserm.sae.autoencoder import FINGERPRINT
from sparserm.sae.seeds import SeedStability, save_seeds
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae

PROMPT = "How do I boil an egg?"


@pytest.fixture(scope="module")
def sae(tmp_path_factory) -> Path:
    return save_tiny_sae(tmp_path_factory.mktemp("gated") / "tiny-sae", threshold=15)


@pytest.fixture
def train(run, parts, sae, tmp_path):
    """Run `sparserm train` with an SAE whose latents have thresholds of their own."""

    def command(*options: object, pairs: object = parts.train):
        return run("train", pairs, "--out", tmp_path / "out", "--backbone", parts.backbone, "--sae", sae, *options)

    return command


@pytest.fixture
def head(train, tmp_path) -> Path:
    assert train("--k", "12").code == 0
    assert load_head(tmp_path / "out").head.score == "gated"
    return tmp_path / "out"


def test_a_sae_with_thresholds_gives_a_gated_head_unless_projections_are_asked_for(train) -> None:
    found = train("--json").json
    assert (found["score"], found["selection"]) == ("gated", "stable")
    assert found["verdict"][0].startswith("It ranks ") and isinstance(found["warnings"], list)
    assert 0 <= found["n_sure"] <= found["k"] <= 64
    shutil.rmtree(found["out"])
    found = train("--score", "projection", "--k", "4", "--json").json
    assert (found["score"], found["selection"], found["k"], found["n_sure"]) == ("projection", "sparse", 4, None)


def test_training_says_how_many_features_surely_differ(train, tmp_path) -> None:
    rows = [{"prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in preference_rows(6, 6)]
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(map(json.dumps, rows)))
    result = train(pairs=few)
    k = len(load_head(tmp_path / "out").head.features)
    assert f"The head has {k} features in " in result.out
    assert "; none of them surely differs between chosen and rejected responses" in result.out
    assert "pairs of other prompts as labelled (95% interval" in result.out and "surface features" in result.out
    assert "warning: None of these features surely differs between chosen and rejected responses." in result.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--score", "both"], "score is 'both', expected one of gated, projection"),
        (["--score", "gated", "--selection", "sparse"], "'sparse' with score gated, expected one of stable, frequency, random"),
        (["--score", "projection", "--selection", "stable"], "'stable' with score projection, expected one of sparse,"),
        (["--score", "projection", "--k", "33"], "k is 33, expected a whole number from 1 to 32"),
        (["--k", "65"], "k is 65, expected a whole number from 1 to 64"),
    ],
)
def test_impossible_combinations_are_refused_in_one_line(train, tmp_path, options, said) -> None:
    assert said in train(*options, "--json").error
    assert not (tmp_path / "out").exists()


def test_a_topk_sae_has_no_gated_heads_and_no_more_than_32_features(run, parts, tmp_path) -> None:
    command = ("train", parts.train, "--out", tmp_path / "out", "--backbone", parts.backbone, "--sae", parts.sae)
    assert "is a TopK SAE" in run(*command, "--score", "gated", "--json").error
    assert "k is 33, expected a whole number from 1 to 32 with the score projection" in run(*command, "--k", "33").error


def test_json_lists_all_features_and_the_table_those_that_fire(run, head) -> None:
    saved = load_head(head)
    feature = int(saved.head.features[0])
    detection = Detection(0.9, (0.8, 1.0), 0.95, 20, 10)
    label = AutoLabel("eggs [boiled]", "", "rule", "data", "hash", 5, 20, detection=detection)
    save_auto_label(saved.card.sae_fingerprint, feature, label)
    command = ("score", "--head", head, "--prompt", PROMPT, "--response", "please boil it")
    found = run(*command, "--json").json
    parts = {part["feature"]: part for part in found["contributions"]}
    assert list(parts) != sorted(parts) and set(parts) == set(saved.head.features.tolist())
    assert found["score"] == "gated"
    assert (parts[feature]["label"], parts[feature]["detection"]) == ("eggs [boiled] (auto 0.90)", 0.9)
    assert [part["detection"] for one, part in parts.items() if one != feature] == [None] * (len(parts) - 1)
    assert {part["fires"] for part in parts.values()} == {True, False}
    for part in parts.values():
        assert part["fires"] == (part["activation"] > 0) == (part["contribution"] != 0)
    shown = run(*command).out
    firing = [one for one, part in parts.items() if part["fires"]]
    assert f"{len(firing)} of {len(parts)} features fire; {len(parts) - len(firing)} are silent" in shown
    cells = [line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│")]
    assert [int(cell) for cell in cells if cell] == firing  # empty: a label goes on
    compared = run("compare", "--head", head, "--prompt", PROMPT, "--response", "please", "--response", "never", "--json").json
    assert len(compared["contributions"]) == len(parts)
    assert sum(one["contribution"] for one in compared["contributions"]) == pytest.approx(compared["margin"])


def test_features_and_saes_tell_how_many_other_seeds_have_them(run, head, sae, sparserm_home) -> None:
    saved, own = load_head(head), sparserm_home / "saes" / "own" / "layer_2"
    shutil.copytree(sae, own)
    config = json.loads((own / "cfg.json").read_text())
    config["metadata"][FINGERPRINT] = saved.card.sae_fingerprint
    (own / "cfg.json").write_text(json.dumps(config))
    save_head(replace(saved, card=replace(saved.card, sae="own/layer_2")), sparserm_home / "heads" / "with-seeds")
    known = {"seeds", "seeds_direction", "seeds_firing"}
    before = next(one for one in run("saes", "--json").json["saes"] if one["name"] == "own/layer_2")
    rows = run("features", "with-seeds", "--json").json["features"]
    assert not known & set(before) and {row["seeds_direction"] for row in rows} == {None}
    assert "own/layer_2: found again" not in run("saes").out

    shares = np.arange(64) / 63
    save_seeds(SeedStability(2, shares, 1 - shares), own)
    found = next(one for one in run("saes", "--json").json["saes"] if one["name"] == "own/layer_2")
    assert {name: found[name] for name in known} == {"seeds": 2, "seeds_direction": 0.5, "seeds_firing": 0.5}
    for row in run("features", "with-seeds", "--json").json["features"]:
        assert row["seeds_direction"] == pytest.approx(row["feature"] / 63, abs=1e-4)
        assert row["seeds_firing"] == pytest.approx(1 - row["feature"] / 63, abs=1e-4)
    said = "own/layer_2: found again with other seeds: 50% of latents (direction), 50% (firing), 2 other seeds."
    assert said in run("saes").out.splitlines()


def test_lists_tell_the_kind_of_score_and_how_often_features_were_selected(run, head, sparserm_home) -> None:
    shutil.copytree(head, sparserm_home / "heads" / "gated-one")
    found = run("features", "gated-one", "--json").json
    assert found["score"] == "gated"
    assert all(0 <= row["selected"] <= 1 for row in found["features"])
    shown = run("features", "gated-one").out
    assert "selected" in shown and "gated scores" in " ".join(shown.split())
    kinds = {one["name"]: one["score"] for one in run("heads", "--json").json["heads"]}
    assert kinds["gated-one"] == "gated"
    assert "score" in run("heads").out


def test_a_sweep_tries_what_the_scores_have(run, parts, sae) -> None:
    command = ("sweep", parts.train, "--backbone", parts.backbone, "--sae", sae, "--json")
    found = run(*command, "--k", "4,8", "--methods", "stable,sparse,dense").json
    assert [(cell["method"], cell["k"]) for cell in found["cells"]] == [("stable", 4), ("stable", 8), ("dense", 0)]
    found = run(*command, "--score", "projection", "--k", "4", "--methods", "stable,sparse,dense").json
    assert [(cell["method"], cell["k"]) for cell in found["cells"]] == [("sparse", 4), ("dense", 0)]
    error = run(*command, "--methods", "sparse").error
    assert "sparse: not a method for gated scores; expected some of stable, frequency, random, dense" in error


@pytest.mark.parametrize("form", ["classifier", "head", "steering"])
def test_a_gated_head_is_exported(run, head, tmp_path, form) -> None:
    found = run("export", head, "--out", tmp_path / form, "--format", form, "--json").json
    assert found["format"] == form
    if form == "steering":
        assert json.loads((tmp_path / form / "steering.json").read_text())["score"] == "gated"
    else:
        assert "| scores | gated:" in (tmp_path / form / "README.md").read_text()
