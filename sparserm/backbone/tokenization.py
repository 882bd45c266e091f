"""Tokenises (prompt, response) in the backbone's chat template and marks the response's own tokens.

The templated text is tokenised in pieces: the template's own text with its control tokens, and each message's content as
plain text. So a control token inside a message stays text and cannot end a turn, chosen and rejected have identical prompt
tokens, and the response's span is exact. A policy produces the same tokens when it generates a response to the prompt.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

from sparserm.types import Message, Prompt, SparseRMError, Text, TokenizedText

#: For backbones without a chat template (GPT-2, base models); see :func:`plain_template`.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ {'user': 'Human', 'assistant': 'Assistant', 'system': 'System'}[message['role']] }}: "
    "{{ message['content'] }}\n\n{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"
)

#: Message contents per call of the tokenizer.
CHUNK = 1000

# Placeholder for the i-th content while the template is rendered; without white space or letters that it could change.
_MARK = "\ue000{}\ue001"
_MARKS = re.compile("\ue000(\\d+)\ue001")


def scored_text(response: str) -> str:
    """The part of a response that is tokenised: without surrounding white space.

    Templates, trainers and files differ in what they leave around a response, and its reward must not depend on that. Every
    reward is computed from tokens that :class:`ChatTokenizer` makes, so this is the one place where it is taken off.
    """
    return response.strip()


def plain_template(tokenizer: Any) -> str:
    """:data:`PLAIN_TEMPLATE`, opened by the beginning-of-sequence token where the tokenizer itself puts it before a text.

    Such models never saw a text without it: of Gemma 3 270M the loss on conversations is 2.7 nats per token with it and 4.9
    without.
    """
    return "{{ bos_token }}" * len(opening(tokenizer)) + PLAIN_TEMPLATE


def opening(tokenizer: Any) -> tuple[int, ...]:
    """The beginning-of-sequence token, if the tokenizer itself puts it before a text."""
    first = tokenizer("a")["input_ids"][:1]
    return tuple(first) if first == [tokenizer.bos_token_id] else ()


class ChatTokenizer:
    """Tokenises conversations with a transformers tokenizer.

    Attributes:
        max_length: the context length in tokens.
        opening: what the tokenizer puts before every text, and a text that is truncated keeps; see :func:`opening`.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.opening = opening(tokenizer)
        self.template = tokenizer.chat_template or plain_template(tokenizer)
        self._lock = threading.Lock()  # a call changes settings of the tokenizer that hold for other threads, too
        self._template_ids = functools.lru_cache(maxsize=256)(self._encode_template)
        self._pieces = functools.lru_cache(maxsize=4096)(self._render)

    def __reduce__(self) -> tuple[type[ChatTokenizer], tuple[Any, int]]:
        return ChatTokenizer, (self.tokenizer, self.max_length)

    def __call__(self, prompt: Prompt, response: str) -> TokenizedText:
        """Tokenise, without white space around the response; a text longer than the context is truncated on the left.

        The model never saw a text without its opening token, which is kept.

        Raises:
            SparseRMError: the response is empty, or the template refuses the conversation's roles.
        """
        return self._assemble(prompt, response, self._encode_content)

    def many(self, texts: Sequence[Text]) -> list[TokenizedText]:
        """Tokenise many texts, several times faster: each distinct content once, :data:`CHUNK` of them per tokenizer call.

        Raises:
            SparseRMError: as for a single text.
        """
        contents = dict.fromkeys(turn.content for text in texts for turn in text.prompt)
        contents |= dict.fromkeys(scored_text(text.response) for text in texts)
        ids: dict[str, tuple[int, ...]] = {}
        waiting = list(contents)
        for start in range(0, len(waiting), CHUNK):  # the tokenizer holds a hundred bytes per token while it works
            chunk = waiting[start : start + CHUNK]
            ids |= zip(chunk, map(tuple, self._encode(chunk, split_special_tokens=True)), strict=True)
        return [self._assemble(text.prompt, text.response, ids.__getitem__) for text in texts]

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of the templated prompt, up to the start of the response."""
        return self._prompt_ids(prompt, self._encode_content)

    def _assemble(self, prompt: Prompt, response: str, encode: Callable[[str], tuple[int, ...]]) -> TokenizedText:
        head = self._prompt_ids(prompt, encode)
        body = encode(scored_text(response))
        if not body:
            raise SparseRMError(f"the response {response!r} has no tokens: expected text to score; give a response")
        ids = head + body + self._closing(tuple(message.role for message in prompt))
        cut = max(0, len(ids) - self.max_length)
        kept = len(self.opening) if self.opening and ids[:1] == self.opening else 0
        return TokenizedText(ids[:kept] + ids[kept + cut :], max(kept, len(head) - cut), len(head) + len(body) - cut, cut)

    def _prompt_ids(self, prompt: Prompt, encode: Callable[[str], tuple[int, ...]]) -> tuple[int, ...]:
        ids: list[int] = []
        for text, content in self._pieces(tuple(message.role for message in prompt)):
            ids += self._template_ids(text)
            if content is not None:
                ids += encode(prompt[content].content)
        return tuple(ids)

    def conversation(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Token ids of a whole conversation, for SAE training; the template closes the last turn."""
        ids: list[int] = []
        roles = tuple(message.role for message in messages)
        for text, content in self._pieces(roles, False):
            ids += self._template_ids(text)
            if content is not None:
                ids += self._encode_content(messages[content].content)
        return tuple(ids)

    def frame(self, roles: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """Token ids of the template's own text around a prompt of these roles and a response; can contain the current date."""
        return tuple(
            self._template_ids(text) for text, _ in (*self._pieces(roles), *self._pieces((*roles, "assistant"), False))
        )

    def shared_prefix(self) -> int:
        """Number of tokens that open every conversation without a system message, such as a default system prompt."""
        one, two = (self.conversation((Message("user", text),)) for text in ("Yes", "(no"))
        return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))

    def texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Each token as text; joined they give the decoded text, even if a character spans several tokens."""
        texts = []
        for i in range(1, len(ids) + 1):
            # The window starts 16 tokens back: decoding from the beginning each time would be quadratic.
            start = max(0, i - 16)
            before = self._decode(ids[start : i - 1]) if i - 1 > start else ""
            now = self._decode(ids[start:i])
            # A character of several tokens is shown with the last of them; before that the decoder gives U+FFFD.
            shown = now if i == len(ids) else now.rstrip("\ufffd")
            texts.append(shown[len(before.rstrip("\ufffd")) :])
        return tuple(texts)

    def _closing(self, roles: tuple[str, ...]) -> tuple[int, ...]:
        """Token ids with which the template closes the response's turn, such as ``<|im_end|>``; may be empty."""
        return self._template_ids(self._pieces((*roles, "assistant"), False)[-1][0])

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _encode_content(self, text: str) -> tuple[int, ...]:
        return tuple(self._encode(text, split_special_tokens=True))

    def _encode_template(self, text: str) -> tuple[int, ...]:
        return tuple(self._encode(text, split_special_tokens=False)) if text else ()

    def _encode(self, text: str | list[str], *, split_special_tokens: bool) -> list[Any]:
        with self._lock:
            found = self.tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)
        return list(found["input_ids"])

    def _render(self, roles: tuple[str, ...], generation: bool = True) -> tuple[tuple[str, int | None], ...]:
        """The template's own text in order, each with the index of the content that follows it."""
        messages = [{"role": role, "content": _MARK.format(i)} for i, role in enumerate(roles)]
        try:
            text = self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, add_generation_prompt=generation
            )
        except Exception as error:  # a template is a program and can raise anything
            raise SparseRMError(
                f"the backbone's chat template refuses a conversation of roles {', '.join(roles) or '(none)'} ({error}); "
                "expected alternating user and assistant turns; leave out or merge the turns that do not fit"
            ) from error
        parts = _MARKS.split(text)
        found = [int(i) for i in parts[1::2]]
        if found != list(range(len(roles))):
            raise SparseRMError(
                f"the backbone's chat template shows messages {found} of {len(roles)}; expected each message once; use a "
                "template that does not leave out or repeat messages"
            )
        return tuple(zip(parts[0::2], [*found, None], strict=True))
