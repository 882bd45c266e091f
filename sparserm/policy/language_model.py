"""A language model as policy: sampling, and Kullback-Leibler divergence from another policy."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparserm.backbone.device import usable_device
from sparserm.backbone.model import context_length, load_language_model, load_tokenizer
from sparserm.backbone.tokenization import ChatTokenizer
from sparserm.pairs.messages import prompt_text
from sparserm.support.defaults import DEFAULT_BACKBONE, default_device
from sparserm.support.files import one_line
from sparserm.support.quiet import without_bars
from sparserm.types import Progress, Prompt, SparseRMError

#: Maximum number of responses generated together, since each step reads all weights whatever the batch size; and of their
#: tokens, prompts included, which fill the key-value cache.
BATCH, BATCH_TOKENS = 64, 32_768
#: Tokens per forward pass when next-token distributions are compared.
DIVERGENCE_TOKENS = 1024


@dataclass(frozen=True)
class Sample:
    """A response sampled from a policy.

    Attributes:
        text: of the response; may be empty.
        ids: its tokens, including the one that ended its turn.
        finished: whether its turn ended; otherwise it was truncated at the maximum number of tokens.
    """

    text: str
    ids: tuple[int, ...]
    finished: bool


class Policy:
    """A causal language model of transformers, with ``chat`` to tokenise its conversations.

    It samples at temperature 1 from the model's own distribution: the other settings of its generation configuration, such as
    a repetition penalty, are ignored. Any end token of the configuration, the tokenizer or the chat template ends a turn.
    """

    def __init__(self, model: Any, chat: ChatTokenizer) -> None:
        from transformers import GenerationConfig

        self.model = model
        self.chat = chat
        given = model.generation_config
        self._ends = _ends_of_a_turn(given.eos_token_id, chat)
        pad = chat.tokenizer.pad_token_id
        self._pad = int(pad if pad is not None else next(iter(self._ends), 0))  # masked, so any token works
        model.generation_config = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            bos_token_id=given.bos_token_id,
            eos_token_id=self._ends or None,
            pad_token_id=self._pad,
        )

    @classmethod
    def load(cls, name: str | Path = DEFAULT_BACKBONE, progress: Progress | None = None) -> Policy:
        """Load a policy in float32 on ``SPARSERM_DEVICE``; ``name`` as in :meth:`sparserm.backbone.model.Backbone.load`.

        Raises:
            SparseRMError: the model or the device does not exist, or the tokenizer has no end-of-text token.
        """
        device = usable_device(default_device())
        model: Any = load_language_model(name, progress=progress)
        tokenizer = load_tokenizer(name)
        if tokenizer.eos_token is None:
            raise SparseRMError(
                f"the tokenizer of {str(name)!r} has no eos_token; expected one, which training appends to texts; set "
                "eos_token in its tokenizer_config.json"
            )
        return cls(model.to(device), ChatTokenizer(tokenizer, context_length(model.config)))

    def copy(self) -> Policy:
        """A copy that can be trained without changing this policy."""
        return Policy(copy.deepcopy(self.model), self.chat)

    def save(self, folder: Path) -> None:
        """Save model and tokenizer in transformers format, in float32: bfloat16 would round a round's changes away."""
        with without_bars():
            self.model.save_pretrained(folder)
        self.chat.tokenizer.save_pretrained(folder)

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        max_new_tokens: int = 128,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> list[tuple[Sample, ...]]:
        """Sample ``n`` responses to each prompt, in the order of the prompts; reproducible by seed on the same machine.

        Raises:
            SparseRMError: a prompt leaves no room in the model's context.
        """
        self.check_room(prompts, max_new_tokens)
        asked = [(self.chat.prompt_ids(prompt), i) for i, prompt in enumerate(prompts) for _ in range(n)]
        asked.sort(key=lambda one: (-len(one[0]), one[1]))
        found: list[list[Sample]] = [[] for _ in prompts]
        torch.manual_seed(seed)
        done = 0
        while done < len(asked):
            size = max(1, min(BATCH, BATCH_TOKENS // (len(asked[done][0]) + max_new_tokens)))
            batch = asked[done : done + size]
            samples = self._generate([ids for ids, _ in batch], max_new_tokens)
            for (_, i), sample in zip(batch, samples, strict=True):
                found[i].append(sample)
            done += len(batch)
            if progress:
                progress(done, len(asked), "Sampling (responses)")
        return [tuple(samples) for samples in found]

    def check_room(self, prompts: Sequence[Prompt], max_new_tokens: int) -> None:
        """Check that every prompt leaves room for a response in the context.

        Raises:
            SparseRMError: a prompt is too long.
        """
        for number, prompt in enumerate(prompts, 1):
            length = len(self.chat.prompt_ids(prompt))
            if length + max_new_tokens > self.chat.max_length:
                shown = one_line(prompt_text(prompt), 60)
                raise SparseRMError(
                    f"prompt {number} of {len(prompts)} ({shown!r}) has {length} tokens and leaves no room for "
                    f"{max_new_tokens} new ones in a context of {self.chat.max_length}; remove or shorten it, or ask for fewer "
                    "new tokens"
                )

    def _generate(self, prompts: Sequence[tuple[int, ...]], max_new_tokens: int) -> list[Sample]:
        """One response to each prompt of token ids, padded on the left."""
        width = max(map(len, prompts))
        ids = torch.tensor([[self._pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=ids.to(self.model.device), attention_mask=mask.to(self.model.device), max_new_tokens=max_new_tokens
            )
        return [self._as_sample(row[width:]) for row in out.tolist()]

    def _as_sample(self, ids: list[int]) -> Sample:
        """The generated tokens up to the end of the turn; the rest is padding."""
        length = next((i + 1 for i, token in enumerate(ids) if token in self._ends), None)
        own = ids[:length]
        text = self.chat.tokenizer.decode(own, skip_special_tokens=True).strip()
        return Sample(text, tuple(own), length is not None)


def _ends_of_a_turn(configured: int | list[int] | None, chat: ChatTokenizer) -> list[int]:
    tokenizer = chat.tokenizer
    closing = chat.frame(("user",))[-1][:1]  # the token with which the template closes a response, if it is a control token
    control = [token for token in closing if getattr(tokenizer.added_tokens_decoder.get(token), "special", False)]
    ends = [*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id, *control]
    return sorted({int(token) for token in ends if token is not None})


def divergence(
    policy: Policy, start: Policy, prompts: Sequence[Prompt], samples: Sequence[Sample], progress: Progress | None = None
) -> np.ndarray:
    """``[n]`` nats: KL(policy || start) along each of the policy's own samples.

    The sum over the sample's tokens of the divergence between the two next-token distributions. Its mean over samples
    estimates the divergence of whole responses, with less variance than log-ratios of the sampled tokens. Of truncated
    samples only the sampled tokens count.
    """
    found = np.zeros(len(samples))
    texts = [(policy.chat.prompt_ids(prompt), sample.ids) for prompt, sample in zip(prompts, samples, strict=True)]
    order = sorted(range(len(texts)), key=lambda i: -sum(map(len, texts[i])))
    done = 0
    while done < len(order):
        longest = sum(map(len, texts[order[done]]))
        batch = order[done : done + max(1, DIVERGENCE_TOKENS // longest)]
        found[batch] = _divergences(policy.model, start.model, [texts[i] for i in batch])
        done += len(batch)
        if progress:
            progress(done, len(order), "Divergence (responses)")
    return found


def _divergences(model: Any, start: Any, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
    """Divergences for pairs of prompt and response token ids, padded on the right, where causal attention ignores it."""
    width = max(len(prompt) + len(response) for prompt, response in texts)
    ids = torch.tensor([[*prompt, *response, *[0] * (width - len(prompt) - len(response))] for prompt, response in texts])
    found = []
    with torch.inference_mode():
        logits, start_logits = (one(input_ids=ids.to(one.device), use_cache=False).logits for one in (model, start))
        for row, (prompt, response) in enumerate(texts):
            # The logits at a position predict the next token.
            span = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
            now, before = (one[row, span].float().log_softmax(-1) for one in (logits, start_logits))
            found.append(float((now.exp() * (now - before)).sum()))
    return found
