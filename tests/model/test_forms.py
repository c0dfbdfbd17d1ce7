"""What may be handed in, what comes back, and what is said about the rest."""

import re
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from headrace.backends import backend_for
from headrace.backends.base import Loaded, LoadOptions
from headrace.errors import InvalidInput
from headrace.model.forms import CallableForms, Form, TensorForms
from headrace.sizes import nbytes_of
from headrace.tensor import Array, TensorSpec


def spec(name: str, dtype: Any = np.float32, shape: tuple[int | None, ...] = (None, 2)) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape)


X, IDS, TEXT, SCALAR = spec("x"), spec("ids", np.int64, (None,)), spec("t", np.object_, (None,)), spec("s", shape=())
ONE = TensorForms([X], [spec("y")])
TWO = TensorForms([X, IDS], [spec("y"), spec("z")])
WORDS = TensorForms([TEXT], [TEXT])
x, ids = np.zeros((3, 2), np.float32), np.arange(3)


class Torchlike:
    def numpy(self) -> Array:
        raise AssertionError("nothing is converted in silence")


# ---- what fits


@pytest.mark.parametrize(
    ("forms", "value", "form"),
    [
        (ONE, x, Form.ONE),
        (ONE, [x], Form.LIST),
        (ONE, (x,), Form.LIST),
        (ONE, {"x": x}, Form.DICT),
        (TWO, [x, ids], Form.LIST),
        (TWO, (x, ids), Form.LIST),
        (TWO, {"x": x, "ids": ids}, Form.DICT),
        (TWO, {"ids": ids, "x": x}, Form.DICT),
        (TWO, OrderedDict(ids=ids, x=x), Form.DICT),
        (TWO, MappingProxyType({"ids": ids, "x": x}), Form.DICT),
    ],
)
def test_inputs_come_out_in_the_models_order_and_are_not_copied(forms: TensorForms, value: Any, form: Form) -> None:
    inputs, names, came = forms.read(value)
    assert inputs[0] is x
    assert all(one is other for one, other in zip(inputs, (x, ids)))
    assert (names, came) == (None, form)


def test_the_answer_has_the_form_of_the_question() -> None:
    y, z = np.zeros(1), np.ones(1)
    assert ONE.write([y], Form.ONE) is y
    assert ONE.write([y], Form.LIST) == [y]
    assert ONE.write([y], Form.DICT) == {"y": y}
    assert TWO.write([y, z], Form.LIST) == [y, z]
    assert TWO.write([y, z], Form.DICT) == {"y": y, "z": z}
    assert TWO.write([y, z], Form.ONE) == [y, z], "several outputs of one array are a list"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 2), np.float32),
        np.zeros((1, 4), np.float32)[:, ::2],
        np.zeros((2, 5), np.float32).T[:3],
        np.frombuffer(b"\0" * 8, np.float32).reshape(1, 2),
    ],
)
def test_an_array_may_be_empty_strided_or_read_only(array: Array) -> None:
    assert ONE.read(array)[0][0] is array


def test_an_array_without_dimensions_fits_an_input_without_any() -> None:
    zero = np.array(1, np.float32)
    assert TensorForms([SCALAR], [SCALAR]).read(zero)[0][0] is zero


def test_a_model_without_inputs_takes_nothing() -> None:
    forms = TensorForms([], [X])
    assert forms.read([])[0] == forms.read({})[0] == ()
    with pytest.raises(InvalidInput, match=r"1 input came\. The model takes nothing"):
        forms.read(x)


# ---- what does not


LIST_OF_ROWS = [[0.0, 1.0], [2.0, 3.0]]
TAKES = re.escape("The model takes x: float32 [any, 2]")


@pytest.mark.parametrize(
    ("forms", "value", "said"),
    [
        # the form
        (ONE, None, f"an input is a NumPy array, .*; None came. {TAKES}"),
        (ONE, 3, f"an input is a NumPy array, .*; a value of type int came. {TAKES}"),
        (ONE, "x", "a value of type str came"),
        (ONE, b"x", "a value of type bytes came"),
        (ONE, np.float32(1), "a value of type float32 came"),
        (ONE, {x.tobytes()}, "a value of type set came"),
        (ONE, iter([x]), "a value of type list_iterator came"),
        (ONE, Torchlike(), r"a value of type Torchlike came; call \.numpy\(\) on it"),
        # the count
        (ONE, [], f"0 inputs came. {TAKES}"),
        (ONE, [x, x], f"2 inputs came. {TAKES}"),
        (ONE, LIST_OF_ROWS, "2 inputs came"),
        (TWO, x, r"1 input came. The model takes x: float32 \[any, 2\]; ids: int64 \[any\]"),
        (TWO, [x], "1 input came"),
        # the elements
        (ONE, [None], "input 'x' is a NumPy array; None came; make it one with np.asarray"),
        (ONE, [LIST_OF_ROWS], "input 'x' is a NumPy array; a value of type list came; make it one with np.asarray"),
        (ONE, {"x": LIST_OF_ROWS}, "input 'x' is a NumPy array; a value of type list came; make it one"),
        (ONE, [Torchlike()], r"input 'x' is a NumPy array; a value of type Torchlike came; call \.numpy\(\) on it"),
        (TWO, [x, 3], "input 'ids' is a NumPy array; a value of type int came"),
        # the names
        (ONE, {}, "'x' is missing"),
        (ONE, {"y": x}, "'x' is missing and 'y' is not one of its inputs"),
        (ONE, {"x": x, "y": x}, f"^'y' is not one of its inputs. {TAKES}"),
        (TWO, {"x": x}, "^'ids' is missing"),
        (TWO, {"a": x, "b": x}, "'x', 'ids' is missing and 'a', 'b' is not one of its inputs"),
        (ONE, {0: x}, "'x' is missing and 0 is not one of its inputs"),
        (ONE, {b"x": x, None: x}, "'x' is missing and b'x', None is not one of its inputs"),
        # the dtype
        (ONE, x.astype(np.float64), r"input 'x' takes float32 \[any, 2\]; an array of float64 \[3, 2\] came; "
         r"nothing is cast in silence: use x.astype\(np.float32\)"),
        (ONE, x.astype(np.int32), "an array of int32 .*use x.astype"),
        (ONE, x.astype(bool), "an array of bool .*use x.astype"),
        (ONE, x.astype(">f4"), r"an array of >f4 \[3, 2\] came; nothing is cast in silence: use x.astype\(np.float32"),
        (ONE, x.astype(np.complex64), r"an array of complex64 \[3, 2\] came$"),
        (ONE, x.astype(object), r"an array of object \[3, 2\] came$"),
        (ONE, x.astype(str), r"an array of <U32 \[3, 2\] came$"),
        (TWO, [x, ids.astype(np.int32)], "input 'ids' takes int64 .*an array of int32"),
        (TWO, [ids, x], "input 'x' takes float32 .*an array of int64"),
        # the shape
        (ONE, x[0], r"an array of float32 \[2\] came; is the batch dimension missing\? x\[np.newaxis\] adds one"),
        (ONE, x[np.newaxis], r"takes float32 \[any, 2\]; an array of float32 \[1, 3, 2\] came$"),
        (ONE, x[:, :1], r"an array of float32 \[3, 1\] came$"),
        (ONE, np.array(1, np.float32), r"an array of float32 \[\] came"),
        (TensorForms([SCALAR], [SCALAR]), np.zeros(1, np.float32), r"float32 \[\]; an array of float32 \[1\] came"),
        (TensorForms([spec("x", shape=(4, None))], [X]), x, r"takes float32 \[4, any\]; an array of float32 \[3, 2\]"),
        # text
        (WORDS, "hello", "a value of type str came"),
        (WORDS, ["hello"], "input 't' is a NumPy array; a value of type str came"),
        (WORDS, np.zeros(2), r"input 't' takes text \[any\]; an array of float64 \[2\] came$"),
        (WORDS, np.array("hello"), r"takes text \[any\]; an array of <U5 \[\] came; is the batch dimension missing"),
        (WORDS, np.array(["a", None], object), "input 't' takes text; element 1 is None"),
        (WORDS, np.array([1, "a"], object), "input 't' takes text; element 0 is a value of type int"),
        (WORDS, np.array(["a", b"\xff"], object), "input 't' takes text; element 1 is not UTF-8"),
        (WORDS, np.array([b"a", b"\xff"]), "input 't' takes text; element 1 is not UTF-8"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_what_would(forms: TensorForms, value: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        forms.read(value)


def test_wrong_input_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="None came"):
        ONE.read(None)


# ---- text


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", "grün"]),
        np.array(["a", "grün"], object),
        np.array([b"a", "grün".encode()]),
        np.array([b"a", "grün".encode()], object),
        np.array([np.str_("a"), "grün"], object),
        np.array(["grün", "x", "a", "y"])[2::-2],
        np.array(["a", "grün"]).astype(">U4"),
    ],
)
def test_text_of_any_kind_reaches_the_runtime_as_strings(array: Array) -> None:
    """Not as it came: ONNX Runtime reads on behind a full element of an array of bytes."""
    ((text,), _, _) = WORDS.read(array)
    assert text.dtype == object
    assert text.tolist() == ["a", "grün"]
    assert [type(element) for element in text] == [str, str]


def test_an_array_of_strings_is_not_copied() -> None:
    array = np.array(["a", ""], object)
    assert WORDS.read(array)[0][0] is array


# ---- callables


def callable_forms(function: Any = max, *, in_lists: bool = False) -> CallableForms:
    return CallableForms(backend_for(function, None).load(function, LoadOptions((1,))), in_lists)


@pytest.mark.parametrize(
    "value", [None, 1, "text", b"bytes", (1, 2), {1, 2}, np.zeros(2), OrderedDict(a=1), Torchlike(), [].__iter__]
)
def test_a_callable_takes_any_value_as_its_one_argument(value: Any) -> None:
    inputs, names, form = callable_forms().read(value)
    assert inputs[0] is value
    assert (len(inputs), names, form) == (1, None, Form.ONE)


def test_a_list_is_spread_and_a_dict_goes_by_name() -> None:
    forms = callable_forms()
    assert forms.read([1, None]) == ((1, None), None, Form.LIST)
    assert forms.read([]) == ((), None, Form.LIST)
    assert forms.read({"b": 1, "a": 2}) == ((1, 2), ("b", "a"), Form.DICT)
    assert forms.read({}) == ((), (), Form.DICT)


@pytest.mark.parametrize("value", [{1: 2}, {"a": 1, None: 2}, {b"a": 1}])
def test_names_are_strings(value: Any) -> None:
    with pytest.raises(InvalidInput, match="its keys must be strings"):
        callable_forms().read(value)


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, {1: 2}, 3])
def test_nothing_is_spread_for_a_callable_that_takes_lists_of_requests(value: Any) -> None:
    assert callable_forms(in_lists=True).read(value) == ((value,), None, Form.ONE)


def test_nothing_is_spread_where_the_backend_does_not() -> None:
    forms = CallableForms(Loaded("null", "null", "null", (), None, None), in_lists=False)
    assert forms.read([1, 2]) == (([1, 2],), None, Form.ONE)


@pytest.mark.parametrize("form", Form)
def test_a_callables_answer_is_what_it_returned(form: Form) -> None:
    answer = [1, 2]
    assert callable_forms().write([answer], form) is answer


# ---- bytes


def test_the_bytes_of_what_has_bytes_are_counted() -> None:
    array = np.zeros((2, 3), np.float32)
    assert nbytes_of([array, array[:, ::2]]) == 24 + 16
    assert nbytes_of([b"abc", bytearray(2), "text", memoryview(array)]) == 3 + 2 + 4 + 24
    assert nbytes_of([None, 5, object(), {}, []]) == 0
    assert nbytes_of([[b"abc", array], (b"d",), {"key": b"ef", "n": 1}]) == 3 + 24 + 1 + 2
    assert nbytes_of([[[b"abc"]]]) == 0, "it looks no deeper"
    assert nbytes_of([]) == 0
