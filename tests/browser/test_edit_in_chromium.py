"""Editing a head in Chromium: sliders by mouse and keyboard, undo, a link that keeps the edits, a head saved and taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.backbone]

PAGE = "/edit?head=truthfulness&pairs=truthfulness+(starter+pairs)"


@pytest.fixture
def page(address: str, browse: Callable[..., Page]) -> Page:
    opened = browse()
    opened.goto(address + PAGE)
    return opened


def _row(page: Page, number: int) -> Locator:
    return page.locator(".row:not(.head)").nth(number)


def _edits(page: Page, count: int) -> None:
    from playwright.sync_api import expect

    expect(page.get_by_text(f"{count} of", exact=False).filter(has_text="features edited").first).to_be_visible()


def test_sliders_follow_mouse_and_keyboard_and_edits_survive_a_reload(page: Page) -> None:
    from playwright.sync_api import expect

    first, second = _row(page, 0), _row(page, 1)
    first.get_by_text("off", exact=True).click()
    _edits(page, 1)
    expect(first.get_by_role("slider")).to_have_value("0")
    slider = second.get_by_role("slider")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    _edits(page, 2)
    expect(slider).to_have_value("0.85")
    expect(slider).to_be_focused()
    page.reload()
    _edits(page, 2)
    expect(_row(page, 0).get_by_role("slider")).to_have_value("0")
    expect(_row(page, 1).get_by_role("slider")).to_have_value("0.85")
    page.get_by_role("button", name="Reset").click()
    expect(_row(page, 1).get_by_role("slider")).to_have_value("1")
    page.get_by_role("button", name="Undo").click()
    expect(_row(page, 1).get_by_role("slider")).to_have_value("0.85")


def test_an_edited_head_is_saved_opened_and_taken_away(page: Page, name: str) -> None:
    from playwright.sync_api import expect

    _row(page, 0).get_by_text("flip", exact=True).click()
    _edits(page, 1)
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Save as new head").click()
    expect(page.get_by_text(f"Saved as {name}")).to_be_visible()
    page.get_by_role("button", name="Open head").click()
    expect(page.get_by_text(f"{name} (version")).to_be_visible()
    expect(page.get_by_text("No edits yet")).to_be_visible()
    page.get_by_test_id("stTopNavLink").filter(has_text="Use it").click()
    expect(page.get_by_text("from truthfulness (")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_text(f"Download {name}.zip").click()
    assert download.value.suggested_filename == f"{name}.zip"
