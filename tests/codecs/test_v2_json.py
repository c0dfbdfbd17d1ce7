import contextlib
import json
import random

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headrace.codecs.v2_json import decode_request, encode_metadata, encode_response
from headrace.errors import BackendError, InvalidInput
from headrace.tensor import DATATYPES, TensorSpec

IMAGE = TensorSpec("image", np.dtype(np.float32), (None, 2, 2))
TOKENS = TensorSpec("tokens", np.dtype(np.int64), (None,))
NOTE = TensorSpec("note", np.dtype(object), (1,))


def tensor(**changes):
    entry = {"name": "x", "shape": [3], "datatype": "INT32", "data": [1, 2, 3]} | changes
    return {key: value for key, value in entry.items() if value is not ...}


def body(*tensors, **more):
    return json.dumps({"inputs": list(tensors)} | more).encode()


def decode_one(specs=None, **changes):
    return decode_request(body(tensor(**changes)), specs).inputs["x"]


# What is taken


def test_a_request_is_read_with_all_that_is_in_it():
    request = decode_request(
        body(
            {"name": "image", "shape": [1, 2, 2], "datatype": "FP32", "data": [0.5, 1, 2, 3.25]},
            {"name": "note", "shape": [1], "datatype": "BYTES", "data": ["grüß"], "parameters": {"lang": "de"}},
            id="42",
            outputs=[{"name": "b", "parameters": {"binary_data": True}}, {"name": "a"}],
            parameters={"priority": 2, "scale": 0.5, "dry": False, "who": "me"},
            unknown={"is": ["let", "pass"]},
        ),
        [IMAGE, NOTE],
    )
    assert request.id == "42"
    assert request.outputs == ("b", "a")
    assert request.parameters == {"priority": 2, "scale": 0.5, "dry": False, "who": "me"}
    assert list(request.inputs) == ["image", "note"]
    assert request.inputs["image"].dtype == np.float32
    assert request.inputs["image"].tolist() == [[[0.5, 1], [2, 3.25]]]
    assert request.inputs["note"].dtype == object
    assert request.inputs["note"].tolist() == ["grüß"]


def test_what_is_left_out_or_null_is_none():
    for more in ({}, {"id": None, "outputs": None, "parameters": None}, {"outputs": []}):
        request = decode_request(body(tensor(parameters=None), **more), None)
        assert (request.id, request.outputs, request.parameters) == (None, None, {})


def test_a_view_of_bytes_is_read_like_bytes():
    assert decode_request(memoryview(body(tensor())), None).inputs["x"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "expected"),
    [
        ("FP32", [2, 2], [[1.5, 2], [3, 4.5]], [[1.5, 2], [3, 4.5]]),
        ("FP32", [2, 2], [1.5, 2, 3, 4.5], [[1.5, 2], [3, 4.5]]),
        ("FP32", [], [7], 7),
        ("FP64", [2], [1, 2], [1, 2]),
        ("FP64", [2], [0, 1.0], [0, 1]),
        ("FP16", [2], [65519.0, -0.0], [65504, 0]),
        ("BOOL", [2, 1], [[True], [False]], [[True], [False]]),
        ("BYTES", [2, 1], [["a"], [""]], [["a"], [""]]),
        ("INT8", [2], [-128, 127], [-128, 127]),
        ("UINT8", [2], [0, 255], [0, 255]),
        ("INT64", [2], [-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
        ("UINT64", [3], [0, 1, 2**64 - 1], [0, 1, 2**64 - 1]),
        ("INT32", [0], [], []),
        ("INT32", [0, 3], [], []),
        ("INT32", [2, 0], [], [[], []]),
        ("INT32", [2, 0, 3], [[], []], [[], []]),
        ("INT32", [0, 2**40], [], []),
        ("BYTES", [0], [], []),
    ],
)
def test_data_may_be_nested_or_flat(datatype, shape, data, expected):
    array = decode_one(datatype=datatype, shape=shape, data=data)
    assert array.dtype == DATATYPES[datatype]
    assert array.shape == tuple(shape)
    assert array.tolist() == expected


# What is refused

INFINITE = '{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[%s]}]}'


ONE = '"name": "x", "shape": [1], "datatype": "INT32"'


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ('{"inputs": [], "inputs": [{ONE, "data": [1]}]}', "inputs"),
        ('{"inp\\u0075ts": [], "inputs": [{ONE, "data": [1]}]}', "inputs"),
        ('{"inputs": [{ONE, "data": [2], "data": [1]}]}', "data"),
        ('{"inputs": [{ONE, "name": "x", "data": [1]}]}', "name"),
        ('{"id": "a", "id": "a", "inputs": [{ONE, "data": [1]}]}', "id"),
        ('{"inputs": [{ONE, "data": [1]}], "parameters": {"a": 1, "a": 1}}', "a"),
        ('{"inputs": [{ONE, "data": [1]}], "unknown": [[{"a": 1, "a": 1}]]}', "a"),
        ('{"inputs": [{ONE, "data": [1]}], "unknown": ["a", 1, 1, 1], "id": null, "id": null}', "id"),
        ('{"a": 1, "a": 1, "inputs": [{ONE, "data": [1]}], "n": NINES}', "a"),
    ],
)
def test_a_key_that_comes_twice_is_refused(raw, key):
    raw = raw.replace("ONE", ONE).replace("NINES", "9" * 300)
    with pytest.raises(InvalidInput, match=f"the key '{key}' came twice in one object"):
        decode_request(raw.encode(), None)
    with pytest.raises(InvalidInput, match="came twice"):
        decode_request(memoryview(raw.encode()), None)


@pytest.mark.parametrize(
    "more",
    [
        {"id": 'a quote " and a \\'},
        {"unknown": ["a", [1, {"b": "c"}], "d"]},
        {"unknown": [{"a": "b"}, "c"]},
        {"n": int("9" * 19), "parameters": {"a": '"'}},
    ],
)
@pytest.mark.parametrize("data", [["a", 'b"', "c"], [["a"], ["b"], ["c"]]])
def test_no_key_that_comes_once_is_taken_for_two(more, data):
    shape = [3, 1] if data[0] == ["a"] else [3]
    raw = body(tensor(datatype="BYTES", data=data, shape=shape), **more)
    assert decode_request(raw, None).inputs["x"].reshape(-1)[0] == "a"


def test_only_what_may_hold_a_key_twice_is_parsed_again(monkeypatch):
    monkeypatch.setattr("headrace.codecs.v2_json.json", None)
    texts = tensor(name="t", datatype="BYTES", data=[["a"], ["b"]], shape=[2, 1])
    outputs = [{"name": "y", "parameters": {"binary_data": True}}]
    raw = body(tensor(), tensor(name="n", data=[[1, 2, 3]], shape=[1, 3]), texts, id="é", outputs=outputs)
    assert set(decode_request(raw, None).inputs) == {"x", "n", "t"}


@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_taken_or_refused_and_nothing_else(opens, closes):
    raw = '{"b": %s"\\""%s, "inputs": [{%s, "data": [1]}]}' % (opens * 1010, closes * 1010, ONE)  # noqa: UP031
    with contextlib.suppress(InvalidInput):  # how deep is too deep is for each version of Python to say
        decode_request(raw.encode(), None)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "empty"),
        (b"{", r"not JSON.*position 1"),
        (b'{"inputs": [}', r"position 12 \(line 1, column 13\)"),
        (b'{"id": "\xff"}', "not UTF-8 at byte 8"),
        (b"[" * 100_000, "not JSON"),
        (b"[" * 1000 + b"]" * 1000, "must be an object, a list of 1 came"),
        ((INFINITE % "NaN").encode(), "not JSON"),
        ((INFINITE % "-Infinity").encode(), "not JSON"),
        ((INFINITE % "1e999").encode(), "not JSON: number is infinity"),
        (b"null", "must be an object, null came"),
        (b"{}", "the body has no 'inputs', a list was expected"),
        (b'{"inputs": null}', "'inputs' must be a list, null came"),
        (b'{"inputs": {"x": []}}', "'inputs' must be a list, an object came"),
        (b'{"inputs": [[]]}', r"inputs\[0\] must be an object, a list of 0 came"),
        (body(id=5), "'id' must be a string, 5 came"),
        (body(parameters=[]), "'parameters' must be an object"),
        (body(parameters={"a": None}), "parameter 'a' must be .* null came"),
        (body(parameters={"a": [1]}), "parameter 'a' must be .* a list of 1 came"),
        (body(outputs={"name": "y"}), "'outputs' must be a list"),
        (body(outputs=["y"]), r"outputs\[0\] must be an object, the string 'y' came"),
        (body(outputs=[{}]), r"outputs\[0\] has no 'name'"),
        (body(outputs=[{"name": 1}]), "'name' must be a string, 1 came"),
        (body(outputs=[{"name": "y"}, {"name": "y"}]), "output 'y' was asked for twice"),
        (
            body(outputs=[{"name": "y", "parameters": {"shared_memory_region": "r"}}]),
            "'shared_memory_region' is not done",
        ),
        (body(outputs=[{"name": "y", "parameters": {"classification": 3}}]), "'classification' is not done"),
        (body(tensor(), tensor()), "input 'x' came twice"),
    ],
)
def test_a_body_that_is_no_request_is_refused(raw, said):
    with pytest.raises(InvalidInput, match=said):
        decode_request(raw, None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ...}, r"inputs\[0\] has no 'name'"),
        ({"name": 3}, "'name' must be a string"),
        ({"shape": ...}, "input 'x' has no 'shape'"),
        ({"shape": 3}, "'shape' must be a list, 3 came"),
        ({"shape": [-1]}, "from 0 up, -1 came"),
        ({"shape": [3.0]}, "from 0 up, 3.0 came"),
        ({"shape": ["3"]}, "from 0 up, the string '3' came"),
        ({"shape": [True, 3]}, "from 0 up, true came"),
        ({"shape": [None]}, "from 0 up, null came"),
        ({"shape": [2**64]}, "from 0 up"),
        ({"shape": [2**32, 2**32]}, "more than an array can have"),
        ({"shape": [0, 2**62, 2**62], "data": []}, "more than an array can have"),
        ({"shape": [1] * 100}, "more than an array can have"),
        ({"shape": [4]}, r"shape \[4\] takes 4 elements, 3 came"),
        ({"shape": []}, r"shape \[\] takes 1 elements, 3 came"),
        ({"shape": [0]}, r"shape \[0\] takes 0 elements, 3 came"),
        ({"datatype": ...}, "has no 'datatype'"),
        ({"datatype": None}, "'datatype' must be a string, null came"),
        ({"datatype": "FLOAT"}, "'FLOAT' is no datatype; there are BOOL, UINT8"),
        ({"datatype": "BF16"}, "'BF16' is no datatype"),
        ({"data": ...}, "has no 'data'"),
        ({"data": None}, "'data' must be a list, null came"),
        ({"data": 1}, "'data' must be a list, 1 came"),
        ({"data": "123"}, "'data' must be a list, the string '123' came"),
        ({"data": {"0": 1}}, "'data' must be a list, an object came"),
        ({"data": [1, 2.0, 3]}, r"element \[1\] must be an integer for INT32, 2.0 came"),
        ({"data": [1, 2, "3"]}, r"element \[2\] must be an integer for INT32, the string '3' came"),
        ({"data": [True, 2, 3]}, r"element \[0\] must be an integer for INT32, true came"),
        ({"data": [5, 2, False]}, "false came"),
        ({"data": [1, None, 3]}, "null came"),
        ({"data": [1, {}, 3]}, "an object came"),
        ({"data": [1, [2], 3]}, "a list of 1 came"),
        ({"data": [[1, 2, 3]]}, "takes 3 elements, 1 came"),
        (
            {"shape": [1, 3], "data": [[1, 2], 3]},
            r"shape \[1, 3\].*a list of 1 was expected at depth 1, a list of 2 came",
        ),
        ({"shape": [2, 2], "data": [[1, 2], [3]]}, "a list of 2 was expected at depth 2, a list of 1 came"),
        ({"shape": [2, 2], "data": [[1, 2], 3]}, "a list of 2 was expected at depth 2, 3 came"),
        ({"shape": [2, 2], "data": [[1, 2, 3, 4]]}, "a list of 2 was expected at depth 1, a list of 1 came"),
        ({"shape": [2, 2], "data": [[1, 2], [3, [4]]]}, r"element \[1, 1\] must be an integer"),
        ({"shape": [2, 2], "data": [[[1, 2]], [[3, 4]]]}, "a list of 2 was expected at depth 2, a list of 1 came"),
        ({"data": [1, 2, 2**31]}, r"element \[2\] is out of range for INT32 \(-2147483648 to 2147483647\): 2147483648"),
        ({"data": [1, -(2**31) - 1, 3]}, r"element \[1\] is out of range"),
        ({"data": [1, 2**64 - 1, 3]}, r"element \[1\] is out of range"),
        ({"data": [1, 2**64, 3]}, "must be an integer"),  # JSON readers make a float of it
        ({"datatype": "UINT8", "data": [1, -1, 3]}, r"out of range for UINT8 \(0 to 255\): -1"),
        ({"datatype": "UINT8", "data": [1, 256, 3]}, "out of range for UINT8"),
        ({"datatype": "UINT64", "data": [1, -1, 2**64 - 1]}, "out of range for UINT64"),
        ({"datatype": "UINT64", "data": [-1, 2, 3]}, "out of range for UINT64"),
        ({"datatype": "INT64", "data": [1, 2, 2**63]}, "out of range for INT64"),
        ({"datatype": "UINT64", "data": [True, 2, 2**64 - 1]}, "must be an integer for UINT64, true came"),
        ({"datatype": "FP32", "data": [1.0, 1e39, 3]}, r"element \[1\] is out of range for FP32"),
        ({"datatype": "FP16", "data": [1, 2, -65520]}, "out of range for FP16"),
        ({"datatype": "FP32", "data": [1.5, None, 3]}, "must be a number for FP32, null came"),
        ({"datatype": "FP32", "data": [1.5, "2.5", 3]}, "the string '2.5' came"),
        ({"datatype": "FP32", "data": [1.5, True, 3]}, r"element \[1\] must be a number for FP32, true came"),
        ({"datatype": "FP64", "data": [False, 5, 3]}, "false came"),
        ({"datatype": "FP32", "data": ["x" * 100, 2, 3]}, r"the string 'x{40}'\.\.\. came"),
        ({"datatype": "BOOL", "data": [True, 1, False]}, "must be true or false for BOOL, 1 came"),
        ({"datatype": "BOOL", "data": [0.0, True, False]}, "0.0 came"),
        ({"datatype": "BYTES", "data": ["a", 1, "b"]}, "must be a string for BYTES, 1 came"),
        ({"datatype": "BYTES", "data": ["a", None, "b"]}, "null came"),
        ({"datatype": "BYTES", "data": ["a", ["b"], "c"]}, "a list of 1 came"),
        ({"parameters": 1}, "'parameters' must be an object"),
        ({"parameters": {"binary_data_size": 12}, "data": ...}, "'binary_data_size' came, but only JSON data is taken"),
        ({"parameters": {"shared_memory_region": "r"}}, "'shared_memory_region' came, but only JSON data is taken"),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused(changes, said):
    with pytest.raises(InvalidInput, match=said):
        decode_one(**changes)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([], "missing input 'image', 'tokens'; none came"),
        ([{"name": "tokens", "shape": [1], "datatype": "INT64", "data": [1]}], "missing input 'image'; 'tokens' came"),
        ([tensor()], "no input 'x'; its inputs are 'image', 'tokens'"),
        ([tensor(name="tokens")], "input 'tokens': datatype INT64 was expected, the string 'INT32' came"),
        ([tensor(name="tokens", datatype="int64")], "datatype INT64 was expected"),
        (
            [tensor(name="image", datatype="FP32", shape=[2, 2], data=[1, 2, 3, 4])],
            r"input 'image': shape \[any, 2, 2\] was expected, \[2, 2\] came",
        ),
        (
            [tensor(name="image", datatype="FP32", shape=[1, 2, 3], data=[1, 2, 3, 4, 5, 6])],
            r"shape \[any, 2, 2\] was expected, \[1, 2, 3\] came",
        ),
    ],
)
def test_inputs_that_are_not_the_models_are_refused(tensors, said):
    with pytest.raises(InvalidInput, match=said):
        decode_request(body(*tensors), [IMAGE, TOKENS])


def test_a_long_string_among_numbers_takes_no_memory():
    """An array of strings would give each of the numbers the room of the longest: 400 GB here."""
    with pytest.raises(InvalidInput, match="must be a number"):
        decode_one(datatype="FP32", shape=[100_001], data=[5.0] * 100_000 + ["x" * 1_000_000])


@pytest.mark.parametrize("seed", range(30))
def test_one_wrong_element_anywhere_is_found_and_named(seed):
    rng = random.Random(seed)
    shape = [rng.randint(1, 4) for _ in range(rng.randint(1, 4))]
    kind = rng.choice(["FP32", "INT32", "BOOL", "BYTES"])
    good = {"FP32": [0.0, 1.0, 1, -2.5, 7], "INT32": [0, 1, -5], "BOOL": [True, False], "BYTES": ["", "1"]}[kind]
    bad = {"FP32": [True, "1", None], "INT32": [False, 1.0, "1", None], "BOOL": [0, 1.0, "x"], "BYTES": [1, False]}[
        kind
    ]
    values = np.empty(shape, object)
    values.flat[:] = [rng.choice(good) for _ in range(values.size)]
    assert decode_one(datatype=kind, shape=shape, data=values.tolist()).tolist() == values.tolist()
    at = tuple(rng.randrange(size) for size in shape)
    values[at] = rng.choice(bad)
    for data in (values.tolist(), values.reshape(-1).tolist()):
        with pytest.raises(InvalidInput) as refused:
            decode_one(datatype=kind, shape=shape, data=data)
        assert f"element {list(at)} must be" in str(refused.value)


# What is answered


def answered(**outputs):
    raw = encode_response(model_name="m", model_version="1", id=None, outputs=outputs)
    return json.loads(raw)["outputs"]


def test_a_response_has_what_clients_look_for():
    raw = encode_response(model_name="m", model_version="2", id="7", outputs={"y": np.array([[1, 2]], np.int8)})
    assert json.loads(raw) == {
        "model_name": "m",
        "model_version": "2",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "INT8", "shape": [1, 2], "data": [1, 2]}],
    }
    assert json.loads(encode_response(model_name="m", model_version=None, id=None, outputs={})) == {
        "model_name": "m",
        "outputs": [],
    }


@pytest.mark.parametrize(
    ("array", "datatype", "data"),
    [
        (np.arange(6, dtype=np.float32).reshape(2, 3).T, "FP32", [0, 3, 1, 4, 2, 5]),
        (np.arange(6, dtype=np.int64)[::-2], "INT64", [5, 3, 1]),
        (np.array([1, 2], ">i4"), "INT32", [1, 2]),
        (np.array([1.5, -2], ">f8"), "FP64", [1.5, -2]),
        (np.array([1.5, 65504], np.float16), "FP16", [1.5, 65504]),
        (np.array([[True], [False]]), "BOOL", [True, False]),
        (np.array(3, np.uint64), "UINT64", [3]),
        (np.empty((0, 4), np.float32), "FP32", []),
        (np.array([0.1], np.float32), "FP32", [0.1]),
        (np.array([np.nan, np.inf, -np.inf, 1], np.float32), "FP32", [None, None, None, 1]),
        (np.array([np.nan], np.float16), "FP16", [None]),
        (np.array(["a", "é"]), "BYTES", ["a", "é"]),
        (np.array([b"a", "é".encode()]), "BYTES", ["a", "é"]),
        (np.array([["a", b"b"]], object), "BYTES", ["a", "b"]),
        (np.array("one"), "BYTES", ["one"]),
    ],
)
def test_arrays_of_any_layout_are_written_flat(array, datatype, data):
    (output,) = answered(y=array)
    assert output == {"name": "y", "datatype": datatype, "shape": list(array.shape), "data": data}


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([1j]), "output 'y' is complex128"),
        (np.array([b"\xff"]), "not UTF-8"),
        (np.array([1, "a"], object), "should hold text and has int"),
        (np.array(["\ud800"], object), "cannot be written as JSON"),
    ],
)
def test_outputs_that_json_cannot_carry_are_the_models_fault(array, said):
    with pytest.raises(BackendError, match=said):
        answered(y=array)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ELEMENTS = {
    "FP16": {"allow_nan": False, "allow_infinity": False},
    "FP32": {"allow_nan": False, "allow_infinity": False},
    "FP64": {"allow_nan": False, "allow_infinity": False},
}


@st.composite
def tensors(draw):
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    if datatype == "BYTES":
        return datatype, draw(hnp.arrays(object, shape, elements=TEXT))
    elements = hnp.from_dtype(DATATYPES[datatype], **ELEMENTS.get(datatype, {}))
    return datatype, draw(hnp.arrays(DATATYPES[datatype], shape, elements=elements))


@given(tensors(), st.booleans())
def test_every_tensor_comes_back_as_it_went(case, nested):
    datatype, array = case
    (output,) = answered(x=array)
    assert output["datatype"] == datatype
    if nested and array.ndim:
        output["data"] = array.tolist()
    spec = TensorSpec("x", array.dtype, tuple(None for _ in array.shape))
    for specs in (None, [spec]):
        back = decode_request(orjson.dumps({"inputs": [output]}), specs).inputs["x"]
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert back.tolist() == array.tolist()


def test_metadata_writes_free_dimensions_as_minus_one():
    raw = encode_metadata(name="m", versions=("1", "2"), platform="onnxruntime", inputs=[IMAGE, NOTE], outputs=[TOKENS])
    assert json.loads(raw) == {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "onnxruntime",
        "inputs": [
            {"name": "image", "datatype": "FP32", "shape": [-1, 2, 2]},
            {"name": "note", "datatype": "BYTES", "shape": [1]},
        ],
        "outputs": [{"name": "tokens", "datatype": "INT64", "shape": [-1]}],
    }
    plain = json.loads(encode_metadata(name="f", versions=["1"], platform="python", inputs=None, outputs=None))
    assert (plain["inputs"], plain["outputs"]) == ([], [])
