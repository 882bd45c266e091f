"""Feature labels written by a language model behind any OpenAI-compatible chat completions server.

Nothing is sent anywhere unless an address and a model are configured; then responses of the pairs are sent. The model is shown
responses in which the latent fires and responses of similar length in which it does not, and describes what the first have in
common. The label gets a detection score as the rule's labels do: given the label alone, the model predicts in which held-out
responses the latent fires (detection scoring; Paulo et al., 2024).
"""

from __future__ import annotations

import json
import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

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
TIMEOUT_S = 60.0

_FIND = """\
A feature inside a language model fires in some responses and not in others. Say in at most ten words what the responses in
which it fires have in common and the others lack: their subject, their tone, their wording or their form.

Responses in which it fires, as JSON: {active}

Responses in which it does not: {inactive}

Words and marks that tell them apart by count: {terms}
Tokens that the feature makes more likely: {promoted}

Answer with JSON alone: {{"label": "..."}}, or {{"label": null}} if you see nothing that they have in common."""

_JUDGE = """\
A feature inside a language model fires in responses of this description: {label}

Responses, numbered, as JSON: {texts}

In which of them does it fire? Answer with JSON alone, the list of their numbers: {{"active": [...]}}"""


@dataclass(frozen=True)
class Endpoint:
    """A chat completions server: ``POST {url}/chat/completions``.

    Attributes:
        url: base URL including the version, e.g. ``http://localhost:11434/v1``.
        model: name of the model in requests.
        key: sent as a bearer token unless empty.
    """

    url: str
    model: str
    key: str = ""

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
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise SparseRMError(
                f"{self.url} answered {one_line(answer.decode(errors='replace'))}; expected a chat completion; give the "
                "address of an OpenAI-compatible server, including /v1"
            ) from error
        found = re.search(r"\{.*\}", content, re.DOTALL) if isinstance(content, str) else None
        try:
            value = json.loads(found[0]) if found else None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Unlabelled(f"the endpoint answered {one_line(str(content))}, expected a JSON object")
        return value

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            said = one_line(error.read(2000).decode(errors="replace"))
            raise SparseRMError(
                f"{self.url} answered {error.code} {error.reason}: {said}; check the address, the model {self.model!r} "
                f"and {KEY}"
            ) from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            what = f"no answer in {TIMEOUT_S:g} s" if isinstance(reason, (TimeoutError, socket.timeout)) else reason
            raise SparseRMError(f"{self.url} cannot be reached ({what}); check the address and that the server runs") from error


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
        SparseRMError: the address or the model is missing, or the address is not an HTTP address.
    """
    environment = os.environ if environment is None else environment
    url, model = url or environment.get(URL, ""), model or environment.get(MODEL, "")
    if not url and not model:
        return None
    if not url or not model:
        got = f"the model {model!r} without an address" if model else f"the address {url!r} without a model"
        raise SparseRMError(f"got {got}; expected both; give --endpoint and --model, or set {URL} and {MODEL}")
    if not re.match(r"https?://\w", url):
        raise SparseRMError(f"the endpoint is {url!r}; expected an address that begins with http:// or https://")
    return Endpoint(url, model, environment.get(KEY, ""))


def finding_prompt(context: LabelContext, terms: Sequence[str]) -> str:
    """The prompt for a label: top examples, inactive responses of similar length, the rule's terms and promoted tokens."""
    texts = context.texts.texts
    quiet = context.found.find.limited(2 * SHOWN)
    kinds = {"active": context.found.top[:SHOWN], "inactive": quiet.rows[~quiet.active]}
    shown = {kind: _json([one_line(texts[row], CHARACTERS) for row in rows]) for kind, rows in kinds.items()}
    return _FIND.format(**shown, terms=", ".join(terms) or "none", promoted=_json(context.promoted))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, so that the key and the texts are sent to the configured address only."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
