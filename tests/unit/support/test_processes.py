"""Another Python imports what this one would, whatever lies in the working folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sparserm.support.processes import python


@pytest.mark.parametrize("module", ["csv", "queue"])
def test_a_file_of_the_working_folder_does_not_stand_in_for_a_module(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text("raise SystemExit('the file of the working folder was run')")
    code = f"import sys, {module}; print(sys.argv[1:])"
    by_itself = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "working folder was run" in by_itself.stderr
    found = subprocess.run(python(code, "a b"), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.stdout, found.stderr) == ("['a b']\n", "")


def test_modules_come_from_the_same_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text("print('found')")
    monkeypatch.syspath_prepend(tmp_path)
    assert subprocess.run(python("import only_here"), capture_output=True, text=True, check=True).stdout == "found\n"
