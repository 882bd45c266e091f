"""The OpenAI client, as people use it with vLLM's pooling models: what it has no method for goes through ``post``."""

from __future__ import annotations

import math
from typing import Any

from clients.kinds import Check, Client, Place, close, equal


def _client(place: Place) -> Any:
    import openai

    return openai.OpenAI(base_url=place.url, api_key="EMPTY", max_retries=0)


def _models(place: Place) -> None:
    import openai

    found = openai.OpenAI(base_url=f"{place.url}/v1", api_key="EMPTY", max_retries=0).models.list()
    equal([model.id for model in found.data][:2], ["truthfulness", "safety"])


def _pooling(place: Place) -> None:
    for head in ("truthfulness", "safety"):
        body = {"model": head, "input": place.templated}
        found = _client(place).post("/pooling", body=body, cast_to=object)
        close([one["data"][0] for one in found["data"]], place.rewards[head])


def _classify(place: Place) -> None:
    found = _client(place).post("/classify", body={"model": "safety", "input": place.templated}, cast_to=object)
    expected = [1 / (1 + math.exp(-reward)) for reward in place.rewards["safety"]]
    close([one["probs"][0] for one in found["data"]], expected)


def _unknown_head(place: Place) -> None:
    import openai

    try:
        _client(place).post("/pooling", body={"model": "gpt-5", "input": place.templated}, cast_to=object)
    except openai.NotFoundError as error:
        assert "expected one of truthfulness, safety" in str(error), f"got {error}"
    else:
        raise AssertionError("a head that is not served was not refused")


CLIENT = Client(
    name="OpenAI client",
    package="openai",
    requirements=("openai>=1.60,<4",),
    checks=(
        Check("`client.models.list()` lists the heads", _models),
        Check('`client.post("/pooling", ...)` gets rewards; `model` names the head', _pooling),
        Check('`client.post("/classify", ...)` gets probabilities', _classify),
        Check("An unknown model raises `NotFoundError`, which names the heads", _unknown_head),
    ),
)
