"""Default names, folders and measured settings."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import platformdirs

#: The tasks with a shipped head and starter pairs.
TASKS = ("truthfulness", "safety", "redteam", "helpfulness")

#: The default backbone: SmolLM2-135M-Instruct.
DEFAULT_BACKBONE = "smollm2"

#: Layers of the default backbone with a shipped SAE: about a third, half and two thirds of its depth.
DEFAULT_LAYERS = (10, 15, 20)

#: The default layer: the best on validation splits of the training files.
DEFAULT_LAYER = 15

#: What this package writes in the data folder.
_OWN = (
    "backbones",
    "benchmarks",
    "candidates",
    "features",
    "fingerprints",
    "folders",
    "heads",
    "jobs",
    "labels",
    "pairs",
    "representations.*",
    "saes",
)

#: Maximum number of features of a head: with more, random latents do as well.
MAX_FEATURES = 32
#: Maximum number of features of a gated head, of which about a dozen fire in a response.
MAX_GATED_FEATURES = 64

#: Names in the folder of a saved head; one with other names in it is not replaced.
HEAD_FILES = ("config.json", "head.safetensors", "README.md")


def home() -> Path:
    """The data folder and cache: ``SPARSERM_HOME``, or the user's cache folder. It is created, and private to the user.

    A folder of before, which others could read, is closed to them, with what this package wrote in it.
    """
    override = os.environ.get("SPARSERM_HOME")
    folder = Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("sparserm"))
    with suppress(OSError):  # whoever writes to it is told
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close(folder)
    return folder


def in_home(path: Path) -> bool:
    """Whether a path is in the data folder, so that what is written there is private to the user."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(home()))


def close_to_others(path: Path) -> None:
    """Take all permissions on a file, or on a folder with all that is in it, from everyone but its owner.

    What belongs to another user, and what links point to, stays as it is. Windows has other permissions: nothing is done.
    """
    if os.name == "nt" or path.is_symlink():
        return
    for folder, _, files in os.walk(path):
        for one in (folder, *(os.path.join(folder, name) for name in files)):
            _close_one(Path(one))
    _close_one(path)


def _close_one(path: Path) -> None:
    with suppress(OSError):
        found = path.lstat()
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o077 and not stat.S_ISLNK(found.st_mode) and found.st_uid == os.geteuid():
            path.chmod(mode & 0o700)


@lru_cache(maxsize=8)
def _close(folder: Path) -> None:
    """Close the data folder to others. Where it is a folder for other things too, only what this package wrote in it."""
    if os.name == "nt" or not stat.S_IMODE(folder.stat().st_mode) & 0o077:
        return
    for pattern in _OWN:
        for path in folder.glob(pattern):
            close_to_others(path)
    shared = folder.stat().st_mode & stat.S_ISVTX  # as /tmp
    if not shared and folder.resolve() not in (Path.home().resolve(), Path(folder.anchor)):
        _close_one(folder)


def default_device() -> str:
    """The PyTorch device for backbones: ``SPARSERM_DEVICE`` (e.g. ``cuda``, ``cuda:1``), or the CPU."""
    return os.environ.get("SPARSERM_DEVICE") or "cpu"


def folder_note(fingerprint: str) -> Path:
    """The file that records the folder of the last loaded backbone with this fingerprint."""
    return home() / "folders" / fingerprint


def noted_folder(fingerprint: str) -> Path | None:
    """The folder in :func:`folder_note`; None if there is no such note, or it is damaged."""
    try:
        text = folder_note(fingerprint).read_text()
        return Path(text) if text and Path(text).is_dir() else None
    except (OSError, ValueError):
        return None


def bundle_dir() -> Path:
    """The folder of ``app.py``, ``pages/`` and ``assets/``: the repository, or a folder of the installed wheel."""
    package = Path(__file__).parent.parent
    inside_wheel = package / "_bundle"
    return inside_wheel if inside_wheel.is_dir() else package.parent


def assets_dir() -> Path:
    """The folder of the shipped SAEs, heads and starter pairs."""
    return bundle_dir() / "assets"
