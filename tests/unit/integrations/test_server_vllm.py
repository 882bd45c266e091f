"""vLLM's requests are answered as vLLM documents them; parameters that would change a score are never ignored."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from fastapi.testclient import TestClient
from scipy.special import expit

from sparserm.integrations.server.app import create_app

PROMPT, RESPONSES = "How do I boil an egg?", ["please boil it", "go away", "never"]
TEMPLATED = [f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n{one}<|im_end|>" for one in RESPONSES]
LONG = "a " * 700  # more than the context


@pytest.fixture(scope="module")
def client(models, limits):
    with TestClient(create_app(models, limits=limits)) as client:
        yield client


@pytest.fixture(scope="module")
def expected(models):
    return models["mean"].score([PROMPT] * 3, RESPONSES)


def _ok(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


def _probs(client, **parameters):
    found = _ok(client.post("/classify", json={"input": TEMPLATED, **parameters}))
    return [one["probs"][0] for one in found["data"]]


@pytest.mark.parametrize("name", ["use_activation", "softmax", "activation"])
def test_classify_gives_the_probability_or_the_reward_itself(client, expected, name):
    assert _probs(client) == _probs(client, **{name: True}) == _probs(client, **{name: None})
    assert _probs(client) == pytest.approx(list(expit(expected)), abs=1e-5)
    assert _probs(client, **{name: False}) == pytest.approx(list(expected), abs=1e-5)


def test_names_of_use_activation_that_disagree_are_refused(client):
    answer = client.post("/classify", json={"input": TEMPLATED, "use_activation": False, "softmax": True})
    assert answer.status_code == 422 and "say different things" in answer.json()["error"]["message"]


def _pooled(client, **parameters):
    return client.post("/pooling", json={"input": TEMPLATED, "task": "classify", **parameters})


def test_pooling_gives_the_reward_or_its_sigmoid(client, expected):
    for parameters, values in (
        ({}, expected),
        ({"use_activation": False}, expected),
        ({"use_activation": True}, expit(expected)),
    ):
        found = _ok(_pooled(client, **parameters))
        assert [one["data"] for one in found["data"]] == [[pytest.approx(value, abs=1e-5)] for value in values]
        assert found["model"] == "mean" and found["object"] == "list"


@pytest.mark.parametrize(("endianness", "kind"), [("native", "=f4"), ("little", "<f4"), ("big", ">f4")])
def test_pooling_writes_numbers_as_bytes(client, expected, endianness, kind):
    rewards = expected.astype("f4").tolist()
    found = _ok(_pooled(client, encoding_format="base64", endianness=endianness))
    values = [np.frombuffer(base64.b64decode(one["data"]), kind).tolist() for one in found["data"]]
    assert values == [[pytest.approx(reward, abs=1e-5)] for reward in rewards]
    answer = _pooled(client, encoding_format="bytes", endianness=endianness)
    assert answer.headers["content-type"] == "application/octet-stream"
    about = json.loads(answer.headers["metadata"])
    assert [one["index"] for one in about["data"]] == [0, 1, 2] and about["usage"]["prompt_tokens"] > 0
    for one, reward in zip(about["data"], rewards, strict=True):
        value = np.frombuffer(answer.content[one["start"] : one["end"]], kind).reshape(one["shape"])
        assert value.tolist() == [pytest.approx(reward, abs=1e-5)] and one["endianness"] == endianness
    bare = _pooled(client, encoding_format="bytes_only", endianness=endianness)
    assert bare.content == answer.content and "metadata" not in bare.headers


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_pairs_are_scored_one_to_one_and_one_to_many(client, models, expected, path):
    for a, b in (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2")):
        for prompts in (PROMPT, [PROMPT], [PROMPT] * 3):
            found = _ok(client.post(path, json={"model": "mean", a: prompts, b: RESPONSES, "encoding_format": "float"}))
            assert [one["index"] for one in found["data"]] == [0, 1, 2]
            assert {one["object"] for one in found["data"]} == {"score"}
            assert [one["score"] for one in found["data"]] == pytest.approx(list(expit(expected)), abs=1e-5)
    raw = _ok(client.post(path, json={"text_1": PROMPT, "text_2": RESPONSES[1], "use_activation": False}))
    assert [one["score"] for one in raw["data"]] == pytest.approx([expected[1]], abs=1e-5)
    other = _ok(client.post(path, json={"model": "last", "text_1": PROMPT, "text_2": RESPONSES[1], "use_activation": False}))
    assert other["data"][0]["score"] == pytest.approx(models["last"].score(PROMPT, RESPONSES[1])[0], abs=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        {"queries": [PROMPT] * 2, "documents": RESPONSES},
        {"queries": PROMPT, "documents": []},
        {"queries": PROMPT},
        {"queries": PROMPT, "text_2": RESPONSES},
        {"queries": PROMPT, "documents": RESPONSES, "text_1": PROMPT},
        {"queries": {"content": []}, "documents": RESPONSES},
    ],
)
def test_pairs_that_do_not_fit_are_refused(client, body):
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == 422 and "sparserm" not in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_are_ranked_as_jina_and_cohere_do(client, expected, path):
    order = np.argsort(-expected).tolist()
    found = _ok(client.post(path, json={"model": "mean", "query": PROMPT, "documents": RESPONSES}))
    assert [one["index"] for one in found["results"]] == order
    assert [one["document"]["text"] for one in found["results"]] == [RESPONSES[i] for i in order]
    scores = [one["relevance_score"] for one in found["results"]]
    assert scores == pytest.approx([expit(expected[i]) for i in order], abs=1e-5)
    short = _ok(client.post(path, json={"query": PROMPT, "documents": RESPONSES, "top_n": 2, "return_documents": False}))
    assert [list(one) for one in short["results"]] == [["index", "relevance_score"]] * 2


def test_token_ids_are_texts(client, models, expected):
    encode = models["mean"].backbone.chat.tokenizer
    ids = [encode(text, add_special_tokens=False)["input_ids"] for text in TEMPLATED]
    for text, own in zip(TEMPLATED, ids, strict=True):
        found = _ok(client.post("/tokenize", json={"model": "mean", "prompt": text}))
        assert (found["tokens"], found["count"]) == (own, len(own))
    for given, rewards in ((ids, expected), (ids[1], expected[1:2])):
        found = _ok(client.post("/pooling", json={"input": given}))
        assert [one["data"][0] for one in found["data"]] == pytest.approx(list(rewards), abs=1e-5)
    for wrong in (-1, 10**30):
        answer = client.post("/pooling", json={"input": [[wrong]]})
        assert answer.status_code == 422 and "expected ids from 0 to" in answer.json()["error"]["message"]


def test_errors_on_vllms_paths_have_the_form_that_openais_client_reads(client, models):
    answer = client.post("/v1/score", json={"model": "other", "queries": PROMPT, "documents": RESPONSES})
    error = answer.json()["error"]
    assert answer.status_code == 404 and "expected one of mean, last" in error.pop("message")
    assert error == {"type": "not_found", "param": None, "code": 404} and answer.json()["error_type"] == "not_found"
    with TestClient(create_app(models, api_key="secret")) as locked:
        for path in ("/pooling", "/v1/models"):
            assert "Authorization: Bearer KEY" in locked.get(path).json()["error"]["message"]
        assert "Authorization: Bearer KEY" in locked.get("/info").json()["error"]


def test_the_heads_are_listed_as_models(client, models):
    found = _ok(client.get("/v1/models"))
    assert found["object"] == "list" and [one["id"] for one in found["data"]] == ["mean", "last"]
    assert {one["max_model_len"] for one in found["data"]} == {models["mean"].backbone.chat.max_length}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *[
            (path, {"input": TEMPLATED, **parameter})
            for path in ("/classify", "/pooling")
            for parameter in (
                {"chat_template": "{{ messages }}"},
                {"add_generation_prompt": True},
                {"continue_final_message": True},
                {"chat_template_kwargs": {"x": 1}},
                {"priority": 1},
                {"truncate_prompt_tokens": 10},
                {"truncate_prompt_tokens": -2},
                {"normalize": True},
                {"something_new": 0},
            )
        ],
        ("/pooling", {"input": TEMPLATED, "task": "embed"}),
        ("/pooling", {"input": TEMPLATED, "task": "token_classify"}),
        ("/pooling", {"input": TEMPLATED, "dimensions": 2}),
        ("/pooling", {"input": TEMPLATED, "embed_dtype": "float16"}),
        ("/classify", {"input": TEMPLATED, "encoding_format": "base64"}),
        ("/v1/score", {"queries": PROMPT, "documents": RESPONSES, "instruction": "Rank."}),
        ("/v1/rerank", {"query": PROMPT, "documents": RESPONSES, "max_tokens_per_doc": 5}),
        ("/rerank", {"query": PROMPT, "documents": RESPONSES, "top_n": -1}),
        ("/rerank", {"query": PROMPT, "texts": RESPONSES, "top_n": 1}),
        ("/predict", {"inputs": TEMPLATED[0], "parameters": {"function_to_apply": "softmax"}}),
    ],
)
def test_parameters_that_change_a_score_are_refused_by_name(client, path, body):
    answer = client.post(path, json=body)
    name = list(body)[-1]
    assert answer.status_code == 422 and name in str(answer.json()["error"]), answer.text


@pytest.mark.parametrize("path", ["/classify", "/pooling"])
def test_parameters_that_change_nothing_are_accepted(client, path):
    plain = _ok(client.post(path, json={"input": TEMPLATED}))["data"]
    harmless = {
        "user": "me",
        "request_id": "mine",
        "cache_salt": "x",
        "priority": 0,
        "add_special_tokens": False,
        "chat_template": None,
        "add_generation_prompt": False,
        "mm_processor_kwargs": {},
        "truncate_prompt_tokens": -1,
    }
    found = _ok(client.post(path, json={"input": TEMPLATED, **harmless}))
    assert found["data"] == plain and found["id"].endswith("-mine")


# ---------------------------------------------------------------------------------------------------- texts that are cut


def _said(answer):
    return answer.headers["x-sparserm-truncated"]


def test_our_own_paths_say_how_many_tokens_were_cut(client):
    answer = client.post("/score", json={"prompts": PROMPT, "responses": [LONG, "go away", ""]})
    cut = _ok(answer)["tokens_cut"]
    assert cut[0] > 0 and cut[1:] == [0, 0] and _said(answer) == "1"
    answer = client.post("/compare", json={"prompt": PROMPT, "responses": ["go away", LONG]})
    assert _ok(answer)["tokens_cut"] == [0, cut[0]] and _said(answer) == "1"
    answer = client.post("/explain", json={"prompt": PROMPT, "response": "go away"})
    assert _ok(answer)["tokens_cut"] == 0 and _said(answer) == "0"
    answer = client.post("/get_reward", json={"query": [PROMPT + LONG, PROMPT + "no"], "prompts": [PROMPT] * 2})
    assert _ok(answer)["extra_logs"]["tokens_cut"] == [cut[0], 0] and _said(answer) == "1"
    refused = client.post("/score", json={"prompts": PROMPT, "responses": "x"})
    assert "x-sparserm-truncated" not in refused.headers  # nothing was read


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/pooling", {"messages": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": LONG}]}),
        ("/v1/score", {"queries": PROMPT, "documents": [LONG, "no"]}),
        ("/v1/rerank", {"query": PROMPT, "documents": [LONG, "no"]}),
    ],
)
def test_vllms_paths_cut_only_if_asked_to(client, path, body):
    answer = client.post(path, json=body)
    assert (
        answer.status_code == 422 and "truncate_prompt_tokens: -1" in answer.json()["error"]["message"] and _said(answer) == "1"
    )
    for asked in ({"truncate_prompt_tokens": -1}, {"truncate_prompt_tokens": 10_000, "truncation_side": "left"}):
        answer = client.post(path, json={**body, **asked})
        assert _ok(answer) and _said(answer) == "1"
    answer = client.post(path, json={**body, "truncate_prompt_tokens": -1, "truncation_side": "right"})
    assert answer.status_code == 422 and "expected left" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"), [("/predict", {"inputs": [PROMPT, LONG]}), ("/rerank", {"query": PROMPT, "texts": [LONG, "no"]})]
)
def test_teis_paths_cut_unless_forbidden(client, path, body):
    for asked in ({}, {"truncate": True}, {"truncate": None, "truncation_direction": "left"}):
        answer = client.post(path, json={**body, **asked})
        assert _ok(answer) and _said(answer) == "1"
    answer = client.post(path, json={**body, "truncate": False})
    assert answer.status_code == 422 and answer.json()["error_type"] == "validation" and "truncate: true" in answer.text
    answer = client.post(path, json={**body, "truncation_direction": "right"})
    assert answer.status_code == 422 and "expected left" in answer.json()["error"]


def test_the_hubs_client_asks_for_rewards_by_function_to_apply(client, expected):
    for parameters, score in (({}, expit(expected[0])), ({"function_to_apply": "none", "top_k": 1}, expected[0])):
        found = _ok(client.post("/predict", json={"inputs": TEMPLATED[0], "parameters": parameters}))
        assert found[0][0]["score"] == pytest.approx(score, abs=1e-5)
