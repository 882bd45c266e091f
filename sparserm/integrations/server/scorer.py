"""What all interfaces share: texts are parsed, counted, scored, recorded and logged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from prometheus_client import Counter

from sparserm.explain.contributions import Comparison, Explanation
from sparserm.integrations.server.clients import Clients, client_name
from sparserm.integrations.server.logs import REQUEST, log_texts
from sparserm.integrations.server.service import Rewards, Service, TooLargeError
from sparserm.model import SparseRM
from sparserm.pairs.messages import as_completion, as_prompt, holds_thinking, read_query
from sparserm.types import Message, SparseRMError, Text

_T = TypeVar("_T")


class GoneError(Exception):
    """The client has disconnected."""


class Scorer:
    """Scores the texts of requests.

    Args:
        service: the heads.
        clients: limits of each client.
        texts: counts the scored texts.
        log_texts: log every text with its reward.
    """

    def __init__(self, service: Service, clients: Clients, texts: Counter, log_texts: bool) -> None:
        self.service, self._clients, self._texts, self._log_texts = service, clients, texts, log_texts

    async def score(self, model: SparseRM, texts: Sequence[Text], request: Request) -> Rewards:
        """Rewards of texts by one head.

        Raises:
            BusyClientError: the client has sent too many texts.
            GoneError: the client has disconnected.
            TooLargeError, TooLongError, OverloadedError, ClosedError, SparseRMError: as for :meth:`Service.score`.
        """
        self._begin(model, texts)
        found = await _unless_gone(request, self.service.score(model, texts))
        self._record(texts, found.rewards.tolist(), found.cut)
        return found

    async def compare(self, model: SparseRM, texts: Sequence[Text], request: Request) -> tuple[Comparison, np.ndarray]:
        """A comparison of responses, and ``[n]`` tokens cut from each.

        Raises:
            BusyClientError, GoneError: as for :meth:`score`.
            TooLargeError, TooLongError, OverloadedError, ClosedError, SparseRMError: as for :meth:`Service.compare`.
        """
        self._begin(model, texts)
        found, cut = await _unless_gone(request, self.service.compare(model, texts))
        self._record(texts, found.rewards, cut)
        return found, cut

    async def explain(self, model: SparseRM, text: Text, request: Request) -> Explanation:
        """A reward by feature and by token.

        Raises:
            BusyClientError, GoneError: as for :meth:`score`.
            TooLargeError, TooLongError, OverloadedError, ClosedError, SparseRMError: as for :meth:`Service.explain`.
        """
        self._begin(model, [text])
        found = await _unless_gone(request, self.service.explain(model, text))
        self._record([text], [found.reward], np.array([found.n_truncated]))
        return found

    def _begin(self, model: SparseRM, texts: Sequence[Text]) -> None:
        facts = REQUEST.get()
        facts.head, facts.texts = model.card.name, len(texts)
        self._clients.charge(client_name(facts.client), len(texts))

    def _record(self, texts: Sequence[Text], rewards: Sequence[float], cut: np.ndarray) -> None:
        """Update the metrics and the facts of the request, and log the texts if enabled."""
        facts = REQUEST.get()
        facts.truncated = int((cut > 0).sum())
        self._texts.inc(len(texts))
        if self._log_texts:
            log_texts(facts, texts, rewards)

    def queries(self, queries: Sequence[str], prompts: Sequence[str | None] | None = None) -> list[Text]:
        """Parse templated texts into conversations with their responses; ``prompts`` are the beginnings of the texts.

        Raises:
            TooLargeError: there are too many, or one is too long.
            SparseRMError: one cannot be read.
        """
        self.service.check_number(len(queries))
        most, texts = self.service.limits.characters, []
        for number, (query, prompt) in enumerate(zip(queries, prompts or [None] * len(queries), strict=True), 1):
            if len(query) > most:
                raise TooLargeError(f"query {number} has {len(query):,} characters, expected {most:,} at most; shorten it")
            try:
                conversation, response = read_query(query, prompt)
                texts += texts_of(conversation, [response])
            except SparseRMError as error:
                raise SparseRMError(f"query {number} of {len(queries)}: {error}") from error
        return texts


def texts_of(prompts: Any, responses: Sequence[Any]) -> list[Text]:
    """Pair each response with its prompt; a single prompt applies to all responses. Thinking is left out and counted.

    Raises:
        SparseRMError: the numbers differ, or a prompt or response cannot be read.
    """
    if _is_list_of_prompts(prompts):
        if len(prompts) != len(responses):
            raise SparseRMError(
                f"got {len(prompts)} prompts and {len(responses)} responses; expected one prompt per response, or one for all"
            )
        read = [as_prompt(prompt) for prompt in prompts]
    else:
        read = [as_prompt(prompts)] * len(responses) if responses else []
    REQUEST.get().thinking += sum(map(holds_thinking, responses))
    return [Text(prompt, as_completion(response)) for prompt, response in zip(read, responses, strict=True)]


def _is_list_of_prompts(prompts: Any) -> bool:
    """Whether this is a list of prompts rather than one prompt given as a list of messages."""
    return isinstance(prompts, list) and not (prompts and isinstance(prompts[0], dict | Message))


async def _unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """Await the result; cancel the work and raise :class:`GoneError` if the client disconnects."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":  # the body has been received
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise GoneError
        return tasks[0].result()  # type: ignore[return-value]
    finally:
        for task in tasks:
            task.cancel()
