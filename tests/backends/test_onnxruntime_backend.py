import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import headrace
from headrace.backends import backend_for
from headrace.backends._onnxruntime import OnnxRuntimeBackend, OnnxRuntimeSession, WideSession, backend
from headrace.backends.base import Loaded, LoadOptions
from headrace.errors import BackendNotInstalled, InvalidModel, InvalidOption
from headrace.tensor import TensorSpec

DIGITS = Path(headrace.__file__).parent / "bundled/digits/digits.onnx"


def graph(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], weights: Sequence[Any] = ()) -> Any:
    made = helper.make_graph(list(nodes), "made", list(inputs), list(outputs), list(weights))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tensor(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[int | str | None] | None = ("n", 2)) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def times_two() -> Any:
    two = numpy_helper.from_array(np.full((2,), 2, np.float32), "two")
    return graph([helper.make_node("Mul", ["x", "two"], ["y"])], [tensor("x")], [tensor("y")], [two])


def load(model: Any, *widths: int, **options: Any) -> Loaded:
    return backend.load(model, LoadOptions(widths or (1,), **options))


X = np.array([[1, 2], [3, 4]], np.float32)


# ---- what is loaded


def test_a_path_in_any_form_and_bytes_are_one_model(tmp_path: Path) -> None:
    file = tmp_path / "twice.onnx"
    onnx.save(times_two(), file)
    for model in (file, str(file), file.read_bytes()):
        loaded = load(model)
        assert loaded.inputs == (TensorSpec("x", np.dtype(np.float32), (None, 2)),)
        assert loaded.outputs == (TensorSpec("y", np.dtype(np.float32), (None, 2)),)
        np.testing.assert_array_equal(loaded.sessions[0].run((X,))[0], 2 * X)
    assert load(file).name == "twice"
    assert load(file.read_bytes()).name == "model"
    assert (load(file).backend, load(file).platform) == ("onnxruntime", "onnxruntime_onnx")


def test_weights_in_a_file_beside_the_model_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "models" / "twice.onnx"
    file.parent.mkdir()
    onnx.save(times_two(), file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (file.parent / "weights.bin").exists()
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(load("models/twice.onnx").sessions[0].run((X,))[0], 2 * X)
    (file.parent / "weights.bin").unlink()
    with pytest.raises(InvalidModel, match=r"weights\.bin.*; its weights are in a file of their own") as why:
        load(file)
    assert "tensorprotoutils" not in str(why.value)
    assert capfd.readouterr() == ("", "")


def test_paths_and_bytes_go_to_onnxruntime_by_themselves() -> None:
    for model in ("x.onnx", Path("x.onnx"), b"x"):
        assert isinstance(backend_for(model, None), OnnxRuntimeBackend)


@pytest.mark.parametrize("model", [None, 3, bytearray(b"x"), ["x.onnx"]])
def test_what_is_neither_path_nor_bytes_nor_callable_is_no_model(model: Any) -> None:
    with pytest.raises(InvalidModel, match=f"this is a {type(model).__name__}"):
        backend_for(model, None)
    with pytest.raises(InvalidModel, match=f"not {type(model).__name__}"):
        load(model)


def test_an_unknown_backend_names_those_there_are() -> None:
    with pytest.raises(InvalidOption, match="unknown backend 'onnx'; this version has: onnxruntime, python, null"):
        backend_for("x.onnx", "onnx")


# ---- what is not a model


def test_a_missing_file_says_from_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidModel, match=rf"^missing.onnx does not exist \(looked from {tmp_path}\)"):
        load("missing.onnx")


def test_an_empty_file_and_no_bytes_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(InvalidModel, match="is empty: 0 bytes"):
        load(tmp_path / "empty.onnx")
    with pytest.raises(InvalidModel, match="is empty: 0 bytes"):
        load(b"")


def test_a_folder_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="is a folder; give the ONNX file in it"):
        load(tmp_path)


def relu(kind: str = "Relu", domain: str = "", opset: int = 17, version: int = 8) -> bytes:
    """A model of one node, which takes `x` and gives `y`."""
    node = helper.make_node(kind, ["x"], ["y"], domain=domain)
    made = graph([node], [tensor("x")], [tensor("y")])
    made.ir_version = version
    made.opset_import[0].version = opset
    if domain:
        made.opset_import.append(helper.make_opsetid(domain, 1))
    serialized: bytes = made.SerializeToString()
    return serialized


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>not found</html>", "this is a web page or XML, not a model; look at what was downloaded$"),
        (b"version https://git-lfs.github.com/spec/v1\n", "this is a Git LFS pointer.* `git lfs pull`$"),
        (b"just some text", "this is text, not a model: it begins with 'just some text'$"),
        (b"PK\x03\x04" + b"\0" * 50, "this is a zip archive, as PyTorch saves; export the model to ONNX$"),
        (b"\x80\x04\x95" + b"\0" * 50, "this is a pickle.* export the model to ONNX$"),
        (DIGITS.read_bytes()[:5000], "damaged, cut short or no ONNX file: copy or export it again$"),
        (b"\0" * 100, "damaged, cut short or no ONNX file: copy or export it again$"),
        (np.random.default_rng(0).bytes(5000), "damaged, cut short or no ONNX file: copy or export it again$"),
        (relu(opset=99), "Opset 99 .*; install a newer onnxruntime, or export the model for an older version$"),
        (
            relu(version=99),
            "IR version: 99, .*; install a newer onnxruntime, or export the model for an older version$",
        ),
        (relu("Fancy", domain="com.acme"), "com.acme:Fancy.*; export it without custom operators, or install a newer"),
        (relu("NoSuchOperator"), "NoSuchOperator.*; export it without custom operators, or install a newer"),
        (
            graph([helper.make_node("Relu", ["z"], ["y"])], [tensor("x")], [tensor("y")]).SerializeToString(),
            "Node input 'z' is not a graph input",
        ),
    ],
    ids=["page", "lfs", "text", "zip", "pickle", "cut", "zeros", "noise", "opset", "ir", "custom", "operator", "graph"],
)
def test_a_file_that_is_no_model_says_what_it_is_and_what_to_do(
    content: bytes, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "damaged.onnx"
    file.write_bytes(content)
    for model, name in ((file, "damaged"), (content, "model")):
        with pytest.raises(InvalidModel, match=f"^{name} cannot be loaded as an ONNX model: .*{said}") as caught:
            load(model)
        assert caught.value.__cause__ is not None
        for noise in ("ONNXRuntimeError", "onnxruntime_src", "std::", "INVALID_", "Load model from"):
            assert noise not in str(caught.value)
        assert len(str(caught.value)) < 500
    assert capfd.readouterr() == ("", "")


def test_what_is_not_a_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", "/dev/zero"):
        with pytest.raises(InvalidModel, match="is not a regular file"):
            load(path)
    with pytest.raises(InvalidModel, match=r"^https://example.org/m.onnx is a URL; download it, and give the file"):
        load("https://example.org/m.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "closed.onnx").write_bytes(relu())
    (tmp_path / "closed.onnx").chmod(0)
    with pytest.raises(InvalidModel, match="may not be read by this user"):
        load(tmp_path / "closed.onnx")


@pytest.mark.parametrize("path", ["x" * 5000, "x\0y"])
def test_what_can_be_no_path_is_no_model(path: str) -> None:
    with pytest.raises(InvalidModel):
        load(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_not_be_entered_is_said(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(InvalidModel, match="Permission denied"):
        load(tmp_path / "closed" / "m.onnx")


SEQUENCE = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
OPTIONAL = helper.make_value_info("o", helper.make_optional_type_proto(tensor("", shape=(2,)).type))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            graph([helper.make_node("SequenceLength", ["s"], ["n"])], [SEQUENCE], [tensor("n", TensorProto.INT64, ())]),
            r"s is a seq\(tensor\(float\)\)",
        ),
        (
            graph([helper.make_node("SequenceConstruct", ["x"], ["s"])], [tensor("x")], [SEQUENCE]),
            r"s is a seq\(tensor\(float\)\)",
        ),
        (
            graph(
                [helper.make_node("OptionalHasElement", ["o"], ["b"])], [OPTIONAL], [tensor("b", TensorProto.BOOL, ())]
            ),
            r"o is a optional\(tensor\(float\)\)",
        ),
        (
            graph(
                [helper.make_node("Identity", ["x"], ["y"])],
                [tensor("x", TensorProto.BFLOAT16)],
                [tensor("y", TensorProto.BFLOAT16)],
            ),
            r"x is a tensor\(bfloat16\)",
        ),
    ],
    ids=["sequence in", "sequence out", "optional", "bfloat16"],
)
def test_what_numpy_cannot_hold_is_refused_at_load(model: Any, said: str) -> None:
    with pytest.raises(InvalidModel, match=f"^model: {said}; only dense tensors of NumPy's own types work"):
        load(model.SerializeToString())


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"],
)
def test_every_dtype_of_numpys_own_goes_in_and_comes_out(dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = graph([helper.make_node("Identity", ["x"], ["y"])], [tensor("x", kind)], [tensor("y", kind)])
    loaded = load(model.SerializeToString())
    assert loaded.inputs is not None
    assert loaded.inputs[0].dtype == np.dtype(dtype)
    array = np.array([[0, 1], [1, 0]], dtype)
    (answer,) = loaded.sessions[0].run((array,))
    np.testing.assert_array_equal(answer, array, strict=True)


def test_text_goes_in_and_comes_out() -> None:
    text = [tensor(name, TensorProto.STRING, ("n",)) for name in "tu"]
    loaded = load(graph([helper.make_node("Identity", ["t"], ["u"])], text[:1], text[1:]).SerializeToString())
    (answer,) = loaded.sessions[0].run((np.array(["grün", "", "a\0b\0"], object),))
    assert answer.tolist() == ["grün", "", "a\0b\0"]


# ---- shapes


def shapes(loaded: Loaded) -> list[tuple[int | None, ...]]:
    assert loaded.inputs is not None
    return [spec.shape for spec in loaded.inputs]


def two_inputs() -> bytes:
    inputs = [tensor("a", shape=("n", 2)), tensor("b", shape=("n", "m"))]
    nodes = [helper.make_node("Identity", ["a"], ["c"]), helper.make_node("Identity", ["b"], ["d"])]
    serialized: bytes = graph(nodes, inputs, [tensor("c"), tensor("d", shape=("n", "m"))]).SerializeToString()
    return serialized


def test_free_dimensions_are_none_whatever_the_model_calls_them() -> None:
    model = graph(
        [helper.make_node("Identity", ["x"], ["y"])], [tensor("x", shape=("batch", None, 3))], [tensor("y", shape=None)]
    )
    assert shapes(load(model.SerializeToString())) == [(None, None, 3)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(None, 2), (None, None)]),
        ({"batch_size": 4}, [(4, 2), (4, None)]),
        ({"input_shapes": {"b": [3, 5]}}, [(None, 2), (3, 5)]),
        ({"input_shapes": {"a": (1, 2), "b": (1, 5)}}, [(1, 2), (1, 5)]),
        ({"input_shapes": {"0": [7, 2], "1": [7, 1]}}, [(7, 2), (7, 1)]),
        ({"input_shapes": {"b": [4, 5]}, "batch_size": 4}, [(4, 2), (4, 5)]),
        ({"input_shapes": {}}, [(None, 2), (None, None)]),
    ],
)
def test_options_fix_dimensions(options: dict[str, Any], expected: list[tuple[int | None, ...]]) -> None:
    assert shapes(load(two_inputs(), **options)) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"input_shapes": {"c": [1, 2]}}, "input_shapes names c; the inputs are: a, b"),
        ({"input_shapes": {"2": [1, 2]}}, "input_shapes names 2; the inputs are: a, b"),
        (
            {"input_shapes": {"a": [1, 3]}},
            r"input_shapes gives \[1, 3\], which does not fit input a: float32 \[any, 2\]",
        ),
        ({"input_shapes": {"a": [1]}}, r"input_shapes gives \[1\], which does not fit"),
        ({"input_shapes": {"a": [1, 2, 3]}}, r"input_shapes gives \[1, 2, 3\], which does not fit"),
        ({"input_shapes": {"a": [-1, 2]}}, r"input_shapes gives \[-1, 2\] for input a.*a list of whole numbers"),
        ({"input_shapes": {"a": [None, 2]}}, r"input_shapes gives \[None, 2\] for input a"),
        ({"input_shapes": {"a": ["n", 2]}}, "a list of whole numbers"),
        ({"input_shapes": {"a": 5}}, "input_shapes gives 5 for input a"),
        ({"input_shapes": {"a": "12"}}, "input_shapes gives '12' for input a"),
        ({"input_shapes": {"a": [3, 2]}, "batch_size": 4}, r"batch_size gives \[4\], which does not fit input a"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        load(two_inputs(), **options)


def test_a_batch_size_needs_a_dimension_to_fix() -> None:
    model = graph([helper.make_node("Identity", ["x"], ["y"])], [tensor("x", shape=())], [tensor("y", shape=())])
    with pytest.raises(InvalidOption, match=r"batch_size fixes dimension 0, and input x: float32 \[\] has none"):
        load(model.SerializeToString(), batch_size=2)


def test_a_fixed_leading_dimension_takes_only_its_own_batch_size() -> None:
    model = graph(
        [helper.make_node("Identity", ["x"], ["y"])], [tensor("x", shape=(4, 2))], [tensor("y", shape=(4, 2))]
    )
    assert shapes(load(model.SerializeToString(), batch_size=4)) == [(4, 2)]
    with pytest.raises(InvalidOption, match="does not fit"):
        load(model.SerializeToString(), batch_size=1)


# ---- sessions


def runtime_session(session: Any) -> Any:
    bare = session.session if isinstance(session, WideSession) else session
    assert isinstance(bare, OnnxRuntimeSession)
    return bare._session


def threads_of(session: Any) -> int:
    return int(runtime_session(session).get_session_options().intra_op_num_threads)


def test_streams_of_width_one_share_one_session_and_so_one_copy_of_the_weights() -> None:
    sessions = load(DIGITS, 1, 1, 1).sessions
    assert len(sessions) == 3
    assert len(set(map(id, sessions))) == 1
    assert threads_of(sessions[0]) == 1


def test_each_wide_stream_has_a_session_with_threads_of_its_own() -> None:
    sessions = load(DIGITS, 3, 2, 2, 1, 1).sessions
    assert [threads_of(session) for session in sessions] == [3, 2, 2, 1, 1]
    assert sessions[3] is sessions[4]
    assert len({id(runtime_session(session)) for session in sessions}) == 4


def test_sessions_of_any_width_answer_alike() -> None:
    loaded = load(DIGITS, 1, 2, 3)
    assert [threads_of(session) for session in loaded.sessions] == [1, 2, 3]
    assert loaded.inputs is not None
    shape = [5 if n is None else n for n in loaded.inputs[0].shape]
    image = np.random.default_rng(0).random(shape, np.float32)
    bare = onnxruntime.InferenceSession(DIGITS, providers=["CPUExecutionProvider"])
    (expected, *_) = bare.run(None, {loaded.inputs[0].name: image})
    for session in loaded.sessions:
        np.testing.assert_allclose(session.run((image,))[0], expected, atol=1e-6)


def affinities() -> dict[int, set[int]]:
    """The CPUs each thread of this process may run on."""
    found = {}
    for task in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            found[task] = os.sched_getaffinity(task)
    return found


CPU = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
on_linux = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads can be pinned on Linux")


def new_threads(before: dict[int, set[int]], count: int) -> list[set[int]]:
    """Where those may run that have come, once there are `count`: one that was joined may be seen a moment longer."""
    for _ in range(10_000):
        new = [cpus for task, cpus in affinities().items() if task not in before]
        if len(new) == count:
            break
    return new


@on_linux
def test_the_threads_of_a_wide_stream_stay_on_its_cpus_and_its_caller_does_while_it_runs() -> None:
    before = affinities()
    (session,) = load(times_two().SerializeToString(), 3, cpus=((CPU,),)).sessions
    assert isinstance(session, WideSession)
    assert new_threads(before, 2) == [{CPU}, {CPU}]
    seen: list[set[int]] = []
    inner = session.session.run
    session.session.run = lambda *given: (seen.append(os.sched_getaffinity(0)), inner(*given))[1]  # type: ignore
    np.testing.assert_array_equal(session.run((X,))[0], 2 * X)
    assert seen == [{CPU}]
    assert os.sched_getaffinity(0) == before[threading.get_native_id()]
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        session.run((X[0],))
    assert os.sched_getaffinity(0) == before[threading.get_native_id()]


@on_linux
def test_a_stream_runs_on_those_of_its_cpus_that_are_this_processs(capfd: pytest.CaptureFixture[str]) -> None:
    before = affinities()
    (session,) = load(times_two().SerializeToString(), 2, cpus=((CPU, 4000),)).sessions
    assert isinstance(session, WideSession)
    assert session.cpus == ()
    assert new_threads(before, 1) == [{CPU}], "it inherits what could be had"
    pinned = WideSession(session.session, (), (4000,))  # taken away after the load
    np.testing.assert_array_equal(pinned.run((X,))[0], 2 * X)
    assert capfd.readouterr() == ("", "")


@on_linux
def test_streams_on_the_same_cpus_share_a_session_and_others_do_not() -> None:
    sessions = load(DIGITS, 2, 2, 2, 2, 1, 1, cpus=((CPU,), (CPU,), (), (), (), (CPU,))).sessions
    assert sessions[0] is sessions[1]
    assert len({id(session) for session in sessions}) == 5


def test_idle_threads_of_a_session_hardly_spin() -> None:
    options = runtime_session(load(DIGITS, 2).sessions[0]).get_session_options()
    assert int(options.get_session_config_entry("session.intra_op.spin_duration_us")) <= 50
    assert options.inter_op_num_threads == 1


def test_a_session_that_was_closed_lets_go_of_the_model() -> None:
    session = load(DIGITS).sessions[0]
    session.close()
    session.close()  # streams share it, and each closes it
    assert runtime_session(session) is None


def test_without_onnxruntime_it_says_how_to_install_it() -> None:
    """In a process of its own, which cannot import it."""
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import headrace as hr\n"
        "try: hr.compile_model('x.onnx', scheduler='naive')\n"
        "except hr.BackendNotInstalled as e: print(e.backend, '|', e)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.startswith("onnxruntime | ")
    assert "pip install onnxruntime" in said
    assert issubclass(BackendNotInstalled, ImportError)


def test_a_file_with_a_damaged_name_is_no_model() -> None:
    """ONNX Runtime loads it, and fails when it is asked for its inputs."""
    free = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    whole = graph([helper.make_node("Neg", ["x"], ["y"])], [free], [tensor("y")], []).SerializeToString()
    with pytest.raises(InvalidModel, match=r"a name in it is no text.*export it again"):
        load(whole.replace(b"batch", b"ba\x9ach"), 1)
