import dataclasses
import json
from collections import namedtuple
from datetime import timedelta
from decimal import Decimal

import numpy as np
import pytest

from headrace.codecs.torchserve import decode_body, encode, error_body, tensors_from_bytes, tensors_from_json
from headrace.errors import BackendError, InvalidInput
from headrace.tensor import TensorSpec

IMAGE = TensorSpec("image", np.dtype(np.float32), (None, 2, 2))
TOKENS = TensorSpec("tokens", np.dtype(np.int64), (None,))
FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b'{"a": 1}', "application/json", {"a": 1}),
        (b"[1, 2.5, null]", "Application/JSON; charset=UTF-8", [1, 2.5, None]),
        (b"3", "application/json", 3),
        ("grüß".encode(), "text/plain", "grüß"),
        (b"a,b", "TEXT/CSV; charset=utf-8", "a,b"),
        (b"gr\xfc\xdf", 'text/plain; format=flowed; Charset="ISO-8859-1"', "grüß"),
        (b"", "text/plain", ""),
        (b'{"a": 1}', None, b'{"a": 1}'),
        (b'{"a": 1}', "", b'{"a": 1}'),
        (b'{"a": 1}', "application/json-lines", b'{"a": 1}'),
        (b"\x89PNG", "image/png", b"\x89PNG"),
        (b"", None, b""),
        (b' \n{"a": 1}', FORM, {"a": 1}),
        (b"[1]", FORM + "; charset=utf-8", [1]),
    ],
)
def test_the_content_type_decides_what_a_body_is(body, content_type, expected):
    assert decode_body(body, content_type) == expected


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (b"", "application/json", "empty"),
        (b'{"a": }', "application/json", "not JSON: .* at position 6"),
        (b"{a}", FORM, "not JSON"),
        (b"--x\r\n", "multipart/form-data; boundary=x", "cut off"),
        (b"{}", "multipart/form-data; boundary=x", "not the form"),
        (b"ab\xff", "text/plain", "not UTF-8 at byte 2"),
        (b"ab\xff", "text/plain; charset=us-ascii", "not ASCII at byte 2"),
        (b"ab", "text/plain; charset=rot13", "text is taken in utf-8, .* 'rot13' came"),
    ],
)
def test_a_body_that_is_not_what_its_type_says_is_refused(body, content_type, said):
    with pytest.raises(InvalidInput, match=said):
        decode_body(body, content_type)


@pytest.mark.parametrize(
    "value", [b"\x00\xff", bytearray(b"\x00\xff"), memoryview(b"\x00\xff"), memoryview(b"\x00_\xff")[::2]]
)
def test_bytes_are_answered_as_they_are(value):
    assert encode(value) == (b"\x00\xff", "application/octet-stream")


def test_text_is_answered_as_it_is():
    assert encode("grüß") == ("grüß".encode(), "text/plain; charset=utf-8")


Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Box:
    width: float


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, None, True]}, {"a": [1, None, True]}),
        ({1: "a", 2.5: "b"}, {"1": "a", "2.5": "b"}),
        ((1, 2), [1, 2]),
        ({"a": {1}, "b": frozenset(["c"])}, {"a": [1], "b": ["c"]}),
        ([Decimal("1.50")], ["1.50"]),
        (np.ma.masked_array([[1, 2]], [[True, False]]), [[None, 2]]),
        ([Point(1, 2), Box(0.5)], [[1, 2], {"width": 0.5}]),
        (None, None),
        (float("nan"), None),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.arange(4).reshape(2, 2).T, [[0, 2], [1, 3]]),
        (np.arange(6)[::-2], [5, 3, 1]),
        (np.array([1, 2], ">u2"), [1, 2]),
        ({"a": [np.array([[1.5]], ">f4"), (np.array(2, ">i8"),)]}, {"a": [[[1.5]], [2]]}),
        (np.array(2.5), 2.5),
        (np.array([0.5, np.inf], np.float16), [0.5, None]),
        (np.array([0.5], np.longdouble), [0.5]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([b"a"]), ["a"]),
        (np.array([["a", 1, None]], object), [["a", 1, None]]),
        (np.array([{"a": np.float32(1)}], object), [{"a": 1.0}]),
        (np.empty((2, 0)), [[], []]),
        (np.array(["2024-01-02", "2024-01-03"], "M8[D]")[::-1], ["2024-01-03", "2024-01-02"]),
        ([np.float16(0.5), np.float32(0.5), np.float64(0.5), np.longdouble(0.5)], [0.5] * 4),
        (
            [np.int8(-1), np.uint64(2**64 - 1), np.bool_(True), np.str_("a"), np.bytes_(b"b")],
            [-1, 2**64 - 1, True, "a", "b"],
        ),
    ],
)
def test_everything_else_is_answered_as_json(value, expected):
    body, content_type = encode(value)
    assert content_type == "application/json"
    assert json.loads(body) == expected


def test_json_answers_are_indented_by_two():
    assert encode({"a": [1]})[0] == b'{\n  "a": [\n    1\n  ]\n}'


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({1j}, "type set cannot be sent.*builtins.complex has no form in JSON"),
        ({"a": {b"b"}}, "type dict cannot be sent.*builtins.bytes"),
        ([b"a"], "builtins.bytes has no form in JSON: return bytes alone, or base64"),
        (object(), "builtins.object has no form in JSON: return numbers, text, lists or dicts"),
        (1j, r"builtins.complex has no form in JSON: return \[x.real, x.imag\]"),
        (timedelta(1), r"datetime.timedelta has no form in JSON: return x.total_seconds\(\)"),
        (np.array([1j]), "an array of complex128"),
        (np.complex64(1), "complex64"),
        (np.array([b"\xff"]), "bytes that are not UTF-8"),
        ({(1, 2): 3}, "type dict cannot be sent"),
        (2**70, "type int cannot be sent"),
        ("\ud800", "type str cannot be sent"),
        (["\ud800"], "type list cannot be sent"),
    ],
)
def test_an_answer_that_cannot_be_json_names_its_type(value, said):
    with pytest.raises(BackendError, match=said):
        encode(value)


def test_an_answer_that_holds_itself_is_refused():
    endless = []
    endless.append(endless)
    with pytest.raises(BackendError, match="type list"):
        encode(endless)


# Tensors in JSON


def test_the_one_input_may_be_its_nested_list_or_an_object():
    for value in ([[[1, 2.5], [3, 4]]], {"image": [[[1, 2.5], [3, 4]]]}):
        tensors = tensors_from_json(value, [IMAGE])
        assert list(tensors) == ["image"]
        assert tensors["image"].dtype == np.float32
        assert tensors["image"].tolist() == [[[1, 2.5], [3, 4]]]


def test_several_inputs_come_by_name():
    tensors = tensors_from_json({"tokens": [1, 2], "image": [[[1, 2], [3, 4]]]}, [IMAGE, TOKENS])
    assert list(tensors) == ["image", "tokens"]
    assert tensors["tokens"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("dtype", "shape", "value"),
    [(np.float32, (), 2.5), (object, (None,), ["a", "b"]), (np.bool_, (2,), [True, False]), (np.int64, (None,), [])],
)
def test_every_kind_of_tensor_is_read(dtype, shape, value):
    array = tensors_from_json(value, [TensorSpec("x", np.dtype(dtype), shape)])["x"]
    assert array.dtype == dtype
    assert array.tolist() == value


@pytest.mark.parametrize(
    ("value", "specs", "said"),
    [
        ([[1, 2], [3, 4]], [IMAGE], r"shape \[any, 2, 2\] was expected, \[2, 2\] came"),
        ([1, 2, 3, 4], [IMAGE], r"\[4\] came"),
        ([], [IMAGE], r"\[0\] came"),
        ([[[1, 2, 3], [4, 5, 6]]], [IMAGE], r"\[1, 2, 3\] came"),
        ([[[1, 2], [3]]], [IMAGE], "a list of 2 was expected at depth 3, a list of 1 came"),
        ([[[1, 2], [3, None]]], [IMAGE], r"element \[0, 1, 1\] must be a number for FP32, null came"),
        ([[[1, 2], [3, True]]], [IMAGE], "true came"),
        ([[[1, 2], [3, 1e39]]], [IMAGE], "out of range for FP32"),
        ([[[1, 2], [3, [4]]]], [IMAGE], "a list of 1 came"),
        ("picture", [IMAGE], r"shape \[any, 2, 2\] was expected, \[\] came"),
        (None, [TensorSpec("x", np.dtype(np.float32), ())], "null came"),
        ([1.0], [TOKENS], "must be an integer for INT64, 1.0 came"),
        ({"x": [1]}, [TOKENS], "no input 'x'; its inputs are 'tokens'"),
        ({}, [TOKENS], "missing input 'tokens'"),
        ({"tokens": [1]}, [IMAGE, TOKENS], "missing input 'image'; 'tokens' came"),
        ([1], [IMAGE, TOKENS], "an object with the keys 'image', 'tokens' was expected, a list of 1 came"),
        ([1j], [TensorSpec("x", np.dtype(np.complex64), (1,))], "COMPLEX64 cannot be sent as JSON"),
    ],
)
def test_json_that_is_not_the_models_tensors_is_refused(value, specs, said):
    with pytest.raises(InvalidInput, match=said):
        tensors_from_json(value, specs)


def test_lists_nested_past_any_model_are_refused():
    value = 1
    for _ in range(900):
        value = [value]
    with pytest.raises(InvalidInput, match="nested deeper than 32"):
        tensors_from_json(value, [IMAGE])


# Tensors in bytes


def test_raw_bytes_are_viewed_not_copied():
    body = np.arange(8, dtype="<f4").tobytes()
    array = tensors_from_bytes(body, [IMAGE])["image"]
    assert array.dtype == np.float32
    assert array.tolist() == np.arange(8).reshape(2, 2, 2).tolist()
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))


def test_raw_bytes_of_a_scalar_and_of_flags():
    assert tensors_from_bytes(b"\x01\x00\x01", [TensorSpec("f", np.dtype(bool), (None,))])["f"].tolist() == [
        True,
        False,
        True,
    ]
    assert tensors_from_bytes(b"\x02\x01", [TensorSpec("s", np.dtype(np.int16), ())])["s"].tolist() == 258


@pytest.mark.parametrize(
    ("size", "spec", "said"),
    [
        (15, IMAGE, "has 16 bytes, 15 bytes came"),
        (17, IMAGE, "has 16 bytes, 17 bytes came"),
        (0, IMAGE, "has 16 bytes, 0 bytes came"),
        (32, TensorSpec("x", np.dtype(np.float32), (1, 2, 2)), "has 16 bytes, 32 bytes came"),
        (16, TensorSpec("x", np.dtype(np.float64), ()), "has 8 bytes, 16 bytes came"),
        (16, TensorSpec("x", np.dtype(np.float32), (None, 0)), "has 0 bytes, 16 bytes came"),
        (16, TensorSpec("x", np.dtype(np.float32), (None, None)), "free dimensions"),
        (16, TensorSpec("x", np.dtype(object), (None,)), "takes text, not raw bytes"),
        (16, TensorSpec("x", np.dtype(bool), (None,)), "must be 0 or 1, 2 came"),
    ],
)
def test_bytes_that_are_no_rows_are_refused(size, spec, said):
    with pytest.raises(InvalidInput, match=said):
        tensors_from_bytes(b"\x02" * size, [spec])


def test_bytes_for_several_inputs_are_refused():
    with pytest.raises(InvalidInput, match="models with one input; this one has 'image', 'tokens'"):
        tensors_from_bytes(b"\x00" * 16, [IMAGE, TOKENS])


def test_errors_have_the_old_servers_form():
    assert error_body(404, "ModelNotFoundException", "Model not found: ü") == (
        '{\n  "code": 404,\n  "type": "ModelNotFoundException",\n  "message": "Model not found: ü"\n}\n'.encode()
    )
    assert json.loads(error_body(400, "T", "\ud800"))["message"] == "?"
