"""The Insights page, driven without a browser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from sparserm.insights.edits import PairEdits
from sparserm.jobs.queue import JobStatus
from sparserm.pairs.load import load_pairs
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
    monkeypatch.setenv("SPARSERM_DATA", str(tmp_path))
    monkeypatch.setattr("sparserm.pairs.sources.uploads_dir", lambda: tmp_path / "uploads")

    def open_(
        rows: list[dict[str, str]] | None = None, *, inline: int = 10**6, unasked: int = 10**6, feature: str = ""
    ) -> AppTest:
        # computed on the page, without a job
        monkeypatch.setattr("sparserm.ui.shared.pairs_picker.INLINE_TOKENS", inline)
        monkeypatch.setattr("sparserm.ui.shared.pairs_picker.UNASKED_TOKENS", unasked)
        page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
        page.query_params["head"] = "truthfulness"
        if rows:
            (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
            page.query_params["pairs"] = "pairs.jsonl"
        if feature:
            page.query_params["feature"] = feature
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


def test_while_all_pairs_are_read_a_random_sample_is_shown(open_page, monkeypatch, tmp_path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    running = JobStatus("job", "represent", "Representations", folder, 0.0, "running", 3, 4, "A sample (pairs)", 1, 9)
    monkeypatch.setattr("sparserm.jobs.find_job", lambda kind, spec: running if kind == "represent" else None)
    monkeypatch.setattr("sparserm.jobs.status", lambda _: running)
    page = open_page(_planted())
    assert any("a random sample of the 100 pairs, is here within a minute" in one.value for one in page.caption)
    assert not page.metric
    (folder / "sample.json").write_text('{"pairs": 60}')
    page.run()
    assert not page.exception
    assert any("from 60 of 100 pairs, drawn at random" in one.value for one in page.info)
    assert {metric.label: metric.value for metric in page.metric}["Pairs"] == "60"


def test_what_takes_long_is_started_at_once_and_what_takes_very_long_is_asked_for(open_page, monkeypatch) -> None:
    started: list[str] = []
    monkeypatch.setattr("sparserm.jobs.start", lambda kind, spec, title, asked: started.append((title, asked)))
    monkeypatch.setattr("sparserm.ui.shared.pairs_picker.st.rerun", st.stop)
    page = open_page(_planted(102), inline=10, unasked=100)  # pairs of which nothing is cached
    assert not started and any(button.label == "Compute representations" for button in page.button)
    open_page(_planted(101), inline=10)
    assert started == [("Representations of pairs.jsonl", False)]  # so it gives way to jobs that are asked for


@pytest.mark.parametrize("asked", ["99999", "abc"])
def test_a_link_to_a_feature_that_is_not_there_says_so(open_page, asked: str) -> None:
    page = open_page(_planted(), feature=asked)
    assert any(f"The link names feature '{asked}'" in one.value for one in page.warning)


def test_a_link_opens_a_feature_with_examples_of_both_sides_and_its_pairs(open_page) -> None:
    page = open_page(_planted())
    for i in range(len(page.selectbox(key="opened feature").options)):
        page.selectbox(key="opened feature").select_index(i).run()
        assert not page.exception
        if "feature" in page.query_params:  # not a shortcut, which has no number
            break
    assert any("Responses that have it where the other response of the pair has not" in one.value for one in page.caption)
    assert any("Select pairs to drop, flip or export them" in one.value for one in page.caption)
    again = open_page(_planted(), feature="".join(page.query_params["feature"]))
    assert again.subheader[0].value == page.subheader[0].value


def test_dropped_and_flipped_pairs_change_the_list_and_can_be_undone(open_page, tmp_path) -> None:
    page = open_page(_planted())
    before = {metric.label: metric.value for metric in page.metric}
    content = load_pairs(tmp_path / "pairs.jsonl").content_hash
    page.session_state["pair edits"] = {content: PairEdits(frozenset(range(10)), frozenset(range(10, 60)))}
    page.run()
    assert not page.exception
    after = {metric.label: metric.value for metric in page.metric}
    assert (before["Pairs"], after["Pairs"]) == ("100", "90") and after["Sure features"] != before["Sure features"]
    assert any("10 dropped and 50 flipped" in one.value for one in page.markdown)
    again = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)  # as after a reload: the link holds them
    again.query_params["pairs"], again.query_params["edited"] = page.query_params["pairs"], page.query_params["edited"]
    again.run()
    again.switch_page("pages/insights.py").run()
    assert {metric.label: metric.value for metric in again.metric} == after
    labels = [button.label for button in page.get("download_button")]
    assert any("Download edited pairs (JSONL, 90)" in label for label in labels)
    next(button for button in page.button if button.label == "Keep as new pairs").click().run()
    assert not page.exception and page.selectbox(key="pairs").value == "pairs-edited.jsonl (uploaded)"
    page.selectbox(key="pairs").set_value("pairs.jsonl").run()
    next(button for button in page.button if button.label == "Undo all").click().run()
    assert {metric.label: metric.value for metric in page.metric} == before


def test_other_pairs_are_held_beside(open_page, tmp_path) -> None:
    rows = _planted()
    turned = [{"prompt": f"{row['prompt']} Now.", "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    (tmp_path / "turned.jsonl").write_text("\n".join(map(json.dumps, turned)))
    page = open_page(_planted())
    page.selectbox(key="against").set_value("turned.jsonl").run()
    assert not page.exception
    assert any("punished here, rewarded there" in one.value for one in page.markdown)
    labels = [button.label for button in page.get("download_button")]
    assert "Report on both (HTML)" in labels and any(label.startswith("Download differences") for label in labels)


def test_no_head_is_needed(open_page) -> None:
    page = open_page(_planted())
    with_head = page.markdown[0].value
    page.selectbox(key="head").set_value(NO_HEAD).run()
    assert not page.exception and page.session_state["_context"] is None
    assert page.selectbox(key="pairs").value == "pairs.jsonl" and page.markdown[0].value == with_head
    page.segmented_control(key="layer").set_value(10).run()
    assert not page.exception and page.session_state["_place"].sae_name == "smollm2/layer_10" and page.metric
