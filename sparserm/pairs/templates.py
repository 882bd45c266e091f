"""Parse text in a chat template into a conversation, which is then scored in the template of the head's backbone.

RLHF trainers send prompt and response in the policy's template, special tokens included, and data sets hold such texts. Turns
of the common templates are recognised by their markers; text without markers is one user turn and its response. The input is
untrusted, so everything here runs in time linear in its length.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from sparserm.types import Message, Prompt, SparseRMError

_ROLES = {"model": "assistant", "human": "user", "gpt": "assistant", "chatbot": "assistant", "developer": "system"}
#: Channels of turns that are not said to the user.
_UNSAID = ("analysis", "commentary")


@dataclass(frozen=True)
class _Template:
    """Markers of turns: ``opening`` captures the role, and the channel if there are any; each of ``closing`` ends the turn."""

    opening: re.Pattern[str]
    closing: tuple[str, ...] = ()


_TEMPLATES = (
    _Template(re.compile(r"<\|im_start\|>(\w{1,20})(?:\n|<\|im_sep\|>)"), ("<|im_end|>",)),  # ChatML: Qwen, SmolLM, Phi-4
    _Template(re.compile(r"<\|start_header_id\|>(\w{1,20})<\|end_header_id\|>\n\n"), ("<|eot_id|>",)),  # Llama 3
    _Template(re.compile(r"<start_of_turn>(\w{1,20})\n"), ("<end_of_turn>",)),  # Gemma
    _Template(re.compile(r"<\|header_start\|>(\w{1,20})<\|header_end\|>\n\n"), ("<|eot|>",)),  # Llama 4
    _Template(re.compile(r"<｜(User|Assistant)｜>"), ("<｜end▁of▁sentence｜>",)),  # DeepSeek
    _Template(
        re.compile(r"<\|START_OF_TURN_TOKEN\|><\|(SYSTEM|USER|CHATBOT)_TOKEN\|>"), ("<|END_OF_TURN_TOKEN|>",)
    ),  # Command R
    _Template(
        re.compile(r"<\|start\|>(\w{1,20})(?:<\|channel\|>(\w{1,20}))?<\|message\|>"), ("<|end|>", "<|return|>")
    ),  # gpt-oss
    _Template(re.compile(r"<\|(system|user|assistant)\|>\n")),  # Zephyr, Phi-3: the closing marker may also occur in the text
)
_INST, _INST_END = "[INST]", "[/INST]"  # Mistral, Llama 2
#: Marks around what a model thinks before it answers: Qwen, DeepSeek, SmolLM; Magistral; Seed-OSS.
_THINKING = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))
#: Marks before the first turn.
_BEGINNINGS = re.compile(r"\s*(<s>|<bos>|<\|begin_of_text\|>|<BOS_TOKEN>|<｜begin▁of▁sentence｜>|<\|endoftext\|>)?\s*")
_ENDS = (
    "</s>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|end|>",
    "<|return|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
    "<end_of_turn>",
    "<eos>",
    "<pad>",
)


#: Any mark that a template writes around turns or thinking.
_MARK = re.compile(
    "|".join(
        [
            *(one.opening.pattern.replace("(\\w", "(?:\\w") for one in _TEMPLATES),
            # Not `</s>`, which is HTML, too.
            r"<\|(?:user|assistant|system|start_of_role|end_of_role)\|>|\[/?SYSTEM_PROMPT\]|\[AVAILABLE_TOOLS\]",
            r"<extra_id_\d>|\[\|(?:user|assistant|system)\|\]|<seed:bos>|### (?:Instruction|Response):",
            *map(re.escape, (_INST, _INST_END, *_ENDS[1:], *(mark for pair in _THINKING for mark in pair))),
        ]
    )
)


def mark_in(text: str) -> str | None:
    """The first mark of a chat template that stands anywhere in a text, on one line; None if there is none."""
    found = _MARK.search(text) if any(one in text for one in ("<", "[", "### ")) else None
    return found[0].strip() if found else None


def begins_templated(text: str) -> bool:
    """Whether a text begins with the mark of a turn in one of the known templates, after that of a text if there is one."""
    beginning = _BEGINNINGS.match(text)
    assert beginning is not None  # it may be empty
    if beginning[1] and any(one.opening.search(text) for one in _TEMPLATES):  # DeepSeek writes the system message right there
        return True
    start = text[beginning.end() :]
    return start.startswith(_INST) or any(one.opening.match(start) for one in _TEMPLATES)


def read_turns(text: str) -> tuple[Message, ...]:
    """The turns of a text in one of the known templates; an empty assistant turn at its end asks for the answer.

    Raises:
        SparseRMError: a turn has an unknown role.
    """
    turns = _turns(text)
    if unknown := [turn.role for turn in turns if turn.role not in ("system", "user", "assistant")]:
        raise SparseRMError(f"a turn has the role {unknown[0]!r}, expected system, user or assistant")
    return tuple(turns)


def spoken(response: str) -> str:
    """What a response says to the user: without thinking, channels that are not shown, and the marks that end a turn.

    A block of thinking at the beginning is left out; one that is never closed is all there is, so nothing remains. Templates
    that open the block in the prompt leave only its end in the response. Text without any of these is unchanged.
    """
    text = _without_ends(response)
    while (answer := _after_thinking(text)) is not None:
        text = answer
    return text


def spoken_template() -> str:
    """Jinja that goes before a chat template, so that it writes what assistants say as the engine reads it.

    Every assistant turn is as :func:`spoken` gives it, and the last one has no white space around it. It is in exported
    tokenizers, which work without SparseRM.
    """
    thinking = json.dumps(_THINKING, ensure_ascii=False)
    return _SPOKEN.replace("THINKING", thinking).replace("ENDS", f"({json.dumps(_ENDS, ensure_ascii=False)[1:-1]})")


#: :func:`spoken` in Jinja, which has no while: each mark ends in one of two signs, so that their number is an upper bound.
_SPOKEN = """\
{%- macro sparserm_spoken(text) -%}
{%- set now = namespace(text=text, more=true) -%}
{%- set whole = text.rstrip() -%}
{%- if whole.endswith(ENDS) and not (whole.endswith('</s>') and '<s>' in whole) -%}
{%- set now.text = whole -%}
{%- for step in whole.split('>') if now.more -%}
{%- set now.more = false -%}
{%- for end in ENDS if now.text.endswith(end) -%}
{%- set now.text = now.text[:-(end|length)].rstrip() -%}
{%- set now.more = true -%}
{%- endfor -%}
{%- endfor -%}
{%- set now.text = now.text.lstrip() -%}
{%- endif -%}
{%- set now.more = true -%}
{%- for step in text.split('>') + text.split(']') if now.more -%}
{%- set now.more = false -%}
{%- set start = now.text.lstrip() -%}
{%- if start.startswith('<|channel|>') -%}
{%- set now.text = start.rpartition('<|message|>')[2].lstrip() if '<|channel|>final<|message|>' in start else '' -%}
{%- set now.more = true -%}
{%- else -%}
{%- for opening, closing in THINKING if not now.more -%}
{%- set parts = now.text.partition(closing) -%}
{%- if start.startswith(opening) or (parts[1] and opening not in parts[0]) -%}
{%- set now.text = parts[2].lstrip() -%}
{%- set now.more = true -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{{- now.text -}}
{%- endmacro -%}
{%- set sparserm = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message.role == 'assistant' and message.content is string -%}
{%- set said = sparserm_spoken(message.content) -%}
{%- set said = said.strip() if loop.last else said or message.content -%}
{%- set sparserm.messages = sparserm.messages + [dict(message, content=said)] -%}
{%- else -%}
{%- set sparserm.messages = sparserm.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = sparserm.messages -%}
"""


def thinks(response: str) -> bool:
    """Whether :func:`spoken` leaves thinking out of a response."""
    return _after_thinking(_without_ends(response)) is not None


def _without_ends(text: str) -> str:
    """A text without the marks that end it; unchanged if there are none, or ``</s>`` closes a ``<s>`` of HTML."""
    whole = text.rstrip()
    return text if not whole.endswith(_ENDS) or (whole.endswith("</s>") and "<s>" in whole) else _stripped(text)


def _after_thinking(text: str) -> str | None:
    """What follows thinking at the beginning of a text; None if there is none."""
    start = text.lstrip()
    if start.startswith("<|channel|>"):  # gpt-oss
        return start.rpartition("<|message|>")[2].lstrip() if "<|channel|>final<|message|>" in start else ""
    for opening, closing in _THINKING:
        before, closed, after = text.partition(closing)
        if start.startswith(opening) or (closed and opening not in before):
            return after.lstrip()
    return None


def read_query(query: str, prompt: str | None = None) -> tuple[Prompt, str]:
    """Split ``query``, a prompt with its response in any of the known templates, into the conversation and the response.

    Thinking is still in the response; :func:`spoken` leaves it out.

    Args:
        prompt: the prompt part of ``query``; if the query begins with it, markers in the response are ignored.

    Raises:
        SparseRMError: the query does not begin with ``prompt``, and its last recognised turn is not an answer to another turn.
    """
    if prompt and prompt.strip() and query.startswith(prompt):
        turns, response = _turns(prompt), query[len(prompt) :]
        if not turns:
            return (Message("user", prompt.strip()),), _stripped(response)
        if turns[-1].role == "assistant":  # the generation prompt, possibly with the beginning of the response
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
    """The turns, parsed with the template whose marker comes first; empty if there are no markers."""
    starts = [(found.start(), template) for template in _TEMPLATES if (found := template.opening.search(text))]
    first = min(starts, key=lambda one: one[0], default=None)
    at = text.find(_INST)
    if at >= 0 and (first is None or at < first[0]):
        return _instructions(text)
    return _marked(text, first[1]) if first else []


def _marked(text: str, template: _Template) -> list[Message]:
    """Parse turns that begin with a role marker."""
    opened = list(template.opening.finditer(text))
    ends = [*(found.start() for found in opened[1:]), len(text)]
    beginning = _BEGINNINGS.match(text)
    assert beginning is not None
    before = text[beginning.end() : opened[0].start()].strip() if beginning[1] else ""
    turns = [Message("system", before)] if before else []
    for found, end in zip(opened, ends, strict=True):
        content = text[found.end() : end]
        for closing in template.closing:
            content = content.partition(closing)[0]
        role = found[1].lower()
        if template.opening.groups < 2 or found[2] not in _UNSAID:
            turns.append(Message(_ROLES.get(role, role), _stripped(content)))
    return turns


def _instructions(text: str) -> list[Message]:
    """Parse turns of Mistral and Llama 2; the latter puts the system message into the first user turn."""
    turns = []
    for part in text.split(_INST)[1:]:
        user, _, answer = part.partition(_INST_END)
        if user.lstrip().startswith("<<SYS>>"):
            system, _, user = user.lstrip().removeprefix("<<SYS>>").partition("<</SYS>>")
            turns.append(Message("system", system.strip()))
        answer = answer.strip().removesuffix("<s>")  # start of Llama 2's next turn
        turns += [Message("user", user.strip()), Message("assistant", _stripped(answer))]
    return turns


def _stripped(text: str) -> str:
    """Strip surrounding white space and trailing end-of-text markers."""
    end = len(text.rstrip())
    while mark := next((mark for mark in _ENDS if text.endswith(mark, 0, end)), None):
        end -= len(mark)
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end].lstrip()
