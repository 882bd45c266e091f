"""From text in a policy's chat template back to its conversation: rewards are read in the head's own template.

RLHF trainers send prompt and response as the policy saw them, special tokens included. The turns of the usual templates are
told by their marks; what has none of them is one user turn and its answer.
"""

from __future__ import annotations

import re

from sparserm.types import Message, Prompt, SparseRMError

_ROLES = {"model": "assistant", "human": "user", "gpt": "assistant"}

#: Marks of a turn: role, content. A turn that is not closed, which the policy was cut in, goes to the end.
_TEMPLATES = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|\Z)",  # ChatML: Qwen, SmolLM, Yi
        r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n(.*?)(?:<\|eot_id\|>|\Z)",  # Llama 3
        r"<start_of_turn>(\w+)\n(.*?)(?:<end_of_turn>|\Z)",  # Gemma
        r"<\|(system|user|assistant)\|>\n(.*?)(?:</s>|<\|end\|>|(?=<\|(?:system|user|assistant)\|>)|\Z)",  # Zephyr, Phi
    )
)
_INSTRUCTION = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?:</s>|(?=\[INST\])|\Z)", re.DOTALL)  # Mistral, Llama 2
_ENDS = re.compile(
    r"(?:\s*(?:</s>|<\|im_end\|>|<\|eot_id\|>|<\|end\|>|<\|endoftext\|>|<\|end_of_text\|>|<end_of_turn>|<eos>|<pad>))+\s*\Z"
)


def read_query(query: str, prompt: str | None = None) -> tuple[Prompt, str]:
    """The conversation and the response of ``query``, a prompt with its response in whatever template.

    Args:
        prompt: what ``query`` begins with; needed where the template's marks are not known.

    Raises:
        SparseRMError: there are no marks, and no prompt that the query begins with.
    """
    turns = _turns(query)
    if len(turns) > 1 and turns[-1].role == "assistant":
        return tuple(turns[:-1]), turns[-1].content
    if prompt is not None and query.startswith(prompt) and prompt.strip():
        return (Message("user", prompt.strip()),), _ENDS.sub("", query[len(prompt) :]).strip()
    raise SparseRMError(
        f"the query {query[:60]!r} has no turns of a known chat template and does not begin with its prompt; expected prompt "
        "and response in one text; send the prompts too"
    )


def _turns(text: str) -> list[Message]:
    """The turns of the first template whose marks are there; none where there are none."""
    for template in _TEMPLATES:
        if found := template.findall(text):
            return [Message(_ROLES.get(role, role), _ENDS.sub("", content).strip()) for role, content in found]
    turns = []
    for asked, answered in _INSTRUCTION.findall(text):
        turns += [Message("user", asked.strip()), Message("assistant", _ENDS.sub("", answered).strip())]
    return turns
