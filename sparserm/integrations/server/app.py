"""The HTTP server: what each interface asks, in terms of the service, and its answer."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
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
from sparserm.heads.saved import head_hash
from sparserm.integrations.server import schemas
from sparserm.integrations.server.batching import ClosedError, OverloadedError
from sparserm.integrations.server.dialogue import read_query
from sparserm.integrations.server.gate import Gate
from sparserm.integrations.server.service import Limits, Rewards, Service, TooLargeError, UnknownHeadError
from sparserm.model import SparseRM
from sparserm.pairs.messages import as_completion, as_prompt
from sparserm.types import Message, SparseRMError, Text

_T = TypeVar("_T")
_log = logging.getLogger("sparserm.server")


class _GoneError(Exception):
    """The client has closed the connection."""


class Metrics:
    """What ``/metrics`` tells, of this server alone."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("sparserm_requests", "Requests by path and status.", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "sparserm_request_seconds",
            "Time to an answer.",
            ["path"],
            registry=self.registry,
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
        )
        self.texts = Counter("sparserm_texts", "Responses that were scored.", registry=self.registry)
        self.batch = Histogram(
            "sparserm_batch_texts",
            "Texts read together.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        )
        self.waiting = Gauge("sparserm_waiting_texts", "Texts that wait to be read.", registry=self.registry)


def create_app(
    models: Mapping[str, SparseRM], *, limits: Limits | None = None, api_key: str | None = None, log_texts: bool = False
) -> FastAPI:
    """An ASGI application that serves heads of one backbone.

    Args:
        models: by the name that requests call them by; the first is meant where a request names none.
        api_key: what requests have to bring as ``Authorization: Bearer KEY``; None asks for none.
        log_texts: write every prompt and response with its reward to the log ``sparserm.server``; else no text is logged.

    Raises:
        SparseRMError: there is no head, or heads are of different backbones.
    """
    limits = limits or Limits()
    metrics = Metrics()
    service = Service(models, limits, metrics.batch.observe)
    metrics.waiting.set_function(lambda: service.batcher.waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batcher.close)  # what waits is done first

    app = FastAPI(
        title="SparseRM",
        version=__version__,
        lifespan=lifespan,
        summary="Rewards that are sums one can read.",
        responses={status: {"model": schemas.Failure} for status in (401, 404, 413, 422, 429, 503)},
    )
    _add_failures(app)
    endpoints = _Endpoints(service, metrics, log_texts)
    endpoints.add_to(app)
    app.add_middleware(
        Gate,
        body_bytes=limits.body_bytes,
        api_key=api_key.encode() if api_key else None,
        observe=lambda path, status, seconds: _observe(metrics, path, status, seconds),
    )
    return app


def _observe(metrics: Metrics, path: str, status: int, seconds: float) -> None:
    metrics.requests.labels(path, status).inc()
    metrics.seconds.labels(path).observe(seconds)


def _add_failures(app: FastAPI) -> None:
    """Every refusal is an ``error`` that says how to mend it, as Text Embeddings Inference answers."""
    kinds: dict[type[Exception], tuple[int, str, str]] = {
        UnknownHeadError: (404, "not_found", ""),
        TooLargeError: (413, "too_large", ""),
        SparseRMError: (422, "validation", ""),
        OverloadedError: (429, "overloaded", "too much waits to be read already; try again in a moment"),
        ClosedError: (503, "unhealthy", "the server is shutting down; ask another"),
        _GoneError: (499, "gone", "the client has closed the connection"),
    }

    def handler(status: int, kind: str, message: str) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def answer(_: Request, error: Exception) -> Response:
            headers = {"Retry-After": "1"} if status == 429 else None
            return JSONResponse({"error": message or str(error), "error_type": kind}, status, headers)

        return answer

    for kind, answer in kinds.items():
        app.add_exception_handler(kind, handler(*answer))

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": f"{error.detail}; see /docs", "error_type": "http"}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def _(_: Request, error: Exception) -> Response:  # its message may quote a text: it is in the log's traceback only
        return JSONResponse({"error": f"{type(error).__name__}: the log has the traceback", "error_type": "backend"}, 500)

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
        return JSONResponse({"error": f"{where}: {first['msg']}; see /docs", "error_type": "validation"}, 422)


class _FiguresResponse(Response):
    """Prometheus's text format."""

    media_type = CONTENT_TYPE_LATEST


class _Endpoints:
    """All paths; each reads its request, asks the service, and answers."""

    def __init__(self, service: Service, metrics: Metrics, log_texts: bool) -> None:
        self.service, self.metrics, self.log_texts = service, metrics, log_texts

    def add_to(self, app: FastAPI) -> None:
        """Make them known."""
        app.get("/health", summary="Whether work is being done.", response_class=PlainTextResponse)(self.health)
        app.get("/info", summary="What is served, and the limits.")(self.info)
        app.get("/metrics", summary="Figures for Prometheus.", response_class=_FiguresResponse)(self.figures)
        for path in ("score", "compare", "explain", "get_reward", "classify", "pooling", "predict", "rerank"):
            app.post(f"/{path}", summary=getattr(self, path).__doc__)(getattr(self, path))

    async def health(self) -> Response:
        """Whether work is being done."""
        return PlainTextResponse("ok") if self.service.batcher.alive else PlainTextResponse("not reading any more", 503)

    async def info(self) -> dict[str, Any]:
        """What is served."""
        heads = [
            {
                "name": name,
                "hash": head_hash(model.saved),
                "hook": model.card.hook,
                "pooling": model.head.pooling,
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
        """Figures for Prometheus."""
        return _FiguresResponse(generate_latest(self.metrics.registry))

    async def score(self, asked: schemas.ScoreRequest, request: Request) -> dict[str, Any]:
        """Rewards, and what each feature gives."""
        model = self.service.head(asked.head)
        self.service.check_number(len(asked.responses))
        texts = _texts(asked.prompts, asked.responses)
        found = await self._scored(model, texts, request)
        features = model.head.features.tolist()
        return {
            "rewards": found.rewards.tolist(),
            "features": features,
            "contributions": found.parts.tolist(),
            "bias": model.head.bias,
            "head": model.card.name,
        }

    async def compare(self, asked: schemas.CompareRequest, request: Request) -> dict[str, Any]:
        """Responses ranked, and the margin taken apart."""
        model = self.service.head(asked.head)
        self.service.check_number(len(asked.responses))
        texts = _texts(asked.prompt, asked.responses)
        found = await _unless_gone(request, self.service.compare(model, texts))
        self._told(model, texts, found.rewards)
        return {
            "rewards": found.rewards,
            "ranking": found.ranking,
            "margin": found.margin,
            "contributions": [vars(part) for part in found.contributions],
            "head": model.card.name,
        }

    async def explain(self, asked: schemas.ExplainRequest, request: Request) -> dict[str, Any]:
        """A reward by feature and by token."""
        model = self.service.head(asked.head)
        name = next(name for name, one in self.service.models.items() if one is model)
        (text,) = _texts(asked.prompt, [asked.response])
        found = await _unless_gone(request, self.service.explain(model, name, text))
        self._told(model, [text], [found.reward])
        return {
            "reward": found.reward,
            "bias": found.bias,
            "contributions": [vars(part) for part in found.contributions],
            "tokens": found.tokens,
            "token_contributions": found.token_contributions.sum(1).tolist(),
            "head": model.card.name,
        }

    async def get_reward(self, asked: schemas.GetRewardRequest, request: Request) -> dict[str, Any]:
        """OpenRLHF: rewards of templated texts; scores are the shares of training responses that are worth less."""
        prompts: Sequence[str | None] = asked.prompts or [None] * len(asked.query)
        if len(prompts) != len(asked.query):
            raise SparseRMError(f"got {len(asked.query)} queries and {len(prompts)} prompts; expected as many of each")
        model = self.service.head(None)
        texts = self._queries(asked.query, prompts)
        found = await self._scored(model, texts, request)
        logs = {
            f"feature_{feature}": column for feature, column in zip(model.head.features, found.parts.T.tolist(), strict=True)
        }
        return {
            "rewards": found.rewards.tolist(),
            "scores": [model.percentile(reward) for reward in found.rewards],
            "extra_logs": logs if texts else {},
        }

    async def classify(self, asked: schemas.VllmRequest, request: Request) -> dict[str, Any]:
        """vLLM: the reward through a sigmoid, as a classifier of one label gives it."""
        found = await self._vllm(asked, request)
        data = [
            {"index": i, "label": "reward", "probs": [float(expit(reward))], "num_classes": 1}
            for i, reward in enumerate(found.rewards)
        ]
        return _vllm_answer("classify", asked, data, found)

    async def pooling(self, asked: schemas.VllmRequest, request: Request) -> dict[str, Any]:
        """vLLM: the reward."""
        found = await self._vllm(asked, request)
        data = [{"index": i, "object": "pooling", "data": [float(reward)]} for i, reward in enumerate(found.rewards)]
        return _vllm_answer("pooling", asked, data, found)

    async def predict(self, asked: schemas.PredictRequest, request: Request) -> Any:
        """TEI: a label with its score for a text, a pair, or a batch of these."""
        batch = isinstance(asked.inputs, list) and (not asked.inputs or isinstance(asked.inputs[0], list))
        rows: list[Any] = list(asked.inputs) if batch else [asked.inputs]
        self.service.check_number(len(rows))
        texts = [text for row in rows for text in self._row(row)]
        found = await self._scored(self.service.head(None), texts, request)
        answers = [[{"score": score, "label": "reward"}] for score in _tei_scores(found, asked.raw_scores)]
        return answers if batch else answers[0]

    async def rerank(self, asked: schemas.RerankRequest, request: Request) -> list[dict[str, Any]]:
        """TEI: responses to a prompt, best first."""
        self.service.check_number(len(asked.texts))
        texts = _texts(asked.query, asked.texts)
        found = await self._scored(self.service.head(None), texts, request)
        scores = _tei_scores(found, asked.raw_scores)
        order = np.argsort(-found.rewards, kind="stable").tolist()
        return [{"index": i, "score": scores[i], **({"text": asked.texts[i]} if asked.return_text else {})} for i in order]

    async def _vllm(self, asked: schemas.VllmRequest, request: Request) -> Rewards:
        if (asked.input is None) == (asked.messages is None):
            raise SparseRMError("got neither input nor messages, or both; expected one of them")
        if asked.messages is not None:
            texts = _texts(asked.messages[:-1], [asked.messages[-1:]])
        else:
            queries = [asked.input] if isinstance(asked.input, str) else asked.input or []
            texts = self._queries(queries, [None] * len(queries))
        return await self._scored(self.service.head(self._served(asked.model)), texts, request)

    def _served(self, model: str | None) -> str | None:
        """The head that a client means by ``model``; the backbone's name, which trainers send as well, means the first."""
        return None if model in (None, "", self.service.backbone.name) else model

    async def _scored(self, model: SparseRM, texts: Sequence[Text], request: Request) -> Rewards:
        found = await _unless_gone(request, self.service.score(model, texts))
        self._told(model, texts, found.rewards)
        return found

    def _told(self, model: SparseRM, texts: Sequence[Text], rewards: Sequence[float] | np.ndarray) -> None:
        """Count what was scored, and log it where that is asked for."""
        self.metrics.texts.inc(len(texts))
        if self.log_texts:
            for text, reward in zip(texts, rewards, strict=True):
                _log.info("%s %+.4f %r %r", model.card.name, reward, [vars(turn) for turn in text.prompt], text.response)

    def _queries(self, queries: Sequence[str], prompts: Sequence[str | None]) -> list[Text]:
        """Templated texts as conversations with their responses."""
        self.service.check_number(len(queries))
        most, texts = self.service.limits.characters, []
        for number, (query, prompt) in enumerate(zip(queries, prompts, strict=True), 1):
            if len(query) > most:
                raise TooLargeError(f"query {number} has {len(query):,} characters, expected {most:,} at most; shorten it")
            try:
                asked, response = read_query(query, prompt)
                texts += _texts(asked, [response])
            except SparseRMError as error:
                raise SparseRMError(f"query {number} of {len(queries)}: {error}") from error
        return texts

    def _row(self, row: Any) -> list[Text]:
        """TEI: one templated text, or a prompt and a response."""
        parts = [row] if isinstance(row, str) else row
        if len(parts) == 2:
            return _texts(parts[0], [parts[1]])
        if len(parts) != 1:
            raise SparseRMError(f"an input has {len(parts)} texts; expected a templated text, or a prompt and a response")
        return self._queries(parts, [None])


async def _unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """The result, or an end to the work where nobody waits for it any more."""

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
    """Messages are a sequence as well, but one of dictionaries or messages."""
    return isinstance(prompts, list) and not (prompts and isinstance(prompts[0], dict | Message))


def _texts(prompts: Any, responses: Sequence[Any]) -> list[Text]:
    """Each response with its prompt; one prompt alone is meant for all, and is read once."""
    if _is_list_of_prompts(prompts):
        if len(prompts) != len(responses):
            raise SparseRMError(
                f"got {len(prompts)} prompts and {len(responses)} responses; expected as many, or one prompt for all"
            )
        read = [as_prompt(prompt) for prompt in prompts]
    else:
        read = [as_prompt(prompts)] * len(responses) if responses else []
    return [Text(prompt, as_completion(response)) for prompt, response in zip(read, responses, strict=True)]


def _tei_scores(found: Rewards, raw: bool) -> list[float]:
    return (found.rewards if raw else expit(found.rewards)).tolist()


def _vllm_answer(kind: str, asked: schemas.VllmRequest, data: list[dict[str, Any]], found: Rewards) -> dict[str, Any]:
    return {
        "id": f"{kind}-{secrets.token_hex(8)}",
        "object": "list",
        "created": int(time.time()),
        "model": asked.model or "",
        "data": data,
        "usage": {"prompt_tokens": found.n_tokens, "total_tokens": found.n_tokens, "completion_tokens": 0},
    }
