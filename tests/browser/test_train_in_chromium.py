"""Training in Chromium: a CSV with other column names, a job that outlives its tab, evidence, a cell opened, a head kept."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sparserm.support.defaults import assets_dir

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.backbone]


@pytest.fixture
def pairs(tmp_path: Path, nothing_left: None) -> Path:
    """Starter pairs under other names, one row of them bad."""
    path = tmp_path / "chromium <b>*pairs*.csv"
    lines = (assets_dir() / "pairs" / "truthfulness.jsonl").read_text().splitlines()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer_good", "answer_bad"])
        writer.writerows([row["prompt"], row["chosen"], row["rejected"]] for row in map(json.loads, lines))
        writer.writerow(["An answer is missing?", "", "So it is."])
    return path


def test_from_a_csv_to_a_head_in_use(address: str, browse: Callable[..., Page], pairs: Path, name: str) -> None:
    from playwright.sync_api import expect

    page = browse()
    page.goto(f"{address}/train")
    page.get_by_test_id("stFileUploaderDropzoneInput").first.set_input_files(pairs)
    expect(page.get_by_text("71 rows, 70 usable, 1 left out", exact=False)).to_be_visible()
    expect(page.get_by_text("Matched by column name", exact=False)).to_be_visible()
    field = page.get_by_label("Name of the head")
    expect(field).to_have_count(1)  # while the page is drawn again there are two
    field.fill(name)
    field.press("Enter")
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    page.wait_for_url(re.compile("job="))
    link = page.url
    page.close()

    other = browse(color_scheme="dark")
    other.goto(link)
    expect(other.get_by_text("Stability of feature selection")).to_be_visible()
    expect(other.get_by_text("shuffled labels").first).to_be_visible()
    cells = other.locator(".js-plotly-plot").nth(2).locator(".nsewdrag").first
    box = cells.bounding_box()
    assert box is not None
    cells.click(position={"x": box["width"] * 0.3, "y": box["height"] / 2})  # the second of six columns
    expect(other.get_by_text("vs. trained")).to_be_visible()
    expect(other).to_have_url(re.compile("k=8"))

    other.get_by_role("button", name="Save head").click()
    other.get_by_role("button", name="Save", exact=True).click()
    other.get_by_role("button", name=f"Saved as {name}. Use it").click()
    expect(other).to_have_url(re.compile(f"head={name}"))
    other.reload()
    # Eight is the most that the gated head may have.
    expect(other.get_by_text(re.compile(r"\b[1-8] features, mean pooling"))).to_be_visible()
