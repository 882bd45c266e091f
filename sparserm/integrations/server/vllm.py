"""vLLM's interfaces for models with one label: classification, pooling, scores of pairs, ranking, and the list of models."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import Request
from fastapi.responses import Response
from scipy.special import expit

from sparserm.integrations.server import schemas
from sparserm.integrations.server.logs import REQUEST
from sparserm.integrations.server.scorer import Scorer, texts_of
from sparserm.integrations.server.service import Rewards
from sparserm.types import SparseRMError, Text

#: NumPy types of the numbers in ``base64`` and ``bytes``, by ``endianness``.
_FLOATS: Mapping[str, str] = {"native": "=f4", "little": "<f4", "big": ">f4"}


class VllmEndpoints:
    """The handlers of vLLM's paths."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer, self._started = scorer, int(time.time())

    async def models(self) -> dict[str, Any]:
        """vLLM, OpenAI: the served heads."""
        service = self._scorer.service
        rest = {"object": "model", "created": self._started, "owned_by": "sparserm", "parent": None}
        length = service.backbone.chat.max_length
        return {
            "object": "list",
            "data": [{"id": name, **rest, "root": name, "max_model_len": length} for name in service.models],
        }

    async def tokenize(self, payload: schemas.TokenizeRequest) -> dict[str, Any]:
        """vLLM: the token ids of a text, which /classify and /pooling take as input."""
        service = self._scorer.service
        ids = service.encode(payload.prompt)
        return {"count": len(ids), "max_model_len": service.backbone.chat.max_length, "tokens": ids, "token_strs": None}

    async def classify(self, payload: schemas.VllmRequest, request: Request) -> dict[str, Any]:
        """vLLM: sigmoid of the reward, as the probability of a single label; the reward without use_activation."""
        found = await self._scored(payload, self._texts(payload), request)
        values = _values(found, payload.activated is not False)
        data = [{"index": i, "label": "reward", "probs": [value], "num_classes": 1} for i, value in enumerate(values)]
        return self._listed("classify", payload, data, found)

    async def pooling(self, payload: schemas.PoolingRequest, request: Request) -> Any:
        """vLLM: rewards, as numbers or bytes; their sigmoid with use_activation."""
        found = await self._scored(payload, self._texts(payload), request)
        values = _values(found, payload.activated is True)
        if payload.encoding_format == "float":
            written: Sequence[Any] = [[value] for value in values]
        else:
            parts = [np.array([value], _FLOATS[payload.endianness]).tobytes() for value in values]
            if payload.encoding_format != "base64":
                return self._bytes(payload, parts, found)
            written = [base64.b64encode(part).decode() for part in parts]
        data = [{"index": i, "object": "pooling", "data": value} for i, value in enumerate(written)]
        return self._listed("pooling", payload, data, found)

    async def score(self, payload: schemas.VllmScoreRequest, request: Request) -> dict[str, Any]:
        """vLLM: sigmoid of the reward of each pair of a query (prompt) and a document (response)."""
        prompts, responses = payload.sides
        self._scorer.service.check_number(len(responses))
        found = await self._scored(payload, texts_of(prompts, responses), request)
        values = _values(found, payload.activated is not False)
        data = [{"index": i, "object": "score", "score": value} for i, value in enumerate(values)]
        return self._listed("score", payload, data, found)

    async def rerank(self, payload: schemas.VllmRerankRequest, request: Request) -> dict[str, Any]:
        """vLLM, Jina, Cohere: rank documents (responses) to a query (prompt), best first."""
        documents = [payload.documents] if isinstance(payload.documents, str) else payload.documents
        self._scorer.service.check_number(len(documents))
        found = await self._scored(payload, texts_of(payload.query, documents), request)
        values = _values(found, payload.activated is not False)
        order = np.argsort(-found.rewards, kind="stable").tolist()[: payload.top_n or None]
        results = [
            {
                "index": i,
                "relevance_score": values[i],
                **({"document": {"text": documents[i]}} if payload.return_documents else {}),
            }
            for i in order
        ]
        return {"id": self._id("rerank", payload), "model": self._name(payload), "results": results, "usage": _usage(found)}

    def _texts(self, payload: schemas.VllmRequest) -> list[Text]:
        """The conversations of a request with their responses."""
        if (payload.input is None) == (payload.messages is None):
            raise SparseRMError("got neither or both of input and messages; expected exactly one of them")
        if payload.messages is not None:
            return texts_of(payload.messages[:-1], [payload.messages[-1:]])
        given: Any = payload.input
        inputs: list[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
        self._scorer.service.check_number(len(inputs))
        decode = self._scorer.service.decode
        return self._scorer.queries([one if isinstance(one, str) else decode(one) for one in inputs])

    async def _scored(self, payload: schemas.VllmParameters, texts: Sequence[Text], request: Request) -> Rewards:
        """Rewards of texts; those that exceed the context are refused unless the request asks for them to be cut.

        Raises:
            SparseRMError: texts are too long, or are to be cut in another way than here.
        """
        context, most = self._scorer.service.backbone.chat.max_length, payload.truncate_prompt_tokens
        if most is not None and 0 <= most < context:
            raise SparseRMError(
                f"truncate_prompt_tokens is {most:,}; expected -1 or the context, {context:,}, since texts are not cut shorter"
            )
        found = await self._scorer.score(self._scorer.service.head(self._asked(payload)), texts, request)
        if n := int((found.cut > 0).sum()):
            if most is None:
                raise SparseRMError(
                    f"{n} of {len(texts)} texts exceed the context of {context:,} tokens with their prompts; shorten them, or "
                    "send truncate_prompt_tokens: -1 to have their beginnings left out"
                )
            if payload.truncation_side == "right":
                raise SparseRMError(f"truncation_side is right, and {n} texts are too long; expected left: beginnings are cut")
        return found

    def _asked(self, payload: schemas.VllmParameters) -> str | None:
        """The head that ``model`` names; None (the default head) if empty or the backbone's name, which trainers also send."""
        return None if payload.model in (None, "", self._scorer.service.backbone.name) else payload.model

    def _name(self, payload: schemas.VllmParameters) -> str:
        return payload.model or next(iter(self._scorer.service.models))

    @staticmethod
    def _id(kind: str, payload: schemas.VllmParameters) -> str:
        return f"{kind}-{(payload.model_extra or {}).get('request_id') or REQUEST.get().id}"

    def _listed(
        self, kind: str, payload: schemas.VllmParameters, data: Sequence[Mapping[str, Any]], found: Rewards
    ) -> dict[str, Any]:
        return {
            "id": self._id(kind, payload),
            "object": "list",
            "created": int(time.time()),
            "model": self._name(payload),
            "data": data,
            "usage": {**_usage(found), "completion_tokens": 0, "prompt_tokens_details": None},
        }

    def _bytes(self, payload: schemas.PoolingRequest, parts: Sequence[bytes], found: Rewards) -> Response:
        """All numbers in one body; the header ``metadata`` says where each is."""
        kind = {"embed_dtype": payload.embed_dtype, "endianness": payload.endianness}
        data = [{"index": i, **kind, "start": 4 * i, "end": 4 * i + len(part), "shape": [1]} for i, part in enumerate(parts)]
        about = {**self._listed("pooling", payload, data, found), "usage": _usage(found)}
        headers = {} if payload.encoding_format == "bytes_only" else {"metadata": json.dumps(about)}
        return Response(b"".join(parts), media_type="application/octet-stream", headers=headers)


def _values(found: Rewards, activated: bool) -> list[float]:
    return (expit(found.rewards) if activated else found.rewards).tolist()


def _usage(found: Rewards) -> dict[str, int]:
    return {"prompt_tokens": found.n_tokens, "total_tokens": found.n_tokens}
