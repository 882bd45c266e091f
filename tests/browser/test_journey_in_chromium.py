"""The whole way in Chromium, with a reload and a way back at each step: from a file of pairs to an edited head."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sparserm.support.defaults import assets_dir

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.backbone]

#: A latent that starter pairs differ in.
FEATURE = 567


@pytest.fixture
def pairs(tmp_path: Path, nothing_left: None) -> Path:
    """A file of starter pairs."""
    return Path(shutil.copy(assets_dir() / "pairs" / "safety.jsonl", tmp_path / "journey.jsonl"))


def _to(page: Page, name: str) -> None:
    page.get_by_test_id("stTopNavLink").filter(has_text=name).click()


def test_from_a_file_of_pairs_to_an_edited_head(address: str, browse: Callable[..., Page], pairs: Path, name: str) -> None:
    page = browse()
    _insights(page, address, pairs)
    _train(page, name)
    _score(page)
    _compare(page)
    _edit(page, name)


def _insights(page: Page, address: str, pairs: Path) -> None:
    """Upload pairs, open a feature, flip a pair: the list changes, a reload keeps it; keep the edited pairs."""
    from playwright.sync_api import expect

    source = page.get_by_role("combobox", name="Preference pairs")
    page.goto(f"{address}/insights?head=safety&pairs=safety+(starter+pairs)")  # which need no long job
    page.get_by_test_id("stFileUploaderDropzoneInput").first.set_input_files(pairs)
    expect(source).to_have_value("journey.jsonl (uploaded)")
    expect(page).to_have_url(re.compile("pairs=journey"))  # a moment after the field, if the page was still being drawn
    page.reload()
    expect(source).to_have_value("journey.jsonl (uploaded)")
    page.goto(f"{page.url}&feature={FEATURE}")
    expect(page.locator(".examples .text").first).to_be_visible()
    grid = page.get_by_test_id("stDataFrame").first
    grid.scroll_into_view_if_needed()
    grid.click(position={"x": 20, "y": 55})  # the box of the first row
    expect(page.get_by_text(re.compile("Chosen: has it"))).to_be_visible()
    page.get_by_role("button", name="Flip 1").click()
    before = page.locator(".js-plotly-plot").first.get_by_text(re.compile("of [0-9]+ before"))
    expect(before.first).to_be_visible()
    page.reload()
    expect(page.get_by_text("1 flipped")).to_be_visible()
    expect(before.first).to_be_visible()
    page.get_by_role("button", name="Keep as new pairs").click()
    expect(source).to_have_value("journey-edited.jsonl (uploaded)")
    expect(page.get_by_text("1 flipped")).to_have_count(0)


def _train(page: Page, name: str) -> None:
    """Train on the edited pairs; what was learned is told, also after a reload; back are the pairs."""
    from playwright.sync_api import expect

    source = page.get_by_role("combobox", name="Preference pairs")
    onward = page.get_by_role("link", name="Train a head on these pairs").first  # while the page is drawn again there are two
    expect(onward).to_have_attribute("href", re.compile("journey-edited"))
    onward.click()
    expect(page).to_have_url(re.compile("/train"))
    expect(source).to_have_value("journey-edited.jsonl (uploaded)")
    page.go_back()
    expect(page.get_by_text("Longer is chosen")).to_be_visible()
    expect(source).to_have_value("journey-edited.jsonl (uploaded)")
    page.go_forward()
    field = page.get_by_label("Name of the head")
    expect(field).to_have_count(1)
    field.fill(name)
    field.press("Enter")
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url(re.compile("job="))
    page.reload()
    expect(page.get_by_text("What it learned")).to_be_visible()
    page.get_by_role("button", name="Save head").click()
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("button", name=f"Saved as {name}. Use it").click()
    expect(page).to_have_url(re.compile(f"head={name}"))


def _score(page: Page) -> None:
    """Score a text with the new head; a reload shows the same result, and a feature leads to its pairs and back."""
    from playwright.sync_api import expect

    _to(page, "Score")
    response = page.get_by_role("textbox", name="Response", exact=True)
    response.fill("No, there is no evidence for this.")
    response.blur()
    expect(page).to_have_url(re.compile("response=No"))
    page.get_by_test_id("stMain").get_by_role("button", name="Score", exact=True).click()
    expect(page.locator(".tokens").first).to_have_text("No, there is no evidence for this.")
    page.reload()
    expect(page.locator(".tokens").first).to_have_text("No, there is no evidence for this.")
    expect(page.get_by_text("they add up to")).to_be_visible()
    _to(page, "Audit")
    expect(page.get_by_role("heading", name="Audit").first).to_be_visible()
    page.go_back()
    expect(page.locator(".tokens").first).to_have_text("No, there is no evidence for this.")


def _compare(page: Page) -> None:
    """What was scored follows to Compare; a reload shows the same comparison."""
    from playwright.sync_api import expect

    page.get_by_role("link", name="Open in Compare").click()
    expect(page.get_by_role("textbox", name="Response 1")).to_have_value("No, there is no evidence for this.")
    page.get_by_role("textbox", name="Response 2").fill("Yes, everyone knows that.")
    page.get_by_role("textbox", name="Response 2").blur()
    expect(page).to_have_url(re.compile("everyone"))
    page.get_by_test_id("stMain").get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Pairwise breakdown")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Pairwise breakdown")).to_be_visible()
    page.go_back()
    expect(page.locator(".tokens").first).to_have_text("No, there is no evidence for this.")


def _edit(page: Page, name: str) -> None:
    """Switch off a feature; a reload keeps that. Save the edited head, and take it away as a file."""
    from playwright.sync_api import expect

    _to(page, "Edit head")
    row = page.locator(".row:not(.head)").first
    row.get_by_text("off", exact=True).click()
    edited = page.get_by_text("features edited").first
    expect(edited).to_be_visible()
    expect(page).to_have_url(re.compile(f"head={name}&.*edits="))
    page.reload()
    expect(edited).to_be_visible()
    expect(row.get_by_role("slider")).to_have_value("0")
    page.get_by_label("Name").fill(f"{name}-edited")
    page.get_by_role("button", name="Save as new head").click()
    page.get_by_role("button", name="Open head").click()
    expect(page.get_by_text(f"{name}-edited (version")).to_be_visible()
    _to(page, "Use it")
    with page.expect_download() as download:
        page.get_by_text(f"Download {name}-edited.zip").click()
    assert download.value.suggested_filename == f"{name}-edited.zip"
    page.go_back()
    expect(row).to_be_visible()
