"""The page for taking a head away, driven without a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from sparserm.heads.library import keep_head
from sparserm.heads.model_card import card_rows, head_limits
from sparserm.heads.saved import head_hash, load_head
from sparserm.training.editing import HeadEdits, make_edited_head
from sparserm.ui.shared.text import plain
from sparserm.ui.use.snippets import snippets

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> AppTest:
    opened = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    opened.query_params["head"] = "safety"
    opened.run()
    opened.switch_page("pages/use.py").run()
    assert not opened.exception
    return opened


def test_every_snippet_is_there_for_the_head_in_view(page: AppTest) -> None:
    assert [one.value.strip() for one in page.code] == [one.code.strip() for one in snippets("safety")]


def test_facts_and_limits_are_all_told(page: AppTest) -> None:
    text = " ".join(one.value for one in page.markdown)
    saved = load_head("safety")
    assert all(plain(value) in text for _, value in card_rows(saved))
    assert all(plain(limit) in text for limit in head_limits(saved))
    assert "commercially" in text


def test_the_head_and_its_card_can_be_downloaded(page: AppTest) -> None:
    labels = [one.label for one in page.get("download_button")]
    assert labels[0].startswith("Download safety.zip (") and labels[1] == "Download model card"


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"accuracy": 0.7, "ci95": [0.6, 0.8], "n": 90, "measured_on": "<b>a</b>.jsonl", "parent_accuracy": 0.75},
        {"accuracy": None},
    ],
)
def test_an_edited_head_is_shown_with_its_lineage_whatever_was_measured(tmp_path, monkeypatch, metrics) -> None:
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path))
    parent = load_head("safety")
    feature = int(parent.head.features[0])
    child = make_edited_head(parent, "safety", HeadEdits.of({feature: 0}), "mine", None)
    keep_head(replace(child, card=replace(child.card, metrics=metrics)), "mine")
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    page.query_params["head"] = "mine"
    page.run()
    page.switch_page("pages/use.py").run()
    assert not page.exception
    assert f"from safety ({head_hash(parent)})" in " ".join(one.value for one in page.markdown).replace("\\", "")
    told = " ".join(one.value for one in page.caption).replace("\\", "")
    assert ("before the edits 75.0%" if "n" in metrics else "Accuracy not measured") in told
