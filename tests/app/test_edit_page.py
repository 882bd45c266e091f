"""The Edit page, driven without a browser: edits come by link here, since its sliders are a component."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from sparserm.heads.saved import SavedHead, head_hash, load_head
from sparserm.training.editing import HeadEdits, edit_head
from sparserm.ui.edit.view import History

ROOT = Path(__file__).parents[2]
PAIRS = "truthfulness (starter pairs)"


@pytest.fixture(scope="module")
def parent() -> SavedHead:
    return load_head("truthfulness")


def _open(monkeypatch: pytest.MonkeyPatch, edits: str = "") -> AppTest:
    monkeypatch.setattr("sparserm.ui.shared.pairs_picker.INLINE_TOKENS", 10**6)  # computed on the page, without a job
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    page.query_params["head"], page.query_params["pairs"] = "truthfulness", PAIRS
    page.run()
    if edits:
        page.query_params["edits"] = edits
    page.switch_page("pages/edit.py").run()
    assert not page.exception
    return page


def _press(page: AppTest, label: str) -> AppTest:
    next(button for button in page.button if button.label == label).click().run()
    assert not page.exception
    return page


def _metric(page: AppTest, label: str) -> str:
    return str(next(metric.value for metric in page.metric if metric.label == label))


def test_what_is_done_can_be_undone_and_redone_and_something_new_forgets_what_was_undone() -> None:
    off, flip, half = (HeadEdits.of({1: factor}) for factor in (0, -1, 0.5))
    history = History().do(off).do(flip).do(flip)
    assert [history.now, history.move(-1).now, history.move(-1).move(1).now] == [flip, off, flip]
    assert history.move(-1).move(-1).move(-1).now == HeadEdits() and history.move(1).now == flip
    assert history.move(-1).do(half).steps == (HeadEdits(), off, half)


@pytest.mark.backbone
def test_a_link_opens_with_its_edits_and_they_can_be_undone_redone_and_reset(monkeypatch, parent) -> None:
    first, second = map(int, parent.head.features[np.argsort(-np.abs(parent.head.weights))[:2]])
    untouched = _metric(_open(monkeypatch), "Held-out accuracy")
    page = _open(monkeypatch, f"{first}:0,{second}:-1")
    edited = _metric(page, "Held-out accuracy")
    assert edited != untouched and _metric(page, "Changed pairs") != "0"
    assert len(page.dataframe[0].value) == int(_metric(page, "Changed pairs"))
    assert _metric(_press(page, "Undo"), "Held-out accuracy") == untouched
    assert "edits" not in page.query_params
    assert _metric(_press(page, "Redo"), "Held-out accuracy") == edited
    assert page.query_params["edits"] == str(HeadEdits.of({first: 0, second: -1}))
    assert _metric(_press(page, "Reset"), "Held-out accuracy") == untouched
    assert _metric(_press(page, "Undo"), "Held-out accuracy") == edited


@pytest.mark.backbone
def test_each_head_keeps_its_own_edits(monkeypatch, parent) -> None:
    edits = f"{parent.head.features[0]}:0"
    page = _open(monkeypatch, edits)
    page.selectbox(key="head").set_value("redteam").run()  # of the same layer: the pairs are read already
    assert not page.exception and not page.warning
    assert "edits" not in page.query_params and _metric(page, "Changed pairs") == "0"
    page.selectbox(key="head").set_value("truthfulness").run()
    assert page.query_params["edits"] == edits


@pytest.mark.backbone
@pytest.mark.parametrize("edits", ["nonsense", "999999:0", "<script>alert(1)</script>"])
def test_a_link_with_edits_of_something_else_says_so_and_edits_nothing(monkeypatch, edits) -> None:
    page = _open(monkeypatch, edits)
    assert "edits in this link are ignored" in page.warning[0].value
    assert _metric(page, "Changed pairs") == "0"


def _name(page: AppTest):
    return next(field for field in page.text_input if field.label == "Name")


@pytest.mark.backbone
def test_an_edited_head_is_saved_under_a_name_with_its_lineage_and_opened(monkeypatch, parent, tmp_path) -> None:
    monkeypatch.setattr("sparserm.heads.library.heads_dir", lambda: tmp_path)
    feature = int(parent.head.features[0])
    page = _open(monkeypatch, f"{feature}:0")
    _name(page).set_value("truthfulness")
    assert "is already a shipped head" in _press(page, "Save as new head").error[0].value
    _name(page).set_value("mine")
    _press(page, "Save as new head")
    assert "Saved as mine" in page.success[0].value
    saved = load_head(tmp_path / "mine")
    assert saved.card.training["lineage"] == {
        "parent": "truthfulness",
        "parent_hash": head_hash(parent),
        "edits": {str(feature): 0.0},
    }
    np.testing.assert_array_equal(saved.head.weights, edit_head(parent.head, HeadEdits.of({feature: 0})).weights)
    assert head_hash(load_head("truthfulness")) == head_hash(parent)
