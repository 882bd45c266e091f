"""The Score page, driven without a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page() -> AppTest:
    return AppTest.from_file(str(ROOT / "app.py"), default_timeout=300).run()


def test_the_page_opens_with_an_example_filled_in(page: AppTest) -> None:
    assert not page.exception
    assert page.text_area(key="prompt").value
    assert page.text_area(key="response").value


@pytest.mark.backbone
def test_a_response_is_scored_and_the_result_says_when_it_is_stale(page: AppTest) -> None:
    page.button[0].click().run()
    assert not page.exception
    assert [metric.label for metric in page.metric] == ["Reward", "Beats a typical chosen", "Beats a typical rejected"]
    assert any("they add up to" in caption.value for caption in page.caption)
    assert not page.warning
    page.text_area(key="response").set_value("Something else.").run()
    assert "changed since" in page.warning[0].value
    page.button[0].click().run()
    assert not page.warning


@pytest.mark.backbone
def test_an_empty_response_is_refused_and_the_fields_stay(page: AppTest) -> None:
    page.text_area(key="response").set_value("").run()
    page.button[0].click().run()
    assert not page.exception
    assert "Response is empty" in page.error[0].value
    assert page.text_area(key="prompt").value
