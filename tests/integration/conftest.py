"""The real default backbone, from SPARSERM_HOME or downloaded into it."""

from collections.abc import Callable

import pytest

from sparserm.model import SparseRM
from tests.commands import Outcome, runner


@pytest.fixture(scope="session")
def head() -> SparseRM:
    model = SparseRM.from_pretrained("truthfulness")
    model.load_backbone()
    return model


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command in this process, which has loaded the backbone already."""
    return runner(monkeypatch, capfd)
