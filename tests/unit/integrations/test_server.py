"""The server speaks each client's language, gives the model's own rewards, and refuses what it cannot do in words."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from scipy.special import expit

from sparserm.heads.reward import reward_margins
from sparserm.integrations.server.app import create_app
from sparserm.integrations.trl import SparseRMReward
from sparserm.model import SparseRM
from sparserm.pairs.parsing import parse_pairs
from sparserm.types import SparseRMError

PROMPT, RESPONSES = "How do I boil an egg?", ["please boil it", "go away", "never"]
TEMPLATED = [f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n{one}<|im_end|>" for one in RESPONSES]


@pytest.fixture
def client(models, limits):
    with TestClient(create_app(models, limits=limits)) as client:
        yield client


@pytest.fixture
def expected(models):
    return models["mean"].score([PROMPT] * 3, RESPONSES)


def _ok(answer: httpx.Response):
    assert answer.status_code == 200, answer.text
    return answer.json()


# ----------------------------------------------------------------------------------------------------------- our paths


def test_score_gives_the_models_rewards_and_what_they_are_made_of(client, models, expected):
    for prompts in (PROMPT, [PROMPT] * 3, [{"role": "user", "content": PROMPT}]):
        found = _ok(client.post("/score", json={"prompts": prompts, "responses": RESPONSES}))
        np.testing.assert_allclose(found["rewards"], expected, atol=1e-5)
    np.testing.assert_allclose(np.sum(found["contributions"], 1) + found["bias"], expected, atol=1e-5)
    assert found["features"] == models["mean"].head.features.tolist() and found["head"] == "mean"


@pytest.mark.parametrize("written", ["{} ", "\n{}", " \t{}\n\n"])
def test_white_space_around_a_response_changes_no_reward_on_any_path(client, models, expected, written):
    model, texts = models["mean"], [written.format(one) for one in RESPONSES]
    marked = [f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n{one}<|im_end|>" for one in texts]
    pairs = parse_pairs([{"prompt": PROMPT, "chosen": texts[0], "rejected": one} for one in texts[1:]])
    messages = [[{"role": "assistant", "content": one}] for one in texts]

    def ask(path, **body):
        return _ok(client.post(f"/{path}", json=body))

    read = {
        "score": ask("score", prompts=PROMPT, responses=texts)["rewards"],
        "messages": ask("score", prompts=PROMPT, responses=messages)["rewards"],
        "compare": ask("compare", prompt=PROMPT, responses=texts)["rewards"],
        "explain": [ask("explain", prompt=PROMPT, response=one)["reward"] for one in texts],
        "openrlhf": ask("get_reward", query=marked)["rewards"],
        "openrlhf, prompts": ask("get_reward", query=[PROMPT + one for one in texts], prompts=[PROMPT] * 3)["rewards"],
        "vllm": [one["data"][0] for one in ask("pooling", input=marked)["data"]],
        "vllm, pairs": [one["score"] for one in ask("v1/score", queries=PROMPT, documents=texts, use_activation=False)["data"]],
        "tei": [one[0]["score"] for one in ask("predict", inputs=[[PROMPT, one] for one in texts], raw_scores=True)],
        "python": model.score([PROMPT] * 3, texts),
        "python, compare": model.compare(PROMPT, texts).rewards,
        "python, explain": [model.explain(PROMPT, one).reward for one in texts],
        "trl": SparseRMReward(model)([PROMPT] * 3, texts),
        "trl, messages": SparseRMReward(model)([[{"role": "user", "content": PROMPT}]] * 3, messages),
    }
    for path, rewards in read.items():
        assert list(rewards) == pytest.approx(list(expected), abs=1e-5), path
    margins = reward_margins(model.head, model.represent(pairs))
    assert list(margins) == pytest.approx([expected[0] - expected[1], expected[0] - expected[2]], abs=1e-5)


def test_several_heads_stand_behind_one_server(client, models):
    found = _ok(client.post("/score", json={"prompts": PROMPT, "responses": RESPONSES, "head": "last"}))
    np.testing.assert_allclose(found["rewards"], models["last"].score([PROMPT] * 3, RESPONSES), atol=1e-5)
    answer = client.post("/score", json={"prompts": PROMPT, "responses": RESPONSES, "head": "other"})
    assert answer.status_code == 404 and "expected one of mean, last" in answer.json()["error"]


def test_compare_and_explain_are_the_models(client, models):
    found = _ok(client.post("/compare", json={"prompt": PROMPT, "responses": RESPONSES}))
    own = models["mean"].compare(PROMPT, RESPONSES)
    assert found["ranking"] == list(own.ranking) and found["margin"] == pytest.approx(own.margin, abs=1e-5)
    found = _ok(client.post("/explain", json={"prompt": PROMPT, "response": RESPONSES[0], "head": "last"}))
    own = models["last"].explain(PROMPT, RESPONSES[0])
    assert found["reward"] == pytest.approx(own.reward, abs=1e-5) and found["tokens"] == list(own.tokens)
    assert sum(part["contribution"] for part in found["contributions"]) + found["bias"] == pytest.approx(found["reward"])


# ------------------------------------------------------------------------------------------------------ others' paths


def test_openrlhf_gets_rewards_of_what_its_policy_saw(client, models, expected):
    for query in (TEMPLATED, [f"{PROMPT} {one}</s>" for one in RESPONSES]):
        prompts = [one[: one.index(RESPONSES[i])].rstrip(" ") for i, one in enumerate(query)]
        found = _ok(client.post("/get_reward", json={"query": query, "prompts": prompts, "labels": [None] * 3}))
        np.testing.assert_allclose(found["rewards"], expected, atol=1e-5)
    assert found["scores"] == pytest.approx([models["mean"].percentile(reward) for reward in expected], abs=1e-3)
    assert found["extra_logs"].pop("tokens_cut") == [0, 0, 0]
    columns = np.array(list(found["extra_logs"].values()))
    np.testing.assert_allclose(columns.sum(0) + models["mean"].head.bias, expected, atol=1e-5)
    assert _ok(client.post("/get_reward", json={"query": [], "prompts": []})) == {"rewards": [], "scores": [], "extra_logs": {}}
    assert client.post("/get_reward", json={"query": TEMPLATED, "prompts": ["x"]}).status_code == 422


def test_vllms_clients_get_rewards(client, expected):
    found = _ok(client.post("/pooling", json={"model": "mean", "input": TEMPLATED}))
    assert [one["data"][0] for one in found["data"]] == pytest.approx(list(expected), abs=1e-5)
    assert [one["index"] for one in found["data"]] == [0, 1, 2] and found["usage"]["prompt_tokens"] > 0
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": RESPONSES[1]}]
    found = _ok(client.post("/classify", json={"messages": messages}))
    assert found["data"][0]["probs"] == pytest.approx([expit(expected[1])], abs=1e-5)
    assert found["data"][0]["num_classes"] == 1
    assert client.post("/classify", json={"model": "mean"}).status_code == 422
    assert client.post("/pooling", json={"model": "other", "input": TEMPLATED}).status_code == 404
    assert _ok(client.post("/pooling", json={"input": []}))["data"] == []


def test_teis_clients_get_scores(client, expected):
    for inputs, scores in ((TEMPLATED[0], expected[0]), ([PROMPT, RESPONSES[1]], expected[1])):
        found = _ok(client.post("/predict", json={"inputs": inputs, "raw_scores": True}))
        assert [one["score"] for one in found] == pytest.approx([scores], abs=1e-5)
    batch = [[PROMPT, one] for one in RESPONSES]
    found = _ok(client.post("/predict", json={"inputs": batch}))
    assert [one[0]["score"] for one in found] == pytest.approx(list(expit(expected)), abs=1e-5)
    found = _ok(client.post("/rerank", json={"query": PROMPT, "texts": RESPONSES, "raw_scores": True, "return_text": True}))
    assert [one["index"] for one in found] == np.argsort(-expected).tolist()
    assert [one["text"] for one in found] == [RESPONSES[one["index"]] for one in found]
    assert [one["score"] for one in found] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


@pytest.mark.parametrize("path", ["/", "/predict"])
def test_the_hubs_client_gets_a_list_for_one_text_and_the_function_that_it_asks_for(client, expected, path):
    for parameters, score in (({}, expit(expected[0])), ({"function_to_apply": "none"}, expected[0])):
        ((found,),) = _ok(client.post(path, json={"inputs": TEMPLATED[0], "parameters": parameters}))
        assert found == {"score": pytest.approx(score, abs=1e-5), "label": "reward"}
    answer = client.post(path, json={"inputs": TEMPLATED[0], "parameters": {"function_to_apply": "softmax"}})
    assert answer.status_code == 422 and "'sigmoid' or 'none'" in answer.json()["error"]


# -------------------------------------------------------------------------------------------------------- gated heads


@pytest.fixture
def mixed(models, gated, limits):
    """A client of a server with gated heads and one on projections, which reads at the same place."""
    with TestClient(create_app({**gated, "mean": models["mean"]}, limits=limits)) as client:
        yield client


@pytest.mark.parametrize("name", ["gated-mean", "gated-last", "mean"])
def test_gated_heads_and_others_behind_one_server_keep_their_rewards(mixed, models, gated, name):
    model = {**gated, **models}[name]
    expected = model.score([PROMPT] * 3, RESPONSES)
    assert len(set(expected.round(6))) > 1
    found = _ok(mixed.post("/score", json={"prompts": PROMPT, "responses": ["", *RESPONSES], "head": name}))
    np.testing.assert_allclose(found["rewards"], [model.saved.least_reward, *expected], atol=1e-5)
    np.testing.assert_allclose(np.sum(found["contributions"], 1)[1:] + found["bias"], expected, atol=1e-5)
    assert len(found["labels"]) == len(found["detections"]) == len(found["features"])
    if name == "mean":
        assert found["fires"] is None
    else:
        np.testing.assert_array_equal(np.array(found["contributions"]) != 0, found["fires"])
    found = _ok(mixed.post("/compare", json={"prompt": PROMPT, "responses": RESPONSES, "head": name}))
    np.testing.assert_allclose(found["rewards"], expected, atol=1e-5)
    found = _ok(mixed.post("/explain", json={"prompt": PROMPT, "response": RESPONSES[0], "head": name}))
    assert found["reward"] == pytest.approx(expected[0], abs=1e-5)
    assert found["score"] == model.head.score and len(found["contributions"]) == len(model.head.features)
    for part in found["contributions"]:
        assert {"fires", "activation", "label", "detection"} <= set(part) and part["detection"] is None
        assert part["family"] == model.head.family(part["feature"])[0]
        if name == "mean":
            assert part["fires"] is None and part["activation"] is None
        else:
            assert part["fires"] == (part["contribution"] != 0)
    found = _ok(mixed.post("/pooling", json={"model": name, "input": TEMPLATED}))
    assert [one["data"][0] for one in found["data"]] == pytest.approx(list(expected), abs=1e-5)
    found = _ok(mixed.post("/classify", json={"model": name, "input": TEMPLATED}))
    assert [one["probs"][0] for one in found["data"]] == pytest.approx(list(expit(expected)), abs=1e-5)


def test_a_gated_default_head_speaks_openrlhf_and_tei(mixed, gated):
    model = gated["gated-mean"]
    expected = model.score([PROMPT] * 3, RESPONSES)
    prompts = [one[: one.index(RESPONSES[i])] for i, one in enumerate(TEMPLATED)]
    found = _ok(mixed.post("/get_reward", json={"query": TEMPLATED, "prompts": prompts}))
    np.testing.assert_allclose(found["rewards"], expected, atol=1e-5)
    assert found["extra_logs"].pop("tokens_cut") == [0, 0, 0]
    np.testing.assert_allclose(np.array(list(found["extra_logs"].values())).sum(0) + model.head.bias, expected, atol=1e-5)
    found = _ok(mixed.post("/predict", json={"inputs": [[PROMPT, one] for one in RESPONSES], "raw_scores": True}))
    assert [one[0]["score"] for one in found] == pytest.approx(list(expected), abs=1e-5)
    found = _ok(mixed.post("/rerank", json={"query": PROMPT, "texts": RESPONSES, "raw_scores": True}))
    assert [one["score"] for one in found] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
    assert [head["score"] for head in _ok(mixed.get("/info"))["heads"]] == ["gated", "gated", "projection"]


# ------------------------------------------------------------------------------------------------------------- faults


def test_an_empty_response_has_the_least_reward_and_others_keep_theirs(client, models, expected):
    found = _ok(client.post("/score", json={"prompts": PROMPT, "responses": ["", *RESPONSES, " \n"]}))
    least = models["mean"].saved.least_reward
    assert found["rewards"] == pytest.approx([least, *expected, least], abs=1e-5)


def test_special_tokens_in_a_text_are_text(client, models):
    text = "go <|im_end|>\n<|im_start|>user\naway"
    found = _ok(client.post("/score", json={"prompts": PROMPT, "responses": [text]}))
    assert found["rewards"] == pytest.approx(list(models["mean"].score(PROMPT, text)), abs=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/score", b"{", 422, "see /docs"),
        ("/score", b"[]", 422, "see /docs"),
        ("/score", {"prompts": PROMPT}, 422, "responses"),
        ("/score", {"prompts": [PROMPT] * 2, "responses": RESPONSES}, 422, "got 2 prompts and 3 responses"),
        ("/score", {"prompts": "", "responses": ["x"]}, 422, "prompt"),
        ("/score", {"prompts": PROMPT, "responses": ["\ud800"]}, 422, ""),
        ("/score", {"prompts": PROMPT, "responses": ["x"] * 9}, 413, "expected 8 at most"),
        ("/score", {"prompts": PROMPT, "responses": ["x" * 3000]}, 413, "expected 2,000 at most"),
        ("/score", {"prompts": PROMPT, "responses": ["x" * 1_000_000]}, 413, "more than 20,000 bytes"),
        ("/compare", {"prompt": PROMPT, "responses": ["x"]}, 422, "two or more"),
        ("/predict", {"inputs": ["a", "b", "c"]}, 422, "has 3 texts"),
        ("/get_reward", {"query": [TEMPLATED[0], "no marks at all"]}, 422, "query 2 of 2: "),
        ("/get_reward", {"query": [PROMPT + "\ud800"], "prompts": [PROMPT]}, 422, "broken Unicode"),
        ("/get_reward", {"query": ["x" * 3000], "prompts": ["x"]}, 413, "expected 2,000 at most"),
        ("/get_reward", {"query": [PROMPT] * 9, "prompts": [PROMPT] * 9}, 413, "expected 8 at most"),
        ("/predict", {"inputs": [PROMPT, "\ud800"]}, 422, "broken Unicode"),
        ("/rerank", {"query": PROMPT, "texts": ["x"] * 9}, 413, "expected 8 at most"),
        ("/score", {"prompts": [{"role": "user", "content": "x"}] * 300, "responses": ["x"]}, 413, "has 300 turns"),
        ("/nowhere", {}, 404, "see /docs"),
        ("/health", {}, 405, "see /docs"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(client, path, body, status, said):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()  # ASCII: half a character is escaped
    answer = client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"] and answer.json()["error_type"]
    assert _ok(client.post("/score", json={"prompts": PROMPT, "responses": RESPONSES}))["rewards"]  # it goes on


def test_a_key_is_asked_for_but_not_by_the_health_check(models):
    with TestClient(create_app(models, api_key="secret")) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            for path in ("/info", "/metrics", "/docs", "/openapi.json", "//metrics", "/metrics/"):
                assert client.get(path, headers=headers).status_code == 401
        assert client.get("/info", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get("/health").status_code == client.head("/health").status_code == 200


def test_it_tells_what_it_serves_and_how_it_fares(client, models):
    client.post("/score", json={"prompts": PROMPT, "responses": RESPONSES})
    client.get("/nowhere")
    info = _ok(client.get("/info"))
    assert [head["name"] for head in info["heads"]] == ["mean", "last"] and info["limits"]["texts"] == 8
    figures = client.get("/metrics").text
    assert 'sparserm_requests_total{path="/score",status="200"} 1.0' in figures
    assert 'sparserm_requests_total{path="other",status="404"} 1.0' in figures
    assert "sparserm_texts_total 3.0" in figures and "sparserm_waiting_texts 0.0" in figures
    paths = _ok(client.get("/openapi.json"))["paths"]
    assert {"/score", "/get_reward", "/classify", "/pooling", "/predict", "/rerank", "/health"} <= set(paths)


def test_no_text_is_logged_unless_that_is_asked_for(models, caplog):
    for log_texts in (False, True):
        caplog.clear()
        with caplog.at_level("DEBUG"), TestClient(create_app(models, log_texts=log_texts)) as client:
            client.post("/score", json={"prompts": PROMPT, "responses": ["a secret answer"]})
        assert ("a secret answer" in caplog.text) == log_texts


def test_heads_of_two_backbones_are_refused(models, tiny_backbone):
    from dataclasses import replace

    saved = models["mean"].saved
    other = SparseRM(replace(saved, card=replace(saved.card, backbone_fingerprint="another")))
    with pytest.raises(SparseRMError, match="2 backbones"):
        create_app({"a": models["mean"], "b": other})
    with pytest.raises(SparseRMError, match="none"):
        create_app({})


# -------------------------------------------------------------------------------------------------- a server of its own


@pytest.fixture(scope="module")
def running(models, tiny_folder, tmp_path_factory):
    """`sparserm serve` in a process; one for all tests."""
    folder = tmp_path_factory.mktemp("served")
    for name, model in models.items():
        model.save_pretrained(folder / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from sparserm.cli import main; main()", "serve", folder / "mean", folder / "last"]
    process = subprocess.Popen(
        [*map(str, command), "--port", str(port)],
        cwd=tiny_folder.parent,
        stderr=(folder / "log").open("w"),
        env={**os.environ, "SPARSERM_STORE": "off"},
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        if process.poll() is not None:
            pytest.fail((folder / "log").read_text())
        try:
            if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                break
        except httpx.HTTPError:
            time.sleep(0.1)
    yield SimpleNamespace(address=address, process=process, log=folder / "log")
    process.kill()
    process.wait()


def _ask(address: str, responses: list[str], timeout: float = 60) -> int:
    return httpx.post(f"{address}/score", json={"prompts": PROMPT, "responses": responses}, timeout=timeout).status_code


def _figure(address: str, name: str) -> float:
    lines = httpx.get(f"{address}/metrics", timeout=30).text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def test_a_request_is_a_line_of_json_on_stderr(running):
    answer = httpx.get(f"{running.address}/info", headers={"x-request-id": "mine"}, timeout=30)
    assert answer.headers["x-request-id"] == "mine"
    deadline = time.monotonic() + 30  # it is written when the answer has been sent
    while not (lines := [line for line in running.log.read_text().splitlines() if "mine" in line and line.endswith("}")]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (line,) = lines
    assert json.loads(line)["path"] == "/info" and json.loads(line)["client"] == "127.0.0.1"


def test_what_a_client_that_went_away_has_asked_is_not_computed(running):
    many = ["a " * 400 + str(i) for i in range(500)]
    with pytest.raises(httpx.TimeoutException):
        _ask(running.address, many, timeout=0.5)
    assert _ask(running.address, ["yes"]) == 200  # after the batches that had begun
    assert _figure(running.address, "sparserm_batch_texts_sum") < len(many)


def test_sigterm_lets_what_was_begun_end(running):
    """Last, since it ends the server."""
    many = ["a " * 400 + str(i) for i in range(200)]  # a second of work or more
    found: dict[str, int] = {}
    batches = _figure(running.address, "sparserm_batch_texts_count")
    first = threading.Thread(target=lambda: found.update(first=_ask(running.address, many)))
    first.start()
    deadline = time.monotonic() + 30
    while _figure(running.address, "sparserm_batch_texts_count") == batches:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.process.send_signal(signal.SIGTERM)
    first.join(60)
    assert found == {"first": 200}
    assert running.process.wait(30) in (0, -signal.SIGTERM)


THINKING, ASKED = "<think>An egg, so boil it.</think>\n\nplease boil it", "How do I boil an egg?"
TURNS = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": THINKING}]
IN_A_TEMPLATE = f"<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n{THINKING}<|im_end|>"


@pytest.mark.parametrize(
    ("path", "body", "reward"),
    [
        ("score", {"prompts": ASKED, "responses": [THINKING]}, lambda found: found["rewards"][0]),
        ("get_reward", {"query": [f"{ASKED}{THINKING}"], "prompts": [ASKED]}, lambda found: found["rewards"][0]),
        ("get_reward", {"query": [IN_A_TEMPLATE]}, lambda found: found["rewards"][0]),
        ("pooling", {"messages": TURNS}, lambda found: found["data"][0]["data"][0]),
        ("rerank", {"query": ASKED, "texts": [THINKING], "raw_scores": True}, lambda found: found[0]["score"]),
    ],
)
def test_thinking_is_left_out_and_counted_in_the_reply(client, models, path, body, reward):
    answer = client.post(f"/{path}", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-SparseRM-Thinking"] == "1"
    assert reward(answer.json()) == pytest.approx(models["mean"].score([ASKED], ["please boil it"])[0], abs=1e-5)


def test_a_response_that_only_thinks_gets_the_lowest_reward(client, models):
    body = {"prompts": ASKED, "responses": ["<think>An egg, so", "please boil it"]}
    answer = client.post("/score", json=body)
    assert answer.headers["X-SparseRM-Thinking"] == "1"
    assert answer.json()["rewards"][0] == models["mean"].saved.least_reward
