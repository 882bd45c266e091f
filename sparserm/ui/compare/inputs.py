"""Input fields of the Compare page: a prompt and two to eight responses, from a starter pair, a link or the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparserm.explain.comparison import MOST
from sparserm.support.parsing import whole_number
from sparserm.types import Message, Prompt
from sparserm.ui.shared import starter_examples
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.links import keep_in_link

#: The two views of the page.
SIDE_BY_SIDE, BEST_OF_N = "Side by side", "Best of N"

_FIELDS, _EARLIER, _PROMPT, _PAIR = "compare_fields", "compare_earlier", "compare_prompt", "compare_pair"
_FILLED = "compare_filled"  # the pair that was filled in last, even if it was edited since


@dataclass(frozen=True)
class Inputs:
    """The contents of the fields."""

    prompt: Prompt
    responses: tuple[str, ...]


@dataclass(frozen=True)
class StarterPair:
    """A starter pair to fill the fields with."""

    title: str
    prompt: Prompt
    responses: tuple[str, ...]


def starter_pairs(task: str) -> tuple[StarterPair, ...]:
    """The starter pairs of a task, the chosen response first."""
    offered = starter_examples.examples(task)
    return tuple(
        StarterPair(chosen.title.removesuffix(" (chosen)"), chosen.prompt, (chosen.response, rejected.response))
        for chosen, rejected in zip(offered[::2], offered[1::2], strict=True)
    )


def put(prompt: Prompt, responses: Sequence[str]) -> None:
    """Fill the fields from another page; the Compare page compares them on its next run."""
    _fill(prompt, responses)
    st.session_state[_PAIR] = st.session_state[_FILLED] = None
    st.session_state.compare_now, st.session_state.compare_pinned = True, False


def _fill(prompt: Prompt, responses: Sequence[str]) -> None:
    fields = list(range(len(responses)))
    st.session_state[_FIELDS] = fields
    st.session_state[_EARLIER], st.session_state[_PROMPT] = prompt[:-1], prompt[-1].content
    for field, response in zip(fields, responses, strict=True):
        st.session_state[_key(field)] = response


def begin(context: Context) -> bool:
    """Fill the fields on the first visit, from the link or with a starter pair, and replace an unedited pair on a new head.

    Returns whether to compare without a click, as when a link is opened.
    """
    offered = st.session_state.pop("compare_offered", None)
    if offered is not None and "offered" in st.query_params:
        del st.query_params["offered"]
        put(*offered)
    pairs = starter_pairs(context.card.name)
    if _FIELDS not in st.session_state:
        return _begin_from_link(pairs)
    filled: StarterPair | None = st.session_state[_FILLED]
    if filled is not None and filled not in pairs and number_of([filled], read()):
        st.session_state[_PAIR] = pairs[0]
        _fill_in()
    return bool(st.session_state.pop("compare_now", False))


def _begin_from_link(pairs: Sequence[StarterPair]) -> bool:
    """Read ``pair`` (number of a starter pair), ``p`` (prompt) and ``r`` (responses); the starter pair fills the rest."""
    link = st.query_params
    asked, responses = link.get("pair", ""), link.get_all("r")[:MOST]
    number = whole_number(asked) or 0
    pair = pairs[number - 1] if 1 <= number <= len(pairs) else pairs[0]
    earlier = pair.prompt[:-1] if asked or not responses else ()
    prompt = link.get("p", "" if responses and not asked else pair.prompt[-1].content)
    both = responses if len(responses) > 1 else [*responses, ""] if responses else pair.responses
    _fill((*earlier, Message("user", prompt)), both)
    st.session_state[_PAIR] = pair if number_of([pair], read()) else None
    st.session_state[_FILLED] = pair if asked or not responses else None
    return bool(asked or responses)


def read() -> Inputs:
    """The current contents of the fields."""
    prompt = (*st.session_state[_EARLIER], Message("user", st.session_state[_PROMPT]))
    return Inputs(prompt, tuple(st.session_state[_key(field)] for field in st.session_state[_FIELDS]))


def draw(context: Context) -> Inputs:
    """Draw the fields, responses side by side, with buttons to remove them; returns their contents."""
    left, right = st.columns(2, gap="medium")
    left.selectbox(
        "Starter pair",
        starter_pairs(context.card.name),
        key=_PAIR,
        index=None,
        on_change=_fill_in,
        persist_state="session",
        format_func=lambda pair: pair.title,
        placeholder="Select one, or write your own",
        help="Pairs that ship with the app, the chosen response first.",
    )
    with right:
        for turn in st.session_state[_EARLIER]:
            st.text(f"{turn.role}: {turn.content}")
        st.text_area("Prompt", key=_PROMPT, height=110, placeholder="The message of the user", persist_state="session")
    fields = st.session_state[_FIELDS]
    columns = st.columns(_ACROSS[len(fields)], gap="medium")
    for number, field in enumerate(fields, 1):
        _field(columns[(number - 1) % len(columns)], number, field, removable=len(fields) > 2)
    return read()


def add_button() -> None:
    """The button that adds a response."""
    full = len(st.session_state[_FIELDS]) >= MOST
    st.button(
        "Add a response",
        icon=":material/add:",
        key="compare add",
        on_click=_add,
        disabled=full,
        help=f"At most {MOST} responses. For more, use Best of N." if full else None,
    )


#: Number of columns for each number of fields.
_ACROSS = {2: 2, 3: 3, 4: 2, 5: 3, 6: 3, 7: 4, 8: 4}


def _field(place: DeltaGenerator, number: int, field: int, removable: bool) -> None:
    place.text_area(
        f"Response {number}", key=_key(field), height=130, placeholder="A response to the prompt", persist_state="session"
    )
    if removable:
        place.button(
            f"Remove response {number}",
            key=f"compare remove {field}",
            type="tertiary",
            icon=":material/close:",
            on_click=_remove,
            args=(field,),
        )


def keep_link(context: Context, inputs: Inputs) -> bool:
    """Write the contents of the fields into the link if they are short enough; returns whether they are."""
    pairs = starter_pairs(context.card.name)
    number, filled = number_of(pairs, inputs), st.session_state[_FILLED]
    wanted: dict[str, list[str]] = {"pair": [], "p": [], "r": []}
    if number:
        wanted["pair"] = [str(number)]
    else:
        if len(inputs.prompt) > 1 and filled in pairs:  # its earlier turns are restored from the pair
            wanted["pair"] = [str(pairs.index(filled) + 1)]
        wanted |= {"p": [inputs.prompt[-1].content], "r": list(inputs.responses)}
    return keep_in_link(wanted)


def number_of(pairs: Sequence[StarterPair], inputs: Inputs) -> int:
    """The 1-based number of the pair that the fields contain unchanged, 0 if none."""
    return next((n for n, pair in enumerate(pairs, 1) if (pair.prompt, pair.responses) == (inputs.prompt, inputs.responses)), 0)


def _key(field: int) -> str:
    return f"compare_response_{field}"


def _fill_in() -> None:
    pair = st.session_state[_PAIR]
    if pair is not None:
        st.session_state[_FILLED] = pair
        _fill(pair.prompt, pair.responses)


def _add() -> None:
    fields = st.session_state[_FIELDS]
    new = max(fields) + 1
    st.session_state[_key(new)] = ""
    st.session_state[_FIELDS] = [*fields, new]


def _remove(field: int) -> None:
    st.session_state[_FIELDS] = [one for one in st.session_state[_FIELDS] if one != field]
