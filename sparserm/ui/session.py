"""What a session holds and what all sessions share: loaded heads, starter pairs, and the result on the page."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from sparserm.card import SavedHead, list_heads, load_head
from sparserm.defaults import assets_dir
from sparserm.model import SparseRM
from sparserm.pairs import STARTER_SETS, load_pairs
from sparserm.types import Explanation, Progress, Prompt, SparseRMError


@dataclass(frozen=True)
class Example:
    """One response of a starter pair, to begin with."""

    title: str
    prompt: Prompt
    response: str


@dataclass(frozen=True)
class ScoreRequest:
    """What is to be scored, and by which head."""

    head: str
    prompt: Prompt
    response: str


@dataclass(frozen=True)
class Scored:
    """A request with its answer; ``beats`` are the chances against a typical chosen and a typical rejected response."""

    request: ScoreRequest
    explanation: Explanation
    beats: tuple[float, float]


@st.cache_data(show_spinner=False)
def _load(folder: Path, _changed: int) -> SavedHead:
    return load_head(folder)


def heads_by_name() -> dict[str, dict[int, str]]:
    """For each head's name the layers it is there for, and for each layer what to load it by.

    Heads that cannot be read are left out here; ``sparserm heads`` says what is wrong with them.
    """
    found: dict[str, dict[int, str]] = {}
    for key in list_heads():
        try:
            card = saved_head(key).card
        except SparseRMError:
            continue
        found.setdefault(card.name, {}).setdefault(card.hook_point.layer, key)
    return found


def saved_head(key: str) -> SavedHead:
    """A head as it lies on disk, read again when its files change."""
    folder = list_heads()[key]
    return _load(folder, (folder / "config.json").stat().st_mtime_ns)


def default_layer(name: str, layers: Mapping[int, str]) -> int:
    """The layer whose head bears the bare name: of the shipped heads the one that did best on validation splits."""
    return next((layer for layer, key in layers.items() if key == name), min(layers))


@st.cache_data(show_spinner=False)
def examples(task: str) -> tuple[Example, ...]:
    """Both responses of every starter pair of a task; none where it has no starter pairs."""
    if task not in STARTER_SETS:
        return ()
    found = []
    for number, pair in enumerate(load_pairs(assets_dir() / "pairs" / f"{task}.jsonl").pairs, 1):
        beginning = textwrap.shorten(pair.prompt[-1].content, 60, placeholder="…")
        found.append(Example(f"{number}. {beginning} (chosen)", pair.prompt, pair.chosen))
        found.append(Example(f"{number}. {beginning} (rejected)", pair.prompt, pair.rejected))
    return tuple(found)


def score(request: ScoreRequest, progress: Progress) -> Scored:
    """Score and explain; ``progress`` is told of a first use's download.

    Raises:
        SparseRMError: the head, the backbone or the text cannot be used.
    """
    model = SparseRM(saved_head(request.head))
    model.load_backbone(progress)
    explanation = model.explain(request.prompt, request.response)
    return Scored(request, explanation, model.chance_to_beat(explanation.reward))


def progress_bar() -> tuple[Progress, Callable[[], None]]:
    """A callback that draws a bar once there is something to wait for, and how to take the bar away."""
    place = st.empty()

    def progress(n: int, total: int, what: str) -> None:
        share = min(1.0, n / max(total, 1))
        place.progress(share, text=f"{what.split(' (', maxsplit=1)[0]}: {share:.0%}")

    def done() -> None:
        place.empty()

    return progress, done
