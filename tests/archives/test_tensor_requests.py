"""What the handler `tensor` is asked with: the v2 protocol where that is its envelope, and what is said to be JSON. The
archives are real ones, in workers."""

import json
from typing import Any

import numpy as np
import pytest
from handler_archives import JSON, Serve, ask, ask_json
from onnx import TensorProto, helper
from ready_made_handlers import arrays, requests, tensor

import headrace as hr


def two_of_two() -> bytes:
    """An ONNX file of `a` (floats) and `b` (whole numbers), with `sum` and `twice`."""
    a = helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 2])
    b = helper.make_tensor_value_info("b", TensorProto.INT64, ["n", 2])
    nodes = [
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["a", "c"], ["sum"]),
        helper.make_node("Add", ["b", "b"], ["twice"]),
    ]
    outputs = [
        helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 2]),
        helper.make_tensor_value_info("twice", TensorProto.INT64, ["n", 2]),
    ]
    graph = helper.make_graph(nodes, "g", [a, b], outputs)
    made: bytes = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]
    ).SerializeToString()
    return made


MANIFEST = {"handler": "tensor", "serializedFile": "two.onnx"}


@pytest.fixture(scope="module")
def v2_model(serve: Serve) -> hr.Model:
    return serve(None, MANIFEST, {"two.onnx": two_of_two()}, envelope="kservev2", batch=4)


@pytest.fixture(scope="module")
def plain_model(serve: Serve) -> hr.Model:
    return serve(None, MANIFEST, {"two.onnx": two_of_two()})


A = {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 2]}
B = {"name": "b", "shape": [1, 2], "datatype": "INT64", "data": [[3, 4]]}
SUM = {"name": "sum", "shape": [1, 2], "datatype": "FP32", "data": [3.5, 6.0]}
TWICE = {"name": "twice", "shape": [1, 2], "datatype": "INT64", "data": [6, 8]}


def test_in_the_v2_envelope_it_speaks_the_protocol(v2_model: hr.Model) -> None:
    answer = ask_json(v2_model, {"id": "7", "inputs": [B, A]})
    assert answer == {"id": "7", "model_name": "m", "model_version": "2.5", "outputs": [SUM, TWICE]}
    answer = ask_json(v2_model, {"inputs": [A, B], "outputs": [{"name": "twice"}]})
    assert (answer["id"], answer["outputs"]) == ("id-0", [TWICE])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"inputs": [A]}, "the input 'b' is missing; 'a' came"),
        ({"inputs": [A, B, {**A, "name": "c"}]}, "no input 'c'; its inputs are 'a', 'b'"),
        ({"inputs": [A, B, A]}, "input 'a' came twice"),
        ({"inputs": [{**A, "datatype": "FP64"}, B]}, "input 'a': datatype FP32 is expected, 'FP64' came"),
        ({"inputs": [{**A, "shape": [1, 3]}, B]}, r"the shape [1, 3] came"),
        ({"inputs": [{**A, "shape": -1}, B]}, "input 'a': 'shape' is a JSON array; a JSON number came"),
        ({"inputs": [{**A, "data": [1.0]}, B]}, "the shape [1, 2] is expected, nested or flat; of [1] came"),
        ({"inputs": [{**A, "data": [[1.0], [2.0]]}, B]}, "the shape [1, 2] is expected, nested or flat; of [2, 1]"),
        ({"inputs": [{**A, "data": ["1", "2"]}, B]}, "numbers in lists of one length are expected"),
        ({"inputs": [A, {**B, "data": [1.5, 2.5]}]}, "input 'b'"),
        ({"inputs": ["a", B]}, "inputs[0]: a JSON object is expected, a JSON string came"),
        ({"inputs": [{"name": "a"}, B]}, "input 'a' has no 'datatype'"),
        ({"outputs": [{"name": "no"}]}, "no output 'no'; its outputs are 'sum', 'twice'"),
        ({"outputs": {"name": "sum"}}, "'outputs' is a JSON array"),
    ],
)
def test_what_is_no_v2_request_of_the_model_says_so_in_the_protocols_form(
    v2_model: hr.Model, change: dict[str, Any], why: str
) -> None:
    body, content_type, status, *_ = ask_json(v2_model, {"inputs": [A, B], **change})
    told = json.loads(body)
    assert (content_type, status, told["code"], told["type"]) == ("application/json", 400, 400, "BadRequestException")
    assert told["error"] == told["message"]
    assert why in told["error"]


def test_v2_requests_that_come_together_are_one_run_and_a_bad_one_is_refused_alone() -> None:
    class Runtime:
        inputs = [arrays.Spec("x")]  # noqa: RUF012
        outputs = None
        runs: list[Any] = []  # noqa: RUF012

        def run(self, inputs: dict[str, Any]) -> list[Any]:
            self.runs.append((inputs["x"].shape, inputs["x"].dtype.name))
            return [inputs["x"] * 2, np.array([np.inf] * len(inputs["x"]))]

    class Context:
        owners = (0, 1, 2)
        statuses: list[Any] = []  # noqa: RUF012

        def set_response_status(self, *about: Any) -> None:
            self.statuses.append(about)

        def set_response_content_type(self, *about: Any) -> None:
            pass

    handler = tensor.Tensor()
    handler.runtime = Runtime()
    x = {"name": "x", "shape": [1, 2], "datatype": "INT16", "data": [1, 2]}
    rows = [{"inputs": [x]}, {"inputs": [{**x, "datatype": "BYTES"}]}, {"inputs": [{**x, "shape": [2, 1]}]}]
    first, refused, third = handler.handle_v2(rows, Context())
    assert Runtime.runs == [((1, 2), "int16"), ((2, 1), "int16")]
    assert first == [
        {"name": "output_0", "shape": [1, 2], "datatype": "INT16", "data": [2, 4]},
        {"name": "output_1", "shape": [1], "datatype": "FP64", "data": [None]},
    ]
    assert third[0]["shape"] == [2, 1]
    assert "'BYTES' is no datatype that is taken" in refused["message"]
    assert Context.statuses == [(400, "Bad Request", 1)]
    Runtime.runs.clear()
    handler.handle_v2([rows[0]] * 3, Context())
    assert Runtime.runs == [((3, 2), "int16")]


@pytest.mark.parametrize(
    ("shape", "data"),
    [([1, 1], [[1, 2]]), ([1], [[1, 2]]), ([], [[1, 2]]), ([0, 3], [[], []]), ([10**30, 2], [1, 2]), ([0, 10**30], [])],
)
def test_nested_data_of_another_shape_is_refused_also_where_the_model_does_not_say_its_own(
    shape: list[int], data: list[Any]
) -> None:
    asked = {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}]}
    with pytest.raises(requests.Bad, match="nested or flat"):
        tensor.v2.inputs_of(asked, [arrays.Spec("x")], arrays, requests.Bad)


def test_texts_that_a_model_gives_are_bytes_in_the_protocol() -> None:
    texts = np.array([["cat", "dog"]], dtype=object)
    (told,) = tensor.v2.outputs_of({}, [texts], ["label"], arrays, requests.Bad)
    assert told == {"name": "label", "shape": [1, 2], "datatype": "BYTES", "data": ["cat", "dog"]}


# What is said to be JSON


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
def test_json_that_is_none_is_told_what_was_expected_what_came_and_what_to_do(plain_model: hr.Model, kind: str) -> None:
    body, _, status, *_ = ask(plain_model, b'{"a": [[1, 2]', (("content-type", kind),))
    message = json.loads(body)["message"]
    assert status == 400
    assert message.startswith("the body came as application/json and is not JSON (Expecting ',' delimiter: line 1")
    assert "send the numbers as JSON" in message
    assert "raw bytes as application/octet-stream" in message


def test_json_is_read_also_where_its_charset_is_named(plain_model: hr.Model) -> None:
    body = json.dumps({"a": [[1, 2]], "b": [[3, 4]]}).encode()
    for headers in (JSON, (("CONTENT-TYPE", "Application/JSON; charset=utf-8"),)):
        assert json.loads(ask(plain_model, body, headers)) == {"sum": [[4.0, 6.0]], "twice": [[6, 8]]}


def test_a_field_of_a_form_that_is_no_json_is_named(plain_model: hr.Model) -> None:
    body, _, status, *_ = ask(plain_model, (("a", "application/json", b"[[1,"), ("b", None, b"[[3, 4]]")))
    assert status == 400
    assert json.loads(body)["message"].startswith("the field 'a' came as application/json and is not JSON")
