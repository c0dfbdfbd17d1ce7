"""What a handler is given and may return, row by row: one archive, in one worker, which is told what to do."""

import json
from typing import Any

import numpy as np
import pytest
from handler_archives import JSON, Serve, ask, ask_json, together
from onnx import TensorProto, helper

import headrace as hr

SOURCE = """
import numpy as np
from gated import gated
from mms.service import PredictionException as MmsException
from ts.utils.util import PredictionException

class Odd:
    pass

def one(row, index, context):
    body = row["body"] if "body" in row else row
    do = body.get("do") if isinstance(body, dict) else None
    if do is None:
        return repr(sorted(row.items()))
    if do == "status":
        context.set_response_status(code=418, phrase="teapot", idx=index)
        return "short and stout"
    if do == "type":
        context.set_response_content_type(index, "image/png")
        context.set_response_header(index, "x-mine", 1)
        return b"png"
    if do == "predict":
        raise PredictionException("try less", 513)
    if do == "mms":
        raise MmsException("bad picture")
    if do == "memory":
        raise MemoryError
    if do == "cuda":
        raise RuntimeError("CUDA error: out of memory")
    if do == "raise":
        raise ValueError("broken")
    values = {
        "bytes": b"\\x00\\x01", "bytearray": bytearray(b"ab"), "str": "text", "dict": {"a": [1]}, "none": None,
        "numpy": {"x": np.float32(0.5), "y": np.arange(2)}, "odd": Odd(), "number": 3,
    }
    return values[do]

@gated
def handle(data, context):
    if data is None:
        return None
    assert isinstance(data, list) and all(isinstance(row, dict) for row in data)
    first = data[0].get("body")
    do = first.get("whole") if isinstance(first, dict) else None
    if do == "dict":
        return {"a": 1}
    if do == "none":
        return None
    if do == "fewer":
        return []
    if do == "more":
        return ["a"] * (len(data) + 1)
    return [one(row, index, context) for index, row in enumerate(data)]
"""


@pytest.fixture(scope="module")
def model(serve: Serve) -> hr.Model:
    return serve(SOURCE)


@pytest.fixture(scope="module")
def batched(serve: Serve) -> hr.Model:
    return serve(SOURCE, batch=8, delay=0.5)


def do(model: hr.Model, name: str) -> Any:
    return ask(model, json.dumps({"do": name}).encode(), JSON)


def test_a_body_is_one_key(model: hr.Model) -> None:
    assert ask(model, b"\x01") == b"[('body', bytearray(b'\\x01'))]"
    assert ask(model, b"[1]", JSON) == b"[('body', [1])]"
    assert ask(model, b"hi", (("content-type", "text/plain"),)) == b"[('body', 'hi')]"


def test_fields_are_keys(model: hr.Model) -> None:
    fields = (("img", "image/png", b"\x01"), ("note", "text/plain", b"hi"), ("q", None, b"v"))
    assert ask(model, fields) == b"[('img', bytearray(b'\\x01')), ('note', 'hi'), ('q', bytearray(b'v'))]"


def test_bodies_may_be_left_as_they_came(serve: Serve) -> None:
    model = serve("def handle(data, context):\n    return [type(data[0]['body']).__name__] if data else None\n",
                  decode_input_request=False)  # fmt: skip
    assert ask(model, b"{}", JSON) == b"bytearray"


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("bytes", b"\x00\x01"),
        ("bytearray", b"ab"),
        ("str", b"text"),
        ("dict", b'{\n  "a": [\n    1\n  ]\n}'),
        ("none", b"null"),
        ("number", b"3"),
    ],
)
def test_answers_are_bytes(model: hr.Model, name: str, sent: bytes) -> None:
    assert do(model, name) == sent


def test_numpy_in_answers(model: hr.Model) -> None:
    assert json.loads(do(model, "numpy")) == {"x": 0.5, "y": [0, 1]}


def test_large_bodies_and_answers(serve: Serve) -> None:
    model = serve("def handle(data, context):\n    return [bytes(row['body']) for row in data] if data else None\n")
    body = np.random.default_rng(1).bytes(3_000_000)
    assert ask(model, body) == body


def test_what_has_no_form_is_an_error_of_that_request_alone(batched: hr.Model) -> None:
    requests = [("id", JSON, json.dumps({"do": name}).encode()) for name in ("str", "odd", "number")]
    first, second, third = together(batched, requests)
    assert (first, third) == (b"text", b"3")
    assert second[:2] == (503, "InternalServerException")
    assert second[2].startswith("Unsupported model output data type.")


def test_status_and_headers_are_the_requests_own(batched: hr.Model) -> None:
    requests = [("id", JSON, json.dumps({"do": name}).encode()) for name in ("status", "str", "type")]
    assert together(batched, requests) == [
        (b"short and stout", None, 418, "teapot", ()),
        b"text",
        (b"png", "image/png", 200, None, (("x-mine", "1"),)),
    ]
    assert do(batched, "str") == b"text"  # and not the next one's


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("predict", (513, "InternalServerException", "try less")),
        ("mms", (500, "InternalServerException", "bad picture")),
        ("memory", (507, "InternalServerException", "Out of resources")),
        ("cuda", (507, "InternalServerException", "Out of resources")),
    ],
)
def test_exceptions_with_a_status_have_it_alone_and_in_a_batch(
    model: hr.Model, batched: hr.Model, name: str, answer: Any
) -> None:
    assert do(model, name) == answer
    requests = [("id", JSON, json.dumps({"do": each}).encode()) for each in ("str", name, "number")]
    assert together(batched, requests) == [b"text", answer, b"3"]


def test_another_exception_is_the_models_failure_alone(model: hr.Model, batched: hr.Model) -> None:
    with pytest.raises(hr.BackendError, match="ValueError: broken"):
        do(model, "raise")
    requests = [("id", JSON, json.dumps({"do": each}).encode()) for each in ("str", "raise", "number")]
    first, second, third = together(batched, requests)
    assert (first, third) == (b"text", b"3")
    assert isinstance(second, hr.BackendError)


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ("dict", "Invalid model predict output: a list of 1 answers was expected, a dict came"),
        ("none", "Invalid model predict output: a list of 1 answers was expected, a NoneType came"),
        ("fewer", "number of batch response mismatched: a list of 1 answers was expected, 0 came"),
        ("more", "number of batch response mismatched: a list of 1 answers was expected, 2 came"),
    ],
)
def test_no_list_and_a_wrong_count_are_named(model: hr.Model, whole: str, said: str) -> None:
    assert ask_json(model, {"whole": whole}) == (503, "InternalServerException", said)


def test_a_batch_that_comes_back_wrong_is_asked_one_by_one(batched: hr.Model) -> None:
    requests = [("id", JSON, json.dumps(each).encode()) for each in ({"whole": "fewer"}, {"do": "str"})]
    first, second = together(batched, requests)
    assert first[0] == 503
    assert second == b"text"


def test_a_batch_is_one_list(serve: Serve) -> None:
    model = serve(
        """
        from gated import gated

        @gated
        def handle(data, context):
            if data is None:
                return None
            about = [(context.get_request_id(i), context.get_request_header(i, "n")) for i in range(len(data))]
            return [[len(data), *each] for each in about]
        """,
        batch=4,
        delay=0.5,
    )
    answers = [json.loads(a) for a in together(model, [(f"id-{i}", (("n", str(i)),), b"") for i in range(9)])]
    assert [(each[1], each[2]) for each in answers] == [(f"id-{i}", str(i)) for i in range(9)]
    assert max(each[0] for each in answers) > 1


@pytest.mark.parametrize(
    ("envelope", "sent", "answer"),
    [
        ("body", [1, 2], {"got": [[1, 2]]}),
        ("json", {"instances": [1, 2]}, {"predictions": [{"got": 1}, {"got": 2}]}),
        ("kserve", {"instances": [1]}, {"predictions": [{"got": 1}]}),
    ],
)
def test_envelopes_are_put_around_a_handler(serve: Serve, envelope: str, sent: Any, answer: Any) -> None:
    source = "def handle(data, context):\n    return [{'got': each} for each in data] if data else None\n"
    if envelope == "body":
        answer = {"got": sent}
    assert ask_json(serve(source, envelope=envelope), sent) == answer


def test_the_v2_envelope_and_a_request_in_another_form(serve: Serve) -> None:
    source = "def handle(data, context):\n    return [each['data'] for each in data] if data else None\n"
    model = serve(source, envelope="kservev2")
    answer = ask_json(model, {"id": "7", "inputs": [{"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2]}]})
    assert answer == {
        "id": "7",
        "model_name": "m",
        "model_version": "2.5",
        "outputs": [{"name": "predict", "shape": [2], "datatype": "INT64", "data": [1, 2]}],
    }
    status, kind, message = ask_json(model, {"instances": []})
    assert (status, kind) == (400, "BadRequestException")
    assert "'inputs'" in message


def test_an_instance_that_a_handler_of_ours_refuses_is_its_requests_fault(serve: Serve) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    onnx_file = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    model = serve(
        None, {"handler": "tensor", "serializedFile": "neg.onnx"}, {"neg.onnx": onnx_file}, envelope="kserve", batch=2
    )
    assert ask_json(model, {"instances": [{"x": [[1, 2]]}] * 2}) == {"predictions": [[[-1.0, -2.0]]] * 2}
    body, _, status, *_ = ask_json(model, {"instances": [{"x": [[1, 2]]}, {"x": [[1]]}]})
    first, second = json.loads(body)["predictions"]
    assert (status, first, second["code"]) == (400, [[-1.0, -2.0]], 400)
