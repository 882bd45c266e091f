"""The Audit page, driven without a browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from sparserm.jobs.worker import work

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.backbone

ROWS = [
    {"prompt": "Why?", "chosen": "apples", "rejected": "pears"},
    {"prompt": "Why?", "chosen": "pears", "rejected": "apples"},
    {"prompt": "Who?", "chosen": "<b>me</b>", "rejected": "you"},
    {"prompt": "Who?", "chosen": "<B>ME</B>", "rejected": "you"},
]


@pytest.fixture
def open_page(monkeypatch, tmp_path):
    """Open the page on rows that a user has, as a file."""
    monkeypatch.setattr("sparserm.ui.shared.pairs_picker.INLINE_TOKENS", 10**6)  # computed on the page, without a job
    monkeypatch.setenv("SPARSERM_DATA", str(tmp_path))

    def open_(rows: list[dict] | None = None, against: list[dict] | None = None) -> AppTest:
        page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
        page.query_params["head"] = "truthfulness"
        for name, given in (("pairs", rows), ("against", against)):
            if given:
                (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, given)))
                page.query_params[name] = f"{name}.jsonl"
        page.run()
        page.switch_page("pages/audit.py").run()
        assert not page.exception
        return page

    return open_


def _reasons(page: AppTest) -> list[str]:
    """What stands in bold in the lines that say what was found."""
    lines = next(caption.value for caption in page.caption if caption.value.startswith("**")).split("  \n")
    return [line.split("**")[1] for line in lines]


def test_the_first_visit_needs_no_typing(open_page) -> None:
    page = open_page()
    titles = [one.value for one in page.subheader]
    assert titles[0] == "Labels that the head contradicts"
    assert any(title.startswith("Surface features alone reach") for title in titles)


def test_flagged_rows_are_listed_by_reason_with_their_file(open_page) -> None:
    page = open_page(ROWS)
    assert _reasons(page) == ["2 reversed", "1 duplicate"]
    assert any("3 of them flagged" in caption.value for caption in page.caption)
    assert any(button.label == "Download flagged rows (CSV, 3 rows)" for button in page.get("download_button"))


def test_prompts_shared_with_other_data_are_flagged(open_page) -> None:
    page = open_page([ROWS[0], ROWS[2]], against=[ROWS[3]])
    assert _reasons(page) == ["1 leakage"]


def test_sound_pairs_are_said_to_be_sound(open_page) -> None:
    page = open_page([ROWS[0], ROWS[2]])
    assert any("No duplicate" in one.value for one in page.success)


def test_what_needs_the_language_model_comes_last_and_takes_nothing_else_away(open_page, monkeypatch) -> None:
    page = open_page(ROWS)
    monkeypatch.setattr("sparserm.ui.shared.pairs_picker.INLINE_TOKENS", 0)
    rows = [{**row, "prompt": "Not read before?"} for row in ROWS]
    page = open_page(rows)
    assert any("have no stored representations for" in one.value for one in page.info)
    assert any(one.value.startswith("Surface features alone") for one in page.subheader)
    assert _reasons(page) == ["2 reversed", "1 duplicate"]


def test_large_data_is_looked_through_by_a_job(open_page, monkeypatch, tmp_path) -> None:
    started = []
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sparserm.ui.audit.view.AT_ONCE", 3)
    monkeypatch.setattr("sparserm.ui.audit.view.opposed", lambda *_: None)
    monkeypatch.setattr("sparserm.jobs.queue._spawn", started.append)
    monkeypatch.setattr("os.nice", lambda n: 0)
    page = open_page(ROWS)
    assert any("4 pairs takes about a minute" in one.value for one in page.info)
    next(button for button in page.button if button.label == "Start the audit").click().run()
    assert not page.exception and len(started) == 1
    work(started[0])
    page.run()
    assert not page.exception
    assert _reasons(page) == ["2 reversed", "1 duplicate"]
