"""What a command writes, checked before any work: nothing of the user's is replaced without ``--force``, an input never."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sparserm.support.defaults import HEAD_FILES, home
from sparserm.support.files import foreign_entry, one_line, write_text
from sparserm.types import SparseRMError

Force = Annotated[bool, typer.Option("--force", help="Replace what is there; the old one is kept until the new one is whole.")]


def _expanded(text: str) -> Path:
    """A path with ``~`` as the home folder: shells leave it alone after ``--out=``."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user
        return Path(text)


def out_option(*, help: str) -> Any:
    """An option for the path of an output."""
    return typer.Option(help=help, parser=_expanded, metavar="PATH")


#: Bytes written to find out whether a place can be written to.
PROBE = 4096


@dataclass(frozen=True)
class Folder:
    """A kind of folder that a command writes.

    Attributes:
        what: what it holds, e.g. ``a head``.
        files: what may be in it, as for :func:`~sparserm.support.files.foreign_entry`; a folder with more is never replaced.
        mark: the name that no folder of this kind lacks.
    """

    what: str
    files: tuple[str, ...]
    mark: str


#: A run that is resumed: what may be in its folder is checked by the run itself.
RUN = Folder("a run", ("**",), "")
HEAD = Folder("a head", HEAD_FILES, "head.safetensors")


@dataclass(frozen=True)
class Output:
    """A file or folder that a command is going to write.

    Attributes:
        path: as it was given.
        inputs: sources that the command reads, by what they are, e.g. ``the pairs``; what is no file or folder is ignored.
        force: whether ``--force`` was given.
        folder: the kind of folder; None for a file.
        option: the option that names it.
    """

    path: Path
    inputs: Mapping[str, str | Path | None] = field(default_factory=dict)
    force: bool = False
    folder: Folder | None = None
    option: str = "--out"

    def check(self) -> None:
        """Check that this can be written, and what it would replace.

        Raises:
            SparseRMError: it cannot be written, is an input, or would replace something that it must not.
        """
        with self._named_errors():
            self._check_inputs()
            parent = self._existing_parent()
            found = _entry(self.path)
            if self.folder is None:
                self._check_file(found)
            else:
                self._check_folder(self.folder, found)
            _probe(parent)

    def check_resumed(self) -> None:
        """Check that this can be written, where a run may have been begun before; the run itself checks what is there.

        Raises:
            SparseRMError: it cannot be written, is an input, or is a file for a folder or the other way round.
        """
        with self._named_errors():
            self._check_inputs()
            parent = self._existing_parent()
            found = _entry(self.path)
            if self.folder is None:
                replace(self, force=True)._check_file(found)
            elif found is not None and not found.is_dir():
                raise SparseRMError(f"{self._named} is a file; expected a new folder, or that of a run; give another name")
            _probe(self.path if self.folder and found else parent)

    def write(self, text: str) -> None:
        """Write the file, which must not have appeared during the work."""
        with self._named_errors():
            self._check_file(_entry(self.path))
            write_text(self.path, text)

    def _check_inputs(self) -> None:
        try:
            str(self.path).encode("utf-8")
        except UnicodeEncodeError:  # bytes that Python keeps as surrogates, which cannot be printed or noted
            raise SparseRMError(
                f"{self.option} {one_line(ascii(str(self.path)))} is not UTF-8; expected a name in UTF-8; give another one"
            ) from None
        found = os.path.lexists(self.path)
        for role, source in self.inputs.items():
            path = Path(source).expanduser() if source is not None else None
            if path is None or not os.path.exists(path):
                continue
            if os.path.realpath(path) == os.path.realpath(self.path) or (found and _same(path, self.path)):
                how = "is"
            elif found and _is_in(self.path, path):
                how = "is in"
            elif found and self.folder and _is_in(path, self.path):
                how = "holds"
            else:
                continue
            raise SparseRMError(
                f"{self._named} {how} {role}; expected another {self._kind}, since what is read "
                "is never replaced; give another name"
            )

    def _check_file(self, found: Path | None) -> None:
        if not self.path.name:
            raise SparseRMError(f"{self._named} is a folder; expected the name of a file; add one")
        if found is None:
            return
        if found.is_dir():
            raise SparseRMError(f"{self._named} is a folder; expected the name of a file; give another name")
        if not found.is_file() and not found.is_symlink():
            raise SparseRMError(f"{self._named} is no regular file; expected the name of one; give another name")
        if not self.force:
            raise SparseRMError(
                f"{self._named} exists; expected the name of a new file; give another name, or --force to replace it"
            )

    def _check_folder(self, kind: Folder, found: Path | None) -> None:
        here = Path.cwd()
        if found is not None and (_same(here, found) or _is_in(here, found)):
            raise SparseRMError(
                f"{self._named} is the current folder, or holds it; expected another folder; give the name of one in it"
            )
        if found is None:
            return
        if not found.is_dir():
            raise SparseRMError(f"{self._named} is a file; expected a new folder; give another name")
        if os.path.ismount(found):
            raise SparseRMError(
                f"{self._named} is a mounted volume, which cannot be replaced; expected a folder in it; give the name of one"
            )
        other = foreign_entry(found, kind.files)
        if other is not None or (any(found.iterdir()) and not (found / kind.mark).exists()):
            why = f"{other.relative_to(found)} is no part of {kind.what}" if other else f"{kind.mark} of {kind.what} is missing"
            raise SparseRMError(f"{self._named} is not empty; expected a new folder, but {why}; give another name")
        if (any(found.iterdir()) or found.is_symlink()) and not self.force:
            raise SparseRMError(
                f"{self._named} is not empty; expected a new folder; give another name, or --force to replace {kind.what} there"
            )

    def _existing_parent(self) -> Path:
        """The folder that exists and that everything is going to be made in."""
        missing, parent = [self.path], self.path.parent
        while not os.path.exists(parent):
            missing.append(parent)
            parent = parent.parent
        if not parent.is_dir():
            raise SparseRMError(f"{self._named} cannot be written: {parent} is a file; expected a folder; give another place")
        longest = max(len(os.fsencode(one.name)) for one in missing)
        if longest > (limit := _longest_name(parent)):
            raise SparseRMError(f"{self._named} has a name of {longest} bytes; expected at most {limit}; give a shorter one")
        return parent

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turn errors of the file system into one that names the option."""
        try:
            yield
        except OSError as error:
            raise SparseRMError(
                f"{self._named} cannot be written: {error.strerror or error}; expected a place with write access and free "
                "space; give another one"
            ) from error

    @property
    def _named(self) -> str:
        shown = str(self.path)
        return f"{self.option} {shown if len(shown) <= 200 else shown[:199] + '…'}"

    @property
    def _kind(self) -> str:
        return "file" if self.folder is None else "folder"


def pairs_file(source: str | None) -> str | Path | None:
    """The file that is read for a source of pairs or prompts, or the source itself."""
    from sparserm.pairs.load import find_file

    return None if source is None else find_file(source) or source


def head_folder(source: str | None) -> str | Path | None:
    """The folder of a head given by name or folder, or the source itself."""
    from sparserm.heads.saved import list_heads

    return None if source is None else list_heads().get(source, source)


def sae_folder(source: str | None) -> str | Path | None:
    """The folder of an SAE given by name or folder, or the source itself."""
    from sparserm.sae.autoencoder import find_saes

    return None if source is None else find_saes().get(source, source)


def check_all(*outputs: Output) -> None:
    """Check all that a command writes, each of which must be another.

    Raises:
        SparseRMError: as for :meth:`Output.check`, or two are the same.
    """
    seen: dict[str, Output] = {}
    for output in outputs:
        output.check()
        # Not all file systems tell upper and lower case apart.
        twin = seen.setdefault(os.path.realpath(output.path).casefold(), output)
        if twin is not output:
            raise SparseRMError(
                f"{twin.option} and {output.option} are both {output.path}; expected different names; change one of them"
            )


def check_home(what: str) -> None:
    """Check that the user's data folder, which keeps ``what``, can be written.

    Raises:
        SparseRMError: it cannot.
    """
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _probe(folder)
    except OSError as error:
        raise SparseRMError(
            f"{what} cannot be kept in {folder}: {error.strerror or error}; expected a folder with write access and free "
            "space; set SPARSERM_HOME to another one"
        ) from error


def _entry(path: Path) -> Path | None:
    """The path if something is there, a link to nothing included."""
    with suppress(FileNotFoundError):
        path.lstat()
        return path
    return None


def _same(one: Path, other: Path) -> bool:
    """Whether both are the same file or folder, also by hard links and other spellings."""
    try:
        return os.path.samefile(one, other)
    except FileNotFoundError:  # a link to nothing
        return False


def _is_in(path: Path, folder: Path) -> bool:
    """Whether a path lies below an existing folder."""
    return any(_same(one, folder) for one in Path(os.path.realpath(path)).parents) if folder.is_dir() else False


def _longest_name(folder: Path) -> int:
    """The most bytes in a name that the file system of a folder takes."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return 255


def _probe(folder: Path) -> None:
    """Write a small file and remove it: nothing else tells whether a disk is full, or a place read-only."""
    probe = folder / f".probe.{uuid.uuid4().hex}.tmp"
    try:
        with probe.open("wb") as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    finally:
        with suppress(OSError):
            probe.unlink()
