"""Files and folders are replaced as a whole, or stay as they were."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparserm.support import files
from sparserm.support.files import foreign_entry, interrupted_replacement, only_writer, replacing, replacing_folder
from sparserm.types import SparseRMError

#: Every call of the operating system on the way, reads aside.
CALLS = ("mkdir", "open", "fsync", "rename", "replace", "rmdir", "unlink")

OLD, NEW = {"a": "old a", "b": "old b"}, {"a": "new a", "c/d": "new d"}


def write(folder: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def replace_folder(path: Path, replace: bool = True) -> None:
    with replacing_folder(path, replace=replace) as temporary:
        write(temporary, NEW)


def replace_file(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("new")


class Break:
    """Makes the n-th call of the operating system fail, as a full disk, a missing right or Ctrl-C would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[], None], after: bool = False) -> None:
        self.n, self.at, self.act, self.after = 0, at, act, after
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **keywords: Any) -> Any:
            self.n += 1
            if self.n != self.at:
                return call(*args, **keywords)
            if self.after:
                call(*args, **keywords)
            self.act()

        return wrapped


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


FAILURES = [OSError(28, "No space left on device"), PermissionError(13, "Permission denied"), KeyboardInterrupt()]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("old", [OLD, {}, None], ids=["old", "empty", "missing"])
def test_folder_is_old_or_new_whichever_call_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: dict[str, str] | None, failure: BaseException, after: bool
) -> None:
    for at in range(1, 200):
        root = tmp_path / str(at)
        root.mkdir()
        if old is not None:
            (root / "head").mkdir()
            write(root / "head", old)
        with monkeypatch.context() as patch:
            broken, failed = Break(patch, at, raising(failure), after), False
            try:
                replace_folder(root / "head")
            except (OSError, KeyboardInterrupt):
                failed = True
        found = read(root / "head") if (root / "head").is_dir() else None
        assert found == NEW or (failed and found == old)
        assert failed or found == NEW
        hidden = [path.name for path in root.iterdir() if path.name != "head"]
        assert not any(name.endswith(".old") for name in hidden) or found == NEW
        if broken.n < at:
            assert not failed and not hidden
            return
    raise AssertionError("more than 200 calls")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_folder_is_old_or_new_whenever_the_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(1, 200):
        head = tmp_path / str(at) / "head"
        head.mkdir(parents=True)
        write(head, OLD)
        child = os.fork()
        if child == 0:
            Break(monkeypatch, at, lambda: os._exit(9))
            replace_folder(head)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        before = interrupted_replacement(head)
        if head.exists():
            assert read(head) in (OLD, NEW) and before is None
        else:
            assert before is not None and read(before) == OLD
        if code == 0:
            assert read(head) == NEW and os.listdir(head.parent) == ["head"]
            return
    raise AssertionError("more than 200 calls")


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
def test_file_is_old_or_new_whichever_call_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "file"
    for at in range(1, 50):
        path.write_text("old")
        with monkeypatch.context() as patch:
            broken, failed = Break(patch, at, raising(failure)), False
            try:
                replace_file(path)
            except (OSError, KeyboardInterrupt):
                failed = True
        assert path.read_text() == "new" or (failed and path.read_text() == "old")
        if broken.n < at:
            assert not failed and os.listdir(tmp_path) == ["file"]
            return
    raise AssertionError("more than 50 calls")


def test_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "head", OLD)
    with pytest.raises(OSError, match="No space"), replacing_folder(tmp_path / "head", replace=True) as temporary:
        write(temporary, NEW)
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space"), replacing(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == ["head"] and read(tmp_path / "head") == OLD


def test_errors_name_what_was_to_be_written(tmp_path: Path) -> None:
    for manager, name in ((replacing(tmp_path / "file"), "file"), (replacing_folder(tmp_path / "head", replace=True), "head")):
        with pytest.raises(OSError, match="No space") as raised, manager:
            raise OSError(28, "No space left on device")
        assert raised.value.filename == str(tmp_path / name)
    with pytest.raises(FileNotFoundError) as missing, replacing_folder(tmp_path / "head", replace=True) as temporary:
        (temporary / "missing" / "file").write_text("")
    assert missing.value.filename == str(tmp_path / "head")
    with pytest.raises(FileNotFoundError) as other, replacing(tmp_path / "file"):
        (tmp_path / "other").read_text()
    assert other.value.filename == str(tmp_path / "other")


def test_files_are_on_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "rename", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, call=call: (calls.append(name), call(*args))[1])
    replace_file(tmp_path / "file")
    assert calls == ["fsync", "replace", "fsync"]
    calls.clear()
    replace_folder(tmp_path / "head", replace=False)
    assert calls[:6] == ["fsync"] * 4 + ["rename", "fsync"]  # two files and two folders


def test_folder_with_files_needs_replace(tmp_path: Path) -> None:
    write(tmp_path / "head", OLD)
    with pytest.raises(SparseRMError, match="exists, expected a new or empty folder"):
        replace_folder(tmp_path / "head", replace=False)
    (tmp_path / "file").write_text("old")
    with pytest.raises(SparseRMError, match="is a file, expected a folder"):
        replace_folder(tmp_path / "file")
    assert read(tmp_path / "head") == OLD and (tmp_path / "file").read_text() == "old"


def test_folder_that_appears_meanwhile_needs_replace(tmp_path: Path) -> None:
    head = tmp_path / "head"
    with (
        pytest.raises(SparseRMError, match="exists, expected a new or empty folder"),
        replacing_folder(head, replace=False) as temporary,
    ):
        write(temporary, NEW)
        write(head, OLD)
    assert read(head) == OLD and os.listdir(tmp_path) == ["head"]


def test_last_of_two_concurrent_writers_wins_whole(tmp_path: Path) -> None:
    head = tmp_path / "head"
    write(head, OLD)
    with replacing_folder(head, replace=True) as slow:
        write(slow, NEW)
        with replacing_folder(head, replace=True) as fast:
            write(fast, {"a": "of the other"})
        assert read(head) == {"a": "of the other"}
    assert read(head) == NEW and os.listdir(tmp_path) == ["head"]


def test_folder_put_between_the_two_moves_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head, rename = tmp_path / "head", os.rename
    write(head, OLD)

    def other(source: Path, target: Path) -> None:
        rename(source, target)
        if source == head:  # just moved aside
            monkeypatch.undo()
            write(head, {"a": "of the other"})

    monkeypatch.setattr(os, "rename", other)
    replace_folder(head)
    assert read(head) == NEW and os.listdir(tmp_path) == ["head"]


def test_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    write(tmp_path / "kept", OLD)
    (tmp_path / "head").symlink_to(tmp_path / "kept")
    replace_folder(tmp_path / "head")
    assert read(tmp_path / "kept") == OLD and read(tmp_path / "head") == NEW and not (tmp_path / "head").is_symlink()


@pytest.mark.parametrize("name", ["n" * 255, "ä" * 127, "n" * 151])
def test_longest_names_that_the_file_system_takes(tmp_path: Path, name: str) -> None:
    replace_file(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    (tmp_path / name).unlink()
    replace_folder(tmp_path / name)
    replace_folder(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_name_that_is_too_long_fails_before_the_work(tmp_path: Path) -> None:
    for manager in (replacing(tmp_path / ("n" * 300)), replacing_folder(tmp_path / ("n" * 300), replace=True)):
        with pytest.raises(OSError, match="File name too long"), manager:
            raise AssertionError("the work was begun")


def test_leftovers_of_killed_processes_go_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leftovers = [tmp_path / f".file.{'0' * 32}.tmp", tmp_path / f".head.{'1' * 32}.tmp"]
    leftovers[0].write_text("half")
    write(leftovers[1], OLD)
    (tmp_path / ".mine.tmp").write_text("of the user")
    before = tmp_path / f".lost.{'2' * 32}.old"
    write(before, OLD)
    replace_file(tmp_path / "file")
    assert all(path.exists() for path in leftovers)
    files._remove_leftovers.cache_clear()
    now = time.time()
    monkeypatch.setattr(files.time, "time", lambda: now + files.LEFTOVER_S + 60)
    replace_file(tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == sorted(["file", ".mine.tmp", before.name])
    assert interrupted_replacement(tmp_path / "lost") == before


def test_an_old_folder_left_beside_its_replacement_goes_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_folder(tmp_path / "head")
    aside = tmp_path / f".head.{'0' * 32}.old"
    aside.mkdir()
    replace_folder(tmp_path / "head")
    assert aside.is_dir()
    later = time.time() + 2 * files.LEFTOVER_S
    monkeypatch.setattr(files.time, "time", lambda: later)
    replace_folder(tmp_path / "head")
    assert not aside.exists()


def test_nothing_was_interrupted(tmp_path: Path) -> None:
    assert interrupted_replacement(tmp_path / "head") is None
    assert interrupted_replacement(tmp_path / "missing" / "head") is None
    replace_folder(tmp_path / "head")
    assert interrupted_replacement(tmp_path / "head") is None


def test_foreign_entry(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": "", ".DS_Store": "", "model-1.safetensors": "", "head/a.json": "", "layer_3/x/y": ""})
    names = ("config.json", "*.safetensors", "head/*.json", "layer_*/**")
    assert foreign_entry(tmp_path, names) is None and foreign_entry(tmp_path / "missing", names) is None
    for other in ("notes.txt", "head/notes.txt", "more.safetensors/x", "layer_4", "x/config.json"):
        write(folder := tmp_path / f"of {other.replace('/', ' ')}", {"config.json": "", other: ""})
        assert foreign_entry(folder, names) in (folder / other, (folder / other).parent)


def test_second_writer_is_refused(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from sparserm.support.files import only_writer\n"
    script += f"with only_writer(Path({str(tmp_path / 'run')!r})): print('in')"
    with only_writer(tmp_path / "run"):
        refused = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert f"another run is writing to {tmp_path / 'run'}" in refused.stderr
    assert not os.listdir(tmp_path / "run")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stdout == "in\n"
