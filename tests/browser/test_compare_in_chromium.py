"""Two responses compared in Chromium: features and tokens light each other up, and a click holds them."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.backbone]

HOSTILE = "<img src=x onerror=alert(1)> **bold** مرحبا 👩‍👩‍👧 said they."


def _colours(page, side: int) -> list[str]:
    return (
        page.locator(".linked .tokens")
        .nth(side)
        .locator("span")
        .evaluate_all("all => all.map(one => one.style.backgroundColor)")
    )


def _point_at(page, row) -> None:
    """Point at a row until it is lit: the page may be drawn again below the pointer, which lights up nothing."""
    legend = page.locator(".linked .what")
    for _ in range(60):
        page.mouse.move(5, 5)
        row.hover()
        page.wait_for_timeout(500)
        if "of the margin" in (legend.text_content() or ""):
            return
    raise AssertionError("pointing at a feature lights up nothing")


@pytest.fixture
def compared(address, browse):
    page = browse()
    link = {
        "p": "Do *we* use <b>all</b> of the brain?",
        "r": ["Nearly all of it is active over a day, as scans show.", HOSTILE],
    }
    page.goto(f"{address}/compare?{urlencode(link, doseq=True)}")
    page.locator(".linked tbody tr").first.wait_for(timeout=240_000)
    return page


def test_hovering_lights_tokens_and_a_click_locks_them(compared) -> None:
    from playwright.sync_api import expect

    rows, legend = compared.locator(".linked section").nth(2).locator("tbody tr"), compared.locator(".linked .what")
    together = [_colours(compared, side) for side in (0, 1)]
    expect(legend).to_contain_text("features together")
    _point_at(compared, rows.nth(0))
    expect(rows.nth(0).get_by_role("link")).to_have_attribute(
        "href", re.compile(r"^features\?head=truthfulness&layer=15&hash=[0-9a-f]+&feature=\d+$")
    )
    first = [_colours(compared, side) for side in (0, 1)]
    assert first[0] != together[0] and first[1] != together[1]
    rows.nth(0).click()
    expect(legend).to_contain_text("Locked")
    expect(rows.nth(0)).to_have_attribute("aria-selected", "true")
    compared.wait_for_url("**lit=**")
    rows.nth(3).hover()  # another feature does not take the place of the locked one
    compared.wait_for_timeout(200)
    assert [_colours(compared, side) for side in (0, 1)] == first
    rows.nth(0).click()
    expect(legend).not_to_contain_text("Locked")
    compared.mouse.move(5, 5)
    expect(legend).to_contain_text("features together")
    assert [_colours(compared, side) for side in (0, 1)] == together


def test_a_token_lists_its_features_and_the_keyboard_does_what_the_mouse_does(compared) -> None:
    from playwright.sync_api import expect

    panel, tokens = compared.locator(".linked .panel"), compared.locator(".linked .tokens").nth(0).locator("span")
    most = compared.locator(".linked section").nth(2).locator("tbody tr").count()
    numbers = "all => all.map(one => Number(one.textContent.replace('−', '-')))"
    listed = []
    for i in range(tokens.count()):
        tokens.nth(i).hover()
        expect(panel).to_contain_text(f"in A, token {i + 1} of")
        shown = panel.locator("td:last-child").evaluate_all(numbers)
        # Of a gated head's features only those are listed that fire at the token.
        assert shown == sorted(shown, key=abs, reverse=True) and len(shown) <= most and all(shown)
        assert shown or "No feature of the head fires here." in panel.inner_text()
        listed.append(len(shown))
    assert any(listed)
    tokens.nth(2).click()
    expect(panel).to_contain_text("locked")
    tokens.nth(4).hover()
    expect(panel).to_contain_text("token 3 of")
    compared.keyboard.press("Escape")
    expect(panel).to_contain_text("token 3 of")
    compared.keyboard.press("ArrowRight")
    expect(panel).to_contain_text("token 4 of")
    compared.keyboard.press("Enter")
    expect(tokens.nth(3)).to_have_attribute("aria-pressed", "true")
    compared.keyboard.press("Escape")
    expect(tokens.nth(3)).to_have_attribute("aria-pressed", "false")


def test_texts_are_shown_as_they_were_typed_and_a_reload_shows_the_same(compared) -> None:
    from playwright.sync_api import expect

    expect(compared.locator(".linked .tokens").filter(has_text="<img")).to_have_text(HOSTILE)
    assert compared.locator(".linked img").count() == compared.locator(".diff img").count() == 0
    compared.locator(".linked section").nth(2).locator("tbody tr").nth(1).click()
    compared.wait_for_url("**lit=**")
    heading = compared.locator("h3").first.text_content()
    compared.reload()
    expect(compared.locator(".linked .what")).to_contain_text("Locked", timeout=60_000)
    assert compared.locator("h3").first.text_content() == heading


def test_long_texts_light_up_within_a_frame_or_few(address, browse) -> None:
    """Two texts of many hundred tokens: pointing at a feature repaints all of them."""
    from playwright.sync_api import expect

    page = browse()
    page.goto(f"{address}/compare")
    for number, word in ((1, "active brain "), (2, "quiet mind ")):
        page.get_by_label(f"Response {number}", exact=True).fill(word * 400)
        page.get_by_label(f"Response {number}", exact=True).blur()
        page.wait_for_timeout(1000)
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator(".linked .tokens").first.locator("span").nth(500)).to_be_attached(timeout=240_000)
    _point_at(page, page.locator(".linked section").nth(2).locator("tbody tr").nth(0))
