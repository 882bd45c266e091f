"""Default names, folders and measured settings."""

from __future__ import annotations

import os
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

#: Maximum number of features of a head: with more, random latents do as well.
MAX_FEATURES = 32

#: Names in the folder of a saved head; one with other names in it is not replaced.
HEAD_FILES = ("config.json", "head.safetensors", "README.md")


def home() -> Path:
    """The data folder and cache: ``SPARSERM_HOME``, or the user's cache folder."""
    override = os.environ.get("SPARSERM_HOME")
    return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("sparserm"))


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
