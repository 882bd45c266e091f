"""The requests of vLLM's documentation and examples of pooling models, sent with ``requests`` as they do."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

from clients.kinds import Check, Client, Place, close, equal


def _post(place: Place, path: str, **body: Any) -> Any:
    import requests

    answer = requests.post(place.url + path, json=body, timeout=120)
    assert answer.status_code == 200, f"{path}: status {answer.status_code}, {answer.text[:200]}"
    return answer.json()


def _sigmoids(rewards: list[float]) -> list[float]:
    return [1 / (1 + math.exp(-reward)) for reward in rewards]


def _model_from_list(place: Place) -> None:
    """The examples take the name of the first model of ``/v1/models`` for all later requests."""
    import requests

    found = requests.get(f"{place.url}/v1/models", timeout=60)
    assert found.status_code == 200, f"/v1/models: status {found.status_code}, {found.text[:200]}"
    model = found.json()["data"][0]["id"]
    answer = _post(place, "/pooling", model=model, input=place.templated[0])
    equal((answer["object"], answer["model"], answer["data"][0]["object"]), ("list", model, "pooling"))
    close(answer["data"][0]["data"], place.rewards["truthfulness"][:1])


def _messages(place: Place) -> None:
    turns = [("user", place.prompts[0]), ("assistant", place.responses[0])]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    answer = _post(place, "/pooling", model="safety", messages=messages)
    close(answer["data"][0]["data"], place.rewards["safety"][:1])


def _classify(place: Place) -> None:
    answer = _post(place, "/classify", model="truthfulness", input=place.templated)
    equal([one["index"] for one in answer["data"]], list(range(len(place.prompts))))
    close([one["probs"][0] for one in answer["data"]], _sigmoids(place.rewards["truthfulness"]))
    assert answer["usage"]["total_tokens"] > 0


def _token_ids(place: Place) -> None:
    ids = [_post(place, "/tokenize", model="truthfulness", prompt=text)["tokens"] for text in place.templated]
    answer = _post(place, "/classify", model="truthfulness", input=ids)
    close([one["probs"][0] for one in answer["data"]], _sigmoids(place.rewards["truthfulness"]))


def _use_activation(place: Place) -> None:
    for path, values in (("/classify", "probs"), ("/pooling", "data")):
        for wanted, expected in ((False, place.rewards["truthfulness"]), (True, _sigmoids(place.rewards["truthfulness"]))):
            answer = _post(place, path, model="truthfulness", input=place.templated, use_activation=wanted)
            close([one[values][0] for one in answer["data"]], expected)


def _softmax(place: Place) -> None:
    answer = _post(place, "/pooling", model="truthfulness", input=place.templated, softmax=False)
    close([one["data"][0] for one in answer["data"]], place.rewards["truthfulness"])


def _encoding_format(place: Place) -> None:
    answer = _post(place, "/pooling", model="truthfulness", input=place.templated, encoding_format="base64")
    found = [struct.unpack("<f", base64.b64decode(one["data"]))[0] for one in answer["data"]]
    close(found, place.rewards["truthfulness"])


def _score(place: Place) -> None:
    expected = _sigmoids(place.rewards["truthfulness"])
    named = (("queries", "documents"), ("text_1", "text_2"))
    for query, document in named:
        body = {query: place.prompts, document: place.responses}
        answer = _post(place, "/v1/score", model="truthfulness", **body)
        equal({one["object"] for one in answer["data"]}, {"score"})
        close([one["score"] for one in answer["data"]], expected)
        one = _post(place, "/v1/score", model="truthfulness", **{query: place.prompts[0], document: place.responses[0]})
        close([one["data"][0]["score"]], expected[:1])


CLIENT = Client(
    name="vLLM's documented requests",
    package="requests",
    requirements=("requests>=2.31,<3",),
    checks=(
        Check("`/v1/models`, then `/pooling` with the first model's name", _model_from_list),
        Check("`/pooling` with messages whose content is a list of parts", _messages),
        Check("`/classify` with several inputs", _classify),
        Check("`/tokenize`, then `/classify` with the token ids", _token_ids),
        Check("`use_activation` true and false, `/classify` and `/pooling`", _use_activation),
        Check("`softmax: false`, the earlier name of `use_activation`", _softmax),
        Check('`encoding_format: "base64"`', _encoding_format),
        Check("`/v1/score` with `queries` and `documents`, and with `text_1` and `text_2`", _score),
    ),
    note="the requests of its examples; vLLM itself, which needs a GPU, was not installed",
)
