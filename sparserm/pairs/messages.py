"""Text and message lists, in the forms that people write them, into prompts and responses: the middle of ``pairs``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sparserm.support.files import one_line
from sparserm.types import Message, Prompt, SparseRMError

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


class RowError(Exception):
    """Why one row cannot be used."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(f"{column} {problem}")
        self.column, self.problem = column, problem


def as_prompt(prompt: str | Sequence[Mapping[str, Any] | Message]) -> Prompt:
    """A prompt in its one form: a string is one user turn; messages have ``role, content`` or ``from, value``.

    Raises:
        SparseRMError: no text, an unknown role, or a last message that is not the user's.
    """
    try:
        value = text_or_messages({"prompt": prompt}, "prompt")
        turns = (Message("user", value),) if isinstance(value, str) else value
        check_prompt(turns, "prompt")
    except RowError as problem:
        raise SparseRMError(f"{problem}; give a text, or messages that end with the user's") from problem
    return turns


def as_response(response: str | Sequence[Mapping[str, Any] | Message]) -> str:
    """A response as text: a string as it is, or the content of one assistant message (TRL's conversational form).

    Raises:
        SparseRMError: no text, several messages, or a message that is not the assistant's.
    """
    try:
        return answer(text_or_messages({"response": response}, "response"), (), "response")
    except RowError as problem:
        raise SparseRMError(f"{problem}; give a text, or one assistant message") from problem


def as_completion(completion: str | Sequence[Mapping[str, Any] | Message]) -> str:
    """A response as text like :func:`as_response`, but one without text, which a policy can give, is an empty string.

    Raises:
        SparseRMError: several messages, or a message that is not the assistant's.
    """
    if isinstance(completion, str):
        return as_response(completion) if completion.strip() else ""
    turns = [vars(turn) if isinstance(turn, Message) else turn for turn in completion]
    if len(turns) == 1 and isinstance(turns[0], Mapping):
        role, content = (turns[0].get(key, turns[0].get(other)) for key, other in (("role", "from"), ("content", "value")))
        silent = content is None or (isinstance(content, str) and not content.strip()) or content == []
        if silent and isinstance(role, str) and _ROLES.get(role.strip().lower()) == "assistant":
            return ""
    return as_response(turns)


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one text: the user's message, or all turns with who says them."""
    return prompt[0].content if len(prompt) == 1 else "\n\n".join(f"{turn.role}: {turn.content}" for turn in prompt)


def text_or_messages(values: Mapping[str, Any], column: str) -> str | Prompt:
    """What stands in ``column`` of one row: text, or messages.

    Raises:
        RowError: nothing, or something that is neither.
    """
    if column not in values:
        raise RowError(column, "is missing from this row")
    value = plain(values[column])
    if _is_missing(value):
        raise RowError(column, f"is empty ({value})")
    if isinstance(value, str):
        if not value.strip():
            raise RowError(column, "is empty")
        return _checked(value, column)
    return _messages(value, column)


def _messages(value: Any, column: str) -> Prompt:
    value = plain(value)
    if isinstance(value, Mapping):
        value = _turns_of_columns(value) or (value,)  # ShareGPT: one message on its own
    if not isinstance(value, (list, tuple)):
        raise RowError(column, f"is {_describe(value)}, expected text or a list of messages")
    if not value:
        raise RowError(column, "is an empty list, expected messages")
    return tuple(_message(turn, column, number) for number, turn in enumerate(value, start=1))


def _turns_of_columns(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """``{"role": [...], "content": [...]}``, as datasets' ``Sequence`` gives messages, back as a list of messages."""
    lists = {key: plain(part) for key, part in value.items() if key in ("role", "content", "from", "value")}
    if not lists or not all(isinstance(part, list) for part in lists.values()) or len(set(map(len, lists.values()))) > 1:
        return None
    return [dict(zip(lists, turn, strict=True)) for turn in zip(*lists.values(), strict=True)]


def _message(turn: Any, column: str, number: int) -> Message:
    if isinstance(turn, Message):
        turn = {"role": turn.role, "content": turn.content}
    if not isinstance(turn, Mapping):
        raise RowError(column, f"message {number} is {_describe(turn)}, expected an object with role and content")
    role = turn["role"] if "role" in turn else turn.get("from")
    content = plain(turn["content"] if "content" in turn else turn.get("value"))
    known = _ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        raise RowError(column, f"message {number} has the role {_describe(role)}, expected system, user or assistant")
    if isinstance(content, list) and content and all(_is_text_part(part) for part in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise RowError(column, f"message {number} has the content {_describe(content)}, expected text")
    return Message(known, _checked(content, column))


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def plain(value: Any) -> Any:
    """NumPy's arrays and scalars, as pandas gives them, as Python's own."""
    return value.tolist() if type(value).__module__ == "numpy" and hasattr(value, "tolist") else value


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType")


def _checked(text: str, column: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can escape half a character; no tokenizer takes it
        broken = ascii(text[error.start])
        raise RowError(column, f"holds broken Unicode ({broken} at character {error.start}): remove it") from error
    return text


def _describe(value: Any) -> str:
    if isinstance(value, str):
        return f"text {one_line(ascii(value), 40)}"
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 64):
        return f"{type(value).__name__} {value}"
    return "empty (None)" if value is None else f"of type {type(value).__name__}"


def transcript(text: str) -> Prompt | None:
    """HH-RLHF's ``\\n\\nHuman: ...\\n\\nAssistant: ...`` as messages; None where the text is not of that form."""
    before, *turns = re.split(r"(?:^|\n\n)(Human|Assistant):", text.lstrip())
    if before or len(turns) < 4 or turns[0] != "Human":
        return None
    return tuple(
        Message(_ROLES.get(role.lower(), role.lower()), said.strip()) for role, said in zip(*[iter(turns)] * 2, strict=True)
    )


def answer(value: str | Prompt, prompt: Prompt, column: str) -> str:
    """The response in ``value``: the text itself, or its last message where nothing but the prompt stands before it.

    Raises:
        RowError: there is no text, or no one assistant message after the prompt.
    """
    if isinstance(value, str):
        text = value
    else:
        lead, last = value[:-1], value[-1]
        if lead and not same_turns(lead, prompt):
            raise RowError(
                column,
                f"holds {len(value)} messages ({', '.join(turn.role for turn in value[:6])}) that are not the prompt "
                "and one answer: expected one assistant message after the prompt",
            )
        if last.role != "assistant":
            raise RowError(column, f"ends with a {last.role} message, expected an assistant message")
        text = last.content
    if not text.strip():
        raise RowError(column, "is empty")
    return text


def same_turns(a: Prompt, b: Prompt) -> bool:
    """Whether both hold the same messages, white space around them aside."""
    return [(turn.role, turn.content.strip()) for turn in a] == [(turn.role, turn.content.strip()) for turn in b]


def check_prompt(prompt: Prompt, column: str) -> None:
    """Raise `RowError` unless the prompt ends with something that the user says."""
    if prompt[-1].role != "user":
        raise RowError(column, f"prompt ends with a message of the {prompt[-1].role}, expected one of the user")
    if not prompt[-1].content.strip():
        raise RowError(column, "prompt is empty: its last message has no text")


def read_prompt(values: Mapping[str, Any]) -> Prompt:
    """The prompt of a row's column ``prompt``: a text, a transcript that asks for the answer, or messages.

    Raises:
        RowError: it is none of these.
    """
    value = text_or_messages(values, "prompt")
    turns = transcript(value) if isinstance(value, str) else value
    if isinstance(value, str) and (turns is None or turns[-1] != Message("assistant", "")):
        turns = (Message("user", value),)
    elif isinstance(value, str) and turns is not None:
        turns = turns[:-1]  # "...\n\nAssistant:" asks for the answer
    assert turns is not None
    check_prompt(turns, "prompt")
    return turns


def prompt_value(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as files hold it: text where it is one user turn that reads as such, messages otherwise."""
    if len(prompt) == 1 and prompt[0].role == "user" and transcript(prompt[0].content) is None:
        return prompt[0].content
    return [{"role": turn.role, "content": turn.content} for turn in prompt]
