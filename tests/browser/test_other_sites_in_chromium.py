"""What other sites can do with the running app: nothing, also under a name that resolves to this computer; and it asks none."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import FLAGS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

#: Opens the app's stream from a page; tells whether it opened.
_STREAM = """address => new Promise(done => {
  const socket = new WebSocket(address.replace('http', 'ws') + '/_stcore/stream', ['streamlit']);
  socket.onopen = () => done('opened');
  socket.onerror = () => done('refused');
})"""
#: Reads a path of the app from a page.
_READ = """address => fetch(address + '/_stcore/host-config', {credentials: 'include'}).then(a => a.text(), () => 'refused')"""


@pytest.fixture(scope="module")
def rebound(chromium: Browser) -> Iterator[Browser]:
    """A browser for which evil.test is this computer."""
    rules = "--host-resolver-rules=MAP evil.test 127.0.0.1"
    browser = chromium.browser_type.launch(executable_path=shutil.which("chromium"), args=[*FLAGS, rules])
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def other_site() -> Iterator[int]:
    """Port of another server on this computer, whose pages are empty."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>other</title>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_the_app_asks_no_other_site_for_anything(chromium: Browser, address: str) -> None:
    page, asked = chromium.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}/?prompt=private")
    page.get_by_role("button", name="Score", exact=True).wait_for(timeout=60_000)
    page.wait_for_timeout(500)
    assert asked and all(url.startswith((address, "data:", "blob:")) for url in asked)
    page.close()


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def test_the_app_is_not_served_under_a_name_that_was_rebound(rebound: Browser, address: str) -> None:
    page, foreign = rebound.new_page(), f"http://evil.test:{_port(address)}"
    answer = page.goto(f"{foreign}/evaluate?pairs=truthfulness+(starter+pairs)")
    assert answer is not None and answer.status == 400
    assert page.locator("body").inner_text().startswith("This app is not served under this name.")
    assert "not served" in page.evaluate(_READ, foreign)
    assert page.evaluate(_STREAM, foreign) == "refused"
    page.close()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "evil.test"])
def test_a_page_of_another_site_neither_reads_nor_frames_the_app(
    rebound: Browser, address: str, other_site: int, name: str
) -> None:
    page: Page = rebound.new_page()
    page.goto(f"http://{name}:{other_site}/")
    assert page.evaluate(_STREAM, address) == "refused"
    assert page.evaluate(_READ, address) == "refused"
    page.evaluate("address => document.body.append(Object.assign(document.createElement('iframe'), {src: address}))", address)
    page.wait_for_timeout(500)
    framed = page.frames[1]
    assert "SparseRM" not in framed.evaluate("() => document.title") and "chrome-error" in framed.url
    page.close()
