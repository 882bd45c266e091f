"""Every page in Chromium, light and dark: axe-core finds nothing serious, text in charts can be read. Tokens by keyboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.backbone]

_PAIRS = "?pairs=truthfulness+(starter+pairs)"
#: Where each page is, and what shows that it is drawn.
PAGES = {
    "Score": ("", ".tokens"),
    "Insights": (f"insights{_PAIRS}", "text=Longer is chosen"),
    "Compare": ("compare", ".linked tbody tr"),
    "Features": (f"features{_PAIRS}", ".examples"),
    "Train": ("train", "text=New head"),
    "Edit head": (f"edit{_PAIRS}", ".row"),
    "Evaluate": (f"evaluate{_PAIRS}", "h3:has-text('Pairs')"),
    "Audit": (f"audit{_PAIRS}", "text=Surface features alone"),
    "Use it": ("use", "text=When not to trust it"),
    "Docs": ("docs", "h1:has-text('From a file of pairs')"),
}
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
_FOUND = """rules => axe.run({runOnly: {type: 'tag', values: rules}, resultTypes: ['violations']})
  .then(found => found.violations
  .filter(one => ['serious', 'critical'].includes(one.impact))
  .flatMap(one => one.nodes.map(node => `${one.id}: ${node.html.slice(0, 120)} ${node.failureSummary}`)))"""
#: Least contrast of the texts of all charts with the page; axe-core looks at no text in SVG.
_CHARTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const light = colours => {
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(x => x / 255)
      .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const page = getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor;
  const texts = [...document.querySelectorAll('.main-svg :is(text, tspan)')].filter(one => !one.closest('.heatmaplayer'));
  return Math.min(Infinity, ...texts.filter(one => one.textContent.trim()).map(one => {
    const [a, b] = [light([page]), light([page, getComputedStyle(one).fill])];
    return Math.max(a, b) / Math.min(a, b);
  }));
}"""
#: Whether the app has this theme.
_THEME = "theme => getComputedStyle(document.querySelector('[data-testid=stApp]')).colorScheme === theme"


def _wait(page: Page) -> None:
    page.locator("[data-test-script-state=notRunning]").wait_for()
    page.wait_for_timeout(500)  # what fades in has its colour


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious_and_charts_can_be_read(address: str, browse: Callable[..., Page], name: str) -> None:
    from axe_playwright_python.base import AXE_SCRIPT

    page, (place, drawn) = browse(color_scheme="light"), PAGES[name]
    page.goto(f"{address}/{place}")
    if name in ("Score", "Compare"):
        page.get_by_test_id("stMain").get_by_role("button", name=name, exact=True).click()
    page.locator(drawn).first.wait_for()
    _wait(page)
    assert page.title() == f"{name} · SparseRM"
    page.evaluate(AXE_SCRIPT)
    found = []
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.wait_for_function(_THEME, arg=theme)
        _wait(page)
        found += page.evaluate(_FOUND, _RULES)
        assert page.evaluate(_CHARTS) >= 4.5
    assert found == []


def test_arrow_keys_move_among_tokens_and_show_what_each_says(address: str, browse: Callable[..., Page]) -> None:
    from playwright.sync_api import expect

    page = browse()
    page.goto(f"{address}/features{_PAIRS}")
    tokens = page.locator(".examples .text").first.locator("span")
    tokens.nth(1).wait_for()
    assert page.locator(".examples .text").first.locator("[tabindex='0']").count() == 1
    tokens.nth(0).focus()
    page.keyboard.press("End")
    expect(tokens.last).to_be_focused()
    page.keyboard.press("Home")
    for i in range(1, tokens.count()):
        page.keyboard.press("ArrowRight")
        expect(tokens.nth(i)).to_be_focused()
        if said := tokens.nth(i).get_attribute("title"):
            expect(page.locator(".examples .note").first).to_have_text(said)
            break
    else:
        raise AssertionError("no token lights up")
