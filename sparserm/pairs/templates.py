"""Parse text in a chat template into a conversation, which is then scored in the template of the head's backbone.

RLHF trainers send prompt and response in the policy's template, special tokens included, and data sets hold such texts. Turns
of the common templates are recognised by their markers; text without markers is one user turn and its response. The input is
untrusted, so everything here runs in time linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sparserm.types import Message

#: What templates, transcripts and messages call a role. What a tool returned is read as a user's message, as models read it.
TOOLS = ("tool", "function", "ipython", "observation", "tool_response")
ROLES = {
    "system": "system",
    "developer": "system",
    **dict.fromkeys(("user", "human", "prompter", *TOOLS), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
}
#: Other names of roles in templates: Command R, Mistral, MiniCPM and MiniMax, Baichuan.
_OTHERS = {
    "chatbot": "assistant",
    "system_prompt": "system",
    "inst": "user",
    "/inst": "assistant",
    "用户": "user",
    "ai": "assistant",
    **dict.fromkeys(("102", "106"), "user"),
    **dict.fromkeys(("103", "107"), "assistant"),
}
#: Channels of turns that are not said to the user.
_UNSAID = ("analysis", "commentary")
#: What follows the mark of a turn in most templates; a text that asks for an answer may end without it.
_LINE = r"(?:\r?\n|\s*\Z)"
#: The mark that opens a turn, for each template; it captures the role, and the channel if there are any. Of two that match at
#: the same place, the first one counts.
_TEMPLATES = tuple(
    re.compile(mark)
    for mark in (
        rf"<\|im_start\|>(\w{{1,20}})(?:<\|im_sep\|>|{_LINE})",  # ChatML: Qwen, SmolLM, Yi, InternLM 2, OLMo 3, Phi-4
        rf"<\|start_header_id\|>(\w{{1,20}})<\|end_header_id\|>{_LINE}",  # Llama 3
        rf"<\|header_start\|>(\w{{1,20}})<\|header_end\|>{_LINE}",  # Llama 4
        rf"(?:<start_of_turn>|<\|turn>)(\w{{1,20}}){_LINE}",  # Gemma
        r"<｜(User|Assistant)｜>",  # DeepSeek from V2.5 on
        r"<\|START_OF_TURN_TOKEN\|><\|(SYSTEM|USER|CHATBOT)_TOKEN\|>",  # Command R, Command A
        r"<\|start\|>(\w{1,20})(?:<\|channel\|>(\w{1,20}))?(?:<\|message\|>|\s*\Z)",  # gpt-oss
        r"<\|start_of_role\|>(\w{1,20})(?: \{[^<>\n]{0,200}\})?<\|end_of_role\|>",  # Granite
        r"<\|im_(system|user|assistant)\|>[^<>\n]{0,60}<\|im_middle\|>",  # Kimi
        rf"<\|(system|user|assistant|observation|tool)\|>{_LINE}",  # Zephyr, Phi-3, OLMo 2, Falcon 3
        r"(?:\[gMASK\]<?sop>?\s?|<\|bom\|>)?<\|(system|user|assistant|observation|tool)\|>",  # GLM, Jamba, Phi-4 mini
        r"\[\|((?i:system|user|assistant|tool))\|\]",  # EXAONE
        rf"<(?:extra_id_[01]|SPECIAL_1[01])>(System|User|Assistant){_LINE}",  # Nemotron
        rf"<seed:bos>(\w{{1,20}}){_LINE}",  # Seed-OSS
        r"<\|(System|User|Bot)\|>:",  # InternLM
        r"<(用户|AI)>",  # MiniCPM
        r"<reserved_(10[2367])>",  # Baichuan
        rf"(?:\]~!b\[)?\]~b\](\w{{1,20}}){_LINE}",  # MiniMax
        r"GPT4 Correct (User|Assistant):",  # OpenChat, Starling
        r"\[(SYSTEM_PROMPT|INST|/INST)\]",  # Mistral, Llama 2: what closes the user's turn opens the assistant's
    )
)
#: The template whose marks end a line, and the one with the same marks in which they do not; what tells one from the other in
#: Phi-3 and Phi-4 mini, and whether a line ends there.
_LINED, _UNLINED = (next(one for one in _TEMPLATES if one.pattern.endswith(end)) for end in (rf"tool)\|>{_LINE}", r"tool)\|>"))
_PHI = re.compile(r"<\|end\|>(\r?\n)?<\|(?:system|user|assistant|tool)\|>")
#: Marks around what a model thinks before it answers: Qwen, DeepSeek, SmolLM; Magistral; Seed-OSS; EXAONE; Command A; Gemma 4.
THINKING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thought>", "</thought>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
)
#: Marks of thinking that may as well stand in an answer: only a whole block before an answer is thinking. Prompted
#: models; Kimi; Sky-T1; MedGemma.
BLOCKS = (
    *(
        (f"<{name}>", f"</{name}>")
        for word in ("think", "thinking", "thought", "reasoning", "reflection", "scratchpad", "analysis")
        for name in (word, word.capitalize(), word.upper())
        if (f"<{name}>", f"</{name}>") not in THINKING
    ),
    ("<antThinking>", "</antThinking>"),
    ("< think >", "</ think >"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|thinking|>", "<|/thinking|>"),
    ("<unused94>thought", "<unused95>"),
)
#: What a sentence ends with.
STOPS = ".!?…。！？"
#: Marks of what is said to the user, beside thinking: Command A; gpt-oss.
OPENINGS = ("<|START_RESPONSE|>", "<|channel|>final<|message|>")
#: Marks before the first turn, and what fills a batch; those of the group are in no other text.
_BEGINNINGS = re.compile(
    r"\s*(?:(?:<s>|<pad>|(<bos>|<\|begin_of_text\|>|<BOS_TOKEN>|<｜begin▁of▁sentence｜>|<\|startoftext\|>|<\|endoftext\|>))\s*)*"
)
#: Marks that end a turn or a text.
ENDS = (
    "</s>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<|eom|>",
    "<|EOT|>",
    "<|END_RESPONSE|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
    "<end_of_turn>",
    "<turn|>",
    "[|endofturn|]",
    "[/SYSTEM_PROMPT]",
    "<seed:eos>",
    "<SPECIAL_12>",
    "<eoh>",
    "<eoa>",
    "<eos>",
    "<pad>",
    "[e~[",
    "<sep>",  # Reka
    "<|user|>",  # GLM
    "<extra_id_1>",  # Nemotron
)
#: Any mark that a template writes around turns or thinking, also in templates that are not known here.
_MARK = re.compile(
    "|".join(
        [
            r"<\|[A-Za-z]\w{0,40}\|>|<｜[^｜<>\n]{1,40}｜>|\[\|[A-Za-z]\w{0,20}\|\]",
            r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK)\]|<</?SYS>>",
            r"<start_of_turn>|<\|turn>|<(?:extra_id_|SPECIAL_)\d{1,2}>|<seed:bos>|<用户>|GPT4 Correct (?:User|Assistant):",
            r"<reserved_10[2367]>|\]~b\]|<s>(?:system|user|bot)\n",
            r"### (?:Instruction|Response|Human|Assistant):",
            # Not `</s>`, which is HTML, too.
            *map(re.escape, (*ENDS[1:], *(mark for pair in THINKING for mark in pair))),
        ]
    )
)
#: The mark of a block at the beginning of a text: within the pattern above it would make the search take six times as long.
_BLOCK = re.compile(rf"\s*(?:{'|'.join(re.escape(opening) for opening, _ in BLOCKS)})")


#: What the first mark of a turn in a template begins with.
_OPENED = ("<", "[", "]~", "GPT4 ")
#: How blocks of thinking begin.
_BLOCKS_OPENED = tuple(opening for opening, _ in BLOCKS)


def mark_in(text: str) -> str | None:
    """The first mark of a chat template that stands anywhere in a text, on one line; None if there is none."""
    if not may_have_marks(text) and "### " not in text:
        return None
    found = _BLOCK.match(text) or _MARK.search(text)
    return found[0].strip() if found else None


def may_have_marks(text: str) -> bool:
    """Whether a text has a character that marks of turns and of thinking have; most texts have none, and are read at once."""
    return "<" in text or "[" in text or "]~" in text or "GPT4 " in text or "◁" in text


def after_beginning(text: str) -> str:
    """A text without the marks that stand before its first turn."""
    beginning = _BEGINNINGS.match(text)
    assert beginning is not None  # it may be empty
    return text[beginning.end() :]


def begins_templated(text: str) -> bool:
    """Whether a text begins with the mark of a turn in one of the known templates, after that of a text if there is one."""
    beginning = _BEGINNINGS.match(text)
    assert beginning is not None  # it may be empty
    for opening in _TEMPLATES if text.startswith(_OPENED, beginning.end()) else ():
        if found := opening.match(text, beginning.end()):
            # An assistant's mark alone is that of a response, and Mistral closes what the user says.
            alone = _role(found) == "assistant" or found[1] == "INST"
            return not alone or opening.search(text, found.end()) is not None
    # DeepSeek writes the system message right after the mark of a text.
    return bool(beginning[1]) and any(opening.search(text, beginning.end()) for opening in _TEMPLATES)


def ends_templated(text: str) -> bool:
    """Whether a text that does not begin with a mark asks for an answer in one of the known templates at its end."""
    turns = read_turns(text)
    return len(turns) > 1 and turns[-1].role == "assistant" and not spoken(turns[-1].content).strip()


def read_turns(text: str) -> tuple[Message, ...]:
    """The turns of a text, in the template whose marker comes first; none without markers. Unknown roles are kept.

    An empty assistant turn at the end asks for the answer. Thinking is left out of all but the last turn. Text before the first
    mark is a system message.
    """
    found = [(found.start(), opening) for opening in _TEMPLATES if (found := opening.search(text))]
    if not found:
        return ()
    opening = min(found, key=lambda one: one[0])[1]
    if opening is _LINED and {bool(after[1]) for after in _PHI.finditer(text)} == {False}:
        opening = _UNLINED  # what is said may begin with a line end
    return _marked(text, opening)


def _role(found: re.Match[str]) -> str:
    """The role that a mark opens, in lower case if it is unknown."""
    role = found[1].lower()
    return ROLES.get(role) or _OTHERS.get(role, role)


def _marked(text: str, opening: re.Pattern[str]) -> tuple[Message, ...]:
    """Parse turns that begin with a role marker."""
    opened = list(opening.finditer(text))
    if len(opened) > 1 and _role(opened[-1]) == "user" and not stripped(text[opened[-1].end() :]):
        text = text[: opened.pop().start()]  # GLM ends its turn with the mark of the user's
    ends = [*(found.start() for found in opened[1:]), len(text)]
    beginning = _BEGINNINGS.match(text)
    assert beginning is not None
    before = stripped(text[beginning.end() : opened[0].start()])
    turns = [Message("system", before)] if before else []
    unsaid = -1  # where the channels before an answer begin
    for found, end in zip(opened, ends, strict=True):
        role, last = _role(found), end == len(text)
        content = stripped(text[found.end() : end] if last else text[found.end() : end].rstrip().removesuffix("<s>"))
        if opening.groups > 1 and role == "assistant" and (found[2] or unsaid >= 0):
            unsaid = found.end(1) if unsaid < 0 else unsaid
            if found[2] in _UNSAID and not last:
                continue
            content, unsaid = stripped(text[unsaid:end]), -1
        if role == "user" and content.startswith("<<SYS>>") and "<</SYS>>" in content:  # Llama 2
            system, _, content = (part.strip() for part in content.removeprefix("<<SYS>>").partition("<</SYS>>"))
            turns.append(Message("system", system))
        if role == "assistant" and not last:
            content = spoken(content) or content
        if content or role != "system":
            turns.append(Message(role, content))
    return tuple(turns) or (Message(role, content),)


def stripped(text: str) -> str:
    """A text without surrounding white space and the marks that end it."""
    end = len(text.rstrip())
    while mark := next((mark for mark in ENDS if text.endswith(mark, 0, end)), None):
        end -= len(mark)
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end].lstrip()


def spoken(response: str) -> str:
    """What a response says to the user: without thinking, channels that are not shown, and the marks around a turn.

    A block of thinking at the beginning is left out; one that is never closed is all there is, so nothing remains. Templates
    that open the block in the prompt leave only its end in the response, at the beginning of a line or after a sentence. Text
    without any of these is unchanged.
    """
    return _said(response)[0]


def thinks(response: str) -> bool:
    """Whether :func:`spoken` leaves thinking out of a response."""
    return _said(response)[1]


def mark_left_out(response: str) -> str:
    """A mark of a turn that :func:`spoken` leaves out of a response without thinking; empty if there is none."""
    said, thought = _said(response)
    whole = response.strip()
    if thought or len(said.strip()) == len(whole):
        return ""
    return next((mark for mark in ENDS if whole.endswith(mark)), "") or mark_in(whole) or ""


def _said(response: str) -> tuple[str, bool]:
    """What a response says, and whether thinking was left out of it."""
    if not may_have_marks(response):
        return response, False
    text, thought = _without_ends(response), False
    closed = text is not response
    thinking = [marks for marks in THINKING if any(mark in text for mark in marks)]  # looked for once, not in each step
    while True:
        if (answer := _after_thinking(text, thinking)) is not None:
            text, thought = answer, True
        elif (answer := _after_opening(text, closed)) is not None:
            text = answer
        elif thought and text.startswith("<response>") and text.rstrip().endswith("</response>"):  # Granite
            text = text.rstrip().removeprefix("<response>").removesuffix("</response>").strip()
        else:
            return text, thought


def _without_ends(text: str) -> str:
    """A text without the marks that end it; unchanged if there are none, or ``</s>`` closes a ``<s>`` of HTML."""
    whole = text.rstrip()
    return text if not whole.endswith(ENDS) or (whole.endswith("</s>") and "<s>" in whole) else stripped(text)


def _after_thinking(text: str, thinking: Sequence[tuple[str, str]]) -> str | None:
    """What follows thinking at the beginning of a text; None if there is none."""
    start = text.lstrip()
    if start.startswith(("<|channel|>analysis", "<|channel|>commentary")):  # gpt-oss
        return start.partition("<|channel|>final<|message|>")[2].lstrip()
    for opening, closing in thinking:
        before, closed, after = start.partition(closing)
        if start.startswith(opening) or (closed and opening not in before and _closes(before, after)):
            return after.lstrip()
    for opening, closing in BLOCKS if start.startswith(_BLOCKS_OPENED) else ():
        if start.startswith(opening) and (after := start.partition(closing)[2]).strip():
            return after.lstrip()
    return None


def _closes(before: str, after: str) -> bool:
    """Whether a mark between two texts closes thinking: before one that a text is about stands a word or a quote."""
    begins = before.rstrip(" \t")[-1:] in ("", "\n", "\r")
    goes_on = after[:1] in (" ", "\t") and after.lstrip(" \t")[:1] not in ("", "\n", "\r")
    return not before or before[-1] in STOPS or (begins and not goes_on)


def _after_opening(text: str, closed: bool) -> str | None:
    """What follows the mark of an assistant's turn at the beginning of a response; None if there is none.

    Args:
        closed: whether a mark ended the response; otherwise one that stands before text on its line may be meant as text.
    """
    start = text.lstrip()
    for mark in OPENINGS:
        if start.startswith(mark):
            return start[len(mark) :].lstrip()
    if not start.startswith(("<", "[|", "]~", "GPT4 ")):
        return None
    found = next((found for opening in _TEMPLATES if (found := opening.match(start))), None)
    if found is None or _role(found) != "assistant" or not (closed or "\n" in found[0]):
        return None
    return start[found.end(1) if found.re.groups > 1 and found[2] else found.end() :].lstrip()
