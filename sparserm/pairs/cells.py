"""Cells in which messages or lists of responses are written as text, as when a data frame is saved as CSV or JSON Lines."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from sparserm.pairs.limits import MAX_DEPTH, size_of

_ROLE = r"['\"](?:role|from)['\"]\s*:\s*['\"](?:system|developer|user|human|assistant|gpt|model|bot|tool|function)['\"]"
#: The beginning of a list of messages, and a role that is named anywhere in a list or an object.
_BEGUN, _ANY = re.compile(rf"\s*\[\s*\{{\s*{_ROLE}"), re.compile(_ROLE)
#: The beginning of messages in other writings: objects as Python prints them, pairs of role and text, JavaScript, YAML, NumPy.
#: White space that may stand at one of two places, or words of any length, would take time quadratic in the text.
_NAMED = r"(?:system|developer|user|human|assistant|ai|gpt|model|bot|tool|function)"
_OTHER = re.compile(
    rf"(?:(?:\[\s*)?\w{{0,60}}(?:Message|Turn)\w{{0,60}}\((?:\w+=.*)?\b(?:content|role)=|\[\s*[\[(]\s*['\"]{_NAMED}['\"]\s*,"
    rf"|(?:\[\s*)?\{{\s*(?:role|from)\s*:\s*['\"]?{_NAMED}\b|-\s+role:\s*['\"]?{_NAMED}\b['\"]?\s+content:"
    r"|array\(\s*\[\s*\{\s*['\"](?:role|from|content|value)['\"])",
    re.DOTALL,
)
#: Keys under which a conversation stands in an object.
_WRAPPED = ("messages", "conversations", "conversation", "turns")
#: Text that exporters write for a missing value, in lower case; and what they write in brackets.
_MARKS = {"nan", "nat", "none", "null", "na", "n/a", "nil", "\\n", "undefined", "loading...", "-"}
_BRACKETED = _MARKS | {"empty", "missing", "deleted", "removed", "noinput", "no input"}
_LONGEST_MARK = 20
_ERROR = re.compile(r"#(?:div/0!|num!|name\?|ref!|value!|null!|n/a)|err:\d+")
#: Keys of the text in an object that holds nothing else.
_TEXTS = ("text", "content", "value")


def looks_like_messages(text: str) -> bool:
    """Whether a text begins as messages do that were written as text, or is an object or a list with one in it."""
    if (
        _BEGUN.match(text) or _OTHER.match(text.lstrip()) or (text.lstrip()[:3] in ('"[{', '"{\\') and '\\"role\\"' in text)
    ):  # the latter: encoded twice
        return True
    return is_bracketed(text) and _ANY.search(text) is not None


def parsed(text: str) -> Any:
    """The value that a text writes in JSON, or in Python's print format; None if it is neither, or nested too deeply."""
    try:
        value = json.loads(text)
        if isinstance(value, str):  # encoded twice
            value = json.loads(value)
    except (ValueError, RecursionError):
        try:
            value = None if _joins_texts(text) else ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    return value if isinstance(value, (list, dict)) and size_of(value).depth <= MAX_DEPTH else None


def _joins_texts(text: str) -> bool:
    """Whether two texts stand side by side without a comma, as NumPy prints arrays; Python would read them as one.

    Raises:
        SyntaxError: it is not Python.
    """
    try:
        kinds = [one.type for one in tokenize.generate_tokens(io.StringIO(text.strip()).readline)]
    except tokenize.TokenError as error:
        raise SyntaxError(str(error)) from None
    kinds = [kind for kind in kinds if kind not in (tokenize.NL, tokenize.NEWLINE)]
    return any(a == b == tokenize.STRING for a, b in pairwise(kinds))


def unwrapped(value: Any) -> Any:
    """The conversation in an object such as ``{"messages": [...]}``; any other value unchanged."""
    if isinstance(value, Mapping) and "role" not in value and "from" not in value:
        return next((value[key] for key in _WRAPPED if isinstance(value.get(key), (list, tuple))), value)
    return value


def texts_in(text: str) -> list[str] | None:
    """The texts of a cell that writes a list of them; None if it does not."""
    value = parsed(text)
    return value if isinstance(value, list) and value and all(isinstance(one, str) for one in value) else None


def lone_text(value: Any) -> str | None:
    """The text in a list or an object that holds nothing else, such as ``["..."]`` or ``[{"text": "..."}]``; None otherwise."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        (value,) = value
        if isinstance(value, str):
            return value
    if isinstance(value, Mapping) and (len(value) == 1 or (value.get("type") == "text" and value.keys() <= {"type", "text"})):
        text = next((value[key] for key in _TEXTS if key in value), None)
        return text if isinstance(text, str) else None
    return None


def written_lone_text(text: str) -> str | None:
    """As :func:`lone_text`, of a value that is written as text."""
    return lone_text(parsed(text)) if is_bracketed(text) else None


def is_bracketed(text: str) -> bool:
    """Whether a text begins and ends as a list or an object does."""
    start, end = text.lstrip()[:1], text.rstrip()[-1:]
    return start + end in ("[]", "{}")


def is_unread_data(text: str) -> bool:
    """Whether a text writes a list of texts or an object, which may be meant as such."""
    value = parsed(text) if is_bracketed(text) else None
    if isinstance(value, dict):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(one, (str, dict)) for one in value)


def is_mark(text: str) -> bool:
    """Whether a text is what exporters write for a missing value (``nan``, ``NULL``, ``#DIV/0!``, ``[deleted]``)."""
    if len(text := text.strip().lower()) > _LONGEST_MARK:
        return False
    ends = text[:1] + text[-1:]
    return text in _MARKS or bool(_ERROR.fullmatch(text)) or (ends in ("<>", "[]", "()") and text[1:-1].strip() in _BRACKETED)


def is_blank(value: Any) -> bool:
    """Whether a cell is text that stands for a missing value, white space, or an empty list or object written as text."""
    if not isinstance(value, str):
        return False
    return not value.strip() or is_mark(value) or (is_bracketed(value) and not value.strip()[1:-1].strip())
