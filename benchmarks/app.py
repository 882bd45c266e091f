"""How fast the app feels: ``python -m benchmarks.app``. Real backbone, real Chromium, warm; medians.

Paint from a new tab, a scored response, a moved weight, a switched page, the server's health while a job works, and the
server's memory over many interactions. Every text that is scored is new.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import data_folder, write_results
from sparserm import jobs
from sparserm.sources import DataSource

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
REPEATS = 9
INTERACTIONS = 200
WAIT_MS = 120_000


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """The app on a free port: its address and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", "from sparserm.cli import main; main()", "app", "--port", str(port)])
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2)
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(20)


def timed(action: Callable[[], Any]) -> float:
    """Seconds that the action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds), "n": len(seconds)}


def paint(browser: Any, address: str) -> float:
    """From opening a new tab until its title and fields are there."""
    page = browser.new_page()
    page.set_default_timeout(WAIT_MS)

    def open_page() -> None:
        page.goto(address)
        page.get_by_role("heading", name="Score a response").wait_for()
        page.get_by_label("Response", exact=True).wait_for()

    seconds = timed(open_page)
    page.close()
    return seconds


def score(page: Any, number: int) -> float:
    """From the click until the tokens of a response of some 150 tokens are drawn."""
    words = f"Answer {number}: " + "the sky is blue since air scatters short waves more. " * 13
    page.get_by_label("Response", exact=True).fill(words)
    page.get_by_label("Response", exact=True).blur()
    page.get_by_text("The fields have changed").wait_for()
    page.wait_for_timeout(500)
    tokens = page.locator(".tokens").first

    def press() -> None:
        page.get_by_role("button", name="Score", exact=True).click()
        tokens.filter(has_text=f"Answer {number}:").wait_for()

    return timed(press)


def switch(page: Any, name: str, heading: str) -> float:
    """From the click on a page's name until its title is there."""

    def press() -> None:
        page.get_by_role("link", name=name, exact=True).click()
        page.get_by_role("heading", name=heading, exact=True).wait_for()

    return timed(press)


def health(address: str) -> float:
    """One question whether the server is well."""
    return timed(lambda: urllib.request.urlopen(f"{address}/_stcore/health", timeout=30).read())


def memory_mb(pid: int) -> float:
    """Resident memory of the server."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def under_load(address: str) -> dict[str, float]:
    """The server's health while a job reads pairs that nobody has read."""
    source = DataSource(str(data_folder() / "safety" / "pku_saferlhf.train.jsonl"))
    os.environ["SPARSERM_STORE"] = "off"  # the job's process must compute
    job = jobs.start("represent", {"source": source.to_dict(), "head": "safety"}, "Load for a benchmark")
    try:
        while "representations" not in jobs.status(job).text:
            time.sleep(0.2)
        return summary([health(address) for _ in range(50) if time.sleep(0.1) is None])
    finally:
        jobs.cancel(job)
        while jobs.status(job).active:
            time.sleep(0.2)
        jobs.delete(job)
        del os.environ["SPARSERM_STORE"]


def main() -> None:
    """Measure and keep the figures."""
    from playwright.sync_api import sync_playwright

    with server() as (address, pid), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        results: dict[str, Any] = {"first_paint": summary([paint(browser, address) for _ in range(REPEATS)])}
        page = browser.new_page(viewport={"width": 1400, "height": 1200})
        page.set_default_timeout(WAIT_MS)
        page.goto(address)
        page.get_by_role("button", name="Score", exact=True).click()
        page.get_by_text("they add up to").wait_for()
        results["score_150_tokens"] = summary([score(page, number) for number in range(REPEATS)])
        pages = {"Train": "Train a head", "Compare": "Compare responses", "Score": "Score a response"}
        results["page_switch"] = summary([switch(page, *one) for _ in range(3) for one in pages.items()])
        before = memory_mb(pid)
        for number in range(INTERACTIONS):
            score(page, 1000 + number)
            if number == INTERACTIONS // 10:
                before = memory_mb(pid)
        results["memory_mb"] = {"after_20": before, f"after_{INTERACTIONS}": memory_mb(pid)}
        results["health_during_job"] = under_load(address)
        browser.close()
    write_results("app", results)
    for name, figures in results.items():
        print(name, figures)


if __name__ == "__main__":
    main()
