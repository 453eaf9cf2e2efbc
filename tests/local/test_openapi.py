"""Whatever the server's own description admits, and much it does not: an answer in its shape, never a 5xx or a hang."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks

from drone_ft.local import weights
from drone_ft.local.engine import Engine
from tests.local.test_server import BASE, Running
from tests.local.tiny import make_tiny_model

SECONDS = 20
CHECKS = [checks.not_a_server_error, checks.response_schema_conformance]
SETTINGS = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a real engine: what it is asked ends up in grammars and chat templates."""
    folder = make_tiny_model(tmp_path_factory.mktemp("model") / BASE)
    workspace = tmp_path_factory.mktemp("workspace")
    engine = Engine(workspace / "engine" / "models", weights.Source(BASE, str(folder), "folder"))
    with Running(workspace, engine=engine) as running:
        yield running


@pytest.fixture
def description(server: Running) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_no_request_breaks_the_server(server: Running, description: schemathesis.BaseSchema) -> None:
    job = server.tune()
    ids = {"files": job.training_file, "fine_tuning": job.id}  # nobody guesses those

    def is_answered(case: schemathesis.Case) -> None:
        for name in case.path_parameters:
            case.path_parameters[name] = ids.get(case.path.split("/")[2], case.path_parameters[name])
        case.validate_response(case.call(timeout=SECONDS), checks=CHECKS)

    operations = [found.ok() for found in description.get_all_operations()]
    # what deletes comes last: there is something to look at until then
    for operation in sorted(operations, key=lambda one: one.method == "delete"):
        SETTINGS(given(case=operation.as_strategy())(is_answered))()


def test_the_description_names_every_route(server: Running, description: schemathesis.BaseSchema) -> None:
    described = {(path, method) for path, methods in description.raw_schema["paths"].items() for method in methods}
    routed = {
        (route.path.replace(":path", ""), method.lower())
        for route in server.app.routes
        for method in route.methods - {"HEAD"}
    }
    assert described == routed
