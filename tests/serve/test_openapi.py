"""The server against its own OpenAPI: what it says is what it does, also for drawn requests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS
from starlette.testclient import TestClient

from pmm.serve.serving import Serving
from pmm.serve.web.access import AccessRules
from pmm.serve.web.web_app import make_app

EXAMPLES = 12
"""Of each call."""
CALLS = [
    *("POST /recommend", "POST /recommend/batch", "GET /items", "GET /categories", "GET /users"),
    *("GET /items/{item_id}", "GET /items/{item_id}/image", "GET /items/{item_id}/similar"),
    *("PUT /items/{item_id}", "DELETE /items/{item_id}", "GET /models", "POST /models"),
    *("POST /models/rollback", "GET /health/live", "GET /health/ready"),
]


@pytest.fixture(scope="module")
def app(loaded: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    serving = Serving(tmp_path_factory.mktemp("drawn"), lambda _: loaded("first"))
    serving.start(Path("first"))

    def nothing(name: str) -> Path:
        return tmp_path_factory.getbasetemp() / "nothing" / str(len(name))

    # As from this machine, whatever the drawn calls say.
    rules = AccessRules(names=None)
    made = make_app(serving, rules, place_of=nothing)

    async def local(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["client"] = ("127.0.0.1", 5)
        await made(scope, receive, send)

    yield local
    serving.close()


@pytest.fixture(scope="module")
def schema(app: Any) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_all_calls_are_described(schema: Any) -> None:
    found = [each.ok() for each in schema.get_all_operations()]
    assert sorted(f"{each.method.upper()} {each.path}" for each in found) == sorted(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_drawn_requests_are_answered_as_the_schema_says(schema: Any, name: str) -> None:
    method, path = name.split(" ")
    operation = schema[path][method]
    checks = [
        each
        for each in CHECKS.get_all()
        if each.__name__
        in (
            "not_a_server_error",
            "status_code_conformance",
            "content_type_conformance",
            "response_headers_conformance",
            "response_schema_conformance",
            "unsupported_method",
        )
    ]
    assert len(checks) == 6
    modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def check(case: Any) -> None:
        case.call_and_validate(checks=checks)

    check()


def test_the_schema_says_what_is_refused(app: Any) -> None:
    with TestClient(app) as client:
        described = client.get("/openapi.json").json()
    body = described["components"]["schemas"]["RecommendBody"]["properties"]
    assert body["k"]["maximum"] == 1_000
    assert body["history"]["anyOf"][0]["maxItems"] == 10_000
    assert described["components"]["schemas"]["RecommendBody"]["additionalProperties"] is False
    for calls in described["paths"].values():
        for call in calls.values():
            assert {"401", "413", "422", "503", "507"} <= set(call["responses"])
