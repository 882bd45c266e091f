"""The server's log: one JSON object per line, for each request and for each warning."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from sparserm.types import Text

#: The logger of requests; its messages are JSON objects.
REQUESTS = logging.getLogger("sparserm.server.requests")


@dataclass
class RequestFacts:
    """What is known of a request, filled in while it is answered.

    Attributes:
        id: its ``X-Request-Id``.
        client: address of the client.
        head: the head that scored its texts.
        texts: number of texts.
        truncated: how many of them were cut to fit the context; None before they are read.
        thinking: how many of their responses began with thinking, which is left out.
    """

    id: str = "-"
    client: str = ""
    head: str = ""
    texts: int = 0
    truncated: int | None = None
    thinking: int = 0


#: The request being answered.
REQUEST: ContextVar[RequestFacts] = ContextVar("request")


def log_request(facts: RequestFacts, method: str, path: str, status: int, seconds: float) -> None:
    """Log a request that has been answered."""
    REQUESTS.info(
        _line(
            request_id=facts.id,
            method=method,
            path=path[:200],
            status=status,
            ms=round(seconds * 1000, 1),
            texts=facts.texts,
            truncated=facts.truncated or 0,
            thinking=facts.thinking,
            head=facts.head or None,
            client=facts.client or None,
        )
    )


def log_texts(facts: RequestFacts, texts: Sequence[Text], rewards: Sequence[float]) -> None:
    """Log every text of a request with its reward."""
    for text, reward in zip(texts, rewards, strict=True):
        prompt = [vars(turn) for turn in text.prompt]
        REQUESTS.info(_line(request_id=facts.id, head=facts.head, reward=float(reward), prompt=prompt, response=text.response))


def _line(**values: Any) -> str:
    """A JSON object with the time. ASCII: what clients send can neither begin a line nor control a terminal."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": now, **values})


class JsonLines(logging.Formatter):
    """Records as JSON objects; those of :data:`REQUESTS` already are."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == REQUESTS.name:
            return record.getMessage()
        values = {"level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return _line(**values)


def log_to_stderr() -> None:
    """Write requests, and the warnings of all libraries, to stderr, unless logging is set up already."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    REQUESTS.setLevel(logging.INFO)
