"""``huggingface_hub.InferenceClient`` with the address of the server, as with an endpoint that runs TEI."""

from __future__ import annotations

import math
from typing import Any

from clients.kinds import Check, Client, Place, close, equal


def _client(place: Place) -> Any:
    from huggingface_hub import InferenceClient

    return InferenceClient(place.url, provider="hf-inference", token="none")


def _text_classification(place: Place) -> None:
    client = _client(place)
    for path in ("", "/predict"):
        found = [client.text_classification(text, model=place.url + path) for text in place.templated]
        equal({one[0].label for one in found}, {"reward"})
        close([one[0].score for one in found], [1 / (1 + math.exp(-reward)) for reward in place.rewards["truthfulness"]])


def _rewards(place: Place) -> None:
    client = _client(place)
    found = [client.text_classification(text, function_to_apply="none") for text in place.templated]
    close([one[0].score for one in found], place.rewards["truthfulness"])


def _health(place: Place) -> None:
    client = _client(place)
    assert client.health_check() is True
    equal(client.get_endpoint_info()["heads"][0]["name"], "truthfulness")


CLIENT = Client(
    name="huggingface_hub",
    package="huggingface_hub",
    requirements=("huggingface_hub>=1,<3",),
    checks=(
        Check(
            "`InferenceClient.text_classification` gets the sigmoid of the reward from `/` and `/predict`", _text_classification
        ),
        Check('`function_to_apply="none"` gets the reward', _rewards),
        Check("`health_check` and `get_endpoint_info`", _health),
    ),
)
