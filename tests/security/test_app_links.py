"""What a link or a typed name can open in the app: only what its lists name; a path only here, and after a press."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from sparserm import jobs
from sparserm.heads.library import heads_dir, keep_head, own_folders, pack_head
from sparserm.heads.saved import load_head
from sparserm.jobs.queue import JobStatus, jobs_dir, write_status
from sparserm.jobs.worker import work
from sparserm.pairs.sources import DataSource, keep_upload, list_sources, uploads_dir
from sparserm.types import SparseRMError
from sparserm.ui.shared import access
from sparserm.ui.shared.text import sentence
from tests.app.conftest import _with_the_frame

__all__ = ["_with_the_frame"]

ROOT = Path(__file__).parents[2]
SECRET = "secret_column"
UNKNOWN = "The link names pairs that are not in the list of this app"
NO_PATHS = "Other people can reach this app, so it opens no files by their path"

_opened: list[str] = []
sys.addaudithook(lambda event, detail: _opened.append(str(detail[0])) if event == "open" else None)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPARSERM_DATA", raising=False)
    st.cache_data.clear()
    st.cache_resource.clear()
    _opened.clear()
    yield tmp_path / "home"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others can reach the app."""
    monkeypatch.setattr(access, "others_can_reach", lambda: True)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A file that is not in the list of sources."""
    path = tmp_path / "foreign.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"Q {n}", "chosen": "A", "rejected": "B", SECRET: n}) for n in range(9)))
    _opened.clear()
    return path


def _page(name: str, **link: str) -> AppTest:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    page.switch_page(f"pages/{name}.py")
    page.query_params.update(link)
    page.run()
    assert not page.exception
    return page


def _texts(page: AppTest) -> str:
    shown = (page.caption, page.info, page.error, page.warning, page.markdown, page.success)
    return "\n".join(one.value for kind in shown for one in kind)


def _was_opened(path: Path) -> bool:
    return str(path) in _opened


# ------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("name", ["evaluate", "audit", "train", "edit", "features"])
def test_a_link_opens_no_file_by_its_path(name: str, foreign: Path) -> None:
    page = _page(name, pairs=str(foreign))
    assert UNKNOWN in _texts(page) and page.selectbox(key="pairs").value is None
    assert SECRET not in _texts(page) and not _was_opened(foreign)


def test_a_link_does_not_tell_whether_there_is_a_file(foreign: Path) -> None:
    absent = foreign.with_name("absent.jsonl")
    assert _texts(_page("train", pairs=str(foreign))) == _texts(_page("train", pairs=str(absent)))


@pytest.mark.parametrize("linked", ["owner/name", "![x](http://a.test)"])
def test_a_link_opens_no_dataset_by_its_name(linked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_load(source: DataSource, *_: object) -> None:
        raise AssertionError(f"{source.name} was opened")

    monkeypatch.setattr(DataSource, "load", no_load)
    monkeypatch.setattr("sparserm.ui.train.setup.validate", no_load)
    page = _page("train", pairs=linked)
    assert UNKNOWN in _texts(page) and linked not in _texts(page)


def test_after_an_unknown_link_others_can_be_chosen() -> None:
    page = _page("train", pairs="/etc/passwd")
    page.selectbox(key="pairs").select("safety (starter pairs)").run()
    assert not page.exception and UNKNOWN not in _texts(page) and "Trains on" in _texts(page)
    page.run()
    assert UNKNOWN not in _texts(page)


def test_a_link_compares_with_no_file_by_its_path(foreign: Path) -> None:
    page = _page("audit", pairs=str(foreign), against=str(foreign))
    assert page.selectbox(key="against").value is None
    assert UNKNOWN in _texts(page) and not _was_opened(foreign)


def test_a_link_opens_no_head_by_its_path_and_its_text_is_shown_verbatim() -> None:
    head = "/etc ![x](http://evil.test/a.png)\n\n# b"
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    page.query_params.update({"head": head, "hash": head})
    page.run()
    assert not page.exception and page.session_state["_context"].key == "truthfulness"
    said = "\n".join(one.value for one in page.warning)
    assert "was not found; another head is shown" in said and "![" not in said and "\n\n#" not in said


def test_ids_in_links_are_no_paths(home: Path) -> None:
    identity = "../../../etc/passwd"
    page = _page("compare", compare_mode="Best of N", candidates=identity)
    assert "No candidates are stored under" in _texts(page)
    (home / "jobs").mkdir(parents=True)
    assert not _page("train", view="Results", job=identity).exception
    with pytest.raises(SparseRMError, match="there is no job"):
        jobs.status(identity)


# ------------------------------------------------------------------------------------------------------- typed names


def test_a_typed_path_is_opened_by_a_press_on_this_computers_own_app(foreign: Path) -> None:
    page = _page("train")
    page.text_input(key="pairs name").set_value(str(foreign)).run()
    assert not _was_opened(foreign)
    page.button(key="pairs open").click().run()
    assert not page.exception and page.selectbox(key="pairs").value == str(foreign)
    assert _was_opened(foreign) and "9 rows, 9 usable" in _texts(page)
    _opened.clear()
    assert UNKNOWN in _texts(_page("evaluate", pairs=str(foreign)))  # what one session opened is no link for another
    assert not _was_opened(foreign)


@pytest.mark.usefixtures("shared")
def test_where_others_can_reach_the_app_no_path_is_opened(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = foreign.parent / "data"
    (data / "sub").mkdir(parents=True)
    (data / "sub" / "other.jsonl").write_text('{"question": "not listed, since it has other columns"}\n')
    monkeypatch.setenv("SPARSERM_DATA", str(data))
    monkeypatch.chdir(foreign.parent)
    page, said = _page("train"), set()
    absent = foreign.with_name("absent.jsonl")
    for typed in (foreign, absent, "~", "..", "data/sub", "sub/other", "other", "/dev/stdin", "a/b/c"):
        page.text_input(key="pairs name").set_value(str(typed)).run()
        page.button(key="pairs open").click().run()
        said.add("\n".join(one.value for one in page.error))
    assert len(said) == 1 and NO_PATHS in said.pop()
    assert not _was_opened(foreign) and SECRET not in _texts(page)


@pytest.mark.usefixtures("shared")
def test_where_others_can_reach_the_app_a_dataset_is_opened_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unavailable(name: str, split: str | None, config: str | None) -> None:
        asked.append(name)
        raise SparseRMError(f"dataset {name!r} could not be loaded: /root/.cache/huggingface; check the name")

    monkeypatch.setattr("sparserm.pairs.load.read_hub_dataset", unavailable)
    page = _page("train")
    page.text_input(key="pairs name").set_value("owner/name").run()
    assert asked == []
    page.button(key="pairs open").click().run()
    assert not page.exception and asked == ["owner/name"]
    assert [one.value for one in page.error] == [
        "owner/name could not be read from the Hugging Face Hub. Check its name, or upload a file instead."
    ]


def test_an_sae_is_opened_by_a_press_and_not_by_path_where_others_can_reach_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(names: tuple[str, ...]) -> None:
        loaded.extend(names)
        raise SparseRMError("the SAE cannot be used; choose another")

    monkeypatch.setattr("sparserm.ui.train.setup.load_saes", load)
    for reachable in (False, True):
        monkeypatch.setattr(access, "others_can_reach", lambda reachable=reachable: reachable)
        page = _page("train")
        page.text_input(key="train sae").set_value(str(tmp_path)).run()
        assert loaded == []
        next(button for button in page.button if button.label == "Start training").click().run()
        assert not page.exception and page.error
        assert (str(tmp_path) in loaded) is not reachable
        assert ("it opens no SAE by its path" in _texts(page)) is reachable
        loaded.clear()


def test_a_language_model_is_opened_by_a_press_and_not_by_path_where_others_can_reach_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for = []

    def look_for(name: str) -> None:
        looked_for.append(name)
        raise SparseRMError("the model cannot be used; choose another")

    monkeypatch.setattr("sparserm.ui.train.setup.look_for", look_for)
    for reachable in (False, True):
        monkeypatch.setattr(access, "others_can_reach", lambda reachable=reachable: reachable)
        page = _page("train")
        page.text_input(key="train backbone").set_value(str(tmp_path)).run()
        page.text_input(key="train sae").set_value("me/saes:layer_3").run()
        assert looked_for == []
        next(button for button in page.button if button.label == "Start training").click().run()
        assert not page.exception and page.error
        assert (str(tmp_path) in looked_for) is not reachable
        assert ("it opens no language model by its path" in _texts(page)) is reachable
        looked_for.clear()


@pytest.mark.usefixtures("shared")
def test_where_others_can_reach_the_app_names_of_the_hub_are_opened_and_no_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me").mkdir()
    for folder in ("me/saes:here", "me/model@v1"):
        (tmp_path / folder).mkdir()
    for name in ("me/saes:layer_3", "me/saes@v1.0:a/layer_3", "me/saes@refs/pr/1:layer_3", "release:blocks.3.hook_resid_post"):
        access.check_sae(name)
    for name in ("me/saes:here", "me/saes:../x", "me/saes:/etc", "me/saes@../x:a", "../saes:a", "/me/saes:a", "~/saes:a", "me"):
        with pytest.raises(SparseRMError, match="opens no SAE by its path"):
            access.check_sae(name)
    for name in ("me/model", "me/model@v2", "known"):
        access.check_backbone(name, "known")
    for name in ("me/model", "me/model@v2"):
        access.check_model(name)
    for name in ("me/model@v1", "me/../model", "/me/model", "~/model", "../model", "model", "smollm2"):
        with pytest.raises(SparseRMError, match="opens no language model by its path"):
            access.check_model(name)
    for name in ("me/model@v1", "me/../model", "me/model@../x", "/me/model", "~/model", "../model", "model"):
        with pytest.raises(SparseRMError, match="other people can reach this app, so it expected 'known'"):
            access.check_backbone(name, "known")
    access.check_dataset("owner/name@v1")
    with pytest.raises(SparseRMError, match="opens no files by their path"):
        access.check_dataset("me/model@v1")


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("part", ["sae", "backbone"])
def test_an_uploaded_head_opens_no_path(part: str, tmp_path: Path) -> None:
    saved = load_head("safety")
    data = pack_head(replace(saved, card=replace(saved.card, **{part: str(tmp_path)})))
    page = _page("train", view="Heads")
    page.file_uploader(key="head files").set_value(("head.zip", data, "application/zip")).run()
    assert not page.exception and "ther people can reach this app" in page.error[0].value
    assert not any(button.label == "Add the head" for button in page.button)


@pytest.mark.parametrize(
    ("address", "names", "reachable"),
    [
        ("127.0.0.1", ["localhost", "127.0.0.1", "::1"], False),
        ("localhost", ["localhost"], False),
        ("0.0.0.0", ["localhost"], True),
        (None, ["localhost"], True),
        ("192.168.1.5", ["*"], True),
        ("127.0.0.1", ["*"], True),
        ("127.0.0.1", ["heads.example.org"], True),
        ("127.0.0.1", [], True),
    ],
)
def test_who_can_reach_the_app(address: str | None, names: list[str], reachable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"server.address": address, "server.allowedHosts": names}
    monkeypatch.setattr(st, "get_option", options.__getitem__)
    assert access.others_can_reach() is reachable


def test_the_app_started_by_hand_is_for_this_computer_only() -> None:
    assert st.get_option("server.address") == "127.0.0.1" and not access.others_can_reach()
    assert st.get_option("client.showErrorDetails") == "none"


# ------------------------------------------------------------------------------------------------ uploads and heads


def test_an_upload_is_deleted_after_a_press() -> None:
    rows = "\n".join(json.dumps({"prompt": f"Q {n}", "chosen": "A", "rejected": "B"}) for n in range(9))
    label, _ = keep_upload(rows.encode(), "mine.jsonl")
    page = _page("train", pairs=label)
    assert page.selectbox(key="pairs").value == label
    page.button(key=f"pairs delete {label}").click().run()
    assert not page.exception and not page.error and not page.warning
    assert label not in list_sources() and not list(uploads_dir().rglob("mine*"))
    assert page.selectbox(key="pairs").value == "truthfulness (starter pairs)"


def test_only_uploads_can_be_deleted() -> None:
    page = _page("train", pairs="safety (starter pairs)")
    assert not any(str(button.key).startswith("pairs delete") for button in page.button)


DAMAGE: dict[str, Callable[[dict], object]] = {
    "accuracy": lambda config: config["metrics"].update(accuracy="x"),
    "licence": lambda config: config["training"].update(licence=["x"]),
    "labels": lambda config: config.update(labels={"²": "x"}),
    "bias": lambda config: config.update(bias=10**400),
    "settings": lambda config: config["training"].update(settings=[[]]),
}


def test_a_head_that_cannot_be_read_is_a_row_and_can_be_deleted() -> None:
    keep_head(load_head("safety"), "good")
    for name, damage in DAMAGE.items():
        path = keep_head(load_head("safety"), name) / "config.json"
        config = json.loads(path.read_text())
        damage(config)
        path.write_text(json.dumps(config))
    (keep_head(load_head("safety"), "nested") / "config.json").write_text("[" * 100_000)
    (heads_dir() / "empty").mkdir()
    bad = {*DAMAGE, "nested", "empty"}
    page = _page("train", view="Heads")
    table = page.dataframe[0].value
    assert set(table["head"][table[""] == "cannot be read"]) == bad
    assert not bad & set(page.selectbox(key="head").options) and "good" in page.selectbox(key="head").options
    page.selectbox(key="managed head").select("accuracy").run()
    assert not page.exception and "It is not offered elsewhere." in page.error[0].value
    assert str(heads_dir()) not in page.error[0].value
    next(button for button in page.button if button.label == "Delete the head").click().run()
    assert not page.exception and set(own_folders()) == bad - {"accuracy"} | {"good"}


# -------------------------------------------------------------------------------------------------------- messages


def test_a_job_that_crashed_shows_neither_paths_nor_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = jobs_dir() / "20260101-000000-abcdef"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text("{}")
    write_status(JobStatus(folder.name, "train", "My head", folder, 0.0))

    def crash(*_: object) -> None:
        raise RuntimeError(f"no such thing in {tmp_path}")

    monkeypatch.setattr("sparserm.jobs.kinds.JOBS", {"train": crash})
    work(folder)
    page = _page("train", view="Results", job=folder.name)
    said = page.error[0].value
    assert "An unexpected error stopped the job" in said and folder.name in said
    assert str(tmp_path) not in said and "RuntimeError" not in said


def test_an_error_of_the_engine_is_a_sentence_on_every_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise SparseRMError("no SAE in /srv/saes/mine; choose another head")

    monkeypatch.setattr("sparserm.ui.use.view.code", fail)
    page = _page("use")
    assert [one.value for one in page.error] == ["No SAE in mine; choose another head"]


def test_messages_for_the_browser_have_no_paths_and_no_flags() -> None:
    assert sentence(FileNotFoundError(2, "No such file or directory", "/srv/home/x")) == (
        "A file could not be read or written (No such file or directory); check permissions and free space"
    )
    assert sentence(
        SparseRMError("the labels in /srv/home/labels/a.json cannot be read ('/srv/x'); fix C:\\Users\\me\\a.json")
    ) == ("The labels in a.json cannot be read ('x'); fix a.json")
    kept = r"Responses of owner/name are sent to https\://example.org/v1/models; expected release\:layer/15 and 1/2"
    assert sentence(kept.replace("\\", "")) == kept
    assert sentence(SparseRMError("got a; expected both; give --endpoint and --model, or set X")) == "Got a; expected both"
