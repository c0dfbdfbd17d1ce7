"""The handler `tensor` that needs no code: what it takes for tensors, and what is run together."""

import json

import numpy as np
import pytest
from ready_made_handlers import Context, arrays, mean_of_channels, requests, started, tensor

# Forms and envelopes


class Sums:
    """Of two inputs, one of which is bytes where nobody says what it is."""

    outputs = None

    def __init__(self):
        self.inputs = [arrays.Spec(name, np.dtype(np.float32), (None, 2)) for name in ("a", "b")]

    def run(self, inputs):
        return [inputs["a"] + inputs["b"]]


def test_each_input_may_be_a_field_of_a_form(tmp_path):
    handler, context = tensor.Tensor(), Context(tmp_path)
    handler.runtime = Sums()
    untold, told = {"content-type": ""}, {"content-type": "application/octet-stream"}
    raw = bytearray(np.array([[3, 4]], np.float32).tobytes())
    context.fields = [{"a": untold, "b": told}] * 2 + [{"a": untold}]
    rows = [
        {"a": bytearray(b"[[1, 2]]"), "b": raw, "more": 1},
        {"a": [[5, 6]], "b": raw},
        {"a": bytearray(b"[[1, 2]]")},
    ]
    *answers, refused = handler.handle(rows, context)
    assert answers == [[[4, 6]], [[8, 10]]]
    assert (refused["code"], context.statuses) == (400, {2: 400})
    handler.runtime.inputs = handler.runtime.inputs[:1]
    handler.runtime.run = lambda inputs: [inputs["a"]]
    context.fields = [{"data": untold}, {"data": told}]
    assert handler.handle([{"data": bytearray(b"[[1, 2]]")}, {"data": raw}], context) == [[[1, 2]], [[3, 4]]]


def test_in_an_envelope_the_request_has_the_status_that_one_of_its_instances_is_refused_with(tmp_path):
    handler, context = tensor.Tensor(), Context(tmp_path)
    handler.runtime = Sums()
    good, bad = {"a": [[1, 2]], "b": [[1, 2]]}, {"a": [[1]], "b": [[1, 2]]}
    context.owners = [0, 0, 0, 1]
    answers = handler.handle([good, good, bad, good], context)
    assert [answer if isinstance(answer, list) else answer["code"] for answer in answers] == [
        *([[2, 4]], [[2, 4]], 400, [[2, 4]])
    ]
    assert context.statuses == {0: 400}


# Tensors


def test_tensors_come_as_lists_by_name_or_as_bytes(tmp_path):
    mean_of_channels(tmp_path / "m.onnx")
    context = Context(tmp_path)
    handler = started(tensor, "Tensor", context)
    x = np.random.default_rng(0).random((2, 3, 4, 6), np.float32)
    rows = [{"body": x.tolist()}, {"body": {"x": x[:1].tolist()}}, {"body": bytearray(x.tobytes())}, {"body": "text"}]
    answers = handler.handle(rows, context)
    np.testing.assert_allclose(answers[0], x.mean((2, 3)), rtol=1e-5)
    assert answers[1] == answers[0][:1]
    assert answers[2] == answers[0]
    assert context.statuses == {3: 400}
    json.dumps(answers)


FLOAT = arrays.Spec("x", np.dtype("float32"), (None, 2))
INT = arrays.Spec("i", np.dtype("int32"), (None,))
ANY = arrays.Spec("a")


@pytest.mark.parametrize(
    ("value", "specs", "why"),
    [
        ([[1, 2, 3]], [FLOAT], r"float32 \[-1, 2\]: the shape \[1, 3\] came"),
        ([[1, 2], [3]], [FLOAT], "one length"),
        ([["a", "b"]], [FLOAT], "numbers"),
        ([[True, False]], [FLOAT], "bool came"),
        ([1.5], [INT], "float64 came"),
        ([2**40], [INT], "outside"),
        ({"y": [[1, 2]]}, [FLOAT], "keys 'x' is expected, 'y' came"),
        ([[1, 2]], [FLOAT, INT], "keys 'x', 'i'"),
        ("text", [ANY], "numbers"),
    ],
)
def test_what_is_no_tensor_of_the_model_is_refused(value, specs, why):
    with pytest.raises(requests.Bad, match=why):
        arrays.from_json(value, specs, requests.Bad)


def test_where_the_model_does_not_say_its_dtype_numbers_do():
    kinds = [[1, 2], [1.5], [True]]
    assert [str(arrays.from_json(value, [ANY], requests.Bad)["a"].dtype) for value in kinds] == [
        "int64",
        "float32",
        "bool",
    ]


@pytest.mark.parametrize(
    ("body", "specs", "why"),
    [
        (b"1234567", [FLOAT], "whole rows of 8 bytes are expected, 7 bytes came"),
        (b"", [FLOAT], "whole rows"),
        (b"12345678", [ANY], "declare it in the archive's YAML"),
        (b"12345678", [FLOAT, INT], "one input"),
    ],
)
def test_bytes_are_whole_rows(body, specs, why):
    with pytest.raises(requests.Bad, match=why):
        arrays.from_bytes(body, specs, requests.Bad)


def test_inputs_can_be_declared():
    (spec,) = arrays.declared([{"name": "x", "dtype": "float32", "shape": [-1, 2]}])
    assert spec == FLOAT
    for wrong in ({}, [1], [{"dtype": "float32"}], [{"name": "x", "dtype": "no"}]):
        with pytest.raises(ValueError, match="handler: inputs:"):
            arrays.declared(wrong)


def test_what_is_not_finite_is_null():
    assert arrays.plain(np.array([[1, np.nan], [np.inf, 2]], np.float32)) == [[1, None], [None, 2]]


class Counting:
    outputs = None

    def __init__(self, *specs):
        self.inputs, self.runs = list(specs), []

    def run(self, inputs):
        self.runs.append({name: array.shape for name, array in inputs.items()})
        return [next(iter(inputs.values())) * 2]


def answered(runtime, *bodies):
    read = lambda row: arrays.from_json(row["body"], runtime.inputs, requests.Bad)  # noqa: E731
    rows = [{"body": body} for body in bodies]
    return requests.answer_all(rows, Context("/"), runtime, read, lambda outputs: outputs[0].tolist())


def test_requests_that_are_alike_are_one_run_and_the_others_their_own():
    runtime = Counting(FLOAT)
    assert answered(runtime, [[1, 2]], [[3, 4], [5, 6]], [[7, 8]]) == [[[2, 4]], [[6, 8], [10, 12]], [[14, 16]]]
    assert runtime.runs == [{"x": (4, 2)}]
    runtime = Counting(ANY)
    assert answered(runtime, [[1]], [[1, 2]], [[3]]) == [[[2]], [[2, 4]], [[6]]]
    assert runtime.runs == [{"a": (2, 1)}, {"a": (1, 2)}]


def test_a_model_that_takes_one_row_gets_one_at_a_time():
    runtime = Counting(arrays.Spec("x", np.dtype("float32"), (1, 2)))
    assert answered(runtime, [[1, 2]], [[3, 4]]) == [[[2, 4]], [[6, 8]]]
    assert len(runtime.runs) == 2


def test_outputs_that_have_no_row_for_each_row_are_not_cut():
    runtime = Counting(ANY)
    runtime.run = lambda inputs: [np.array([inputs["a"].sum()])]
    assert answered(runtime, [[1]], [[2]]) == [[1], [2]]
