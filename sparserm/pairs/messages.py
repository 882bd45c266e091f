"""Converts text and message lists in the common formats into prompts and responses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparserm.pairs.cells import is_blank, is_bracketed, lone_text, looks_like_messages, parsed, unwrapped
from sparserm.pairs.templates import (
    ROLES,
    THINKING,
    TOOLS,
    begins_templated,
    ends_templated,
    mark_left_out,
    may_have_marks,
    read_turns,
    spoken,
    stripped,
    thinks,
)
from sparserm.pairs.transcripts import asked, transcript
from sparserm.support.files import one_line
from sparserm.types import Message, Prompt, SparseRMError


class _ToolTurn(Message):
    """A call of a tool, or what it returned."""


class RowError(Exception):
    """Raised for a row that cannot be used; names the column and the problem."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(f"{column} {problem}")
        self.column, self.problem = column, problem


def as_prompt(prompt: str | Sequence[Mapping[str, Any] | Message]) -> Prompt:
    """Convert a string or messages with ``role, content`` or ``from, value`` to a :data:`Prompt`.

    A string is one user turn, or, as in a file, the turns that it writes in a chat template or as a transcript.

    Raises:
        SparseRMError: there is no text, a role is unknown, or the last message is not from the user.
    """
    try:
        return read_prompt({"prompt": prompt})
    except RowError as problem:
        raise SparseRMError(f"{problem}; pass text, or messages that end with a user message") from problem


def as_response(response: str | Sequence[Mapping[str, Any] | Message]) -> str:
    """Convert a response to text: a string, or the content of one assistant message (TRL's conversational format).

    Thinking and the marks that end a turn are left out (:func:`~sparserm.pairs.templates.spoken`).

    Raises:
        SparseRMError: there is no text, or several messages, or the message is not from the assistant.
    """
    try:
        return answer(text_or_messages({"response": response}, "response"), (), "response")
    except RowError as problem:
        raise SparseRMError(f"{problem}; pass text, or one assistant message") from problem


def as_completion(completion: str | Sequence[Mapping[str, Any] | Message]) -> str:
    """Convert a policy's completion to text; other than :func:`as_response`, one that is empty or only thinks gives no text.

    Raises:
        SparseRMError: there are several messages, or the message is not from the assistant.
    """
    if isinstance(completion, str):
        return as_response(completion) if spoken(completion).strip() else ""
    turns = [vars(turn) if isinstance(turn, Message) else turn for turn in completion]
    if len(turns) == 1 and isinstance(turns[0], Mapping):
        role, content = (turns[0].get(key, turns[0].get(other)) for key, other in (("role", "from"), ("content", "value")))
        silent = content is None or (isinstance(content, str) and not spoken(content).strip()) or content == []
        if silent and isinstance(role, str) and ROLES.get(role.strip().lower()) == "assistant":
            return ""
    return as_response(turns)


def holds_thinking(value: Any) -> bool:
    """Whether a response begins with thinking, which is left out where it is read: text, or messages."""
    said, is_part = _response_in(value)
    return thinks(said) and bool(not is_part or spoken(said).strip())  # a prompt may open and close it for the answer


def turn_mark(value: Any) -> str:
    """A mark of a turn that is left out of a response where it is read, text or messages; empty if there is none."""
    return mark_left_out(_response_in(value)[0])


def _response_in(value: Any) -> tuple[str, bool]:
    """The response in a cell, text or messages, and whether it is a part of a whole text; empty if there is none."""
    value = plain(value.content if isinstance(value, Message) else value)
    if isinstance(value, str):
        if not may_have_marks(value):  # nor has any turn in it
            return value, False
        turns = read_turns(value) if begins_templated(value) else transcript(value)
        return (turns[-1].content, True) if turns else (value, False)
    if isinstance(value, Mapping):
        return next((found for name in ("content", "value") if (found := _response_in(value.get(name)))[0]), ("", False))
    return _response_in(value[-1]) if isinstance(value, (list, tuple)) and value else ("", False)


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one string: the text of a single message, or all turns as ``role: text``."""
    return prompt[0].content if len(prompt) == 1 else "\n\n".join(f"{turn.role}: {turn.content}" for turn in prompt)


def text_or_messages(values: Mapping[str, Any], column: str) -> str | Prompt:
    """The value in ``column`` of one row: text, or messages.

    Raises:
        RowError: the value is missing or empty, or neither text nor messages.
    """
    if column not in values:
        raise RowError(column, "is missing from this row")
    value = unwrapped(plain(values[column]))
    if isinstance(value, str) and looks_like_messages(value):
        written = unwrapped(parsed(value))
        if written is None:
            raise RowError(column, "looks like messages, but is neither JSON nor in Python's print format: save it as JSON")
        value = written
    if is_missing(value):
        raise RowError(column, f"is empty ({value})")
    value = text if (text := lone_text(value)) is not None else value
    if isinstance(value, str):
        if not value.strip():
            raise RowError(column, "is empty")
        return _checked(value, column)
    return _messages(value, column)


def text_beside(values: Mapping[str, Any], column: str) -> str:
    """What a column adds to the prompt beside it: its text, or each of its texts on lines of its own; empty if there is none.

    Raises:
        RowError: it is neither text nor a list of texts.
    """
    value = plain(values.get(column))
    if column == "history" and turns_beside(values, column):
        return ""
    value = text if (text := lone_text(value)) is not None else value
    texts = [value] if isinstance(value, str) else [] if is_missing(value) or value in ((), [], {}) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(one, str) for one in texts):
        raise RowError(column, f"is {_describe(value)}, expected text or a list of texts: write it into the prompt")
    return "\n\n".join(_checked(one.strip(), column) for one in texts if not is_blank(one))


def turns_beside(values: Mapping[str, Any], column: str) -> Prompt:
    """The turns in a column before the prompt, also written as text: messages, or pairs of a question and its answer."""
    value = plain(values.get(column))
    if isinstance(value, str) and is_bracketed(value):
        value = parsed(value)
    if not isinstance(value, (list, tuple)) or not value or lone_text(value) is not None:
        return ()
    value = [plain(one) for one in value]
    if all(isinstance(one, (list, tuple)) and len(one) == 2 and all(isinstance(text, str) for text in one) for one in value):
        return tuple(turn for asked, said in value for turn in (Message("user", asked), Message("assistant", said)))
    if column == "history" or all(isinstance(one, Mapping) and one.keys() & {"role", "from"} for one in value):
        return plain_turns(_messages(value, column))
    return ()


def _messages(value: Any, column: str) -> Prompt:
    value = plain(value)
    if isinstance(value, Mapping):
        value = _turns_of_columns(value) or (value,)  # ShareGPT: a single message
    if not isinstance(value, (list, tuple)):
        raise RowError(column, f"is {_describe(value)}, expected text or a list of messages")
    if not value:
        raise RowError(column, "is an empty list, expected messages")
    if all(isinstance(one, str) for one in value):
        raise RowError(column, f"is a list of {len(value)} texts, expected one, or messages: give role and content of each")
    turns = [_message(turn, column, number) for number, turn in enumerate(value, start=1)]
    found = tuple(turn for turn in turns if turn is not None)
    if not found:
        raise RowError(column, "has no message with text")
    return found


def _turns_of_columns(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """A list of messages from ``{"role": [...], "content": [...]}``, the form of a ``Sequence`` feature in ``datasets``."""
    lists = {key: plain(part) for key, part in value.items() if key in ("role", "content", "from", "value")}
    if not lists or not all(isinstance(part, list) for part in lists.values()) or len(set(map(len, lists.values()))) > 1:
        return None
    return [dict(zip(lists, turn, strict=True)) for turn in zip(*lists.values(), strict=True)]


def _message(turn: Any, column: str, number: int) -> Message | None:
    """One message; None for a system message without text."""
    if isinstance(turn, Message):
        turn = {"role": turn.role, "content": turn.content}
    if not isinstance(turn, Mapping):
        raise RowError(column, f"message {number} is {_describe(turn)}, expected an object with role and content")
    role = turn["role"] if "role" in turn else turn.get("from")
    content = plain(turn["content"] if "content" in turn else turn.get("value"))
    named = role.strip().lower() if isinstance(role, str) else ""
    known = ROLES.get(named)
    if known is None:
        raise RowError(column, f"message {number} has the role {_describe(role)}, expected system, user or assistant")
    if known == "system" and is_missing(content):
        return None
    if calls := _calls(turn) if known == "assistant" else "":
        return _ToolTurn(known, _checked("\n".join(filter(None, [content if isinstance(content, str) else "", calls])), column))
    if isinstance(content, list) and content and all(_is_text_part(part) for part in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise RowError(column, f"message {number} has the content {_describe(content)}, expected text")
    if known == "assistant" and thinks(content):  # in a prompt, too: templates leave thinking out of earlier turns
        content = spoken(content) or content
    return (_ToolTurn if named in TOOLS else Message)(known, _checked(content, column))


def _calls(turn: Mapping[str, Any]) -> str:
    """The calls of tools in a message, each as ``name(arguments)`` on a line; empty without any."""
    lines = []
    calls = plain(turn.get("tool_calls")) or ([turn["function_call"]] if turn.get("function_call") else ())
    for call in calls if isinstance(calls, (list, tuple)) else ():
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            arguments = function.get("arguments")
            lines.append(f"{function.get('name')}({arguments if isinstance(arguments, str) else json.dumps(arguments)})")
    return "\n".join(lines)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str)


def plain(value: Any) -> Any:
    """Convert NumPy arrays and scalars, as pandas returns them, to Python objects; other values are unchanged."""
    return value.tolist() if type(value).__module__ == "numpy" and hasattr(value, "tolist") else value


def is_missing(value: Any) -> bool:
    """Whether a cell is empty, in any of the ways of pandas."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType")


def _checked(text: str, column: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can escape a lone surrogate; no tokenizer accepts it
        broken = ascii(text[error.start])
        raise RowError(column, f"contains broken Unicode ({broken} at character {error.start}): remove it") from error
    return text


def _describe(value: Any) -> str:
    if isinstance(value, str):
        return f"text {one_line(ascii(value), 40)}"
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 64):
        return f"{type(value).__name__} {value}"
    return "empty (None)" if value is None else f"of type {type(value).__name__}"


def turns_in(text: str, column: str = "prompt") -> Prompt | None:
    """The turns of a prompt in a chat template or a transcript, up to the answer that it asks for; None for other text.

    Raises:
        RowError: a turn has an unknown role.
    """
    if not begins_templated(text):
        return asked(text)
    turns = templated(text, column)
    asks = turns[-1].role == "assistant" and not spoken(turns[-1].content).strip()  # it may open or close the thinking
    return turns[:-1] if asks and len(turns) > 1 else turns


def begun(prompt: str, response: str) -> str:
    """A response with the mark of the thinking that its prompt opens and the response closes; any other unchanged."""
    marks = next((marks for marks in THINKING if prompt.rstrip().endswith(marks[0])), None)
    return f"{marks[0]}{response}" if marks and marks[1] in response else response


def templated(text: str, column: str) -> Prompt:
    """The turns of a text in a chat template.

    Raises:
        RowError: a turn has an unknown role.
    """
    turns = read_turns(text)
    if unknown := [turn.role for turn in turns if turn.role not in ("system", "user", "assistant")]:
        raise RowError(column, f"has a turn with the role {unknown[0]!r}, expected system, user or assistant")
    return turns


def answer(value: str | Prompt, prompt: Prompt, column: str) -> str:
    """The response in ``value``: the text, or the last message if only the prompt and calls of tools precede it, as spoken.

    Raises:
        RowError: there is no text, or not exactly one assistant message after the prompt.
    """
    if isinstance(value, str):
        text = value
    else:
        lead, last = value[:-1], value[-1]
        begun = len(prompt) if same_turns(lead[: len(prompt)], prompt) else 0
        if lead and not same_turns(lead, prompt) and not all(isinstance(turn, _ToolTurn) for turn in lead[begun:]):
            raise RowError(
                column,
                f"has {len(value)} messages ({', '.join(turn.role for turn in value[:6])}): expected the prompt followed by "
                "one assistant message",
            )
        if last.role != "assistant":
            raise RowError(column, f"ends with a {last.role} message, expected an assistant message")
        text = last.content
    if not text.strip():
        raise RowError(column, "is empty")
    said = spoken(text)
    if not said.strip():
        raise RowError(column, "has thinking and no answer after it")
    return said


def plain_turns(turns: Prompt) -> Prompt:
    """Messages of a prompt, all of one kind."""
    return tuple(Message(turn.role, turn.content) for turn in turns)


def same_turns(a: Prompt, b: Prompt) -> bool:
    """Whether two prompts have the same messages, ignoring surrounding white space."""
    return [(turn.role, turn.content.strip()) for turn in a] == [(turn.role, turn.content.strip()) for turn in b]


def check_prompt(prompt: Prompt, column: str) -> None:
    """Raise :class:`RowError` unless the prompt ends with a user message that has text."""
    subject = "" if column == "prompt" else "prompt "
    if prompt[-1].role != "user":
        raise RowError(column, f"{subject}ends with a message from the {prompt[-1].role}, expected a user message")
    if not prompt[-1].content.strip():
        raise RowError(column, f"{subject}is empty: its last message has no text")


def read_prompt(values: Mapping[str, Any]) -> Prompt:
    """Read the column ``prompt`` of a row: text, also in a chat template or as a transcript, or messages.

    Raises:
        RowError: it is none of these.
    """
    value = text_or_messages(values, "prompt")
    turns = (turns_in(value) or (Message("user", value),)) if isinstance(value, str) else value
    check_prompt(turns, "prompt")
    return turns


def read_query(query: str, prompt: str | None = None) -> tuple[Prompt, str]:
    """Split ``query``, a prompt with its response in a known template or a transcript, into the conversation and the response.

    Thinking is still in the response; :func:`~sparserm.pairs.templates.spoken` leaves it out.

    Args:
        prompt: the prompt part of ``query``; if the query begins with it, markers in the response are ignored.

    Raises:
        SparseRMError: the query does not begin with ``prompt``, and its last recognised turn is not an answer to another turn.
    """
    if prompt and prompt.strip() and query.startswith(prompt):
        response = query[len(prompt) :]
        if not (begins_templated(prompt) or ends_templated(prompt)):  # any mark stands in ordinary text
            return asked(prompt) or (Message("user", prompt.strip()),), stripped(response)
        turns = read_turns(prompt)
        if turns[-1].role == "assistant":  # the generation prompt, possibly with the beginning of the response
            return turns[:-1], stripped(turns[-1].content + response)
        return turns, stripped(response)
    turns = (None if begins_templated(query) else transcript(query)) or read_turns(query)
    if len(turns) > 1 and turns[-1].role == "assistant":
        return turns[:-1], turns[-1].content
    raise SparseRMError(
        f"the query {query[:60]!r} has no turns of a known chat template and does not begin with its prompt; expected prompt "
        "and response in one text; send the prompts too"
    )


def trl_row(prompt: Prompt, chosen: str, rejected: str) -> dict[str, Any]:
    """A pair in TRL's format with an explicit prompt: texts, or messages where the prompt has several turns."""
    value = prompt_value(prompt)
    texts: dict[str, Any] = {"chosen": chosen, "rejected": rejected}
    if not isinstance(value, str):
        texts = {side: [{"role": "assistant", "content": text}] for side, text in texts.items()}
    return {"prompt": value, **texts}


def prompt_value(prompt: Prompt) -> str | list[dict[str, str]]:
    """The value to write to a file: text if it would be read back as the same single user turn, messages otherwise."""
    if len(prompt) == 1 and prompt[0].role == "user" and _means_itself(prompt[0].content):
        return prompt[0].content
    return [{"role": turn.role, "content": turn.content} for turn in prompt]


def _means_itself(text: str) -> bool:
    """Whether a text as a prompt is read as one user turn with this text."""
    return not (begins_templated(text) or asked(text) or looks_like_messages(text))
