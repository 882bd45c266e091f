"""Commands run in this process, as their entry point runs them, and their outcome."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from sparserm import cli


@dataclass(frozen=True)
class Outcome:
    """Exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout, where the command succeeded."""
        assert self.code == 0, self.err
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    @property
    def error(self) -> str:
        """The one line on stderr, where the command refused; nothing is on stdout."""
        assert self.code == 2
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("error: ") and "Traceback" not in line
        return line


def runner(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """``run(*arguments)`` for these fixtures."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # as main() asks for before transformers is imported

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sparserm", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Outcome(ended.value.code, *capfd.readouterr())

    return run
