"""The Insights page, driven without a browser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from sparserm.ui.shared.context import NO_HEAD

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.backbone


def _planted(n: int = 100) -> list[dict[str, str]]:
    """Pairs in which the response that apologises is nearly always rejected, and length says nothing."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        more = [" It is late." * int(rng.integers(0, 4)) for _ in range(2)]  # either may be the longer one
        texts = [f"I'm sorry, I can't help with task {i}.{more[0]}", f"Take the road number {i} to the north.{more[1]}"]
        rejected, chosen = texts if rng.random() < 0.95 else texts[::-1]
        rows.append({"prompt": f"How do I do task {i}?", "chosen": chosen, "rejected": rejected})
    return rows


@pytest.fixture
def open_page(monkeypatch, tmp_path):
    """Open the page on rows that a user has, as a file, or on the starter pairs."""
    monkeypatch.setattr("sparserm.ui.shared.pairs_picker.INLINE_TOKENS", 10**6)  # computed on the page, without a job
    monkeypatch.setenv("SPARSERM_DATA", str(tmp_path))

    def open_(rows: list[dict[str, str]] | None = None) -> AppTest:
        page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
        page.query_params["head"] = "truthfulness"
        if rows:
            (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
            page.query_params["pairs"] = "pairs.jsonl"
        page.run()
        page.switch_page("pages/insights.py").run()
        assert not page.exception
        return page

    return open_


def test_the_first_visit_needs_no_typing_and_says_what_few_pairs_can_show(open_page) -> None:
    page = open_page()
    text = " ".join(one.value for one in page.markdown)
    assert "Nothing is sure in these 70 pairs" in text and "pairs of different prompts and texts differ in it" in text
    assert {metric.label: metric.value for metric in page.metric}["Pairs"] == "70"
    assert not page.get("plotly_chart")


def test_what_is_planted_is_told_and_drawn_and_can_be_narrowed_down(open_page) -> None:
    page = open_page(_planted())
    text = " ".join(one.value for one in page.markdown)
    assert "**Punished**: a response that" in text and "the response with more tokens is chosen in" in text
    assert int({metric.label: metric.value for metric in page.metric}["Sure features"]) > 3
    assert page.get("plotly_chart")
    next(one for one in page.toggle if one.label == "Only with a name").set_value(False).run()
    assert not page.exception
    page.segmented_control(key="which").set_value("Rewarded").run()
    assert not page.exception


def test_the_reports_can_be_taken_away(open_page) -> None:
    labels = [button.label for button in open_page(_planted()).get("download_button")]
    assert {"Report (HTML)", "Report (Markdown)"} <= set(labels) and any(
        label.startswith("Download findings") for label in labels
    )


def test_a_new_label_shows_at_once(open_page, monkeypatch) -> None:
    page = open_page(_planted())
    assert "my own name" not in " ".join(one.value for one in page.markdown)
    monkeypatch.setattr("sparserm.insights.names.user_labels", lambda _: {i: f"has my own name {i}" for i in range(1024)})
    page.run()
    assert "a response that has my own name" in " ".join(one.value for one in page.markdown)


def test_no_head_is_needed(open_page) -> None:
    page = open_page(_planted())
    with_head = page.markdown[0].value
    page.selectbox(key="head").set_value(NO_HEAD).run()
    assert not page.exception and page.session_state["_context"] is None
    assert page.selectbox(key="pairs").value == "pairs.jsonl" and page.markdown[0].value == with_head
    page.segmented_control(key="layer").set_value(10).run()
    assert not page.exception and page.session_state["_place"].sae_name == "smollm2/layer_10" and page.metric
