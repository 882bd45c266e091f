"""Parse transcripts, in which words such as ``Human:`` and ``Assistant:`` open the turns, into conversations.

These words stand in ordinary texts, too, such as plays and guides. So a text is read as a transcript only where its form says
that it is one: a prompt ends where the answer begins, and two whole transcripts differ in the last answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sparserm.pairs.templates import after_beginning, spoken, stripped
from sparserm.types import Message, Prompt


@dataclass(frozen=True)
class _Form:
    """A kind of transcript: what opens the assistant's turn, and what opens any turn, which captures who speaks."""

    asks: str
    opening: re.Pattern[str]


_HH = _Form("Assistant:", re.compile(r"(?:\A|\n\r?\n)(System|Human|Assistant):"))
#: Words that begin a line: DeepSeek V2, Falcon, RWKV; the roles of messages, and of ShareGPT.
_LINES = (
    _Form("Assistant:", re.compile(r"(?:(?<![^\n])|(?<=｜>))(System|User|Assistant):")),
    _Form("assistant:", re.compile(r"(?<![^\n])(system|user|assistant):")),
    _Form("gpt:", re.compile(r"(?<![^\n])(system|human|gpt):")),
)
#: The first form that fits is used.
_FORMS = (
    _HH,
    *_LINES,
    _Form("ASSISTANT:", re.compile(r"(?:(?<!\S)|(?<=</s>))(SYSTEM|USER|ASSISTANT):")),  # Vicuna, LLaVA, Orca
    _Form("### Assistant:", re.compile(r"(?<!#)### (System|User|Human|Assistant):")),  # Guanaco, StableBeluga
    _Form(
        "BEGINNING OF CONVERSATION: USER:", re.compile(r"(?:\ABEGINNING OF CONVERSATION: |(?<!\S)|(?<=</s>))(USER|GPT):")
    ),  # Koala
    _Form("<sep> assistant:", re.compile(r"(?:\A|(?<=<sep>) ?)(system|human|assistant):")),  # Reka
    _Form("\nOutput:", re.compile(r"(?:\A(?=Instruct)|(?<=\n)(?=Output))(Instruct|Output):")),  # Phi-2
    _Form("### Response:", re.compile(r"(?<![^\n])### (Instruction|Input|Response):")),  # Alpaca, DeepSeek Coder
)
#: A text that begins with one of these may be a transcript.
_BEGUN = re.compile(
    r"\s*((?:### )?(?:Human|human|User|user|USER|Assistant|ASSISTANT|Instruction|Response|Instruct|BEGINNING OF CONVERSATION):)"
)
#: What assistants are called where a text ends that asks for an answer, or where an answer begins.
_NAMES = "assistant|ai|gpt|chatgpt|chatbot|bot|model|claude|agent|assistent|asistente|assistente|ассистент|助手"
_ASKS = re.compile(
    rf"(?i)(?:\A|\n)[ \t]*((?:[*#]{{1,6}} ?)?(?:{_NAMES})(?: said)? ?[:：][*]*|#{{1,6}} ?(?:{_NAMES})|<assistant>)\s*\Z"
)
_TELLS = re.compile(rf"(?i)\s*((?:[*#]{{1,6}} ?)?(?:{_NAMES})(?: said)? ?[:：][*]*)")
#: Characters at the end of a text that may ask for an answer.
_END = 100
#: What may stand before a prompt that a response repeats with its answer.
_QUESTION = re.compile(r"\s*((?:\*\*)?(?:Q|Question|User|Human):)[*\s]*")
_ROLES = {"system": "system", **dict.fromkeys(("assistant", "response", "gpt", "output"), "assistant")}


def transcript(text: str) -> Prompt | None:
    """The turns of a text that may be a transcript; None if it is not one.

    Text before the first turn is the system message. The user speaks first, and in turn with the assistant; in an HH-RLHF
    transcript that begins with ``Human:``, in any order.
    """
    found = _found(text)
    return found[1] if found else None


def asked(text: str) -> Prompt | None:
    """The turns of a prompt that is surely a transcript: it ends with ``Assistant:``, or is one of HH-RLHF; None otherwise."""
    found = _found(text)
    if found is None:
        alone = text.startswith("\n\nHuman:") and _HH.opening.split(text)[1::2] == ["Human"]
        return (Message("user", text.removeprefix("\n\nHuman:").strip()),) if alone else None
    form, turns = found
    apart = re.search(r"(?i)\n\r?\n(?:user|human):|\A\s*system:", after_beginning(text))
    if form in _LINES and turns[0].role == "system" and not apart:
        return None  # a line of an ordinary text may begin with this word
    if turns[-1].role == "assistant" and not spoken(turns[-1].content).strip():  # which may open or close the thinking
        return turns[:-1]
    return turns if turns[-1].role == "user" and text.startswith("\n\nHuman:") else None


def speaker_in(text: str, prompt: str = "") -> str | None:
    """What opens the first turn of a text that may be a transcript, or begins like one, or asks for an answer at its end.

    None for other texts.

    Args:
        prompt: what was asked, if the text is a response; only one that repeats this question may be one by that.
    """
    if found := _found(text):
        opening = found[0].opening.search(after_beginning(text))
        assert opening is not None  # it has turns
        return opening[0].strip()
    begun, question = _BEGUN.match(text), _QUESTION.match(text)
    if question and prompt.strip() and text.startswith(prompt.strip(), question.end()):
        return question[1]
    asking = _ASKS.search(text[-_END:])
    return begun[1] if begun else asking[1] if asking else None


def teller_in(texts: Iterable[str]) -> str | None:
    """What all of some texts begin with, if it is a name for the assistant; None otherwise."""
    found = {begun[1].lower() if (begun := _TELLS.match(text)) else "" for text in texts}
    return found.pop() or None if len(found) == 1 else None


def continued(prompt: str, response: str) -> Prompt | None:
    """The turns of a transcript that goes on in a response, which begins with ``Assistant:``; None for other texts."""
    begun = _BEGUN.match(response)
    turns = transcript(f"{prompt.rstrip()}\n\n{response.lstrip()}") if begun and _answers(begun[1]) else None
    return turns if turns and [turn.role for turn in turns[-2:]] == ["user", "assistant"] else None


def _answers(word: str) -> bool:
    return word.removeprefix("### ").rstrip(":").lower() in ("assistant", "response")


def _found(text: str) -> tuple[_Form, Prompt] | None:
    """The first form that fits a text, and its turns."""
    if ":" not in text:
        return None
    body = after_beginning(text)
    fitting = ((form, _turns(body, form)) for form in _FORMS if form.asks in body)
    return next(((form, turns) for form, turns in fitting if turns), None)


def _turns(text: str, form: _Form) -> Prompt:
    """The turns of a text in one form; none if it does not fit."""
    before, *parts = form.opening.split(text)
    turns = [Message("system", before.strip())] if before.strip() else []
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        role, content = _ROLES.get(speaker.lower(), "user"), stripped(said)
        if speaker == "Input" and turns and turns[-1].role == "user":  # of Alpaca's instruction
            turns[-1] = Message("user", "\n\n".join(filter(None, (turns[-1].content, content))))
        elif content or role != "system":
            turns.append(Message(role, content))
    roles = [turn.role for turn in turns]
    told = roles[1:] if roles[:1] == ["system"] else roles
    in_turn = all(role == ("user", "assistant")[i % 2] for i, role in enumerate(told))
    any_order = form is _HH and roles[:1] == ["user"] and "system" not in roles
    return tuple(turns) if len(told) > 1 and (in_turn or any_order) else ()
