"""Labels from a language model that the user runs or rents: any server that speaks OpenAI's chat completions.

Nothing is sent anywhere unless an address and a model were given for it; then responses of the pairs are. The model sees
responses in which the latent fires and like ones in which it does not, and says what the first have in common. Its words
are judged as the rule's terms are, by the model itself: it is shown other responses and told the label alone, and has to say
in which the latent fires (detection scoring; Paulo et al., 2024).
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
from sparserm.types import SparseRMError

URL, MODEL, KEY = "SPARSERM_LABEL_URL", "SPARSERM_LABEL_MODEL", "SPARSERM_LABEL_KEY"

#: Responses of either kind that the model is shown to find a label, and characters of each.
SHOWN, CHARACTERS = 8, 500
#: Responses judged in one request, and in all.
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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key and the texts go to the address that was given, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """A chat completions server: ``POST {url}/chat/completions``.

    Attributes:
        url: with its version, e.g. ``http://localhost:11434/v1``.
        model: the name by which it is asked for.
        key: sent as a bearer token where there is one.
    """

    url: str
    model: str
    key: str = ""

    def ask(self, prompt: str) -> dict[str, Any]:
        """The JSON object in the model's answer.

        Raises:
            Unlabelled: the model's answer holds none.
            SparseRMError: the server cannot be reached, or refuses.
        """
        body = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
        answer = self._post(json.dumps(body).encode())
        try:
            content = json.loads(answer)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise SparseRMError(
                f"{self.url} answered {_short(answer.decode(errors='replace'))}; expected a chat completion; give the address "
                "of an OpenAI-compatible server, up to and with its /v1"
            ) from error
        found = re.search(r"\{.*\}", content, re.DOTALL) if isinstance(content, str) else None
        try:
            value = json.loads(found[0]) if found else None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Unlabelled(f"the endpoint answered {_short(str(content))}, not the JSON object it was asked for")
        return value

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            said = _short(error.read(2000).decode(errors="replace"))
            raise SparseRMError(
                f"{self.url} answered {error.code} {error.reason}: {said}; check the address, the model {self.model!r} "
                f"and {KEY}"
            ) from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            what = f"no answer in {TIMEOUT_S:g} s" if isinstance(reason, (TimeoutError, socket.timeout)) else reason
            raise SparseRMError(f"{self.url} cannot be asked ({what}); check that the server runs and its address") from error


@dataclass(frozen=True)
class EndpointLabeller:
    """A :class:`~sparserm.features.auto_labels.Labeller` that asks an endpoint."""

    endpoint: Endpoint
    most_judged = MOST_JUDGED

    @property
    def source(self) -> str:
        """The model's name."""
        return self.endpoint.model

    def propose(self, evidence: LabelContext) -> Proposal:
        """What the model says; the rule's terms are among what it is shown."""
        try:
            ruled = Rule().propose(evidence)
            terms, promoted = ruled.terms, ruled.promoted
        except Unlabelled:
            terms, promoted = (), ()
        prompt = finding_prompt(evidence, terms)
        label = self.endpoint.ask(prompt).get("label")
        if not isinstance(label, str) or not label.strip():
            raise Unlabelled(f"{self.source} sees nothing that the responses in which it fires have in common")
        text = _short(label, MAX_LENGTH)
        return Proposal(
            text, lambda rows: self._verdicts(text, [evidence.texts.texts[row] for row in rows]), terms, promoted, prompt
        )

    def _verdicts(self, label: str, texts: Sequence[str]) -> np.ndarray:
        """``[m]`` 1 where the model, told the label alone, says that the latent fires; in an order that tells nothing."""
        order = np.random.default_rng(0).permutation(len(texts))
        verdicts = np.zeros(len(texts))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            numbered = {str(number): _short(texts[row], CHARACTERS) for number, row in enumerate(batch, 1)}
            answer = self.endpoint.ask(_JUDGE.format(label=label, texts=_json(numbered)))
            active = answer.get("active")
            if not isinstance(active, list):
                raise Unlabelled(f"the endpoint answered {_short(json.dumps(answer))}, not the numbers it was asked for")
            verdicts[batch] = [number in {str(one) for one in active} for number in numbered]
        return verdicts


def finding_prompt(evidence: LabelContext, terms: Sequence[str]) -> str:
    """What the model is asked: top examples, inactive ones of like length, contrast terms and promoted tokens."""
    texts = evidence.texts.texts
    quiet = evidence.found.find.limited(2 * SHOWN)
    kinds = {"active": evidence.found.top[:SHOWN], "inactive": quiet.rows[~quiet.active]}
    shown = {kind: _json([_short(texts[row], CHARACTERS) for row in rows]) for kind, rows in kinds.items()}
    return _FIND.format(**shown, terms=", ".join(terms) or "none", promoted=_json(evidence.promoted))


def configured_endpoint(url: str = "", model: str = "", environment: Mapping[str, str] | None = None) -> Endpoint | None:
    """The endpoint that the user gave, here or in the environment; None where there is none.

    Raises:
        SparseRMError: a part of it is missing, or the address is none of the web.
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


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _short(text: str, most: int = 200) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"
