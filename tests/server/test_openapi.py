"""The OpenAPI document: complete, valid and true. schemathesis asks what it says may be asked, and what may not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from onnx import TensorProto, helper
from openapi_spec_validator import OpenAPIV30SpecValidator, validate
from schemathesis import GenerationMode

from headrace.server.options import BUNDLED_DIGITS
from headrace.server.routes import ROUTES, route, tell
from headrace.server.status import TABLE, NotFound, codes
from headrace.serving.service import Service
from headrace.testing import RunningServer, run_command, run_server
from headrace.version import __version__

SEED = int(os.environ.get("SCHEMATHESIS_SEED", "20261128"))
"""Of what is asked. Printed where something is found."""
EXAMPLES = 8
"""Requests of each kind, right ones and wrong ones, of each operation."""
MODULE = """
def kind(x):
    return {"type": type(x).__name__}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A handler, a tensor model with free rows, one of two fixed inputs, a callable; as arguments of the server."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "openapi_models.py").write_text(MODULE)
    inputs = [
        helper.make_tensor_value_info("whole", TensorProto.INT32, [2, 2]),
        helper.make_tensor_value_info("flags", TensorProto.BOOL, [3]),
    ]
    outputs = [
        helper.make_tensor_value_info("same", TensorProto.INT32, [2, 2]),
        helper.make_tensor_value_info("not", TensorProto.BOOL, [3]),
    ]
    nodes = [helper.make_node("Identity", ["whole"], ["same"]), helper.make_node("Not", ["flags"], ["not"])]
    graph = helper.make_graph(nodes, "two", inputs, outputs)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(folder / "two.onnx")
    )
    digits = Path(BUNDLED_DIGITS)
    sources = [f"digits={digits}", f"tensor={digits / 'digits.onnx'}", f"two={folder / 'two.onnx'}"]
    return folder, [*sources, "kind=openapi_models:kind"]


@pytest.fixture(scope="module", params=["own protocol", "uvicorn"])
def server(request: pytest.FixtureRequest, models: tuple[Path, list[str]]) -> Iterator[RunningServer]:
    folder, sources = models
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    if request.param == "own protocol":
        with run_server(*sources, env=environment) as running:
            yield running
    else:
        command = [sys.executable, str(Path(__file__).with_name("uvicorn_server.py")), *sources]
        with run_command(command, env=environment) as running:
            yield running


def test_the_document_is_the_same_at_both_places_and_valid(server: RunningServer) -> None:
    told = httpx.options(f"{server.url}/")
    assert told.status_code == 200
    assert told.headers["content-type"] == "application/json"
    document = told.json()
    assert httpx.get(f"{server.url}/api-description").json() == document
    validate(document, cls=OpenAPIV30SpecValidator)
    assert document["info"]["version"] == __version__
    assert httpx.get(f"{server.url}/").headers["allow"] == "OPTIONS"


def test_every_route_and_every_model_is_in_it(server: RunningServer) -> None:
    paths = httpx.options(f"{server.url}/").json()["paths"]
    models = ["digits", "tensor", "two", "kind"]
    own = [path for name in models for path in (f"/predictions/{name}", f"/v2/models/{name}/infer")]
    assert set(paths) == {*own, *(declared.path for declared in ROUTES)}
    tensor = paths["/predictions/tensor"]["post"]["requestBody"]["content"]
    assert "256 bytes a row" in tensor["application/octet-stream"]["schema"]["description"]
    assert "application/octet-stream" not in paths["/predictions/two"]["post"]["requestBody"]["content"]
    assert "image/png" in paths["/predictions/digits"]["put"]["requestBody"]["content"]


def test_what_is_declared_is_routed_and_nothing_else() -> None:
    service = Service(10, None)
    try:
        for declared in ROUTES:
            path = declared.path.replace("{model}", "m").replace("{version}", "1").replace("{url_path}", "a/b")
            if "OPTIONS" not in declared.methods or path == "/":
                assert (route(path) is not None) == (declared.door is not None), path
            if declared.door is None and not declared.names_a_model:
                assert tell(service, declared.methods[0], path).status in (200, *declared.more)
            with pytest.raises(NotFound):
                tell(service, "GET", f"{path.rstrip('/')}/more/than/there/is")
        assert route("/predictions/") is route("/predictions") is None
        assert route("/predictions/m/") == route("/predictions/m"), "a slash behind a name changes nothing"
    finally:
        service.stop(10)


def test_every_status_there_is_is_in_the_document() -> None:
    every = codes(model=True, body=True)
    assert {status.code for status in TABLE.values()} <= set(every)


OPERATIONS = [
    f"{method} {declared.path.replace('{model}', name)}"
    for declared in ROUTES
    for name in (("{model}", "digits", "tensor", "two", "kind") if declared.of_each else ("{model}",))
    if name == "{model}" or not declared.explains
    for method in declared.methods
]


STRICT = {f"{method} /predictions/{name}" for method in ("POST", "PUT") for name in ("tensor", "two")}
"""Where the schema says all that matters: what is as said is taken, and what is not is refused."""


@pytest.fixture(scope="module")
def document(server: RunningServer) -> Any:
    # Not from_url: it leaves out the route the document came from.
    loaded = schemathesis.openapi.from_dict(httpx.options(f"{server.url}/").json())
    loaded.config.update(base_url=server.url)
    found = {}
    for result in loaded.get_all_operations():
        operation = result.ok()
        found[f"{operation.method.upper()} {operation.path}"] = operation
    return found


def test_schemathesis_is_asked_for_every_operation(document: Any) -> None:
    assert sorted(document) == sorted(OPERATIONS)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as said", "not as said"])
@pytest.mark.parametrize("label", OPERATIONS)
def test_it_answers_as_the_document_says(document: Any, label: str, mode: GenerationMode) -> None:
    operation = document[label]
    takes = {body.media_type for body in operation.body}
    if mode is GenerationMode.NEGATIVE and "application/json" not in takes:
        return  # any path and any bytes are as said: there is nothing that could be wrong
    checks = schemathesis.checks
    always = [
        checks.not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
        checks.response_schema_conformance, checks.response_headers_conformance,
    ]  # fmt: skip
    strict = label in STRICT

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        note(f"SCHEMATHESIS_SEED={SEED}")
        answer = case.call()
        case.validate_response(answer, checks=always)
        if strict and case.media_type == "application/json":
            assert (answer.status_code == 200) == (mode is GenerationMode.POSITIVE), (answer.text, case.body)

    ask()
