"""The OpenAPI document of the management API: complete, valid and true. schemathesis asks what it says may be asked."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from openapi_spec_validator import OpenAPIV30SpecValidator, validate
from schemathesis import GenerationMode

from headrace.server.changes import Changes
from headrace.server.looks import Looks
from headrace.server.managed import ROUTES, find
from headrace.server.options import BUNDLED_DIGITS
from headrace.server.status import MANAGING, codes_of_managing
from headrace.testing import RunningServer, run_server
from headrace.version import __version__

SEED = int(os.environ.get("SCHEMATHESIS_SEED", "20261128"))
"""Of what is asked. Printed where something is found."""
EXAMPLES = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("described")
    store = folder / "store"
    store.mkdir()
    shutil.copytree(BUNDLED_DIGITS, store / "digits")
    shutil.copy(Path(BUNDLED_DIGITS, "digits.onnx"), store / "net.onnx")
    arguments = ("--management-address=127.0.0.1:0", "--model-store=store", "--models=digits")
    with run_server(*arguments, env={"PYTHONPATH": os.pathsep.join(sys.path)}, cwd=folder) as running:
        yield running


def test_the_document_is_the_same_at_both_places_and_valid(server: RunningServer) -> None:
    told = httpx.options(f"{server.management}/")
    assert told.status_code == 200
    document = told.json()
    assert httpx.get(f"{server.management}/api-description").json() == document
    validate(document, cls=OpenAPIV30SpecValidator)
    assert document["info"] == {**document["info"], "title": "Headrace management API", "version": __version__}
    assert set(document["paths"]) == {each.path for each in ROUTES}


def test_a_model_has_a_document_of_its_own(server: RunningServer) -> None:
    document = httpx.options(f"{server.management}/models/digits").json()
    validate(document, cls=OpenAPIV30SpecValidator)
    assert set(document["paths"]) == {
        "/models/digits", "/models/digits/{version}", "/models/digits/{version}/set-default",
    }  # fmt: skip


def test_what_is_declared_is_routed_and_answered() -> None:
    for each in ROUTES:
        path = each.path.replace("{model}", "m").replace("{version}", "1").replace("{operation}", "o")
        assert each in [found for found, _ in find(path)]
        assert each.does == "token" or hasattr(Changes, each.does) ^ hasattr(Looks, each.does)
        assert find(f"{path.rstrip('/')}/more/than/there/is") == []


def test_every_status_there_is_is_in_the_document() -> None:
    assert {status.code for status in MANAGING.values()} | {507} <= set(codes_of_managing(change=True))


OPERATIONS = [f"{each.method} {each.path}" for each in ROUTES]


@pytest.fixture(scope="module")
def document(server: RunningServer) -> Any:
    # Not from_url: it leaves out the route the document came from.
    loaded = schemathesis.openapi.from_dict(httpx.options(f"{server.management}/").json())
    loaded.config.update(base_url=server.management)
    operations = (result.ok() for result in loaded.get_all_operations())
    return {f"{operation.method.upper()} {operation.path}": operation for operation in operations}


def test_schemathesis_is_asked_for_every_operation(document: Any) -> None:
    assert sorted(document) == sorted(OPERATIONS)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as said", "not as said"])
@pytest.mark.parametrize("label", OPERATIONS)
def test_it_answers_as_the_document_says(
    document: Any, server: RunningServer, label: str, mode: GenerationMode
) -> None:
    operation = document[label]
    if mode is GenerationMode.NEGATIVE and not list(operation.body):
        return  # the old parameters take anything: there is nothing that could be wrong
    checks = schemathesis.checks
    always = [
        checks.not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
        checks.response_schema_conformance, checks.response_headers_conformance,
    ]  # fmt: skip

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        note(f"SCHEMATHESIS_SEED={SEED}")
        case.validate_response(case.call(), checks=always)

    ask()
    models = httpx.get(f"{server.management}/models").json()["models"]
    assert [each["modelName"] for each in models] == ["digits"]
    assert httpx.get(f"{server.url}/ping").status_code == 200
