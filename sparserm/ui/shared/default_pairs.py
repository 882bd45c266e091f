"""The pairs that a page shows until others are selected: those that the head was trained or tested on, if they are here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import streamlit as st

from sparserm.heads.saved import SavedHead
from sparserm.pairs.sources import DataSource, find_sources
from sparserm.support.defaults import TASKS
from sparserm.types import PreferenceData, SparseRMError
from sparserm.ui.shared.context import Context

#: The training or the test pairs of the head, or none of them: for a new head.
Part = Literal["training", "test", "none"]


@dataclass(frozen=True)
class DefaultPairs:
    """The default pairs of a page.

    Attributes:
        label: of the source; None if there is none.
        note: what to say if they are not the head's own.
    """

    label: str | None
    note: str = ""


def default_pairs(context: Context | None, part: Part, sources: Mapping[str, DataSource]) -> DefaultPairs:
    """The pairs of a head that are here, else the starter pairs of its task; never an upload that cannot be used."""
    starters = [label for label in (f"{task} (starter pairs)" for task in TASKS) if label in sources]
    own_task = [label for label in starters if context and label == f"{context.card.name} (starter pairs)"]
    first = next(iter([*own_task, *starters]), None)
    if context is None or part == "none":
        return DefaultPairs(first)
    recorded = {
        "training": str(context.card.training.get("data", "")),
        "test": str(context.card.metrics.get("measured_on", "")),
    }
    if own := _own(context, recorded[part], part, sources):
        return DefaultPairs(own)
    missing = _missing(recorded[part], part)
    if part == "test" and not own_task and (own := _own(context, recorded["training"], "training", sources)):
        return DefaultPairs(own, f"{missing} Its training pairs are used instead.")
    task = "its task" if own_task else "another task"
    return DefaultPairs(first, f"{missing} Starter pairs of {task} are used instead.")


def _missing(recorded: str, part: Part) -> str:
    done = "trained" if part == "training" else "tested"
    if not recorded:
        return f"It is not recorded what the head was {done} on."
    if recorded.startswith("cross-validation"):
        return f"The head was {done} by {recorded}, without pairs of its own."
    return f"The head was {done} on {recorded}, which is not here."


def _own(context: Context, recorded: str, part: Part, sources: Mapping[str, DataSource]) -> str | None:
    """Label of the source that a name in the card of a head means, if it is here and can be used."""
    labels = find_sources(recorded, sources)
    candidates = tuple((label, sources[label], sources[label].version()) for label in labels)
    return _fitting(repr(context.card), part, candidates, _saved=context.saved) if candidates else None


@st.cache_data(show_spinner=False, max_entries=64)
def _fitting(card: str, part: Part, candidates: tuple[tuple[str, DataSource, str], ...], *, _saved: SavedHead) -> str | None:
    """Of sources with the right name, the training pairs are recognised by their prompts; test pairs if there is one alone."""
    usable = []
    for label, source, _ in candidates:
        with suppress(SparseRMError, OSError):
            usable.append((label, read_pairs(source)))
    if part == "training":
        same = [label for label, data in usable if data.content_hash == _saved.card.training.get("data_hash")]
        return next(iter([*same, *(label for label, data in usable if _saved.trained_on(data.pairs).any())]), None)
    return usable[0][0] if len({data.content_hash for _, data in usable}) == 1 else None


def read_pairs(source: DataSource) -> PreferenceData:
    """The pairs of a source; cached until its file changes.

    Raises:
        SparseRMError: as for :meth:`~sparserm.pairs.sources.DataSource.load`.
    """
    return _read(source, source.version())


@st.cache_data(show_spinner="Reading the pairs…", max_entries=16)
def _read(source: DataSource, version: str) -> PreferenceData:
    return source.load()
