"""`sparserm label` and the job of the Features page: every feature gets a label or a reason, and both are kept."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from sparserm.features.llm_labels import KEY, MODEL, URL
from sparserm.heads.labels import auto_labels
from sparserm.heads.saved import load_head
from sparserm.jobs.kinds import labels_job
from sparserm.model import SparseRM
from sparserm.pairs.sources import DataSource
from tests.unit.features.fake_endpoint import knows_sorry


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch) -> None:
    for name in (URL, MODEL, KEY):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Enough pairs for a label: letters against digits, as long in bytes, which the tiny tokenizer reads one by one."""
    letters, digits = (map("".join, itertools.product(symbols, repeat=4)) for symbols in ("vwxyz", "56789"))
    rows = [{"prompt": f"Question {i}?", "chosen": f"zz {next(letters)}", "rejected": f"77 {next(digits)}"} for i in range(200)]
    path = tmp_path_factory.mktemp("many") / "many.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def head(many, parts, tiny_backbone) -> Path:
    """One that was trained on them, so that its features tell them apart."""
    model = SparseRM.fit(many, backbone=tiny_backbone, sae=parts.sae, k=4, l2=0.1, selection="frequency", name="letters")
    model.save_pretrained(many.parent / "head")
    return many.parent / "head"


def test_thin_evidence_is_said_feature_by_feature_and_kept(run, parts) -> None:
    found = run("label", parts.head, parts.train, "--json").json
    saved = load_head(parts.head)
    assert [one["feature"] for one in found["features"]] == saved.head.features.tolist()
    assert (found["head"], found["source"], found["n_features"], found["n_labelled"]) == ("kindness", "rule", 4, 0)
    assert all(one["text"] is None and "of 80 responses" in one["reason"] for one in found["features"])
    kept = auto_labels(saved.card.sae_fingerprint)
    assert {feature: one.reason for feature, one in kept.items()} == {
        one["feature"]: one["reason"] for one in found["features"]
    }
    assert "no reliable label (fires in" in " ".join(run("label", parts.head, parts.train).out.split())


def test_labels_are_seen_by_every_command(run, head, many) -> None:
    found = run("label", head, many, "--json").json
    named = {one["feature"]: one for one in found["features"] if one["text"]}
    assert found["n_labelled"] == len(named) > 0
    for one in named.values():
        assert one["detection"]["ci95"][0] > 0.6 and one["terms"] and one["data_hash"]
    labels = {row["feature"]: row["label"] for row in run("features", head, "--json").json["features"]}
    for feature, one in named.items():
        assert labels[feature] == f"{one['text']} (auto {one['detection']['accuracy']:.2f})"


def test_an_endpoint_is_asked_where_it_is_given(run, head, many, serve, monkeypatch) -> None:
    server = serve(knows_sorry)
    found = run("label", head, many, "--endpoint", server.url, "--model", "tiny-llm", "--json").json
    assert found["source"] == "tiny-llm" and server.requests
    asked = len(server.requests)
    monkeypatch.setenv(URL, server.url)
    monkeypatch.setenv(MODEL, "other-llm")
    assert run("label", head, many, "--json").json["source"] == "other-llm"
    assert len(server.requests) == 2 * asked


def test_half_an_endpoint_and_one_that_fails_are_refused(run, head, many, serve) -> None:
    assert "without a model" in run("label", head, many, "--endpoint", "http://localhost:1/v1").error
    broken = serve(lambda _: (500, "out of memory"))
    assert "500" in run("label", head, many, "--endpoint", broken.url, "--model", "m").error


def test_the_job_does_the_same(run, head, many, tmp_path) -> None:
    class Report:
        def stage(self, *_: object) -> None: ...
        def __call__(self, *_: object) -> None: ...

    expected = run("label", head, many, "--json").json["n_labelled"]
    labels_job({"source": DataSource(str(many)).to_dict(), "head": str(head), "endpoint": False}, tmp_path, Report())
    assert json.loads((tmp_path / "result.json").read_text()) == {"features": 4, "labelled": expected}
