"""Whatever the OpenAPI page allows, the server answers as that page says and never breaks."""

from __future__ import annotations

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from sparserm.integrations.server.app import create_app

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
POSTED = (
    *("/score", "/compare", "/explain", "/get_reward", "/predict", "/rerank"),
    *("/classify", "/pooling", "/v1/score", "/v1/rerank", "/v2/rerank", "/tokenize", "/"),
)
READ = ("/health", "/info", "/metrics", "/v1/models")


@pytest.fixture(scope="module")
def client(models, limits):
    with TestClient(create_app(models, limits=limits), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def described(client):
    return schemathesis.openapi.from_dict(client.get("/openapi.json").json())


def test_every_path_is_tried(described) -> None:
    assert set(described) == {*POSTED, *READ}


@pytest.mark.parametrize(("path", "method"), [*((path, "POST") for path in POSTED), *((path, "GET") for path in READ)])
def test_answers_are_as_described(described, client, path, method) -> None:
    @given(case=described[path][method].as_strategy())
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def check(case) -> None:
        asked = case.as_transport_kwargs(base_url=str(client.base_url))
        case.validate_response(client.request(**asked), checks=CHECKS)

    check()
