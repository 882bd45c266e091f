"""Input fields of the Score page: a prompt and a response, from an example, a link or the user."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from sparserm.support.parsing import whole_number
from sparserm.types import Message, Prompt
from sparserm.ui.shared import starter_examples
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.links import keep_in_link, too_long
from sparserm.ui.shared.scoring import ScoreRequest
from sparserm.ui.shared.starter_examples import StarterExample

_EXAMPLE, _EARLIER, _PROMPT, _RESPONSE = "example", "earlier", "prompt", "response"
_FILLED = "filled"  # the example that was filled in last, even if it was edited since
_KEPT = "score fields"  # what the fields contained, for the way back: Streamlit forgets the widgets of other pages
_LINKED = "score linked"


def begin(context: Context) -> None:
    """Fill the fields on the first visit, from the link or with an example, and replace an unedited example on a new head."""
    offered, filled = starter_examples.examples(context.card.name), st.session_state.get(_FILLED)
    if filled is None:
        _begin_from_link(offered)
        return
    if _RESPONSE not in st.session_state:
        st.session_state[_PROMPT], st.session_state[_RESPONSE] = st.session_state[_KEPT]
        st.session_state[_EXAMPLE] = filled if _holds(filled) else None
    if _holds(filled) and filled not in offered:
        _fill(offered[0])


def _begin_from_link(offered: Sequence[StarterExample]) -> None:
    """Read ``example`` (its number), ``prompt`` and ``response``; the example fills the rest."""
    state, link = st.session_state, st.query_params
    number = whole_number(link.get("example", "")) or 0
    asked = 1 <= number <= len(offered)
    one = offered[number - 1] if asked else offered[0]
    _fill(one)
    state[_PROMPT], state[_RESPONSE] = link.get("prompt", state[_PROMPT]), link.get("response", state[_RESPONSE])
    if "prompt" in link and not asked:
        state[_EARLIER] = ()
    state[_LINKED] = asked or "response" in link


def _fill(one: StarterExample) -> None:
    state = st.session_state
    state[_EXAMPLE] = state[_FILLED] = one
    state[_EARLIER], state[_PROMPT], state[_RESPONSE] = one.prompt[:-1], one.prompt[-1].content, one.response


def _fill_in() -> None:
    """Put the picked example into the fields."""
    one = st.session_state[_EXAMPLE]
    if one is not None:
        _fill(one)


def _holds(one: StarterExample) -> bool:
    """Whether the fields contain an example unchanged."""
    return (_prompt(), st.session_state[_RESPONSE]) == (one.prompt, one.response)


def _prompt() -> Prompt:
    return (*st.session_state[_EARLIER], Message("user", st.session_state[_PROMPT]))


def read(context: Context) -> ScoreRequest:
    """The current contents of the fields, for this head."""
    return ScoreRequest(context.key, context.hash, _prompt(), st.session_state[_RESPONSE])


def wanted_at_once() -> bool:
    """Whether a link was opened, or the page loaded again: its result is shown without a click, once."""
    return bool(st.session_state.pop(_LINKED, False))


def draw(context: Context) -> None:
    """Draw the example, the prompt and the response, and keep them in the link."""
    state, offered = st.session_state, starter_examples.examples(context.card.name)
    one = state[_EXAMPLE]
    st.selectbox(
        # Not taken back: the browser would send it again with what is typed meanwhile, as if it were picked.
        "Example" if one is None or _holds(one) else "Example, edited below",
        offered,
        key=_EXAMPLE,
        on_change=_fill_in,
        format_func=lambda one: one.title,
        index=None,
        placeholder="Select one, or write your own below",
    )
    for turn in state[_EARLIER]:
        st.text(f"{turn.role}: {turn.content}")
    st.text_area("Prompt", key=_PROMPT, height=130, placeholder="The message of the user")
    st.text_area("Response", key=_RESPONSE, height=200, placeholder="The response to score")
    state[_KEPT] = state[_PROMPT], state[_RESPONSE]
    if not _keep_in_link(offered):
        too_long()


def _keep_in_link(offered: Sequence[StarterExample]) -> bool:
    """Write the contents of the fields into the link if they are short enough; returns whether they are."""
    one: StarterExample = st.session_state[_FILLED]
    number = [str(offered.index(one) + 1)] if one in offered else []
    if _holds(one) and number:
        untouched = one == offered[0] and "scored" not in st.session_state
        return keep_in_link({"example": [] if untouched else number, "prompt": [], "response": []})
    earlier = number if st.session_state[_EARLIER] else []  # earlier turns are restored from the example
    return keep_in_link({"example": earlier, "prompt": [st.session_state[_PROMPT]], "response": [st.session_state[_RESPONSE]]})
