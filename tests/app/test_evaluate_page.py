"""The Evaluate page, driven without a browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from sparserm.heads.saved import load_head

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.backbone


@pytest.fixture
def open_page(monkeypatch, tmp_path):
    """Open the page on rows that a user has, as a file."""
    monkeypatch.setattr("sparserm.ui.shared.pairs_picker.INLINE_TOKENS", 10**6)  # computed on the page, without a job
    monkeypatch.setenv("SPARSERM_DATA", str(tmp_path))

    def open_(rows: list[dict] | None = None, **link: str) -> AppTest:
        page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
        page.query_params["head"] = "truthfulness"
        if rows:
            (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
            page.query_params["pairs"] = "rows.jsonl"
        page.run()
        page.query_params.update(link)
        page.switch_page("pages/evaluate.py").run()
        assert not page.exception
        return page

    return open_


def _rows(*subsets: str) -> list[dict]:
    return [
        {"prompt": f"Is {i} a number?", "chosen": f"Yes, {i} is a number.", "rejected": "No, it is a bird.", "subset": subset}
        for i, subset in enumerate(subsets)
    ]


def test_the_first_visit_needs_no_typing(open_page) -> None:
    page = open_page()
    assert [metric.label for metric in page.metric] == [
        "Accuracy",
        "AUROC",
        "Calibration error",
        "Longer-response baseline",
        "Length-matched accuracy",
        "Length correlation",
    ]
    assert {"Margins", "Calibration", "Slices", "Pairs"} <= {one.value for one in page.subheader}
    assert any("rows)" in button.label for button in page.get("download_button"))


def test_a_benchmark_file_is_scored_by_its_own_rules(open_page) -> None:
    page = open_page(_rows("hep-go", "hep-go", "math-prm"))
    assert any(one.value.startswith("RewardBench: ") for one in page.subheader)
    assert any("Not in the file" in caption.value for caption in page.caption)


def test_texts_and_categories_of_users_are_never_markup(open_page) -> None:
    nasty = "<script>alert(1)</script> **bold** $x$ :smile: مرحبا 😀"
    rows = [{**row, "prompt": f"{nasty} {i}", "category": f"{nasty} {i % 2}"} for i, row in enumerate(_rows(*"abcdef"))]
    page = open_page(rows)
    assert not any("<script>" in element.value for element in (*page.markdown, *page.caption, *page.subheader))


def test_one_pair_is_enough(open_page) -> None:
    page = open_page(_rows("one"))
    assert page.metric[0].value in ("0.0%", "100.0%")


def test_pairs_that_the_head_was_trained_on_are_no_test_of_it(open_page, monkeypatch) -> None:
    known = int(load_head("truthfulness").prompt_keys[0])
    monkeypatch.setattr("sparserm.heads.saved.short_key", lambda prompt: known)
    page = open_page(_rows("a", "b"))
    assert any("trained on the prompts of all 2 pairs" in warning.value for warning in page.warning)


def _sorted_by(page: AppTest) -> list[str]:
    return [option.content for option in next(one for one in page.get("button_group") if one.key == "by").proto.options]


def test_categories_that_were_added_to_the_same_pairs_are_seen(open_page) -> None:
    assert _sorted_by(open_page(_rows("same", "same", "same"))) == ["Length of the responses"]
    assert _sorted_by(open_page(_rows("one", "one", "two"))) == ["Category", "Length of the responses"]


def test_a_link_opens_with_the_mistake_that_it_names_taken_apart(open_page) -> None:
    row = str(open_page().dataframe[-1].value["row"].iloc[2])
    page = open_page(mistake=row)
    assert page.subheader[-1].value == f"Row {row}: pairwise breakdown"
    assert any(link.proto.label == "Open in Compare" for link in page.get("page_link"))
    assert page.query_params["mistake"] == row
    assert open_page(mistake="none").subheader[-1].value == "Pairs"


def _table(page: AppTest):
    return next(one.value for one in page.dataframe if "margin" in one.value)


def test_the_pairs_are_narrowed_down_by_text_category_and_any_figure(open_page) -> None:
    page = open_page(_rows("one", "one", "two", "two"))
    (which,) = [one for one in page.button_group if str(one.key).startswith("pairs ")]
    which.set_value("All pairs (4)").run()
    whole = _table(page)
    assert len(whole) == 4 and {"contribution", "gap", "doubt"} <= set(whole)
    assert whole["margin"].is_monotonic_increasing
    page.text_input(key="mistake text").set_value("yes, 2 is").run()
    assert _table(page)["prompt"].tolist() == ["Is 2 a number?"]
    page.text_input(key="mistake text").set_value("").run()
    page.multiselect(key="mistake categories").set_value(["two"]).run()
    assert sorted(_table(page)["prompt"]) == ["Is 2 a number?", "Is 3 a number?"]
    page.multiselect(key="mistake categories").set_value([]).run()
    page.slider[0].set_value((page.slider[0].min, float(whole["margin"].iloc[1]))).run()
    assert not page.exception and _table(page)["margin"].max() <= whole["margin"].iloc[1]
    page.selectbox(key="mistake figure").set_value("doubt").run()
    assert len(_table(page)) == 4
    other = page.selectbox(key="mistake feature of truthfulness")
    other.set_value(int(other.options[1].split(":")[0].removeprefix("feature "))).run()
    assert not page.exception and len(_table(page)) == 4


def test_what_was_chosen_for_other_pairs_does_not_stand_in_the_way(open_page) -> None:
    page = open_page(_rows("one", "one", "two"), by="category")
    page.session_state["by"] = "category"
    page.selectbox(key="pairs").set_value("truthfulness (starter pairs)").run()
    assert not page.exception
