"""What `compile_model` cannot make a model of: a named error each, which says what was expected, what came and what to
do; nothing is left behind, and the engine goes on."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headrace as hr
from headrace.engine.topology import made_up

WHOLE = "is a whole number from 1 up, or None; "
NAMES = "choose single_stream (also: default, single, sync), multi_stream (also: multi, async), elastic, naive"
A_MODEL = "a model is a path to an ONNX file, the bytes of one, or a callable; this is a "


@pytest.fixture(scope="module")
def engine() -> Iterator[hr.Engine]:
    """Two cores. One for all: what is refused leaves it as it was."""
    engine = hr.Engine(topology=made_up(2))
    yield engine
    assert engine.statistics().ports == 0
    engine.close()


def double(x: Any) -> Any:
    return x * 2


def refused(free: hr.Engine, model: Any, error: type[Exception], said: tuple[str, ...], **options: Any) -> None:
    threads = threading.active_count()
    options.setdefault("engine", free)
    with pytest.raises(error) as caught:
        hr.compile_model(model, **options)
    assert type(caught.value) is error
    for part in said:
        assert part in str(caught.value)
    assert free.statistics().streams == 0
    assert threading.active_count() == threads


# ---- the model


@pytest.mark.parametrize("as_bytes", [False, True], ids=["a file", "bytes"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ("empty: 0 bytes",)),
        (b"hello there", ("cannot be loaded as an ONNX model",)),
        (bytes(range(256)) * 8, ("cannot be loaded as an ONNX model",)),
        (slice(-20), ("cannot be loaded as an ONNX model",)),
    ],
    ids=["empty", "a text", "corrupt", "cut off"],
)
def test_what_is_no_model_inside(
    content: Any, said: tuple[str, ...], as_bytes: bool, engine: hr.Engine, sum_and_difference: bytes, tmp_path: Path
) -> None:
    content = sum_and_difference[content] if isinstance(content, slice) else content
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    refused(engine, content if as_bytes else path, hr.InvalidModel, said if as_bytes else ("broken", *said))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.onnx", ("missing.onnx does not exist", "looked from ")),
        ("", ("is a folder", "give the ONNX file in it")),
        ("x" * 5000, ("cannot be read", "name too long")),
    ],
)
def test_what_is_no_file(name: str, said: tuple[str, ...], engine: hr.Engine, tmp_path: Path) -> None:
    refused(engine, tmp_path / name, hr.InvalidModel, said)
    refused(engine, str(tmp_path / name), hr.InvalidModel, said)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("", ("path is empty", "give the path of an ONNX file")),
        (None, (A_MODEL + "NoneType",)),
        (5, (A_MODEL + "int",)),
        (True, (A_MODEL + "bool",)),
        (["a.onnx"], (A_MODEL + "list",)),
        (np.zeros(3), (A_MODEL + "ndarray",)),
        (bytearray(b"x"), (A_MODEL + "bytearray", "bytes(…)")),
    ],
    ids=repr,
)
def test_what_is_of_no_kind_a_model_can_be(model: Any, said: tuple[str, ...], engine: hr.Engine) -> None:
    refused(engine, model, hr.InvalidModel, said)


# ---- options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scheduler": "best"}, ("there is no scheduler 'best'", NAMES)),
        ({"scheduler": "elastc"}, ("there is no scheduler 'elastc'", "did you mean 'elastic'?", NAMES)),
        ({"scheduler": "multi-stream"}, ("there is no scheduler 'multi-stream'", "did you mean 'multi_stream'?")),
        ({"scheduler": "e"}, ("there is no scheduler 'e'", NAMES)),
        ({"scheduler": "auto"}, ("'auto' is not available in this version yet", NAMES)),
        ({"scheduler": ""}, ("there is no scheduler ''", NAMES)),
        ({"scheduler": 5}, ("there is no scheduler 5", NAMES)),
        ({"scheduler": ["elastic"]}, ("there is no scheduler ['elastic']", NAMES)),
        ({"num_streams": 2}, ("single_stream has one stream, num_streams is 2", "use multi_stream")),
        ({"num_streams": 3, "scheduler": "multi_stream"}, ("num_streams is 3, but there are 2 cores", "choose 1 to 2")),
        (
            {"num_streams": 2, "scheduler": "elastic"},
            ("at most one request on each L3", "num_streams is 2", "choose 1, or scheduler='multi_stream'"),
        ),
        *[
            ({name: came, "scheduler": scheduler}, (f"{name} {WHOLE}{came!r} came",))
            for name in ("num_streams", "num_cores")
            for came in (0, -1, 1.5, 2.0, True, "2", [1])
            for scheduler in ("multi_stream", "naive")
        ],
        ({"precision": "int8"}, ("precision 'fp32' is what this version has, not 'int8'", "leave precision out")),
        ({"precision": None}, ("precision 'fp32' is what this version has, not None",)),
        ({"devices": ["cpu", "cpu"]}, ("devices names the CPU 2 times", "devices='cpu'")),
        *[
            ({"devices": came}, (f"devices is the name of a device or a list of names, not {came!r}",))
            for came in (1, None, [], b"cpu", [0])
        ],
        ({"backend": "torch"}, ("unknown backend 'torch'", "this version has: onnxruntime, python, null", "Leave it")),
        ({"backend": 5}, ("unknown backend 5",)),
        ({"engine": 0}, ("engine is an hr.Engine, or None for the process's own", "not 0 (int)")),
        ({"engine": "mine"}, ("engine is an hr.Engine", "not 'mine' (str)")),
        ({"engine": "mine", "scheduler": "naive"}, ("engine is an hr.Engine", "not 'mine' (str)")),
        ({"engine": hr.Engine}, ("engine is an hr.Engine", "(type)")),
        ({"engine": hr.NaiveEngine()}, ("engine is an hr.Engine", "(NaiveEngine)", "scheduler='naive'")),
        ({"name": ""}, ("name is what the model is to be called", "not ''")),
        ({"name": 5}, ("name is what the model is to be called", "not 5")),
        *[
            ({"max_batch_size": came}, ("max_batch_size is a whole number from 1", f"not {came!r} and 0.0"))
            for came in (0, 2.0, True, "8")
        ],
        *[
            ({"max_batch_delay": came}, ("max_batch_delay seconds from 0 to 3,600", f"not 1 and {came!r}"))
            for came in (-1, float("inf"), float("nan"), 5000, "0.1", None, True)
        ],
        *[
            ({"batch_size": came}, ("batch_size is a whole number from 1, or None", f"not {came!r}"))
            for came in (0, -1, 1.5, True, "1")
        ],
        ({"batch_size": 1}, ("batch_size and input_shapes fix the shapes of an ONNX model; a callable has none",)),
    ],
    ids=lambda given: " ".join(f"{name}={came!r}" for name, came in given.items()) if isinstance(given, dict) else "",
)
def test_an_option_that_cannot_be(options: dict[str, Any], said: tuple[str, ...], engine: hr.Engine) -> None:
    refused(engine, double, hr.InvalidOption, said, **options)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        *[
            (came, ("input_shapes is a dict by name, or a list in input order", f"not {came!r}"))
            for came in (5, "x", "[1, 3]", b"ab", True, {1, 2})
        ],
        ({0: [1, 3]}, ("input_shapes is a dict by the names of inputs, or a list in input order", "0 is no name")),
        ({"c": [1, 3]}, ("input_shapes names c", "the inputs are: a, b (by position: 0, 1)")),
        ([[1, 3]] * 3, ("input_shapes names 2", "the inputs are: a, b (by position: 0, 1)")),
        *[
            ({"a": came}, (f"input_shapes gives {came!r} for input a: float32 [any, 3]", "a list of whole numbers"))
            for came in (3, "13", None, [1, "3"], [1.0, 3], [True, 3], [-1, 3], [None, 3], [[1], 3])
        ],
        ([1, 3], ("input_shapes gives 1 for input a: float32 [any, 3]", "a list of whole numbers")),
        ({"a": [1, 4]}, ("input_shapes gives [1, 4], which does not fit input a: float32 [any, 3]",)),
        ({"b": [1]}, ("input_shapes gives [1], which does not fit input b: float32 [any, 3]",)),
    ],
    ids=repr,
)
def test_shapes_that_cannot_be(
    shapes: Any, said: tuple[str, ...], engine: hr.Engine, sum_and_difference: bytes
) -> None:
    refused(engine, sum_and_difference, hr.InvalidOption, said, input_shapes=shapes)


def test_a_batch_size_that_its_shapes_do_not_have(engine: hr.Engine, sum_and_difference: bytes) -> None:
    said = ("batch_size gives [2], which does not fit input a",)
    refused(engine, sum_and_difference, hr.InvalidOption, said, batch_size=2, input_shapes={"a": [1, 3]})


def test_more_cores_than_the_engine_has(engine: hr.Engine) -> None:
    said = ("3 cores were asked for, 2 are free", "ask for fewer, or leave num_cores out", "headrace doctor")
    for scheduler in "single_stream", "multi_stream", "elastic":
        refused(engine, double, hr.NotEnoughCores, said, num_cores=3, scheduler=scheduler)
    with pytest.raises(hr.NotEnoughCores) as caught:
        hr.compile_model(double, num_cores=3, engine=engine)
    assert (caught.value.wanted, caught.value.free) == (3, 2)


@pytest.mark.parametrize("devices", ["cuda:0", "gpu", "tpu", "cpu:1", "", ["cpu", "cuda"]])
def test_a_device_that_is_not_there(devices: Any, engine: hr.Engine) -> None:
    device = devices if isinstance(devices, str) else devices[-1]
    said = (f"there is no device {device!r} here", "choose from: cpu (2 cores)")
    refused(engine, double, hr.DeviceNotFound, said, devices=devices)


def test_every_error_of_this_kind_is_a_value_error_and_headraces_own() -> None:
    # Who catches what DeepSparse and Python raise for wrong arguments catches these.
    assert issubclass(hr.InvalidOption, ValueError)
    for error in hr.InvalidOption, hr.InvalidModel, hr.NotEnoughCores, hr.DeviceNotFound:
        assert issubclass(error, hr.HeadraceError)


def test_after_all_of_that_it_makes_models(engine: hr.Engine, sum_and_difference: bytes) -> None:
    row = np.ones((1, 3), np.float32)
    with hr.compile_model(sum_and_difference, engine=engine, input_shapes={"a": [1, 3], "1": (1, 3)}) as model:
        assert [float(each.sum()) for each in model([row, row])] == [6.0, 0.0]


def test_a_file_that_is_none_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    (tmp_path / "empty.onnx").touch()
    for name, said in (
        ("loop", "leads nowhere, or to itself; give"),
        ("empty", "0 bytes; save or download"),
        ("none", "does not exist .*; give the path"),
    ):
        with pytest.raises(hr.InvalidModel, match=said):
            hr.compile_model(tmp_path / f"{name}.onnx")


def test_an_error_that_says_nothing_has_no_colon() -> None:
    def silent(x: object) -> object:
        raise KeyboardInterrupt

    with hr.compile_model(silent) as model, pytest.raises(hr.BackendError, match=r"KeyboardInterrupt$"):
        model(1)
