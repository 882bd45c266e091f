"""A file of pairs on its way through the pages, driven without a browser: insights, a head, what it learned, a score."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from sparserm import jobs
from sparserm.heads.fitting import MOST_FEATURES
from sparserm.jobs.worker import work
from sparserm.support.defaults import home

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.backbone


def _button(page: AppTest, label: str):
    return next(one for one in page.button if one.label == label)


def _shown(page: AppTest) -> str:
    return "\n".join(one.value for kind in (page.markdown, page.warning, page.caption) for one in kind)


@pytest.fixture
def few_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job fits few heads: what it finds out with more is tested on its own."""
    monkeypatch.setattr("sparserm.heads.gated_selection.SPLITS", 2)
    monkeypatch.setattr("sparserm.training.evidence.RESAMPLES", 2)
    monkeypatch.setattr("sparserm.training.evidence.SHUFFLES", 2)
    monkeypatch.setattr("sparserm.training.evidence.CURVE_SEEDS", 1)
    monkeypatch.setattr("sparserm.jobs.kinds.sweep", lambda *_, **__: ())


@pytest.fixture
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A data folder of the test's own, with the language model that is there already."""
    own = tmp_path / "home"
    own.mkdir()
    (own / "backbones").symlink_to(home() / "backbones")
    monkeypatch.setenv("SPARSERM_HOME", str(own))
    monkeypatch.delenv("SPARSERM_DATA", raising=False)


def test_from_a_file_to_what_it_rewards_to_a_head_and_a_score(monkeypatch, own_home, few_heads) -> None:
    started: list[Path] = []
    monkeypatch.setattr("sparserm.ui.shared.pairs_picker.INLINE_TOKENS", 10**6)  # computed on the page, without a job
    monkeypatch.setattr("sparserm.jobs.queue._spawn", started.append)
    monkeypatch.setattr("os.nice", lambda n: 0)
    lines = (ROOT / "assets" / "pairs" / "truthfulness.jsonl").read_bytes().splitlines()[:24]

    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300).run()
    page.switch_page("pages/insights.py").run()
    page.file_uploader(key="pairs file").set_value(("mine.jsonl", b"\n".join(lines), "text/plain")).run()
    assert not page.exception and page.selectbox(key="pairs").value == "mine.jsonl (uploaded)"
    assert {metric.label: metric.value for metric in page.metric}["Pairs"] == "24"

    page.switch_page("pages/train.py").run()
    if page.selectbox(key="pairs").value != "mine.jsonl (uploaded)":
        page.selectbox(key="pairs").set_value("mine.jsonl (uploaded)").run()
    _button(page, "Start training").click().run()
    assert not page.exception and len(started) == 1
    work(started[0])
    assert jobs.list_jobs()[0].state == "done"
    page.run()
    assert not page.exception
    assert "What it learned" in {one.value for one in page.subheader}
    assert "pairs of other prompts as labelled (95% interval" in _shown(page) and "The head has" in _shown(page)
    assert page.slider(key="k").max == MOST_FEATURES["gated"]

    _button(page, "Save").click().run()
    assert not page.exception
    _button(page, "Saved as my-mine. Use it").click().run()
    page.switch_page("pages/score.py").run()
    assert not page.exception and page.selectbox(key="head").value == "my-mine"
    _button(page, "Score").click().run()
    assert not page.exception and any(metric.label == "Reward" for metric in page.metric)
