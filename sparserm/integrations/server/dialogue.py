"""From text in a policy's chat template back to its conversation: rewards are read in the head's own template.

RLHF trainers send prompt and response as the policy saw them, special tokens included. The turns of the usual templates are
told by their marks; what has none of them is one user turn and its answer. Everything here takes time linear in the text,
which a stranger may have written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparserm.types import Message, Prompt, SparseRMError

_ROLES = {"model": "assistant", "human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class _Template:
    """How turns are marked: ``opening`` has the role as its group; behind ``closing`` nothing of the turn follows."""

    opening: re.Pattern[str]
    closing: str = ""


_TEMPLATES = (
    _Template(re.compile(r"<\|im_start\|>(\w{1,20})(?:\n|<\|im_sep\|>)"), "<|im_end|>"),  # ChatML: Qwen, SmolLM, Phi-4
    _Template(re.compile(r"<\|start_header_id\|>(\w{1,20})<\|end_header_id\|>\n\n"), "<|eot_id|>"),  # Llama 3
    _Template(re.compile(r"<start_of_turn>(\w{1,20})\n"), "<end_of_turn>"),  # Gemma
    _Template(re.compile(r"<\|(system|user|assistant)\|>\n")),  # Zephyr, Phi-3: what closes a turn may also be said in it
)
_ASKED, _ANSWERED = "[INST]", "[/INST]"  # Mistral, Llama 2
_ENDS = ("</s>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>", "<eos>", "<pad>")


def read_query(query: str, prompt: str | None = None) -> tuple[Prompt, str]:
    """The conversation and the response of ``query``, a prompt with its response in whatever template.

    Args:
        prompt: what ``query`` begins with; where it does, no mark in the response is taken for a turn.

    Raises:
        SparseRMError: there are no marks, and no prompt that the query begins with.
    """
    if prompt and prompt.strip() and query.startswith(prompt):
        turns, response = _turns(prompt), query[len(prompt) :]
        if not turns:
            return (Message("user", prompt.strip()),), _stripped(response)
        if turns[-1].role == "assistant":  # opened for the response, or with its beginning
            return tuple(turns[:-1]), _stripped(turns[-1].content + response)
        return tuple(turns), _stripped(response)
    turns = _turns(query)
    if len(turns) > 1 and turns[-1].role == "assistant":
        return tuple(turns[:-1]), turns[-1].content
    raise SparseRMError(
        f"the query {query[:60]!r} has no turns of a known chat template and does not begin with its prompt; expected prompt "
        "and response in one text; send the prompts too"
    )


def _turns(text: str) -> list[Message]:
    """The turns, by the template whose mark stands first; none where there is no mark."""
    starts = [(found.start(), template) for template in _TEMPLATES if (found := template.opening.search(text))]
    first = min(starts, key=lambda one: one[0], default=None)
    asked = text.find(_ASKED)
    if asked >= 0 and (first is None or asked < first[0]):
        return _instructions(text)
    return _marked(text, first[1]) if first else []


def _marked(text: str, template: _Template) -> list[Message]:
    """Turns that each begin with a mark of their role."""
    opened = list(template.opening.finditer(text))
    ends = [*(found.start() for found in opened[1:]), len(text)]
    turns = []
    for found, end in zip(opened, ends, strict=True):
        content = text[found.end() : end]
        if template.closing:
            content = content.partition(template.closing)[0]
        turns.append(Message(_ROLES.get(found[1], found[1]), _stripped(content)))
    return turns


def _instructions(text: str) -> list[Message]:
    """Turns of Mistral and Llama 2, which puts the system's message into the first."""
    turns = []
    for part in text.split(_ASKED)[1:]:
        asked, _, answered = part.partition(_ANSWERED)
        if asked.lstrip().startswith("<<SYS>>"):
            system, _, asked = asked.lstrip().removeprefix("<<SYS>>").partition("<</SYS>>")
            turns.append(Message("system", system.strip()))
        answered = answered.strip().removesuffix("<s>")  # with which Llama 2 begins the next turn
        turns += [Message("user", asked.strip()), Message("assistant", _stripped(answered))]
    return turns


def _stripped(text: str) -> str:
    """Without white space around it and without the marks of an end behind it."""
    end = len(text.rstrip())
    while mark := next((mark for mark in _ENDS if text.endswith(mark, 0, end)), None):
        end -= len(mark)
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end].lstrip()
