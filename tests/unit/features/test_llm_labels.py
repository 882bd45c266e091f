"""Labels from an endpoint, against a server on this machine: what is sent, what is made of answers, and of none."""

from __future__ import annotations

import json
import time

import pytest

from sparserm.features import llm_labels
from sparserm.features.auto_labels import Unlabelled, label_features
from sparserm.features.llm_labels import KEY, MODEL, MOST_JUDGED, URL, Endpoint, EndpointLabeller, configured_endpoint
from sparserm.heads.labels import MAX_LENGTH, AutoLabel
from sparserm.types import SparseRMError
from tests.unit.features.fake_endpoint import FakeServer, knows_sorry
from tests.unit.features.world import CHANCE, DATA, FIRING, RARE, REPRESENTED, SORRY, TEXTS


def _label(server: FakeServer, feature: int = SORRY, key: str = "") -> AutoLabel:
    labeller = EndpointLabeller(Endpoint(server.url, "tiny-llm", key))
    return dict(label_features([feature], DATA, REPRESENTED, TEXTS, labeller, FIRING))[feature]


def test_a_description_is_judged_by_the_model_and_kept_with_its_prompt(serve) -> None:
    server = serve(knows_sorry)
    label = _label(server, key="secret")
    assert (label.text, label.source) == ("apologies, made politely", "tiny-llm")
    assert label.detection.accuracy == 1 and label.detection.n == MOST_JUDGED
    assert label.terms == ("“sorry”",)
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert body["model"] == "tiny-llm" and body["messages"][0]["content"] == label.prompt
    assert len(server.requests) == 1 + MOST_JUDGED // 10


def test_the_texts_that_judge_are_not_shown_before_and_the_judge_sees_the_label_alone(serve) -> None:
    server = serve(knows_sorry)
    _label(server)
    first, *rest = (body["messages"][0]["content"] for _, _, body in server.requests)
    shown = [text for text in TEXTS.texts if f'"{text}"' in first]
    judged = [text for text in TEXTS.texts if any(f'"{text}"' in prompt for prompt in rest)]
    assert len(shown) == 16 and len(judged) == MOST_JUDGED and not set(shown) & set(judged)
    assert sum("sorry" in text for text in shown) == 8
    assert all("apologies, made politely" in prompt and "“sorry”" not in prompt for prompt in rest)


def test_no_key_no_header(serve) -> None:
    server = serve(knows_sorry)
    _label(server)
    assert "Authorization" not in server.requests[0][1]


def test_where_data_is_insufficient_nothing_is_asked(serve) -> None:
    server = serve(knows_sorry)
    assert _label(server, RARE).reason.startswith("fires in 3 of") and server.requests == []


def test_a_description_that_predicts_nothing_is_not_shown(serve) -> None:
    label = _label(serve(knows_sorry), CHANCE)
    assert label.text is None and "apologies" in label.reason and label.prompt


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('{"label": null}', "found nothing"),
        ('{"label": "  "}', "found nothing"),
        ('{"label": 3}', "found nothing"),
        ("I think it is apologies.", "the endpoint answered I think it is apologies."),
        ("{apologies}", "the endpoint answered {apologies}"),
        ("[1]", "the endpoint answered [1]"),
    ],
)
def test_an_answer_without_a_label_leaves_the_feature_unlabelled(serve, answer: str, reason: str) -> None:
    label = _label(serve(lambda _: answer))
    assert label.text is None and reason in label.reason and label.source == "tiny-llm"


def test_a_judge_that_gives_no_numbers_leaves_the_feature_unlabelled(serve) -> None:
    label = _label(serve(lambda prompt: '{"active": "all"}' if "numbered" in prompt else knows_sorry(prompt)))
    assert label.text is None and "expected a list of numbers" in label.reason


def test_a_long_description_is_cut_to_a_labels_length(serve) -> None:
    label = _label(serve(lambda prompt: knows_sorry(prompt) if "numbered" in prompt else json.dumps({"label": "x" * 500})))
    assert len(label.text) == MAX_LENGTH and label.text.endswith("…")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, "out of memory"), "answered 500 Internal Server Error: out of memory; check the address"),
        ((401, "no key"), f"answered 401 Unauthorized: no key.*{KEY}"),
        ((302, ""), "answered 302"),
        ((200, "<html>hello</html>"), "answered <html>hello</html>; expected a chat completion"),
        ((200, '{"choices": []}'), "expected a chat completion"),
        ((200, "[]"), "expected a chat completion"),
    ],
)
def test_a_server_that_does_not_answer_as_one_stops_the_work_and_says_why(serve, answer, message: str) -> None:
    server = serve(lambda _: answer)
    with pytest.raises(SparseRMError, match=message) as error:
        _label(server)
    assert not isinstance(error.value, Unlabelled) and len(server.requests) == 1


def test_a_server_that_takes_too_long_is_given_up(serve, monkeypatch) -> None:
    monkeypatch.setattr(llm_labels, "TIMEOUT_S", 0.1)

    def slow(prompt: str) -> str:
        time.sleep(0.4)
        return knows_sorry(prompt)

    with pytest.raises(SparseRMError, match=r"no answer in 0\.1 s"):
        _label(serve(slow))


def test_a_server_that_is_not_there_is_named(serve) -> None:
    server = serve(knows_sorry)
    server.close()
    with pytest.raises(SparseRMError, match=r"127\.0\.0\.1.* cannot be reached"):
        _label(server)


def test_nothing_is_configured_unless_the_user_does() -> None:
    assert configured_endpoint(environment={}) is None
    assert configured_endpoint(environment={KEY: "secret"}) is None
    found = configured_endpoint(environment={URL: "http://there/v1", MODEL: "a", KEY: "secret"})
    assert found == Endpoint("http://there/v1", "a", "secret")
    assert configured_endpoint("https://here/v1", "b", {URL: "http://there/v1", MODEL: "a"}) == Endpoint("https://here/v1", "b")


@pytest.mark.parametrize(
    ("url", "model", "message"),
    [("http://there/v1", "", "without a model"), ("", "a", "without an address"), ("file:///etc/passwd", "a", "http://")],
)
def test_half_an_endpoint_is_refused(url: str, model: str, message: str) -> None:
    with pytest.raises(SparseRMError, match=message):
        configured_endpoint(url, model, {})
