"""What the server knows of its heads: one language model, and from its representations the rewards of every head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparserm.explain.contributions import Comparison, Explanation, compare_responses
from sparserm.heads.reward import contributions
from sparserm.integrations.server.batching import Batcher
from sparserm.model import SparseRM
from sparserm.representations.represent import represent
from sparserm.types import HookPoint, Pooling, SparseRMError, Text


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and all of them together.

    Attributes:
        body_bytes: of a request.
        texts: of a request.
        characters: of a text with its prompt.
        turns: of a prompt.
        waiting: texts that may wait to be read; what comes beyond is refused with 429.
        batch: texts that are read together.
    """

    body_bytes: int = 8 << 20
    texts: int = 512
    characters: int = 200_000
    turns: int = 256
    waiting: int = 2048
    batch: int = 64


class UnknownHeadError(SparseRMError):
    """A request names a head that is not served."""


class TooLargeError(SparseRMError):
    """A request is beyond the limits."""


@dataclass(frozen=True)
class Rewards:
    """Rewards of ``n`` responses.

    Attributes:
        rewards: ``[n]`` float64; an empty response, which a policy can give, has the least of the training responses.
        parts: ``[n, K]`` float64 contributions of the features; zero where the response is empty.
        n_tokens: of the responses.
    """

    rewards: np.ndarray
    parts: np.ndarray
    n_tokens: int


class Service:
    """Heads by name on one language model; the first is meant where a request names none.

    Args:
        models: on the same backbone.
        on_batch: told of every batch's number of texts.

    Raises:
        SparseRMError: there is no head, or heads are of different backbones.
    """

    def __init__(
        self, models: Mapping[str, SparseRM], limits: Limits, on_batch: Callable[[int], None] = lambda n: None
    ) -> None:
        backbones = {name: model.card.backbone_fingerprint for name, model in models.items()}
        if len(set(backbones.values())) != 1:
            raise SparseRMError(
                f"the heads {', '.join(models) or '(none)'} are of {len(set(backbones.values()))} backbones; expected one head "
                "or more on one backbone; start a server for each backbone"
            )
        self.models = dict(models)
        self.limits = limits
        # The deepest first: its backbone serves all others.
        for model in sorted(models.values(), key=lambda one: -one.card.hook_point.layer):
            model.load_backbone()
        self.backbone = max((model.backbone for model in models.values()), key=lambda one: one.through_layer)
        compute: dict[Any, Any] = {("explain", name): self._explainer(model) for name, model in models.items()}
        for model in models.values():
            place = (model.card.hook_point, model.head.pooling)
            compute[place] = self._reader(*place)
        self.batcher = Batcher(compute, max_waiting=limits.waiting, max_batch=limits.batch, on_batch=on_batch)

    def head(self, name: str | None) -> SparseRM:
        """The head of that name, or the first.

        Raises:
            UnknownHeadError: none is called so.
        """
        if not name:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise UnknownHeadError(f"head {name!r} is not served; expected one of {', '.join(self.models)}")
        return self.models[name]

    def check_number(self, n: int) -> None:
        """Whether a request may ask for so many texts; asked before they are looked at.

        Raises:
            TooLargeError: it may not.
        """
        if n > self.limits.texts:
            raise TooLargeError(f"got {n:,} texts, expected {self.limits.texts:,} at most; send fewer at a time")

    def check(self, texts: Sequence[Text]) -> None:
        """Whether the texts are within the limits.

        Raises:
            TooLargeError: they are not.
        """
        self.check_number(len(texts))
        for i, text in enumerate(texts):
            if len(text.prompt) > self.limits.turns:
                raise TooLargeError(f"prompt {i + 1} has {len(text.prompt):,} turns, expected {self.limits.turns} at most")
            length = len(text.response) + sum(len(turn.content) for turn in text.prompt)
            if length > self.limits.characters:
                raise TooLargeError(
                    f"text {i + 1} has {length:,} characters with its prompt, expected {self.limits.characters:,} at most; "
                    "shorten it"
                )

    async def score(self, model: SparseRM, texts: Sequence[Text]) -> Rewards:
        """Rewards and what they are made of.

        Raises:
            TooLargeError, OverloadedError, ClosedError: see there.
            SparseRMError: a text cannot be read.
        """
        self.check(texts)
        said = [i for i, text in enumerate(texts) if text.response.strip()]
        found = await self.batcher.run((model.card.hook_point, model.head.pooling), [texts[i] for i in said])
        rewards = np.full(len(texts), model.saved.least_reward)
        parts = np.zeros((len(texts), len(model.head.features)))
        if said:
            parts[said] = contributions(model.head, np.stack([h for h, _ in found]))
            rewards[said] = parts[said].sum(1) + model.head.bias
        return Rewards(rewards, parts, sum(n for _, n in found))

    async def explain(self, model: SparseRM, name: str, text: Text) -> Explanation:
        """One reward by feature and by token.

        Raises:
            TooLargeError, OverloadedError, ClosedError: see there.
            SparseRMError: the text cannot be read.
        """
        self.check([text])
        (found,) = await self.batcher.run(("explain", name), [text])
        assert isinstance(found, Explanation)
        return found

    async def compare(self, model: SparseRM, texts: Sequence[Text]) -> Comparison:
        """Rank responses to one prompt.

        Raises:
            TooLargeError, OverloadedError, ClosedError: see there.
            SparseRMError: fewer than two, or one that cannot be read.
        """
        self.check(texts)
        if len(texts) < 2:
            raise SparseRMError(f"got {len(texts)} responses; expected two or more to compare")
        found = await self.batcher.run((model.card.hook_point, model.head.pooling), texts)
        return compare_responses(model.head, np.stack([h for h, _ in found]), model.labels)

    def _reader(self, hook: HookPoint, pooling: Pooling) -> Callable[[Sequence[Text]], list[tuple[np.ndarray, int]]]:
        def read(texts: Sequence[Text]) -> list[tuple[np.ndarray, int]]:
            found = represent(texts, self.backbone, {hook: None}, pooling)[hook]
            return list(zip(found.h, found.n_tokens.tolist(), strict=True))

        return read

    @staticmethod
    def _explainer(model: SparseRM) -> Callable[[Sequence[Text]], list[Explanation]]:
        return lambda texts: [model.explain(text.prompt, text.response) for text in texts]
