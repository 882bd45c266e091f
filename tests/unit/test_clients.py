"""How clients are run and reported: what fails or cannot be installed is said, and the page has a row for every check."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from clients import __main__ as program
from clients import environment
from clients.environment import ROOT, run
from clients.inside import outcome
from clients.kinds import Check, Client, Outcome, Place, Report, close
from clients.table import markdown

PLACE = Place("", "", "", [], [], {})


def _fails(_: Place) -> None:
    close([1.0], [2.0])


def _ends(_: Place) -> None:
    sys.exit("no such model")


CHECKS = (Check("fails", _fails), Check("ends", _ends), Check("does nothing", lambda _: None))


def test_whatever_a_check_raises_is_its_outcome() -> None:
    assert [outcome(check, PLACE) for check in CHECKS] == [
        Outcome("fails", "failed", "AssertionError: got [1.0], expected [2.0]"),
        Outcome("ends", "failed", "SystemExit: no such model"),
        Outcome("does nothing", "ok"),
    ]


def test_checks_are_skipped_with_the_reason_where_pip_cannot_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "CACHE", tmp_path)
    missing = f"no-such-package @ file://{tmp_path}/no_such_package-1.0-py3-none-any.whl"
    found = program.report("missing", Client("Missing", "missing", CHECKS, requirements=(missing,)), PLACE)
    assert [one.result for one in found.outcomes] == ["skipped"] * 3
    assert "pip: ERROR" in found.outcomes[0].reason and not (tmp_path / "missing" / "installed.json").exists()


def _wheel(folder: Path, name: str, code: str) -> Path:
    """A package of version 99 with one module of the same name."""
    file, about = folder / f"{name}-99-py3-none-any.whl", f"{name}-99.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 99\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return file


def test_an_environment_has_its_own_packages_before_the_shared_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "CACHE", tmp_path)
    client = Client("Own", "filelock", (), alone=(str(_wheel(tmp_path, "filelock", "own = True")),))
    python, log = environment.environment("own", client), tmp_path / "log.txt"
    code = "import filelock, pytest; from importlib.metadata import version; print(filelock.own, version('filelock'))"
    assert run([str(python), "-c", code], log, 60, {}) == 0, log.read_text()
    assert log.read_text().split() == ["True", "99"]
    made = (tmp_path / "own" / "installed.json").stat().st_mtime_ns
    assert environment.environment("own", client) == python  # is there already
    assert (tmp_path / "own" / "installed.json").stat().st_mtime_ns == made


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    assert run([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log.txt", 0.5, {}) is None


def test_the_page_has_a_row_for_every_check_and_no_path_of_this_machine() -> None:
    reason = f"Error: {ROOT}/some/file\nhas a | in it, " + "and more " * 60
    found = markdown([Report("A", "a", "1.2", (Outcome("one", "ok"), Outcome("two", "failed", reason)), "a note")])
    assert "| A | a 1.2 | one | ok |\n|  |  | two | failed: Error: ./some/file has a \\| in it, and more" in found
    assert str(ROOT) not in found and "- A: a note." in found
    assert max(map(len, found.splitlines())) < 400
