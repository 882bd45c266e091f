"""The Train page, driven without a browser: bad input loses nothing, results show their evidence, heads are managed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from sparserm.heads.fitting import SELECTIONS, FitSettings
from sparserm.heads.library import keep_head, own_heads, pack_head
from sparserm.heads.saved import SavedHead, load_head, save_head
from sparserm.jobs import queue
from sparserm.pairs.sources import DataSource, list_sources
from sparserm.support.defaults import TASKS
from sparserm.training.evidence import CurvePoint, FeatureStability, HeadEvidence, Measured, Stability
from sparserm.training.sweep import SweepCell
from sparserm.training.train import TrainSpec
from sparserm.ui.train import setup
from tests.unit.features.latents import D_SAE, tiny_sae
from tests.unit.tiny import save_tiny, save_tiny_sae
from tests.unit.ui.gated import gated_head

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPARSERM_DATA", raising=False)
    return tmp_path / "home"


def _page(**query: str) -> AppTest:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300).run()
    page.switch_page("pages/train.py")
    page.query_params.update(query)
    page.run()
    assert not page.exception
    return page


def _uploaded(data: bytes, name: str = "mine.jsonl") -> AppTest:
    page = _page()
    page.file_uploader(key="pairs file").set_value((name, data, "text/plain")).run()
    assert not page.exception
    return page


def _lines(*rows: dict[str, str]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def _row(n: int, **other: str) -> dict[str, str]:
    return {"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}.", **other}


def _texts(page: AppTest) -> str:
    return "\n".join(one.value for kind in (page.caption, page.info, page.error, page.warning) for one in kind)


def _linked(page: AppTest, name: str) -> str:
    """A parameter of the link, which is a list where a widget has set it."""
    value = page.query_params[name]
    return value[0] if isinstance(value, list) else value


def _button(page: AppTest, label: str):
    return next(button for button in page.button if button.label == label)


# ------------------------------------------------------------------------------------------------------------ pairs


def test_the_page_opens_with_starter_pairs_ready_to_train_on() -> None:
    page = _page()
    assert "Trains on" in _texts(page)
    assert not _button(page, "Start training").disabled


def test_an_upload_is_read_and_kept_for_later() -> None:
    page = _uploaded(_lines(*(_row(n) for n in range(10))))
    assert page.selectbox(key="pairs").value == "mine.jsonl (uploaded)"
    assert "10 rows, 10 usable" in _texts(page)
    assert "8 pairs of 8 prompts" in _texts(page)
    assert "mine.jsonl (uploaded)" in _page().selectbox(key="pairs").options


def test_columns_of_other_names_are_recognised_and_can_be_named() -> None:
    rows = [
        {"question": f"Q{n}?", "answer_good": f"Yes {n}.", "answer_bad": f"No {n}.", "other": f"Perhaps {n}."} for n in range(9)
    ]
    page = _uploaded(_lines(*rows))
    assert "Matched by column name" in _texts(page)
    assert "9 rows, 9 usable" in _texts(page)
    boxes = {box.label: box for box in page.selectbox}
    assert boxes["Chosen"].value == "answer_good"
    boxes["Rejected"].set_value("other").run()
    assert not page.exception and "9 usable" in _texts(page)
    assert dict(list_sources()["mine.jsonl (uploaded)"].columns)["rejected"] == "other"


def test_bad_rows_are_left_out_named_and_can_be_taken_away() -> None:
    page = _uploaded(_lines(*(_row(n) for n in range(6)), _row(7, chosen=""), _row(8, rejected="Yes 8.")))
    assert "8 rows, 6 usable, 2 left out" in _texts(page)
    assert any("Validation report: 2 findings" in one.label for one in page.expander)
    assert not _button(page, "Start training").disabled


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)), "picture.csv", "is a PNG image"),
        (b"", "empty.jsonl", "has no rows"),
        (_lines({"a": "x", "b": "y"}), "other.jsonl", "no column"),
        (_lines(_row(1, chosen=""), _row(2, rejected="")), "bad.jsonl", "2 of 2 rows cannot be used"),
        (_lines(_row(1)), "one.jsonl", "a split needs at least 2"),
    ],
)
def test_what_cannot_be_trained_on_is_told_in_a_sentence_and_stays_picked(data: bytes, name: str, message: str) -> None:
    page = _uploaded(data, name)
    assert message in _texts(page)
    assert page.selectbox(key="pairs").value == f"{name} (uploaded)"
    assert not any(button.label == "Start training" and not button.disabled for button in page.button)


def test_a_file_too_large_for_a_page_is_told_where_to_go_and_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparserm.ui.shared.pairs_picker.MAX_UPLOAD_MB", 0)
    page = _uploaded(_lines(_row(1)), "huge.jsonl")
    assert "huge.jsonl has 0 MB" in _texts(page) and "SPARSERM" in _texts(page)
    assert page.selectbox(key="pairs").value == "truthfulness (starter pairs)"
    assert not _button(page, "Start training").disabled
    assert list_sources().keys() == {f"{task} (starter pairs)" for task in TASKS}


def test_many_pairs_are_sampled_unless_all_are_asked_for() -> None:
    page = _uploaded(_lines(*(_row(n) for n in range(5200))))
    (most,) = page.number_input
    assert most.value == 5000
    assert "Trains on 4,000 pairs" in _texts(page)
    most.set_value(5200).run()
    assert "Trains on 4,160 pairs" in _texts(page)


# --------------------------------------------------------------------------------------------------------- settings


def test_a_taken_name_cannot_be_started_with() -> None:
    page = _page()
    next(box for box in page.text_input if box.label == "Name of the head").set_value("safety").run()
    assert "already a shipped head" in _texts(page)
    assert _button(page, "Start training").disabled


def test_an_sae_folder_without_its_configuration_is_refused_before_a_job_is_made(tmp_path: Path) -> None:
    (tmp_path / "sae").mkdir()
    page = _page()
    page.text_input(key="train sae").set_value(str(tmp_path / "sae")).run()
    page.slider(key="train gated k").set_value(7).run()
    _button(page, "Start training").click().run()
    assert not page.exception and "cfg.json" in _texts(page)
    assert queue.list_jobs() == []
    assert page.slider(key="train gated k").value == 7


def test_another_language_model_is_chosen_by_its_folder_with_its_sae_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "_spawn", lambda folder: None)
    monkeypatch.setattr(queue, "_is_alive", lambda found: True)
    model, sae = save_tiny(tmp_path / "model"), save_tiny_sae(tmp_path / "layer_2", threshold=15)
    page = _page()
    assert any("layer 15" in one.options for one in page.get("button_group"))
    page.text_input(key="train backbone").set_value(str(model)).run()
    assert page.text_input(key="train sae").label == "SAE of this language model"
    assert not any("layer 15" in one.options for one in page.get("button_group"))
    page.text_input(key="train sae").set_value(str(tmp_path / "none")).run()
    _button(page, "Start training").click().run()
    assert "o SAE" in _texts(page) and queue.list_jobs() == []
    page.text_input(key="train sae").set_value(str(sae)).run()
    _button(page, "Start training").click().run()
    assert not page.exception
    (job,) = queue.list_jobs()
    spec = TrainSpec.from_dict(queue.spec(job.id))
    assert (spec.backbone, spec.saes, spec.download) == (str(model), (str(sae),), True)


def test_starting_makes_a_job_that_other_sessions_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_spawn", lambda folder: None)
    monkeypatch.setattr(queue, "_is_alive", lambda found: True)
    page = _page()
    page.slider(key="train gated k").set_value(5).run()
    page.checkbox(key="train length").check().run()
    _button(page, "Start training").click().run()
    assert not page.exception
    (job,) = queue.list_jobs()
    settings = TrainSpec.from_dict(queue.spec(job.id)).settings
    assert (settings.k, settings.avoid_length) == (5, True)
    assert "avoids length" in job.title
    assert (_linked(page, "job"), _linked(page, "view")) == (job.id, "Results")
    other = _page(view="Results", job=job.id)
    _button(other, "Cancel").click().run()
    assert (job.folder / "cancel").exists()
    assert _button(other, "Cancelling…").disabled  # said at once, though the job stops at its next report


def test_two_sessions_train_at_once_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_spawn", lambda folder: None)
    first, second = _page(), _page()
    for page in (first, second):
        _button(page, "Start training").click().run()
        assert not page.exception
    assert len(queue.list_jobs()) == 2


# ---------------------------------------------------------------------------------------------------------- results


def _done_job(saved: SavedHead | None = None) -> queue.JobStatus:
    """A job as it lies on disk when it has ended, with made-up evidence."""
    saved = saved or load_head("safety")
    settings, own = saved.card.training["settings"], saved.card.hook_point.layer
    spec = TrainSpec(
        DataSource(str(ROOT / "assets" / "pairs" / "safety.jsonl")),
        ("smollm2/layer_10", saved.card.sae),
        FitSettings(k=settings["k"], pooling=settings["pooling"]),
        name="made-up",
    )
    evidence = HeadEvidence(
        tuple(Measured(name, 0.7, (0.6, 0.8), 1, 0.7, 0.7) for name in ("head", "longer", "dense", "random", "shuffled")),
        (CurvePoint(5, 10, 0.6, (0.5, 0.7), 3), CurvePoint(50, 100, 0.7, (0.6, 0.8), 1)),
        tuple(
            SweepCell(f"smollm2/layer_{layer}", layer, k, accuracy, (0.5, 0.7), method)
            for layer in (10, own)
            for method, accuracy in ((SELECTIONS[saved.head.score][0], 0.6), ("frequency", 0.55))
            for k in (4, settings["k"])
        ),
        Stability((FeatureStability(1, 0.5, 0.5, 1.0, 0.9),), 0.5, 0.01, 20),
    )
    identity = "20260101-000000-abcdef"
    folder = queue.jobs_dir() / identity
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps(spec.to_dict()))
    result = {"sae": saved.card.sae, "n_train": 100, "n_test": 40, **evidence.to_dict()}
    (folder / "evidence.json").write_text(json.dumps(result))
    save_head(saved, folder / "head")
    status = queue.JobStatus(identity, "train", "made-up", folder, 0.0, "done")
    queue.write_status(status)
    return status


def test_without_a_job_the_results_say_how_to_begin() -> None:
    assert "No head has been trained here yet" in _texts(_page(view="Results"))


def test_results_show_the_head_with_its_evidence_and_the_link_names_the_job() -> None:
    job = _done_job()
    page = _page(view="Results")
    assert _linked(page, "job") == job.id
    metrics = {metric.label: metric for metric in page.metric}
    assert metrics["Test accuracy"].value == "70.0%" and metrics["Test accuracy"].delta == "60.0% to 80.0%"
    assert metrics["CV accuracy"].value == "60.0%"
    assert {"Comparison with baselines", "Learning curve", "Layers, sizes and methods", "Stability of feature selection"} <= {
        heading.value for heading in page.subheader
    }


def _gated_head() -> SavedHead:
    """A head of three gated features, one of which surely differs."""
    saved, shares = load_head("safety"), np.array([0.5, 0.1, 0.2])
    settings = {**saved.card.training["settings"], "k": 64, "score": "gated", "selection": "stable", "l2": 0.05}
    training = {**saved.card.training, "n_sure": 1, "settings": settings}
    card = replace(saved.card, sae_fingerprint=tiny_sae().fingerprint, d_sae=D_SAE, hook="blocks.2.hook_resid_post")
    own = {"head": gated_head(), "f_chosen": shares, "f_rejected": shares, "selected": np.array([1.0, 0.9, 0.4])}
    return replace(saved, card=replace(card, training=training, labels={}), **own)


def test_results_of_a_gated_head_say_what_it_learned_and_how_surely() -> None:
    _done_job(_gated_head())
    page = _page(view="Results")
    assert "What it learned" in {heading.value for heading in page.subheader}
    assert page.warning[0].value.startswith("Only 1 of 3 features surely differs")
    assert any("The head has 3 features; 1 of them surely differs" in one.value for one in page.markdown)
    table = next(one.value for one in page.dataframe if "selected" in one.value)
    assert table["feature"].tolist() == [2, 0, 4] and table["selected"].tolist() == [90.0, 100.0, 40.0]
    assert (page.selectbox(key="score").value, page.slider(key="k").value, page.slider(key="k").max) == ("gated", 64, 64)
    assert page.selectbox(key="method").value == "stable"
    assert "See what these pairs reward" in {link.proto.label for link in page.get("page_link")}
    # How often a feature is selected has one figure: the resamples tell of the whole head only.
    assert "mean Jaccard overlap 0.50" in _texts(page)
    assert "stability.csv" not in {button.key for button in page.get("download_button")}
    page.selectbox(key="score").set_value("projection").run()
    assert page.slider(key="k").max == 32 and page.selectbox(key="method").value == "sparse"


def test_pairs_that_length_alone_solves_are_warned_of_where_training_ends() -> None:
    saved = load_head("safety")
    metrics = {"accuracy": 1.0, "ci95": [0.9, 1.0], "n": 40, "length_baseline": 1.0, "random_directions": 0.8}
    _done_job(replace(saved, card=replace(saved.card, metrics=metrics)))
    page = _page(view="Results")
    said = next(one.value for one in page.warning if "longer response" in one.value)
    assert "length and nothing else" in said
    assert any("ranks 100.0% of 40 pairs of other prompts" in one.value for one in page.markdown)


def test_training_leads_on_to_its_pairs_and_to_the_new_head() -> None:
    _done_job()
    page = _page(view="Results")
    assert [link.proto.label for link in page.get("page_link")] == ["See what these pairs reward"]
    assert "safety" in page.get("page_link")[0].proto.query_string
    _button(page, "Save").click().run()
    assert [link.proto.label for link in page.get("page_link")] == ["See what these pairs reward", "Score with it"]
    assert page.get("page_link")[1].proto.query_string == "use=made-up"
    page.query_params["use"] = "made-up"
    page.run()
    assert page.selectbox(key="head").value == "made-up" and "use" not in page.query_params


def _projection_head() -> SavedHead:
    saved = load_head("safety")
    settings = {**saved.card.training["settings"], "k": 16, "score": "projection", "selection": "sparse", "named": False}
    head = replace(saved.head, encoder=None, families=None)
    return replace(
        saved, head=head, selected=None, card=replace(saved.card, training={**saved.card.training, "settings": settings})
    )


def test_a_job_of_before_scores_could_be_chosen_still_opens() -> None:
    job = _done_job(_projection_head())
    spec = queue.spec(job.id)
    settings = _projection_head().card.training["settings"]
    spec["settings"] = {name: value for name, value in settings.items() if name not in ("score", "named")}
    (job.folder / "spec.json").write_text(json.dumps(spec))
    page = _page(view="Results")
    assert {metric.label: metric for metric in page.metric}["CV accuracy"].value == "60.0%"
    assert page.selectbox(key="score").value == "projection" and not page.error


def test_a_score_is_offered_where_the_saes_allow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_architecture", lambda name: "topk")
    page = _page()
    assert not page.radio and "Score: projection" in _texts(page)
    assert page.slider(key="train k").max == 32
    monkeypatch.setattr(setup, "_architecture", lambda name: "jumprelu")
    page = _page()
    assert page.radio(key="train score").value == "gated" and page.slider(key="train gated k").max == 64
    assert len(page.selectbox(key="train gated method").options) == 3
    page.radio(key="train score").set_value("projection").run()
    assert page.slider(key="train k").max == 32


def test_the_sweep_shows_one_method_at_a_time_and_names_the_best() -> None:
    _done_job()
    page = _page(view="Results")
    (control,) = [one for one in page.button_group if str(one.key).startswith("swept")]
    assert control.value == "stable" and len(control.options) == 2
    assert "Best: stable, layer 10, K = 4: 60.0% (50.0% to 70.0%)." in _texts(page)
    control.set_value("frequency").run()
    assert not page.exception


def test_a_link_to_a_job_that_is_gone_says_so() -> None:
    _done_job()
    assert "no longer exists" in _texts(_page(view="Results", job="20250101-000000-ffffff"))


def test_damaged_results_are_told_in_a_sentence() -> None:
    (_done_job().folder / "evidence.json").write_text("{")
    assert "delete this job and train again" in _texts(_page(view="Results"))


def test_a_trained_head_is_saved_under_a_name_and_shows_in_the_sidebar() -> None:
    _done_job()
    page = _page(view="Results")
    _button(page, "Save").click().run()
    assert not page.exception
    assert list(own_heads()) == ["made-up"]
    assert "made-up" in page.selectbox(key="head").options
    _button(page, "Saved as made-up. Use it").click().run()
    assert page.selectbox(key="head").value == "made-up"
    box = next(box for box in page.text_input if box.label == "Name")
    box.set_value("safety").run()
    _button(page, "Save").click().run()
    assert "already a shipped head" in _texts(page)


def test_a_deleted_job_is_gone_and_saved_heads_stay() -> None:
    _done_job()
    page = _page(view="Results")
    _button(page, "Save").click().run()
    _button(page, "Delete the job").click().run()
    assert not page.exception
    assert queue.list_jobs() == [] and list(own_heads()) == ["made-up"]


def test_a_job_that_somebody_else_deleted_cannot_be_resumed_and_the_page_says_so() -> None:
    job = _done_job()
    queue.write_status(replace(job, state="cancelled"))
    page = _page(view="Results", job=job.id)
    resume = _button(page, "Resume")
    queue.delete(job.id)
    resume.click().run()
    assert not page.exception
    assert "it may have been deleted" in page.toast[0].value


def test_before_an_upload_is_deleted_the_page_names_the_job_that_reads_it() -> None:
    page = _uploaded(_lines(*(_row(n) for n in range(12))))
    assert not any("is reading it" in warning.value for warning in page.warning)
    job = _done_job()
    upload = next(source for label, source in list_sources().items() if "(uploaded)" in label)
    (job.folder / "spec.json").write_text(json.dumps({"source": upload.to_dict()}))
    with queue.worker_lock(job.folder, timeout=0):
        queue.write_status(replace(job, state="running", title="my *head*"))
        page.run()
    assert any(warning.value == "my \\*head\\* is reading it, and will fail without it." for warning in page.warning)


# ------------------------------------------------------------------------------------------------------------ heads


def _heads_page(**own: SavedHead) -> AppTest:
    for name, saved in own.items():
        keep_head(saved, name)
    return _page(view="Heads")


def _upload_head(page: AppTest, *files: tuple[str, bytes]) -> AppTest:
    page.file_uploader(key="head files").set_value([(name, data, "application/zip") for name, data in files]).run()
    assert not page.exception
    return page


def test_own_heads_are_renamed_used_and_deleted() -> None:
    page = _heads_page(mine=load_head("redteam"))
    page.selectbox(key="managed head").set_value("mine").run()
    next(box for box in page.text_input if box.label == "New name").set_value("yours").run()
    _button(page, "Rename the head").click().run()
    assert not page.exception and list(own_heads()) == ["yours"]
    page.selectbox(key="managed head").set_value("yours").run()
    _button(page, "Use head").click().run()
    assert page.selectbox(key="head").value == "yours"
    _button(page, "Delete the head").click().run()
    assert not page.exception and not own_heads()


def test_shipped_heads_can_be_taken_away_and_nothing_else() -> None:
    page = _heads_page()
    page.selectbox(key="managed head").set_value("safety").run()
    assert "never changed" in _texts(page)


def test_an_uploaded_head_is_added_under_a_free_name() -> None:
    page = _upload_head(_heads_page(), ("safety.zip", pack_head(load_head("safety"))))
    _button(page, "Add the head").click().run()
    assert not page.exception and list(own_heads()) == ["safety-2"]


@pytest.mark.parametrize(
    ("cut", "message"), [(slice(None, -200), "cannot be read as a zip"), (slice(0), "cannot be read as a zip")]
)
def test_a_damaged_upload_is_refused_in_a_sentence(cut: slice, message: str) -> None:
    page = _upload_head(_heads_page(), ("safety.zip", pack_head(load_head("safety"))[cut]))
    assert message in _texts(page) and not own_heads()


def test_a_head_for_another_backbone_is_refused_with_both_named() -> None:
    saved = load_head("safety")
    other = replace(saved, card=replace(saved.card, backbone="qwen-3", backbone_fingerprint="0123"))
    page = _upload_head(_heads_page(), ("other.zip", pack_head(other)))
    assert "qwen-3" in _texts(page) and "smollm2" in _texts(page)
    assert not own_heads()


def test_of_a_dataset_with_several_splits_one_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "preferences"
    folder.mkdir()
    for name, n in (("dev", 3), ("test", 2)):
        (folder / f"{name}.jsonl").write_bytes(_lines(*map(_row, range(n))))
    page = _page()
    page.text_input(key="pairs name").set_value(str(folder))
    page.button(key="pairs open").click().run()
    assert "has 2 splits. Choose one." in _texts(page)
    page.selectbox(key=f"part of {folder}").set_value("test").run()
    assert not page.exception
    assert "2 rows, 2 usable" in " ".join(one.value for one in page.caption)
    page.text_input(key="pairs split").set_value("validation")
    page.button(key="pairs open").click().run()
    assert "3 rows, 3 usable" in " ".join(one.value for one in page.caption)
