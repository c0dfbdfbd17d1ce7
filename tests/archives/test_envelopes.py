"""What is put around a handler: `service_envelope`."""

import base64
from typing import Any

import numpy as np
import pytest

from headrace.archives import envelopes
from headrace.archives.context import Context, RequestProcessor, RequestProcessors


def context_of(count: int = 1, **headers: str) -> Context:
    made = Context("m", "/", {"model": {"modelName": "m", "modelVersion": "2"}})
    made.request_processor = RequestProcessors(RequestProcessor(dict(headers)) for _ in range(count))
    made.request_ids = {index: f"id-{index}" for index in range(count)}
    return made


def through(name: str, bodies: list[Any], function: Any, **headers: str) -> Any:
    context = context_of(len(bodies), **headers)
    envelope = envelopes.made(name)
    return envelope.close(function(envelope.open([{"body": body} for body in bodies], context)), context)


def doubled(xs: Any) -> list[Any]:
    return [x * 2 for x in xs]


def test_body_gives_the_bodies() -> None:
    assert through("body", [1, 2], doubled) == [2, 4]
    context = context_of()
    assert envelopes.made("body").open([{"data": 5, "body": 6}], context) == [5]


@pytest.mark.parametrize("name", ["json", "kserve"])
def test_instances_of_all_requests_are_one_list(name: str) -> None:
    bodies = [{"instances": [1, 2]}, b'{"instances": [3]}', {"instances": []}]
    assert through(name, bodies, doubled) == [{"predictions": [2, 4]}, {"predictions": [6]}, {"predictions": []}]


def test_whose_each_instance_is_stands_in_the_context() -> None:
    context = context_of(3)
    envelopes.made("kserve").open([{"body": {"instances": xs}} for xs in ([1, 2], [], [3])], context)
    assert context.owners == [0, 0, 2]


def test_base64_instances_are_bytes() -> None:
    sent = base64.b64encode(b"raw").decode()
    seen: list[Any] = []
    through("json", [{"instances": [{"b64": sent}, {"x": {"b64": sent}, "y": 1}]}], lambda xs: seen.extend(xs) or xs)
    assert seen == [b"raw", {"x": b"raw", "y": 1}]


def test_kserve_says_when_it_explains() -> None:
    assert through("kserve", [{"instances": [1]}], doubled, explain="True") == [{"explanations": [2]}]


def test_kserve_v2_names_model_and_request() -> None:
    body = {"id": "mine", "inputs": [{"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2]}]}
    both = through("kservev2", [body, {"inputs": body["inputs"]}], lambda xs: [np.array(x["data"]) for x in xs])
    output = {"name": "predict", "shape": [2], "datatype": "INT64", "data": [1, 2]}
    assert both[0] == {"id": "mine", "model_name": "m", "model_version": "2", "outputs": [output]}
    assert both[1]["id"] == "id-1"
    text = through("kservev2", [body], lambda xs: ["a"])[0]["outputs"][0]
    assert (text["datatype"], text["data"]) == ("BYTES", ["a"])


@pytest.mark.parametrize(
    ("body", "came"),
    [
        (b"no json", "Expecting value"),
        (b"[" * 100_000, "recursion"),
        ({"inputs": [1], "id": 1}, "expected: it has 'inputs', 'id'"),
        ({"a": {}}, "expected: it has 'a'"),
        ([1], "a list came"),
        ({"instances": 3}, "expected: a int"),
    ],
)
def test_another_form_is_a_named_error(body: Any, came: str) -> None:
    with pytest.raises(envelopes.Misformed, match=f"'instances'.*{came}"):
        through("json", [body], doubled)


@pytest.mark.parametrize("text", ["a", 5, None, "\u2603"])
def test_what_is_no_base64_is_the_requests_fault(text: Any) -> None:
    for instance in ({"b64": text}, {"x": {"b64": text}}):
        with pytest.raises(envelopes.Misformed, match="a text in base64 was expected"):
            through("json", [{"instances": [instance]}], doubled)


def test_answers_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(ValueError, match="3 instances came back as 1"):
        through("json", [{"instances": [1, 2]}, {"instances": [3]}], lambda xs: [1])
    with pytest.raises(ValueError, match="service_envelope is one of"):
        envelopes.made("seldon")
