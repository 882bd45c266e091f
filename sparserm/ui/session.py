"""What a session holds and what pages share: starter examples, the scored response, sentences and bars."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from sparserm.defaults import assets_dir
from sparserm.explain import InspectedInput
from sparserm.pairs import STARTER_SETS, load_pairs
from sparserm.types import Explanation, Progress, Prompt
from sparserm.ui.context import Context
from sparserm.ui.text import plain


@dataclass(frozen=True)
class Example:
    """One response of a starter pair, to begin with."""

    title: str
    prompt: Prompt
    response: str


@dataclass(frozen=True)
class ScoreRequest:
    """What is to be scored, and by which version of which head."""

    head: str
    hash: str
    prompt: Prompt
    response: str


@dataclass(frozen=True)
class Scored:
    """A request with its answer.

    Attributes:
        beats: chances against a typical chosen and a typical rejected response.
        percentile: share of the head's training responses with a lower reward.
        inspected: the tokens that the language model read.
    """

    request: ScoreRequest
    explanation: Explanation
    beats: tuple[float, float]
    percentile: float
    inspected: InspectedInput


@st.cache_data(show_spinner=False)
def examples(task: str) -> tuple[Example, ...]:
    """Both responses of every starter pair of a task; those of all tasks where it has none of its own."""
    found = []
    for name in (task,) if task in STARTER_SETS else STARTER_SETS:
        for number, pair in enumerate(load_pairs(assets_dir() / "pairs" / f"{name}.jsonl").pairs, 1):
            beginning = textwrap.shorten(pair.prompt[-1].content, 60, placeholder="…")
            found.append(Example(f"{number}. {beginning} (chosen)", pair.prompt, pair.chosen))
            found.append(Example(f"{number}. {beginning} (rejected)", pair.prompt, pair.rejected))
    return tuple(found)


def score(context: Context, request: ScoreRequest, progress: Progress) -> Scored:
    """Score and explain; ``progress`` is told of a first use's download.

    Raises:
        SparseRMError: the head, the backbone or the text cannot be used.
    """
    model = context.model(progress)
    explanation = model.explain(request.prompt, request.response, sae=context.sae())
    return Scored(
        request,
        explanation,
        model.chance_to_beat(explanation.reward),
        model.percentile(explanation.reward),
        model.inspect(request.prompt, request.response),
    )


def sentence(error: Exception) -> str:
    """An error's message as a sentence that begins with a capital; file names and values in it are not Markdown."""
    text = plain(error)
    begins_with_a_name = not text.partition(" ")[0].isalpha()
    return text if begins_with_a_name else text[:1].upper() + text[1:]


def progress_bar() -> tuple[Progress, Callable[[], None]]:
    """A callback that draws a bar once there is something to wait for, and how to take the bar away."""
    place = st.empty()

    def progress(n: int, total: int, what: str) -> None:
        share = min(1.0, n / max(total, 1))
        place.progress(share, text=f"{what.split(' (', maxsplit=1)[0]}: {share:.0%}")

    def done() -> None:
        place.empty()

    return progress, done
