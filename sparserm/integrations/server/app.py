"""The HTTP endpoints: each parses its request, calls the service and formats the response."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

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
from sparserm.integrations.server.clients import BusyClientError, Clients
from sparserm.integrations.server.gate import Gate, failure
from sparserm.integrations.server.scorer import GoneError, Scorer, texts_of
from sparserm.integrations.server.service import Limits, Rewards, Service, TooLargeError, UnknownHeadError
from sparserm.integrations.server.vllm import VllmEndpoints
from sparserm.model import SparseRM
from sparserm.types import SparseRMError, Text


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
        log_texts: log every prompt and response with its reward; otherwise no text is logged. Requests are logged to
            ``sparserm.server.requests``, other events to ``sparserm.server``.

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
    clients = Clients(limits.client_requests, limits.client_texts)
    _Endpoints(service, metrics, Scorer(service, clients, metrics.texts, log_texts)).add_to(app)
    app.add_middleware(
        Gate,
        body_bytes=limits.body_bytes,
        body_s=limits.body_s,
        bodies_bytes=limits.bodies_bytes,
        hosts=hosts,
        clients=clients,
        api_key=api_key.encode() if api_key else None,
        observe=lambda path, status, seconds: _observe(metrics, path, status, seconds),
    )
    return app


def _observe(metrics: Metrics, path: str, status: int, seconds: float) -> None:
    metrics.requests.labels(path, status).inc()
    metrics.seconds.labels(path).observe(seconds)


def _add_failures(app: FastAPI) -> None:
    """Answer every error with an ``error`` message that says how to fix it, in the form of the path's interface."""
    kinds: dict[type[Exception], tuple[int, str, str]] = {
        UnknownHeadError: (404, "not_found", ""),
        TooLargeError: (413, "too_large", ""),
        SparseRMError: (422, "validation", ""),
        ClosedError: (503, "unhealthy", "the server is shutting down; send the request to another server"),
        GoneError: (499, "gone", "the client has disconnected"),
    }

    def handler(status: int, kind: str, message: str) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def answer(request: Request, error: Exception) -> Response:
            return _failed(request, status, kind, message or str(error))

        return answer

    async def overloaded(request: Request, error: Exception) -> Response:
        assert isinstance(error, OverloadedError)
        wait = math.ceil(error.retry_s)
        text = f"too much is waiting to be scored; retry in {wait:,} seconds"
        return _failed(request, 429, "overloaded", text, {"Retry-After": str(wait)})

    async def too_long(request: Request, error: Exception) -> Response:
        assert isinstance(error, TooLongError)
        text = (
            f"these texts would take about {math.ceil(error.expected_s):,} seconds, more than the server lets a request wait; "
            "send fewer at a time"
        )
        return _failed(request, 413, "too_large", text)

    async def busy(request: Request, error: Exception) -> Response:
        assert isinstance(error, BusyClientError)
        return _failed(request, 429, "overloaded", str(error), {"Retry-After": str(math.ceil(error.retry_s))})

    app.add_exception_handler(OverloadedError, overloaded)
    app.add_exception_handler(BusyClientError, busy)
    app.add_exception_handler(TooLongError, too_long)
    for kind, answer in kinds.items():
        app.add_exception_handler(kind, handler(*answer))

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        return _failed(request, error.status_code, "http", f"{error.detail}; see /docs", error.headers)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", *schemas.FORMS)) or "body"
        problem = first["msg"].removeprefix("Value error, ")
        return _failed(request, 422, "validation", f"{where}: {problem}; see /docs")


def _failed(request: Request, status: int, kind: str, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(failure(request.url.path, status, kind, text), status, headers)


class _FiguresResponse(Response):
    """Prometheus's text format."""

    media_type = CONTENT_TYPE_LATEST


class _Endpoints:
    """The handlers of all paths."""

    def __init__(self, service: Service, metrics: Metrics, scorer: Scorer) -> None:
        self.service, self.metrics, self.scorer, self.vllm = service, metrics, scorer, VllmEndpoints(scorer)

    def add_to(self, app: FastAPI) -> None:
        """Register the handlers."""
        app.get("/health", summary="Health check.", response_class=PlainTextResponse)(self.health)
        app.head("/health", include_in_schema=False)(self.health)  # as load balancers ask
        app.get("/info", summary="Heads, backbone and limits.")(self.info)
        app.get("/metrics", summary="Prometheus metrics.", response_class=_FiguresResponse)(self.figures)
        app.get("/v1/models", summary=self.vllm.models.__doc__)(self.vllm.models)
        for path in ("score", "compare", "explain", "get_reward", "predict", "rerank"):
            app.post(f"/{path}", summary=getattr(self, path).__doc__)(getattr(self, path))
        app.post("/", summary="TEI: the same as /predict.")(self.predict)
        vllm = self.vllm
        bytes_too: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": {}}}}
        app.post("/classify", summary=vllm.classify.__doc__)(vllm.classify)
        app.post("/pooling", summary=vllm.pooling.__doc__, responses=bytes_too)(vllm.pooling)
        app.post("/v1/score", summary=vllm.score.__doc__)(vllm.score)
        app.post("/tokenize", summary=vllm.tokenize.__doc__)(vllm.tokenize)
        for version in ("v1", "v2"):
            app.post(f"/{version}/rerank", summary=vllm.rerank.__doc__)(vllm.rerank)

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

    async def score(self, payload: schemas.AnyScore, request: Request) -> dict[str, Any]:
        """Rewards with the contribution of each feature; vLLM: as /v1/score."""
        if isinstance(payload, schemas.VllmScoreRequest):
            return await self.vllm.score(payload, request)
        model = self.service.head(payload.head)
        self.service.check_number(len(payload.responses))
        texts = texts_of(payload.prompts, payload.responses)
        found = await self.scorer.score(model, texts, request)
        features, labels, detections = model.head.features.tolist(), model.labels, model.detections
        return {
            "rewards": found.rewards.tolist(),
            "features": features,
            "labels": [label_of(labels, feature) for feature in features],
            "detections": [detections.get(feature) for feature in features],
            "contributions": found.parts.tolist(),
            "fires": None if found.fires is None else found.fires.tolist(),
            "bias": model.head.bias,
            "tokens_cut": found.cut.tolist(),
            "head": model.card.name,
        }

    async def compare(self, payload: schemas.CompareRequest, request: Request) -> dict[str, Any]:
        """Rank responses to a prompt and break the margin down by feature."""
        model = self.service.head(payload.head)
        self.service.check_number(len(payload.responses))
        texts = texts_of(payload.prompt, payload.responses)
        found, cut = await self.scorer.compare(model, texts, request)
        return {
            "rewards": found.rewards,
            "ranking": found.ranking,
            "margin": found.margin,
            "contributions": [vars(part) for part in found.contributions],
            "tokens_cut": cut.tolist(),
            "head": model.card.name,
        }

    async def explain(self, payload: schemas.ExplainRequest, request: Request) -> dict[str, Any]:
        """Break a reward down by feature and by token."""
        model = self.service.head(payload.head)
        (text,) = texts_of(payload.prompt, [payload.response])
        found = await self.scorer.explain(model, text, request)
        return {
            "reward": found.reward,
            "bias": found.bias,
            "score": model.head.score,
            "contributions": model.contribution_rows(found),
            "tokens": found.tokens,
            "token_contributions": found.token_contributions.sum(1).tolist(),
            "tokens_cut": found.n_truncated,
            "head": model.card.name,
        }

    async def get_reward(self, payload: schemas.GetRewardRequest, request: Request) -> dict[str, Any]:
        """OpenRLHF: rewards of templated texts; scores are the shares of training responses with a lower reward."""
        prompts: Sequence[str | None] = payload.prompts or [None] * len(payload.query)
        if len(prompts) != len(payload.query):
            raise SparseRMError(f"got {len(payload.query)} queries and {len(prompts)} prompts; expected one prompt per query")
        model = self.service.head(None)
        texts = self.scorer.queries(payload.query, prompts)
        found = await self.scorer.score(model, texts, request)
        logs = {"tokens_cut": found.cut.astype(float).tolist()}  # trainers log the means, which whole numbers do not have
        logs |= {
            f"feature_{feature}": column for feature, column in zip(model.head.features, found.parts.T.tolist(), strict=True)
        }
        return {
            "rewards": found.rewards.tolist(),
            "scores": [model.percentile(reward) for reward in found.rewards],
            "extra_logs": logs if texts else {},
        }

    async def predict(self, payload: schemas.PredictRequest, request: Request) -> Any:
        """TEI: the score of a text or a (prompt, response) pair, or of a batch of these."""
        batch = isinstance(payload.inputs, list) and (not payload.inputs or isinstance(payload.inputs[0], list))
        rows: list[Any] = list(payload.inputs) if batch else [payload.inputs]
        self.service.check_number(len(rows))
        texts = [text for row in rows for text in self._row(row)]
        found = await self._tei(payload, texts, request)
        answers = [[{"score": score, "label": "reward"}] for score in _tei_scores(found, payload.raw)]
        return answers if batch or payload.parameters is not None else answers[0]

    async def rerank(self, payload: schemas.AnyRerank, request: Request) -> list[dict[str, Any]] | dict[str, Any]:
        """TEI: rank responses to a prompt, best first; vLLM: as /v1/rerank."""
        if isinstance(payload, schemas.VllmRerankRequest):
            return await self.vllm.rerank(payload, request)
        self.service.check_number(len(payload.texts))
        texts = texts_of(payload.query, payload.texts)
        found = await self._tei(payload, texts, request)
        scores = _tei_scores(found, payload.raw_scores)
        order = np.argsort(-found.rewards, kind="stable").tolist()
        return [{"index": i, "score": scores[i], **({"text": payload.texts[i]} if payload.return_text else {})} for i in order]

    def _row(self, row: Any) -> list[Text]:
        """Parse one TEI input: a templated text, or a prompt and a response."""
        parts = [row] if isinstance(row, str) else row
        if len(parts) == 2:
            return texts_of(parts[0], [parts[1]])
        if len(parts) != 1:
            raise SparseRMError(f"an input has {len(parts)} texts; expected one templated text, or a prompt and a response")
        return self.scorer.queries(parts)

    async def _tei(
        self, payload: schemas.PredictRequest | schemas.RerankRequest, texts: Sequence[Text], request: Request
    ) -> Rewards:
        """Rewards by the default head; those that exceed the context are cut unless the request forbids it, as in TEI.

        Raises:
            SparseRMError: texts are too long, or are to be cut in another way than here.
        """
        found = await self.scorer.score(self.service.head(None), texts, request)
        if n := int((found.cut > 0).sum()):
            if payload.truncate is False:
                raise SparseRMError(
                    f"{n} of {len(texts)} texts exceed the context of {self.service.backbone.chat.max_length:,} tokens with "
                    "their prompts; shorten them, or send truncate: true to have their beginnings left out"
                )
            if payload.truncation_direction == "right":
                raise SparseRMError(
                    f"truncation_direction is right, and {n} texts are too long; expected left: beginnings are cut"
                )
        return found


def _tei_scores(found: Rewards, raw: bool) -> list[float]:
    return (found.rewards if raw else expit(found.rewards)).tolist()
