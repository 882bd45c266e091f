"""Names, folders and measured choices that every other file takes from here."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

#: The tasks with a shipped head and starter pairs.
TASKS = ("truthfulness", "safety", "redteam", "helpfulness")

#: The backbone used when none is named: SmolLM2-135M-Instruct.
DEFAULT_BACKBONE = "smollm2"

#: Layers of the default backbone with a shipped SAE: about a third, half and two thirds of its depth.
DEFAULT_LAYERS = (10, 15, 20)

#: The layer used when none is named; the best on validation splits of the training files.
DEFAULT_LAYER = 15

#: A head has at most this many features: with more, random directions do as well (design, "What is known").
MAX_FEATURES = 32


def home() -> Path:
    """The data folder and cache: ``SPARSERM_HOME``, or the user's cache folder."""
    override = os.environ.get("SPARSERM_HOME")
    return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("sparserm"))


def default_device() -> str:
    """Where backbones run: ``SPARSERM_DEVICE`` as PyTorch names it (``cuda``, ``cuda:1``), or the CPU."""
    return os.environ.get("SPARSERM_DEVICE") or "cpu"


def data_dir() -> Path | None:
    """The folder of the user's own preference files, ``SPARSERM_DATA``, if it is set and there."""
    value = os.environ.get("SPARSERM_DATA")
    return Path(value).expanduser() if value and Path(value).expanduser().is_dir() else None


def folder_note(fingerprint: str) -> Path:
    """The file that says in which folder this machine last saw a backbone of this fingerprint."""
    return home() / "folders" / fingerprint


def bundle_dir() -> Path:
    """Where ``app.py``, ``pages/`` and ``assets/`` lie: the repository, or inside an installed wheel."""
    package = Path(__file__).parent.parent
    inside_wheel = package / "_bundle"
    return inside_wheel if inside_wheel.is_dir() else package.parent


def assets_dir() -> Path:
    """The shipped SAEs, heads and starter pairs."""
    return bundle_dir() / "assets"
