"""A response scored in Chromium, as a user would."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.backbone]


def test_a_response_is_scored(address, browse) -> None:
    from playwright.sync_api import expect

    page = browse()
    page.goto(address)
    page.get_by_label("Prompt", exact=True).fill("What is <b>two</b> plus two?")
    page.get_by_label("Response", exact=True).fill("Two and two make <i>four</i>.")
    page.get_by_label("Response", exact=True).blur()
    page.wait_for_timeout(1500)  # the page takes the text over before the button is pressed
    page.get_by_role("button", name="Score", exact=True).click()
    expect(page.get_by_text("they add up to")).to_be_visible(timeout=240_000)
    # The text is shown as it was typed: markup in it is text.
    expect(page.locator(".tokens").first).to_have_text("Two and two make <i>four</i>.")
    assert page.locator(".tokens").first.locator("span").count() > 5
    expect(page.locator(".js-plotly-plot")).to_have_count(2, timeout=30_000)  # Plotly itself is loaded on first use
