"""A response scored in Chromium, as a user would."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.backbone]
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", "from sparserm.cli import main; main()", "app", "--port", str(port)])
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2)
                break
            except OSError:
                assert time.monotonic() < deadline, "the app did not start"
                assert server.poll() is None, "the app ended"
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_response_is_scored(address: str) -> None:
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1400})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.get_by_label("Prompt", exact=True).fill("What is <b>two</b> plus two?")
        page.get_by_label("Response", exact=True).fill("Two and two make <i>four</i>.")
        page.get_by_label("Response", exact=True).blur()
        page.wait_for_timeout(1500)  # the page takes the text over before the button is pressed
        page.get_by_role("button", name="Score", exact=True).click()
        expect(page.get_by_text("they add up to")).to_be_visible(timeout=240_000)
        # The text is shown as it was typed: markup in it is text.
        expect(page.locator(".tokens")).to_have_text("Two and two make <i>four</i>.")
        assert page.locator(".tokens span").count() > 5
        expect(page.locator(".js-plotly-plot")).to_have_count(2, timeout=30_000)  # Plotly itself is loaded on first use
        assert errors == []
        browser.close()
