"""Insights in Chromium: a feature is opened, a pair flipped, the list follows; the edited pairs are kept and trained on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from sparserm.pairs.sources import DataSource, forget_upload, uploads_dir

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.backbone]


@pytest.fixture
def kept() -> Iterator[str]:
    """Label of the edited pairs, which are gone after the test."""
    yield "safety-edited.jsonl (uploaded)"
    for one in uploads_dir().glob("safety-edited*.jsonl"):
        forget_upload(DataSource(str(one)))


def test_a_flipped_pair_changes_the_list_and_the_edited_pairs_can_be_trained_on(
    address: str, browse: Callable[..., Page], kept: str
) -> None:
    from playwright.sync_api import expect

    page = browse()
    page.goto(f"{address}/insights?head=safety&pairs=safety+(starter+pairs)&feature=567")
    expect(page.locator(".examples .text").first).to_be_visible()
    grid = page.get_by_test_id("stDataFrame").first
    grid.scroll_into_view_if_needed()
    grid.click(position={"x": 20, "y": 55})  # the box of the first row
    expect(page.get_by_text(re.compile("Chosen: has it"))).to_be_visible()
    page.get_by_role("button", name="Flip 1").click()
    expect(page.get_by_text("1 flipped")).to_be_visible()
    expect(page.locator(".js-plotly-plot").first.get_by_text(re.compile("of 30 before"))).to_be_visible()
    page.get_by_role("button", name="Keep as new pairs").click()
    expect(page.get_by_role("combobox", name="Preference pairs")).to_have_value(kept)
    onward = page.get_by_role("link", name="Train a head on these pairs").first  # while the page is drawn anew there are two
    expect(onward).to_have_attribute("href", re.compile("safety-edited"))
    onward.click()
    expect(page).to_have_url(re.compile("/train"))
    expect(page.get_by_role("combobox", name="Preference pairs")).to_have_value(kept)
    page.get_by_role("link", name="Insights", exact=True).first.click()
    expect(page.get_by_text("Longer is chosen")).to_be_visible()
