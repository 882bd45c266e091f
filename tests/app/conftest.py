"""Pages are driven within the app's frame, as in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _with_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """AppTest takes a folder pages/ for an app without st.navigation, and would run a page without app.py."""

    def run(main_script: str) -> None:
        exec(compile(Path(main_script).read_text(), main_script, "exec"), {"__name__": "__main__", "__file__": main_script})

    monkeypatch.setattr("streamlit.runtime.scriptrunner.script_runner._mpa_v1", run)


@pytest.fixture(autouse=True)
def no_shipped_labels(monkeypatch, tmp_path):
    """What the shipped heads' features are called is no concern of these tests."""
    monkeypatch.setattr("sparserm.heads.labels.shipped_labels", lambda fingerprint: tmp_path / "none")
