"""The app on a free port, and Chromium pages that remember the errors of their scripts."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from sparserm.heads.library import delete_head, free_name
from sparserm.heads.saved import list_heads
from sparserm.jobs import queue
from sparserm.pairs.sources import DataSource, forget_upload, uploads_dir
from sparserm.types import SparseRMError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="package")
def address() -> Iterator[str]:
    """Where the app answers; one server for all tests."""
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
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One browser for all tests."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=180_000)  # a busy machine is slow, not wrong
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """``browse(**settings)`` opens a page that shares nothing with others; at the end none may have met a script's error."""
    errors: list[str] = []
    pages: list[Page] = []

    def page(**settings: Any) -> Page:
        opened = chromium.new_page(**{"viewport": {"width": 1400, "height": 1400}, **settings})
        opened.set_default_timeout(180_000)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on("dialog", lambda dialog: (errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        pages.append(opened)
        return opened

    yield page
    for one in pages:
        one.close()
    assert errors == []


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """What a test uploads, and its jobs, are gone after it."""

    def uploads() -> set[str]:
        return {str(path) for path in uploads_dir().glob("[!.]*") if path.is_file()}

    jobs, files = {job.id for job in queue.list_jobs()}, uploads()
    yield
    for job in queue.list_jobs():
        if job.id not in jobs:
            with suppress(SparseRMError):
                queue.delete(job.id)
    for path in uploads() - files:
        forget_upload(DataSource(path))


@pytest.fixture
def name() -> Iterator[str]:
    """Of a head; it, and those whose names begin with it, are gone after the test."""
    free = free_name("made-in-chromium")
    yield free
    for key in list_heads():
        if key.startswith(free):
            with suppress(SparseRMError):
                delete_head(key)
