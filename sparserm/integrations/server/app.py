"""The HTTP endpoints: each parses its request, calls the service and formats the response."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from scipy.special import expit
from starlette.exceptions import HTTPException

from sparserm import __version__
from sparserm.explain.contributions import label_of
from sparserm.heads.saved import head_hash
from sparserm.integrations.server import schemas
from sparserm.integrations.server.batching import ClosedError, OverloadedError, TooLongError
from sparserm.integrations.server.gate import REQUEST_ID, Gate
from sparserm.integrations.server.service import Limits, Rewards, Service, TooLargeError, UnknownHeadError
from sparserm.model import SparseRM
from sparserm.pairs.messages import as_completion, as_prompt
from sparserm.pairs.templates import read_query
from sparserm.types import Message, SparseRMError, Text

_T = TypeVar("_T")
_log = logging.getLogger("sparserm.server")


class _GoneError(Exception):
    """The client has disconnected."""


class Metrics:
    """Prometheus metrics of this server, for ``/metrics``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("sparserm_requests", "Requests by path and status.", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "sparserm_request_seconds",
            "Request latency in seconds.",
            ["path"],
            registry=self.registry,
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
        )
        self.texts = Counter("sparserm_texts", "Responses scored.", registry=self.registry)
        self.batch = Histogram(
            "sparserm_batch_texts", "Texts per batch.", registry=self.registry, buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
        )
        self.waiting = Gauge("sparserm_waiting_texts", "Texts waiting to be scored.", registry=self.registry)


def create_app(
    models: Mapping[str, SparseRM],
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    hosts: Collection[str] | None = None,
    log_texts: bool = False,
) -> FastAPI:
    """Create an ASGI application that serves heads of one backbone.

    Args:
        models: reward models by name; the first is the default head of requests.
        api_key: key that requests must send as ``Authorization: Bearer KEY``; None disables authentication.
        hosts: host names that requests may be for (:func:`~sparserm.support.hosts.host_allowed`); None for any.
        log_texts: log every prompt and response with its reward to ``sparserm.server``; otherwise no text is logged.

    Raises:
        SparseRMError: no heads are given, or their backbones differ.
    """
    limits = limits or Limits()
    metrics = Metrics()
    service = Service(models, limits, metrics.batch.observe)
    metrics.waiting.set_function(lambda: service.batcher.waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batcher.close)  # finishes the waiting requests

    app = FastAPI(
        title="SparseRM",
        version=__version__,
        lifespan=lifespan,
        summary="Interpretable rewards: sums of named features.",
        responses={status: {"model": schemas.Failure} for status in (400, 401, 404, 408, 413, 415, 421, 422, 429, 503)},
    )
    _add_failures(app)
    endpoints = _Endpoints(service, metrics, log_texts)
    endpoints.add_to(app)
    app.add_middleware(
        Gate,
        body_bytes=limits.body_bytes,
        body_s=limits.body_s,
        bodies_bytes=limits.bodies_bytes,
        hosts=hosts,
        api_key=api_key.encode() if api_key else None,
        observe=lambda path, status, seconds: _observe(metrics, path, status, seconds),
    )
    return app


def _observe(metrics: Metrics, path: str, status: int, seconds: float) -> None:
    metrics.requests.labels(path, status).inc()
    metrics.seconds.labels(path).observe(seconds)


def _add_failures(app: FastAPI) -> None:
    """Answer every error with an ``error`` message that says how to fix it, in the format of TEI."""
    kinds: dict[type[Exception], tuple[int, str, str]] = {
        UnknownHeadError: (404, "not_found", ""),
        TooLargeError: (413, "too_large", ""),
        SparseRMError: (422, "validation", ""),
        ClosedError: (503, "unhealthy", "the server is shutting down; send the request to another server"),
        _GoneError: (499, "gone", "the client has disconnected"),
    }

    def handler(status: int, kind: str, message: str) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def answer(_: Request, error: Exception) -> Response:
            return JSONResponse({"error": message or str(error), "error_type": kind}, status)

        return answer

    async def overloaded(_: Request, error: Exception) -> Response:
        assert isinstance(error, OverloadedError)
        wait = math.ceil(error.retry_s)
        text = f"too much is waiting to be scored; retry in {wait:,} seconds"
        return JSONResponse({"error": text, "error_type": "overloaded"}, 429, {"Retry-After": str(wait)})

    async def too_long(_: Request, error: Exception) -> Response:
        assert isinstance(error, TooLongError)
        text = (
            f"these texts would take about {math.ceil(error.expected_s):,} seconds, more than the server lets a request wait; "
            "send fewer at a time"
        )
        return JSONResponse({"error": text, "error_type": "too_large"}, 413)

    app.add_exception_handler(OverloadedError, overloaded)
    app.add_exception_handler(TooLongError, too_long)
    for kind, answer in kinds.items():
        app.add_exception_handler(kind, handler(*answer))

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": f"{error.detail}; see /docs", "error_type": "http"}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        return JSONResponse({"error": f"{where}: {first['msg']}; see /docs", "error_type": "validation"}, 422)


class _FiguresResponse(Response):
    """Prometheus's text format."""

    media_type = CONTENT_TYPE_LATEST


class _Endpoints:
    """The handlers of all paths."""

    def __init__(self, service: Service, metrics: Metrics, log_texts: bool) -> None:
        self.service, self.metrics, self.log_texts = service, metrics, log_texts

    def add_to(self, app: FastAPI) -> None:
        """Register the handlers."""
        app.get("/health", summary="Health check.", response_class=PlainTextResponse)(self.health)
        app.head("/health", include_in_schema=False)(self.health)  # as load balancers ask
        app.get("/info", summary="Heads, backbone and limits.")(self.info)
        app.get("/metrics", summary="Prometheus metrics.", response_class=_FiguresResponse)(self.figures)
        for path in ("score", "compare", "explain", "get_reward", "classify", "pooling", "predict", "rerank"):
            app.post(f"/{path}", summary=getattr(self, path).__doc__)(getattr(self, path))
        app.post("/", summary="TEI: the same as /predict.")(self.predict)

    async def health(self) -> Response:
        """Health check."""
        return PlainTextResponse("ok") if self.service.batcher.alive else PlainTextResponse("the worker thread has died", 503)

    async def info(self) -> dict[str, Any]:
        """Heads, backbone and limits."""
        heads = [
            {
                "name": name,
                "hash": head_hash(model.saved),
                "hook": model.card.hook,
                "pooling": model.head.pooling,
                "score": model.head.score,
                "features": len(model.head.features),
            }
            for name, model in self.service.models.items()
        ]
        backbone = self.service.backbone
        return {
            "version": __version__,
            "backbone": backbone.name,
            "fingerprint": backbone.fingerprint,
            "max_input_tokens": backbone.chat.max_length,
            "heads": heads,
            "limits": asdict(self.service.limits),
        }

    async def figures(self) -> Response:
        """Prometheus metrics."""
        return _FiguresResponse(generate_latest(self.metrics.registry))

    async def score(self, payload: schemas.ScoreRequest, request: Request) -> dict[str, Any]:
        """Rewards with the contribution of each feature."""
        model = self.service.head(payload.head)
        self.service.check_number(len(payload.responses))
        texts = _texts(payload.prompts, payload.responses)
        found = await self._scored(model, texts, request)
        features, labels, detections = model.head.features.tolist(), model.labels, model.detections
        return {
            "rewards": found.rewards.tolist(),
            "features": features,
            "labels": [label_of(labels, feature) for feature in features],
            "detections": [detections.get(feature) for feature in features],
            "contributions": found.parts.tolist(),
            "fires": None if found.fires is None else found.fires.tolist(),
            "bias": model.head.bias,
            "head": model.card.name,
        }

    async def compare(self, payload: schemas.CompareRequest, request: Request) -> dict[str, Any]:
        """Rank responses to a prompt and break the margin down by feature."""
        model = self.service.head(payload.head)
        self.service.check_number(len(payload.responses))
        texts = _texts(payload.prompt, payload.responses)
        found = await _unless_gone(request, self.service.compare(model, texts))
        self._record(model, texts, found.rewards)
        return {
            "rewards": found.rewards,
            "ranking": found.ranking,
            "margin": found.margin,
            "contributions": [vars(part) for part in found.contributions],
            "head": model.card.name,
        }

    async def explain(self, payload: schemas.ExplainRequest, request: Request) -> dict[str, Any]:
        """Break a reward down by feature and by token."""
        model = self.service.head(payload.head)
        name = next(name for name, one in self.service.models.items() if one is model)
        (text,) = _texts(payload.prompt, [payload.response])
        found = await _unless_gone(request, self.service.explain(model, name, text))
        self._record(model, [text], [found.reward])
        return {
            "reward": found.reward,
            "bias": found.bias,
            "score": model.head.score,
            "contributions": model.contribution_rows(found),
            "tokens": found.tokens,
            "token_contributions": found.token_contributions.sum(1).tolist(),
            "head": model.card.name,
        }

    async def get_reward(self, payload: schemas.GetRewardRequest, request: Request) -> dict[str, Any]:
        """OpenRLHF: rewards of templated texts; scores are the shares of training responses with a lower reward."""
        prompts: Sequence[str | None] = payload.prompts or [None] * len(payload.query)
        if len(prompts) != len(payload.query):
            raise SparseRMError(f"got {len(payload.query)} queries and {len(prompts)} prompts; expected one prompt per query")
        model = self.service.head(None)
        texts = self._queries(payload.query, prompts)
        found = await self._scored(model, texts, request)
        logs = {
            f"feature_{feature}": column for feature, column in zip(model.head.features, found.parts.T.tolist(), strict=True)
        }
        return {
            "rewards": found.rewards.tolist(),
            "scores": [model.percentile(reward) for reward in found.rewards],
            "extra_logs": logs if texts else {},
        }

    async def classify(self, payload: schemas.VllmRequest, request: Request) -> dict[str, Any]:
        """vLLM: sigmoid of the reward, as the probability of a single label."""
        found = await self._vllm(payload, request)
        data = [
            {"index": i, "label": "reward", "probs": [float(expit(reward))], "num_classes": 1}
            for i, reward in enumerate(found.rewards)
        ]
        return _vllm_answer("classify", payload, data, found)

    async def pooling(self, payload: schemas.VllmRequest, request: Request) -> dict[str, Any]:
        """vLLM: raw rewards."""
        found = await self._vllm(payload, request)
        data = [{"index": i, "object": "pooling", "data": [float(reward)]} for i, reward in enumerate(found.rewards)]
        return _vllm_answer("pooling", payload, data, found)

    async def predict(self, payload: schemas.PredictRequest, request: Request) -> Any:
        """TEI: the score of a text or a (prompt, response) pair, or of a batch of these."""
        batch = isinstance(payload.inputs, list) and (not payload.inputs or isinstance(payload.inputs[0], list))
        rows: list[Any] = list(payload.inputs) if batch else [payload.inputs]
        self.service.check_number(len(rows))
        texts = [text for row in rows for text in self._row(row)]
        found = await self._scored(self.service.head(None), texts, request)
        asked = payload.parameters
        raw = payload.raw_scores or (asked is not None and asked.function_to_apply == "none")
        answers = [[{"score": score, "label": "reward"}] for score in _tei_scores(found, raw)]
        return answers if batch or asked is not None else answers[0]

    async def rerank(self, payload: schemas.RerankRequest, request: Request) -> list[dict[str, Any]]:
        """TEI: rank responses to a prompt, best first."""
        self.service.check_number(len(payload.texts))
        texts = _texts(payload.query, payload.texts)
        found = await self._scored(self.service.head(None), texts, request)
        scores = _tei_scores(found, payload.raw_scores)
        order = np.argsort(-found.rewards, kind="stable").tolist()
        return [{"index": i, "score": scores[i], **({"text": payload.texts[i]} if payload.return_text else {})} for i in order]

    async def _vllm(self, payload: schemas.VllmRequest, request: Request) -> Rewards:
        if (payload.input is None) == (payload.messages is None):
            raise SparseRMError("got neither or both of input and messages; expected exactly one of them")
        if payload.messages is not None:
            texts = _texts(payload.messages[:-1], [payload.messages[-1:]])
        else:
            queries = [payload.input] if isinstance(payload.input, str) else payload.input or []
            texts = self._queries(queries, [None] * len(queries))
        return await self._scored(self.service.head(self._served(payload.model)), texts, request)

    def _served(self, model: str | None) -> str | None:
        """The head that ``model`` names; None (the default head) if empty or the backbone's name, which trainers also send."""
        return None if model in (None, "", self.service.backbone.name) else model

    async def _scored(self, model: SparseRM, texts: Sequence[Text], request: Request) -> Rewards:
        found = await _unless_gone(request, self.service.score(model, texts))
        self._record(model, texts, found.rewards)
        return found

    def _record(self, model: SparseRM, texts: Sequence[Text], rewards: Sequence[float] | np.ndarray) -> None:
        """Update the metrics, and log the texts if enabled."""
        self.metrics.texts.inc(len(texts))
        if self.log_texts:
            for text, reward in zip(texts, rewards, strict=True):
                _log.info(
                    "%s %s %+.4f %r %r",
                    REQUEST_ID.get(),
                    model.card.name,
                    reward,
                    [vars(turn) for turn in text.prompt],
                    text.response,
                )

    def _queries(self, queries: Sequence[str], prompts: Sequence[str | None]) -> list[Text]:
        """Parse templated texts into conversations with their responses."""
        self.service.check_number(len(queries))
        most, texts = self.service.limits.characters, []
        for number, (query, prompt) in enumerate(zip(queries, prompts, strict=True), 1):
            if len(query) > most:
                raise TooLargeError(f"query {number} has {len(query):,} characters, expected {most:,} at most; shorten it")
            try:
                conversation, response = read_query(query, prompt)
                texts += _texts(conversation, [response])
            except SparseRMError as error:
                raise SparseRMError(f"query {number} of {len(queries)}: {error}") from error
        return texts

    def _row(self, row: Any) -> list[Text]:
        """Parse one TEI input: a templated text, or a prompt and a response."""
        parts = [row] if isinstance(row, str) else row
        if len(parts) == 2:
            return _texts(parts[0], [parts[1]])
        if len(parts) != 1:
            raise SparseRMError(f"an input has {len(parts)} texts; expected one templated text, or a prompt and a response")
        return self._queries(parts, [None])


async def _unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """Await the result; cancel the work and raise :class:`_GoneError` if the client disconnects."""

    async def gone() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.2)

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise _GoneError
        return tasks[0].result()  # type: ignore[return-value]
    finally:
        for task in tasks:
            task.cancel()


def _is_list_of_prompts(prompts: Any) -> bool:
    """Whether this is a list of prompts rather than one prompt given as a list of messages."""
    return isinstance(prompts, list) and not (prompts and isinstance(prompts[0], dict | Message))


def _texts(prompts: Any, responses: Sequence[Any]) -> list[Text]:
    """Pair each response with its prompt; a single prompt applies to all responses."""
    if _is_list_of_prompts(prompts):
        if len(prompts) != len(responses):
            raise SparseRMError(
                f"got {len(prompts)} prompts and {len(responses)} responses; expected one prompt per response, or one for all"
            )
        read = [as_prompt(prompt) for prompt in prompts]
    else:
        read = [as_prompt(prompts)] * len(responses) if responses else []
    return [Text(prompt, as_completion(response)) for prompt, response in zip(read, responses, strict=True)]


def _tei_scores(found: Rewards, raw: bool) -> list[float]:
    return (found.rewards if raw else expit(found.rewards)).tolist()


def _vllm_answer(kind: str, payload: schemas.VllmRequest, data: list[dict[str, Any]], found: Rewards) -> dict[str, Any]:
    return {
        "id": f"{kind}-{secrets.token_hex(8)}",
        "object": "list",
        "created": int(time.time()),
        "model": payload.model or "",
        "data": data,
        "usage": {"prompt_tokens": found.n_tokens, "total_tokens": found.n_tokens, "completion_tokens": 0},
    }
