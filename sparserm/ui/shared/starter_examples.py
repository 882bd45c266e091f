"""Starter examples for the Score and Compare pages."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import streamlit as st

from sparserm.pairs.load import load_pairs
from sparserm.support.defaults import TASKS, assets_dir
from sparserm.types import Prompt


@dataclass(frozen=True)
class StarterExample:
    """One response of a starter pair."""

    title: str
    prompt: Prompt
    response: str


@st.cache_data(show_spinner=False)
def examples(task: str) -> tuple[StarterExample, ...]:
    """Both responses of every starter pair of a task, or of all tasks if it has none."""
    found = []
    for name in (task,) if task in TASKS else TASKS:
        for number, pair in enumerate(load_pairs(assets_dir() / "pairs" / f"{name}.jsonl").pairs, 1):
            beginning = textwrap.shorten(pair.prompt[-1].content, 60, placeholder="…")
            found.append(StarterExample(f"{number}. {beginning} (chosen)", pair.prompt, pair.chosen))
            found.append(StarterExample(f"{number}. {beginning} (rejected)", pair.prompt, pair.rejected))
    return tuple(found)
