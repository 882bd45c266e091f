"""Feature labels written by a language model behind any OpenAI-compatible chat completions server.

Nothing is sent anywhere unless an address and a model are configured; then responses of the pairs are sent. The model is shown
responses in which the latent fires and responses of similar length in which it does not, and describes what the first have in
common. The label gets a detection score as the rule's labels do: given the label alone, the model predicts in which held-out
responses the latent fires (detection scoring; Paulo et al., 2024).
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Protocol
from urllib.parse import quote, quote_plus, urlsplit

import numpy as np

from sparserm.features.auto_labels import LabelContext, Proposal, Rule, Unlabelled
from sparserm.heads.labels import MAX_LENGTH
from sparserm.support.files import one_line
from sparserm.types import SparseRMError

URL, MODEL, KEY = "SPARSERM_LABEL_URL", "SPARSERM_LABEL_MODEL", "SPARSERM_LABEL_KEY"

#: Number of active and of inactive responses shown to the model to find a label, and maximum characters of each.
SHOWN, CHARACTERS = 8, 500
#: Number of responses judged in one request, and maximum in total.
BATCH, MOST_JUDGED = 10, 40
#: Seconds until an answer begins, and again until it is complete; maximum bytes of it.
TIMEOUT_S, MAX_ANSWER = 60.0, 4 << 20
#: Shorter keys are no secrets, and cutting them out would destroy answers.
MIN_SECRET = 4

_FIND = """\
A feature inside a language model fires in some responses and not in others. Say in at most ten words what the responses in
which it fires have in common and the others lack: their subject, their tone, their wording or their form.

Responses in which it fires, as JSON: {active}

Responses in which it does not: {inactive}

The strongest of its firings, each with the text around the word in brackets, at which it fires: {firings}
Words and marks that tell the responses apart by count: {terms}
Tokens that the feature makes more likely: {promoted}

Answer with JSON alone: {{"label": "..."}}, or {{"label": null}} if you see nothing that they have in common."""

_JUDGE = """\
A feature inside a language model fires in responses of this description: {label}

Responses, numbered, as JSON: {texts}

In which of them does it fire? Answer with JSON alone, the list of their numbers: {{"active": [...]}}"""


@dataclass(frozen=True)
class Endpoint:
    """A chat completions server: ``POST {url}/chat/completions``.

    The key is sent to this address only, and is cut out of everything that the server answers.

    Attributes:
        url: base URL including the version, e.g. ``http://localhost:11434/v1``.
        model: name of the model in requests.
        key: sent as a bearer token unless empty.

    Raises:
        SparseRMError: the address is not a plain HTTP address, or has a password, or the key cannot be sent.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        _check_address(self.url)
        if not re.fullmatch(r"[!-~]*", self.key):
            raise SparseRMError(
                f"the key in {KEY} has a space, a line break or a character outside ASCII; expected the key alone; set it again"
            )

    @property
    def server(self) -> str:
        """The address without its path, for messages: some gateways have a secret in the path."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def ask(self, prompt: str) -> dict[str, Any]:
        """Send a prompt and return the JSON object in the model's answer.

        Raises:
            Unlabelled: the answer contains no JSON object.
            SparseRMError: the server cannot be reached, or returns an error.
        """
        body = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
        answer = self._post(json.dumps(body).encode())
        try:
            content = json.loads(answer)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise SparseRMError(
                f"{self.server} answered {one_line(answer)}; expected a chat completion; give the address of an "
                "OpenAI-compatible server, including /v1"
            ) from error
        content = self._without_key(content) if isinstance(content, str) else None
        found = re.search(r"\{.*\}", content, re.DOTALL) if content else None
        try:
            value = json.loads(found[0]) if found else None
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise Unlabelled(f"the endpoint answered {one_line(str(content))}, expected a JSON object")
        return value

    def _post(self, body: bytes) -> str:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as response:
                answer = self._without_key(_read(response, MAX_ANSWER + 1))
        except urllib.error.HTTPError as error:
            raise SparseRMError(
                f"{self.server} answered {self._explained(error)}; check the address, the model {self.model!r} and {KEY}"
            ) from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            slow = isinstance(reason, (TimeoutError, socket.timeout))
            what = f"no answer in {TIMEOUT_S:g} s" if slow else one_line(self._without_key(str(reason)))
            raise SparseRMError(
                f"{self.server} cannot be reached ({what}); check the address and that the server runs"
            ) from None
        if len(answer) > MAX_ANSWER:
            raise SparseRMError(
                f"{self.server} answered more than {MAX_ANSWER >> 20} MB; expected a chat completion; check the address"
            )
        return answer

    def _explained(self, error: urllib.error.HTTPError) -> str:
        """Status, reason and the beginning of the page, on one line."""
        try:
            said = _read(error, MAX_ANSWER)
        except (OSError, HTTPException, ValueError):
            said = ""
        return one_line(self._without_key(f"{error.code} {error.reason}: {said}"))

    def _without_key(self, text: str) -> str:
        """``text`` with stars for the key: as it is, and as JSON, HTML, an address and base64 have it."""
        if len(self.key) < MIN_SECRET:
            return text
        raw = self.key.encode()
        quoted = json.dumps(self.key)[1:-1]
        nested = json.dumps(quoted)[1:-1]  # JSON in JSON, as a model writes it
        written = {self.key, quoted, nested, json.dumps(nested)[1:-1], html.escape(self.key)}
        written |= {quote(self.key, safe=""), quote_plus(self.key)}
        written |= {encode(raw).decode().rstrip("=") for encode in (base64.b64encode, base64.urlsafe_b64encode)}
        for one in sorted(written, key=len, reverse=True):
            text = text.replace(one, "***")
        return text


class _Body(Protocol):
    def read(self, amount: int, /) -> bytes: ...


def _read(body: _Body, limit: int) -> str:
    """Up to ``limit`` bytes of a response, as text.

    Raises:
        TimeoutError: they did not arrive in :data:`TIMEOUT_S` seconds.
    """
    deadline, parts, left = time.monotonic() + TIMEOUT_S, [], limit
    read = getattr(body, "read1", body.read)  # read1 returns what has arrived, read waits for all of it
    while left and (part := read(min(left, 1 << 16))):
        parts.append(part)
        left -= len(part)
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts).decode(errors="replace")


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        right = bool(re.fullmatch(r"https?://[!-~]+", url) and parts.hostname and parts.port != 0)
    except ValueError:
        raise SparseRMError(f"the address in {URL} cannot be read; expected one such as http://localhost:11434/v1") from None
    if parts.username is not None or "@" in parts.netloc or parts.query or parts.fragment:
        raise SparseRMError(
            f"the address of the labelling model has a user name, a password or a part after ? or #; expected an address "
            f"without them, since addresses are shown and logged; put the key in {KEY}"
        )
    if not right:
        raise SparseRMError(f"the endpoint is {one_line(url)!r}; expected an address that begins with http:// or https://")


@dataclass(frozen=True)
class EndpointLabeller:
    """A :class:`~sparserm.features.auto_labels.Labeller` that uses a language model behind an endpoint."""

    endpoint: Endpoint
    most_judged = MOST_JUDGED

    @property
    def source(self) -> str:
        """The model's name."""
        return self.endpoint.model

    def propose(self, context: LabelContext) -> Proposal:
        """Ask the model for a label; the prompt includes the terms found by the rule."""
        try:
            ruled = Rule().propose(context)
            terms, promoted = ruled.terms, ruled.promoted
        except Unlabelled:
            terms, promoted = (), ()
        prompt = finding_prompt(context, terms)
        label = self.endpoint.ask(prompt).get("label")
        if not isinstance(label, str) or not label.strip():
            raise Unlabelled(f"{self.source} found nothing that the responses in which it fires have in common")
        text = one_line(label, MAX_LENGTH)
        return Proposal(
            text, lambda rows: self._verdicts(text, [context.texts.texts[row] for row in rows]), terms, promoted, prompt
        )

    def _verdicts(self, label: str, texts: Sequence[str]) -> np.ndarray:
        """``[m]`` 1 where the model, given the label alone, predicts that the latent fires; texts are shown in random order."""
        order = np.random.default_rng(0).permutation(len(texts))
        verdicts = np.zeros(len(texts))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            numbered = {str(number): one_line(texts[row], CHARACTERS) for number, row in enumerate(batch, 1)}
            answer = self.endpoint.ask(_JUDGE.format(label=label, texts=_json(numbered)))
            active = answer.get("active")
            if not isinstance(active, list):
                raise Unlabelled(f"the endpoint answered {one_line(json.dumps(answer))}, expected a list of numbers")
            verdicts[batch] = [number in {str(one) for one in active} for number in numbered]
        return verdicts


def configured_endpoint(url: str = "", model: str = "", environment: Mapping[str, str] | None = None) -> Endpoint | None:
    """The endpoint given as arguments or in the environment variables; None where neither address nor model is given.

    Raises:
        SparseRMError: the address or the model is missing, or the address or the key cannot be used.
    """
    environment = os.environ if environment is None else environment
    url, model = url or environment.get(URL, ""), model or environment.get(MODEL, "")
    if not url and not model:
        return None
    if not url or not model:
        got = f"the labelling model {model!r} without an address" if model else "an address without a model"
        raise SparseRMError(f"got {got}; expected both; {URL} and {MODEL} set them")
    return Endpoint(url, model, environment.get(KEY, ""))


def finding_prompt(context: LabelContext, terms: Sequence[str]) -> str:
    """The prompt for a label: top examples, inactive responses of similar length, the rule's terms and promoted tokens."""
    texts = context.texts.texts
    quiet = context.found.find.limited(2 * SHOWN)
    kinds = {"active": context.found.top[:SHOWN], "inactive": quiet.rows[~quiet.active]}
    shown = {kind: _json([one_line(texts[row], CHARACTERS) for row in rows]) for kind, rows in kinds.items()}
    firings = _json([str(one) for one in context.fires_at.snippets[:SHOWN]])
    return _FIND.format(**shown, firings=firings, terms=", ".join(terms) or "none", promoted=_json(context.promoted))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, so that the key and the texts are sent to the configured address only."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
