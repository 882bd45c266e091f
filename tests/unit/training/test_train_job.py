"""The training job on a tiny backbone: layers from one pass, the same after an interruption, and fit again at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparserm.backbone.model import Backbone
from sparserm.heads.fitting import FitSettings
from sparserm.heads.inputs import load_saes
from sparserm.heads.model_card import card_rows
from sparserm.heads.saved import load_head
from sparserm.heads.selection import SELECTORS
from sparserm.jobs import queue, worker
from sparserm.pairs.sources import DataSource
from sparserm.pairs.split import prompt_key
from sparserm.training.evidence import measure
from sparserm.training.train import TrainResult, TrainSpec, fit_again, read_prepared, read_result, split_again, split_pairs
from sparserm.types import SparseRMError
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae

SETTINGS = FitSettings(k=4, selection="effect_size", l2=0.1)


@pytest.fixture(autouse=True)
def _little_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the evidence is worth is tested on its own; here less of it does."""
    for name, value in {"SHUFFLES": 1, "RESAMPLES": 1, "CURVE_SEEDS": 1}.items():
        monkeypatch.setattr(f"sparserm.training.evidence.{name}", value)
    monkeypatch.setattr("sparserm.training.sweep.SIZES", {"projection": (4, 8), "gated": (4, 8)})


@pytest.fixture(scope="module")
def saes(tmp_path_factory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("saes")
    return tuple(str(save_tiny_sae(folder / f"layer_{layer}", layer=layer)) for layer in (1, 2))


@pytest.fixture
def spec(tmp_path: Path, tiny_folder: Path, saes: tuple[str, ...]) -> TrainSpec:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in preference_rows()))
    return TrainSpec(DataSource(str(path)), saes, SETTINGS, backbone=str(tiny_folder), name="kind")


@pytest.fixture
def run_job(monkeypatch: pytest.MonkeyPatch):
    """Do a job here, without a process of its own."""
    monkeypatch.setattr(queue, "_spawn", lambda folder: None)
    monkeypatch.setattr("os.nice", lambda n: 0)

    def do(spec: TrainSpec) -> queue.JobStatus:
        identity = queue.start("train", spec.to_dict(), "Training")
        worker.work(queue.status(identity).folder)
        return queue.status(identity)

    return do


def _result(job: queue.JobStatus) -> TrainResult:
    assert job.state == "done", job.error
    return read_result(queue.spec(job.id), job.folder)


def test_a_job_leaves_a_head_and_its_evidence(run_job, spec: TrainSpec) -> None:
    job = run_job(spec)
    result = _result(job)
    assert (job.stage, job.stages) == (4, 4)
    assert result.spec == spec
    assert (result.n_train, result.n_test) == (32, 8)
    card = load_head(job.folder / "head").card
    assert (card.name, card.sae, card.training["n_pairs"]) == ("kind", result.sae, 32)
    head = result.evidence.baselines[0]
    assert (card.metrics["accuracy"], card.metrics["ci95"]) == (head.accuracy, list(head.ci95))
    assert card.metrics["measured_on"] == "pairs.jsonl (test)"
    assert {cell.layer for cell in result.evidence.cells} == {1, 2}
    assert {(cell.method, cell.k) for cell in result.evidence.cells} == {
        *((method, k) for method in SELECTORS for k in (4, 8)),
        ("dense", 0),
    }


def test_the_head_is_of_the_layer_that_ranks_best_in_cross_validation(run_job, spec: TrainSpec) -> None:
    result = _result(run_job(spec))
    at_k = {cell.sae: cell.accuracy for cell in result.evidence.cells if (cell.method, cell.k) == ("effect_size", 4)}
    assert at_k[result.sae] == max(at_k.values())


def test_all_layers_come_from_one_pass_and_a_second_job_needs_none(run_job, spec: TrainSpec, monkeypatch) -> None:
    calls = []
    run = Backbone.run
    monkeypatch.setattr(Backbone, "run", lambda *given: (calls.append(1), run(*given))[1])
    run_job(replace(spec, saes=spec.saes[1:]))
    one_layer = len(calls)
    (Path(queue.list_jobs()[0].folder).parents[1] / "representations.sqlite").unlink()
    first = _result(run_job(spec))
    assert len(calls) == 2 * one_layer
    again = _result(run_job(replace(spec, settings=replace(SETTINGS, pooling="last"))))
    assert len(calls) == 2 * one_layer
    assert again.saved.head.pooling == "last" != first.saved.head.pooling


def test_an_interrupted_job_goes_on_and_ends_with_the_same_head(run_job, spec: TrainSpec, monkeypatch) -> None:
    Path(spec.source.name).write_text("\n".join(json.dumps(row) for row in preference_rows(200)))
    whole = _result(run_job(spec))
    (Path(queue.list_jobs()[0].folder).parents[1] / "representations.sqlite").unlink()
    told: list[queue.JobStatus] = []

    def cancel(self: queue.Report, done: int, total: int, what: str) -> None:
        told.append(replace(self._status, done=done, total=total, what=what))
        if 20 < done < total and "pairs" in what:
            raise queue.JobCancelled

    with monkeypatch.context() as patch:
        patch.setattr(queue.Report, "__call__", cancel)
        patch.setattr("sparserm.representations.represent.FLUSH_EVERY", 8)
        stopped = run_job(spec)
    assert stopped.state == "cancelled"
    assert told[-1].text == f"2 of 4: representations, {told[-1].done} of 200 pairs"
    queue.resume(stopped.id)
    seen: list[int] = []
    call = queue.Report.__call__
    monkeypatch.setattr(
        queue.Report, "__call__", lambda self, done, total, what: (seen.append(done), call(self, done, total, what))[1]
    )
    worker.work(stopped.folder)
    assert seen[0] > told[0].done  # it begins where it was
    resumed = _result(queue.status(stopped.id))
    # Other texts share a batch the second time, and floating point shows it in the eighth digit.
    assert np.array_equal(resumed.saved.head.features, whole.saved.head.features)
    assert np.allclose(resumed.saved.head.weights, whole.saved.head.weights, atol=1e-5)
    assert resumed.evidence.baselines[0] == whole.evidence.baselines[0]


def test_fitting_again_gives_the_head_that_a_job_would(run_job, spec: TrainSpec, tiny_backbone: Backbone) -> None:
    result = _result(run_job(spec))
    sae = load_saes(spec.saes)[result.sae]
    prepared = read_prepared(split_pairs(spec.source.load(), spec), tiny_backbone, sae, SETTINGS)
    fitted, measured = fit_again(prepared, SETTINGS)
    assert np.array_equal(fitted.head.weights, result.saved.head.weights)
    assert measured == result.evidence.baselines[0]
    smaller, its = fit_again(prepared, replace(SETTINGS, k=2))
    assert len(smaller.head.features) == 2
    assert its == measure("head", [smaller.head], prepared.test)


def test_pairs_that_have_changed_since_are_not_taken_for_those_of_the_job(run_job, spec: TrainSpec) -> None:
    result = _result(run_job(spec))
    assert split_again(result) == split_pairs(spec.source.load(), spec)
    Path(spec.source.name).write_text("\n".join(json.dumps(row) for row in preference_rows(seed=5)))
    with pytest.raises(SparseRMError, match="has changed since this head was trained"):
        split_again(result)


def test_what_is_not_stored_is_not_read_on_a_page(spec: TrainSpec, tiny_backbone: Backbone, saes: tuple[str, ...]) -> None:
    split = split_pairs(spec.source.load(), spec)
    with pytest.raises(SparseRMError, match=r"80 responses at blocks.1.hook_resid_post are not in the store"):
        read_prepared(split, tiny_backbone, load_saes(saes)[saes[0]], SETTINGS)


def test_the_split_shares_no_prompt_and_a_sample_is_a_part_of_it(spec: TrainSpec) -> None:
    data = spec.source.load()
    whole, sample = split_pairs(data, spec), split_pairs(data, replace(spec, max_pairs=20))
    for split in (whole, sample):
        train, test = ({prompt_key(pair.prompt) for pair in part.pairs} for part in split)
        assert train and test and not train & test
    assert len(sample.train.pairs) + len(sample.test.pairs) == 20
    assert sample.train.name == "pairs.jsonl, sample of 20 (train)"
    assert split_pairs(data, replace(spec, max_pairs=10**6)) == whole


def test_one_row_cannot_be_split_and_says_so(run_job, spec: TrainSpec) -> None:
    path = Path(spec.source.name)
    path.write_text(path.read_text().splitlines()[0])
    assert "a split needs at least 2" in run_job(spec).error


@pytest.mark.parametrize(("change", "message"), [({"saes": ()}, "no SAE was chosen"), ({"test_share": 1.0}, "between 0 and 1")])
def test_a_wrong_specification_fails_in_a_sentence(run_job, spec: TrainSpec, change: dict[str, Any], message: str) -> None:
    assert message in run_job(replace(spec, **change)).error


def test_two_saes_of_one_layer_are_refused(saes: tuple[str, ...], tmp_path: Path) -> None:
    twin = str(save_tiny_sae(tmp_path / "twin", layer=1))
    with pytest.raises(SparseRMError, match=r"both read blocks\.1"):
        load_saes((*saes, twin))


def test_a_job_that_avoids_length_says_so_in_the_card(run_job, spec: TrainSpec) -> None:
    result = _result(run_job(replace(spec, settings=replace(SETTINGS, avoid_length=True))))
    assert result.saved.card.training["settings"]["avoid_length"] is True
    assert result.spec.settings.avoid_length
    said = "fitted on the training pairs so that margins do not follow response length"
    assert dict(card_rows(result.saved))["length"] == said


def test_damaged_results_are_told(run_job, spec: TrainSpec) -> None:
    job = run_job(spec)
    (job.folder / "evidence.json").write_text("{")
    with pytest.raises(SparseRMError, match="delete this job and train again"):
        _result(job)
