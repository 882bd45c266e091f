"""The scoring service: one language model, and the rewards of every served head from its representations."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparserm.explain.contributions import Comparison, Explanation, compare_responses
from sparserm.heads.reward import contributions, head_scores
from sparserm.integrations.server.batching import Batcher
from sparserm.model import SparseRM
from sparserm.representations.represent import represent
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.files import one_line
from sparserm.types import HookPoint, Message, Pooling, SparseRMError, Text


@dataclass(frozen=True)
class Limits:
    """Limits of a request and of the server.

    Attributes:
        body_bytes: size of a request body.
        texts: texts in a request.
        characters: characters of a response with its prompt.
        explain_characters: the same for ``/explain``, whose answer has a number for every token.
        turns: turns of a prompt.
        wait_s: seconds until the answer; requests that would wait longer are refused with 429.
        batch: texts in a batch.
        body_s: seconds in which the body of a request has to arrive.
        bodies_bytes: size of all bodies that are being received together; requests beyond it are refused with 429.
        client_requests: requests of one client in progress; more are refused with 429. None of this computer's.
        client_texts: texts of one client per minute; more are refused with 429. None of this computer's.
    """

    body_bytes: int = 8 << 20
    texts: int = 512
    characters: int = 200_000
    explain_characters: int = 20_000
    turns: int = 256
    wait_s: float = 120.0
    batch: int = 64
    body_s: float = 30.0
    bodies_bytes: int = 256 << 20
    client_requests: int = 64
    client_texts: int = 60_000


#: Bytes of a text for each of its tokens, and the tokens of a chat template: estimates, in English.
TOKEN_BYTES, TEMPLATE_TOKENS = 4, 32

#: Number of tokens at which attention takes as long as the rest of the default backbone.
ATTENTION_TOKENS = 6000

#: Texts and words of each that are read at the start to measure the speed.
WARM_UP_TEXTS, WARM_UP_WORDS = 4, 200


class UnknownHeadError(SparseRMError):
    """A request names a head that is not served."""


class TooLargeError(SparseRMError):
    """A request exceeds the limits."""


@dataclass(frozen=True)
class Rewards:
    """Rewards of ``n`` responses.

    Attributes:
        rewards: ``[n]`` float64; an empty response gets the lowest reward among the training responses.
        parts: ``[n, K]`` float64 contributions of the features; zero where the response is empty.
        fires: ``[n, K]`` bool, whether a feature fires where its score is read; None for projections, where it is unknown.
        n_tokens: total number of response tokens.
        cut: ``[n]`` int, tokens cut from the beginning of each text to fit the context.
    """

    rewards: np.ndarray
    parts: np.ndarray
    fires: np.ndarray | None
    n_tokens: int
    cut: np.ndarray


@dataclass(frozen=True)
class _Scored:
    """One response as the heads at one place read it.

    Attributes:
        scores: ``[K]`` float64 alignment scores by head.
        n_tokens: number of response tokens.
        cut: tokens cut from the beginning of the text to fit the context.
    """

    scores: Mapping[SparseRM, np.ndarray]
    n_tokens: int
    cut: int


class Service:
    """Heads by name on one language model; the first is the default.

    Args:
        models: reward models of the same backbone.
        on_batch: called with the number of texts of every batch.

    Raises:
        SparseRMError: no heads are given, or their backbones differ.
    """

    def __init__(
        self, models: Mapping[str, SparseRM], limits: Limits, on_batch: Callable[[int], None] = lambda n: None
    ) -> None:
        backbones = {name: model.card.backbone_fingerprint for name, model in models.items()}
        if len(set(backbones.values())) != 1:
            raise SparseRMError(
                f"the heads {', '.join(models) or '(none)'} have {len(set(backbones.values()))} backbones; expected one or "
                "more heads of the same backbone; start one server per backbone"
            )
        self.models = dict(models)
        self.limits = limits
        # Load the deepest backbone first; the others share it.
        for model in sorted(models.values(), key=lambda one: -one.card.hook_point.layer):
            model.load_backbone()
        self.backbone = max((model.backbone for model in models.values()), key=lambda one: one.through_layer)
        # The thread of the batches changes settings of its tokenizer, so other threads need their own.
        self._decoder = copy.deepcopy(self.backbone.chat.tokenizer)
        compute: dict[Any, Any] = {("explain", name): self._explainer(model) for name, model in models.items()}
        for model in models.values():
            place = _place(model)
            compute[place] = self._reader(*place)
        self.batcher = Batcher(
            compute,
            cost=self.cost,
            seconds_per_cost=self._warm_up(compute[place]),
            max_wait_s=limits.wait_s,
            max_batch=limits.batch,
            on_batch=on_batch,
        )

    def head(self, name: str | None) -> SparseRM:
        """The head of that name, or the first.

        Raises:
            UnknownHeadError: no head has this name.
        """
        if not name:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise UnknownHeadError(f"head {one_line(name, 100)!r} is not served; expected one of {', '.join(self.models)}")
        return self.models[name]

    def check_number(self, n: int) -> None:
        """Check the number of texts of a request, before they are parsed.

        Raises:
            TooLargeError: there are too many.
        """
        if n > self.limits.texts:
            raise TooLargeError(f"got {n:,} texts, expected {self.limits.texts:,} at most; send fewer at a time")

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids of the backbone, special tokens included.

        Raises:
            SparseRMError: an id is not one of its tokens.
        """
        n = len(self._decoder)
        if unknown := [one for one in ids if not 0 <= one < n]:
            raise SparseRMError(f"token id {unknown[0]} is not one of {self.backbone.name}; expected ids from 0 to {n - 1:,}")
        return str(self._decoder.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def encode(self, text: str) -> list[int]:
        """The token ids of a text as it is, the reverse of :meth:`decode`.

        Raises:
            TooLargeError: it is too long.
        """
        if len(text) > self.limits.characters:
            raise TooLargeError(f"got {len(text):,} characters, expected {self.limits.characters:,} at most; shorten the text")
        return list(self._decoder(text, add_special_tokens=False)["input_ids"])

    def cost(self, text: Text) -> float:
        """The work in a text, in tokens of a short one: estimated from its bytes, since tokenizing takes time itself."""
        size = len(text.response.encode()) + sum(len(turn.content.encode()) for turn in text.prompt)
        n = min(size / TOKEN_BYTES + TEMPLATE_TOKENS, self.backbone.chat.max_length)
        return n * (1 + n / ATTENTION_TOKENS)

    def _warm_up(self, read: Callable[[Sequence[Text]], Any]) -> float:
        """Seconds for each unit of :meth:`cost`, measured; the first pass is slower than later ones."""
        texts = [Text((Message("user", f"Say {i}."),), "word " * WARM_UP_WORDS) for i in range(WARM_UP_TEXTS)]
        started = time.monotonic()
        read(texts)
        return (time.monotonic() - started) / sum(map(self.cost, texts))

    def check(self, texts: Sequence[Text], characters: int | None = None) -> None:
        """Check that texts are within the limits; ``characters`` replaces the limit of that name.

        Raises:
            TooLargeError: they are not.
        """
        self.check_number(len(texts))
        for i, text in enumerate(texts):
            if len(text.prompt) > self.limits.turns:
                raise TooLargeError(f"prompt {i + 1} has {len(text.prompt):,} turns, expected {self.limits.turns} at most")
            length = len(text.response) + sum(len(turn.content) for turn in text.prompt)
            if length > (most := characters or self.limits.characters):
                raise TooLargeError(
                    f"text {i + 1} has {length:,} characters with its prompt, expected {most:,} at most; shorten it"
                )

    async def score(self, model: SparseRM, texts: Sequence[Text]) -> Rewards:
        """Compute rewards and the contributions of features.

        Raises:
            TooLargeError, TooLongError, OverloadedError, ClosedError: the request cannot be accepted.
            SparseRMError: a text cannot be read.
        """
        self.check(texts)
        nonempty = [i for i, text in enumerate(texts) if text.response.strip()]
        found = await self.batcher.run(_place(model), [texts[i] for i in nonempty])
        rewards = np.full(len(texts), model.saved.least_reward)
        parts = np.zeros((len(texts), len(model.head.features)))
        cut = np.zeros(len(texts), int)
        fires = np.zeros(parts.shape, bool) if model.head.score == "gated" else None
        if nonempty:
            scores = np.stack([one.scores[model] for one in found])
            parts[nonempty] = contributions(model.head, scores)
            rewards[nonempty] = parts[nonempty].sum(1) + model.head.bias
            cut[nonempty] = [one.cut for one in found]
            if fires is not None:
                fires[nonempty] = scores != 0
        return Rewards(rewards, parts, fires, sum(one.n_tokens for one in found), cut)

    async def explain(self, model: SparseRM, text: Text) -> Explanation:
        """Break one reward down by feature and by token.

        Raises:
            TooLargeError, TooLongError, OverloadedError, ClosedError: the request cannot be accepted.
            SparseRMError: the text cannot be read.
        """
        self.check([text], self.limits.explain_characters)
        name = next(name for name, one in self.models.items() if one is model)
        (found,) = await self.batcher.run(("explain", name), [text])
        assert isinstance(found, Explanation)
        return found

    async def compare(self, model: SparseRM, texts: Sequence[Text]) -> tuple[Comparison, np.ndarray]:
        """Rank responses to one prompt; also returns ``[n]`` tokens cut from the beginning of each text.

        Raises:
            TooLargeError, TooLongError, OverloadedError, ClosedError: the request cannot be accepted.
            SparseRMError: fewer than two, or one that cannot be read.
        """
        self.check(texts)
        if len(texts) < 2:
            raise SparseRMError(f"got {len(texts)} responses; expected two or more to compare")
        found = await self.batcher.run(_place(model), texts)
        compared = compare_responses(model.head, np.stack([one.scores[model] for one in found]), model.labels)
        return compared, np.array([one.cut for one in found])

    def _reader(
        self, hook: HookPoint, pooling: Pooling, gate: SparseAutoencoder | None
    ) -> Callable[[Sequence[Text]], list[_Scored]]:
        """What reads texts for all heads at one place."""
        here = [model for model in self.models.values() if _place(model) == (hook, pooling, gate)]

        def read(texts: Sequence[Text]) -> list[_Scored]:
            found = represent(texts, self.backbone, {hook: gate}, pooling)[hook]
            scores = {model: head_scores(model.head, found) for model in here}
            counts = zip(found.n_tokens.tolist(), found.n_truncated.tolist(), strict=True)
            return [_Scored({model: scores[model][i] for model in here}, n, cut) for i, (n, cut) in enumerate(counts)]

        return read

    @staticmethod
    def _explainer(model: SparseRM) -> Callable[[Sequence[Text]], list[Explanation]]:
        return lambda texts: [model.explain(text.prompt, text.response) for text in texts]


def _place(model: SparseRM) -> tuple[HookPoint, Pooling, SparseAutoencoder | None]:
    """Where a head reads texts. Requests for heads at the same place share batches; a gated head with mean pooling has a place
    of its own, since what it reads are its own features at every token."""
    hook = model.card.hook_point
    return hook, model.head.pooling, model.saved.saes[hook]
