"""Speed of the app with the real backbone in Chromium: ``python -m benchmarks.app``. Medians of warm interactions.

Measures the first page in a new tab, scoring a response, switching off a feature, changing pages, Insights of stored pairs, the
server's health check during a job, and the server's memory over many interactions. Every scored text is new.
"""

from __future__ import annotations

import json
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
from typing import Any

from benchmarks.common import data_folder, memory_mb, write_results
from benchmarks.latency import warm_scores
from sparserm import jobs
from sparserm.heads.saved import load_head
from sparserm.pairs.sources import DataSource

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
REPEATS = 9
INTERACTIONS = 200
WAIT_MS = 120_000


@contextmanager
def store_off() -> Iterator[None]:
    """Turn the store off, so that everything is computed."""
    os.environ["SPARSERM_STORE"] = "off"
    try:
        yield
    finally:
        del os.environ["SPARSERM_STORE"]


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """Run the app on a free port; yields its address and process id."""
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
                time.sleep(0.03)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(20)


#: Measures the milliseconds from the next click until a condition holds and is painted. It runs in the page because the driver
#: polls at growing intervals.
_WATCH = """source => {
  const so = new Function('deep', 'return ' + source), deep = selector => {
    const found = [], look = root => {
      found.push(...root.querySelectorAll(selector));
      root.querySelectorAll('*').forEach(one => one.shadowRoot && look(one.shadowRoot));
    };
    look(document);
    return found;
  };
  window.measured = new Promise(done => addEventListener('click', () => {
    const started = performance.now();
    const look = () => so(deep) ? requestAnimationFrame(() => done(performance.now() - started)) : setTimeout(look, 10);
    look();
  }, { once: true, capture: true }));
}"""


def clicked(page: Any, button: Any, condition: str) -> float:
    """Seconds from a click until a JavaScript condition holds; ``deep(selector)`` also finds elements in components."""
    page.evaluate(_WATCH, condition)
    button.click()
    seconds = page.evaluate("window.measured") / 1000
    page.wait_for_timeout(700)  # let the work that the click started finish
    return float(seconds)


def timed(action: Callable[[], Any]) -> float:
    """Seconds that the action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds), "n": len(seconds)}


def paint(browser: Any, address: str) -> float:
    """Seconds from opening a new tab until its title and fields are displayed."""
    page = browser.new_page()
    page.set_default_timeout(WAIT_MS)

    def open_page() -> None:
        page.goto(address)
        page.wait_for_function(
            "document.querySelector('h1')?.innerText === 'Score a response' && document.querySelector('textarea')",
            polling="raf",
        )

    seconds = timed(open_page)
    page.close()
    return seconds


def from_start(browser: Any) -> float:
    """Seconds from the command, server start included, until the first page is displayed in an open browser."""
    started = time.perf_counter()
    with server() as (address, _):
        paint(browser, address)
        return time.perf_counter() - started


def score(page: Any, number: int) -> float:
    """Seconds from the click until the tokens of a response of about 150 tokens are displayed, which is the last part."""
    words = f"Answer {number}: " + "the sky is blue since air scatters short waves more. " * 13
    page.get_by_label("Response", exact=True).fill(words)
    button = page.get_by_role("button", name="Score", exact=True)
    return clicked(page, button, f"deep('.tokens').some(one => one.textContent.includes('Answer {number}:'))")


def switch(page: Any, name: str, heading: str) -> float:
    """Seconds from the click on a page's name until its title is displayed."""
    link = page.get_by_role("link", name=name, exact=True)
    return clicked(page, link, f"document.querySelector('h1')?.innerText === '{heading}'")


def slide(page: Any, address: str) -> list[float]:
    """Seconds from switching a feature off or on until the accuracy on the held-out pairs of safety is updated."""
    _wait_for(jobs.start("represent", _job("pku_saferlhf.test.jsonl"), "Pairs for a benchmark"))
    page.goto(f"{address}/edit?{_PAIRS}")
    row = page.locator(".row:not(.head)").first
    row.wait_for()
    page.wait_for_timeout(3000)
    seconds = []
    for _ in range(2 * REPEATS):
        shown = page.evaluate(f"({_METRICS})()")
        button = row.get_by_role("button", name="switch off")
        seconds.append(clicked(page, button, f"({_METRICS})() !== {json.dumps(shown)}"))
    return seconds


_METRICS = "() => [...document.querySelectorAll('[data-testid=stMetric]')].map(one => one.innerText).join()"


def insights(page: Any, address: str) -> dict[str, dict[str, float]]:
    """Seconds until the findings of stored pairs are displayed: the first time, when they are tested, and from another page."""
    drawn = (
        "document.querySelector('h1')?.innerText === 'What does this data reward?' && document.querySelector('.js-plotly-plot')"
    )

    page.set_default_timeout(WAIT_MS)

    def first() -> None:
        page.goto(f"{address}/insights?{_PAIRS}")
        page.wait_for_function(drawn, polling="raf")

    found, later = summary([timed(first)]), []
    for _ in range(REPEATS):
        switch(page, "Train", "Train a head")
        later.append(clicked(page, page.get_by_role("link", name="Insights", exact=True), drawn))
    return {"insights_first": found, "insights_page": summary(later)}


#: The test pairs of the head safety, in a link.
_PAIRS = "head=safety&pairs=safety/pku_saferlhf.test.jsonl"


def _job(file: str) -> dict[str, Any]:
    """Specification of the job that represents pairs for the head safety."""
    card = load_head("safety").card
    source = DataSource(str(data_folder() / "safety" / file))
    return {"source": source.to_dict(), "backbone": card.backbone_source, "sae": card.sae}


def _wait_for(job: str) -> None:
    while jobs.status(job).active:
        time.sleep(0.2)
    jobs.delete(job)


def health(address: str) -> float:
    """Seconds of one health check."""
    return timed(lambda: urllib.request.urlopen(f"{address}/_stcore/health", timeout=30).read())


def under_load(address: str) -> dict[str, float]:
    """Health checks during a job that computes representations."""
    with store_off():
        job = jobs.start("represent", _job("pku_saferlhf.train.jsonl"), "Load for a benchmark")
    try:
        while "sample" not in jobs.status(job).text:
            time.sleep(0.2)
        found = []
        for _ in range(50):
            time.sleep(0.1)
            found.append(health(address))
        return summary(found)
    finally:
        jobs.cancel(job)
        _wait_for(job)


def measured(browser: Any, address: str, pid: int) -> dict[str, Any]:
    """All measurements of one running server."""
    results: dict[str, Any] = {}
    results["first_paint_new_tab"] = summary([paint(browser, address) for _ in range(REPEATS)])
    page = browser.new_page(viewport={"width": 1400, "height": 1200})
    page.set_default_timeout(WAIT_MS)
    page.goto(address)
    page.get_by_role("button", name="Score", exact=True).click()
    page.get_by_text("they add up to").wait_for()
    results["score_150_tokens"] = summary([score(page, number) for number in range(REPEATS)])
    with store_off():
        results["engine_score"] = summary(warm_scores())
    pages = {"Train": "Train a head", "Compare": "Compare responses", "Score": "Score a response"}
    results["page_switch"] = summary([switch(page, *one) for _ in range(3) for one in pages.items()])
    results["slider_1092_pairs"] = summary(slide(browser.new_page(viewport={"width": 1400, "height": 1200}), address))
    results |= insights(browser.new_page(viewport={"width": 1400, "height": 1200}), address)
    before = memory_mb(pid, "VmRSS")
    for number in range(INTERACTIONS):
        score(page, 1000 + number)
        if number == INTERACTIONS // 10:
            before = memory_mb(pid, "VmRSS")
    results["memory_mb"] = {f"after_{INTERACTIONS // 10}": before, f"after_{INTERACTIONS}": memory_mb(pid, "VmRSS")}
    results["health_during_job"] = under_load(address)
    return results


def main() -> None:
    """Measure and write the results."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        results: dict[str, Any] = {"first_paint_from_start": summary([from_start(browser) for _ in range(5)])}
        with server() as (address, pid):
            results |= measured(browser, address, pid)
        browser.close()
    write_results("app", results)
    for name, figures in results.items():
        print(name, figures)


if __name__ == "__main__":
    main()
