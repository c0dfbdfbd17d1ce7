"""The handlers that need no code, loaded as a worker loads them: by their paths, with nothing of ours imported."""

import ast
import base64
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import headrace
from headrace.archives.handlers.image_classifier import ImageClassifier as InProcess
from headrace.tensor import TensorSpec

FOLDER = Path(headrace.__file__).parent / "archives" / "ready_made"


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"loaded_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


classifier, tensor = loaded("image_classifier"), loaded("tensor")
arrays, requests, runtimes, pictures = (
    classifier.neighbours.load(name) for name in ("arrays", "requests", "runtimes", "pictures")
)


class Context:
    """What a handler is given, as far as these look at it."""

    def __init__(self, folder, model=None, **config):
        self.system_properties = {"model_dir": str(folder), "gpu_id": None}
        self.manifest, self.model_yaml_config = {"model": model or {}}, {"handler": config}
        self.statuses = {}
        self.owners, self.fields = None, [{}]

    def get_request_header(self, index, key):
        return self.fields[index].get(key)

    def get_all_request_header(self, index):
        return self.fields[index % len(self.fields)]

    def set_response_status(self, code, phrase, index):
        self.statuses[index] = code

    def set_response_content_type(self, index, value):
        assert value == "application/json"


def mean_of_channels(path, size=(4, 6), rows="n"):
    """An ONNX file: the mean of each of a picture's three channels."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 3, *size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 3])
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph([node], "g", [x], [y])
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]), path)


def started(module, kind, context):
    handler = getattr(module, kind)()
    handler.initialize(context)
    return handler


def picture(kind="PNG", size=(6, 4), mode="RGB", **options):
    values = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).convert(mode).save(file, kind, **options)
    return file.getvalue()


# They run in other people's environments


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_only_the_standard_library_and_numpy_are_needed_to_import_them(file):
    runtime = {"with_torch": "torch", "with_mxnet": "mxnet", "with_onnxruntime": "onnxruntime"}.get(file.stem)
    allowed = {*sys.stdlib_module_names, "numpy", runtime}
    for node in ast.parse(file.read_text(), feature_version=(3, 8)).body:
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert node.module.partition(".")[0] in allowed
    code = (
        f"import runpy, sys; runpy.run_path({str(file)!r}); print([m for m in sys.modules if m in ('PIL', 'headrace')])"
    )
    if runtime not in ("torch", "mxnet"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
        assert done.stdout.strip() == "[]"


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


def test_a_classifier_takes_the_networks_numbers_too(tmp_path):
    mean_of_channels(tmp_path / "m.onnx", size=(1, 2))
    handler = started(classifier, "ImageClassifier", Context(tmp_path))
    np.testing.assert_array_equal(handler.read({"body": [[[1, 2]], [[3, 4]], [[5, 6]]]})["x"][0, 2], [[5, 6]])
    for wrong in ([], [1], [[[1, 2]]], [[["a", 2]], [[3, 4]], [[5, 6]]], [[[1], [2, 3]]] * 3):
        with pytest.raises(requests.Bad, match=r"lists \[3, height, width\]"):
            handler.read({"body": wrong})


# Pictures


def test_a_picture_gets_labels_and_probabilities_likeliest_first(tmp_path):
    mean_of_channels(tmp_path / "m.onnx")
    (tmp_path / "index_to_name.json").write_text('{"0": ["n1", "red"], "1": "green", "2": "blue"}')
    red = io.BytesIO()
    Image.new("RGB", (60, 40), (200, 100, 0)).save(red, "PNG")
    handler = started(classifier, "ImageClassifier", Context(tmp_path, top_k=2))
    (answer,) = handler.handle([{"body": bytearray(red.getvalue())}], Context(tmp_path))
    scores = np.exp(np.array([200, 100, 0]) / 255)
    assert list(answer) == ["red", "green"]
    assert answer["red"] == pytest.approx(scores[0] / scores.sum())


def test_what_a_network_sees_is_what_it_sees_in_the_servers_process(tmp_path):
    mean_of_channels(tmp_path / "m.onnx")
    spec = TensorSpec("x", np.dtype(np.float32), (None, 3, 4, 6))
    scores = TensorSpec("y", np.dtype(np.float32), (None, 3))
    config = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    theirs = InProcess([spec], [scores], None, config)
    ours = started(classifier, "ImageClassifier", Context(tmp_path, **config))
    for body in (
        picture(),
        picture(size=(60, 50)),
        picture("JPEG", (31, 17)),
        picture("GIF", (20, 10)),
        picture(mode="L"),
    ):
        np.testing.assert_array_equal(ours.read({"data": body})["x"], theirs.preprocess(body)["x"])


def test_one_that_is_no_picture_fails_alone(tmp_path):
    mean_of_channels(tmp_path / "m.onnx")
    context = Context(tmp_path)
    handler = started(classifier, "ImageClassifier", context)
    body = picture()
    rows = [
        {"body": body},
        {"body": b"no"},
        {"data": base64.b64encode(body).decode()},
        {"body": {"a": 1}},
        {},
        {"x": body},
    ]
    answers = handler.handle(rows, context)
    assert context.statuses == {1: 400, 3: 400, 4: 400}
    assert answers[0] == answers[2] == answers[5]
    assert answers[1]["message"].startswith("the body is not a picture that can be read (2 bytes")
    assert answers[1]["code"] == 400


def test_how_large_a_picture_is_is_known_before_it_is_decoded(tmp_path, monkeypatch):
    mean_of_channels(tmp_path / "m.onnx")
    body = picture(size=(20, 20))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    context = Context(tmp_path)
    handler = started(classifier, "ImageClassifier", context)
    (answer,) = handler.handle([{"body": body}], context)
    assert "20 x 20 pixels" in answer["message"]


def test_as_torchvision_does_the_shorter_side_is_resized_and_the_middle_taken():
    form = pictures.Form((224, 224), 3, 256, np.zeros(3, np.float32), np.ones(3, np.float32))
    for size, inside in (((512, 300), (436, 256)), ((300, 512), (256, 436)), ((256, 256), (256, 256))):
        body = picture(size=size)
        whole = Image.open(io.BytesIO(body)).resize(inside, Image.Resampling.BILINEAR)
        left, top = (inside[0] - 224) // 2, (inside[1] - 224) // 2
        wanted = np.asarray(whole.crop((left, top, left + 224, top + 224)), np.float32).transpose(2, 0, 1) / 255
        np.testing.assert_allclose(pictures.read(body, form, requests.Bad)[0], wanted, rtol=1e-6)


def test_torch_models_are_given_what_torchserve_gave_them_unless_the_yaml_says_otherwise():
    usual = {"resize": 256, "size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    form, top_k = classifier.form_of({}, None, usual, True)
    assert (form.size, form.resize, form.channels, top_k) == ((224, 224), 256, 3, 5)
    assert form.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    form, _ = classifier.form_of(
        {"resize": None, "size": [8, 9], "channels": 1, "mean": 0, "std": 1}, None, usual, True
    )
    assert (form.size, form.resize, form.channels, form.mean.tolist()) == ((8, 9), None, 1, [0])
    form, _ = classifier.form_of({}, (None, 3, 112, 112), usual, True)
    assert (form.size, form.resize) == ((112, 112), 128)


@pytest.mark.parametrize(
    "config",
    [{"tpo_k": 1}, {"top_k": 0}, {"std": 0}, {"mean": [1, 2]}, {"channels": 4}],
    ids=lambda config: next(iter(config)),
)
def test_options_that_cannot_be_are_named(config):
    with pytest.raises(ValueError, match="image classifier"):
        classifier.form_of(config, None, {}, True)


def test_what_torchserves_own_classifier_is_told_is_no_mistake(tmp_path):
    assert runtimes.config_of(Context(tmp_path, profile=True, top_k=2)) == {"top_k": 2}
    mean_of_channels(tmp_path / "m.onnx")
    assert started(classifier, "ImageClassifier", Context(tmp_path, profile=True)).top_k == 5


def test_labels_of_multi_model_server_are_read(tmp_path):
    (tmp_path / "synset.txt").write_text("n1 tench\nn2 goldfish\n")
    assert classifier.labels_of(str(tmp_path)) == {"0": "n1 tench", "1": "n2 goldfish"}


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"0": "a", "1": ["n1", "b"], "2": [], "3": 5}, {"0": "a", "1": "b", "2": "[]", "3": "5"}),
        ({"object_type_names": ["a", "b"]}, {"0": "a", "1": "b"}),
    ],
)
def test_labels_of_torchserve_are_read(tmp_path, said, read):
    (tmp_path / "index_to_name.json").write_text(json.dumps(said))
    assert classifier.labels_of(str(tmp_path)) == read


def test_labels_that_are_none_are_named(tmp_path):
    (tmp_path / "index_to_name.json").write_text('["cat"]')
    with pytest.raises(ValueError, match=r"index_to_name\.json is an object of class numbers"):
        classifier.labels_of(str(tmp_path))


def test_without_pillow_it_is_said_what_is_missing_and_where(tmp_path):
    mean_of_channels(tmp_path / "m.onnx")
    code = f"""
import runpy, sys
sys.modules["PIL"] = None
handler = runpy.run_path({str(FOLDER / "image_classifier.py")!r})["ImageClassifier"]()
try:
    handler.initialize(None)
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"reading pictures needs pillow, which is not in the environment of {sys.executable}" in done.stdout


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


# Which runtime


@pytest.mark.parametrize(
    ("model", "names", "runtime", "form"),
    [
        ({"serializedFile": "w.pt", "modelFile": "model.py"}, [], "with_torch", "eager"),
        ({"serializedFile": "w.pt"}, [], "with_torch", "script"),
        ({"serializedFile": "w.pt2"}, [], "with_torch", "exported"),
        ({"serializedFile": "w.onnx"}, [], "with_onnxruntime", ""),
        ({"serializedFile": "n-0003.params"}, [], "with_mxnet", ""),
        ({}, ["n-symbol.json", "n-0000.params", "signature.json"], "with_mxnet", ""),
        ({}, ["m.onnx", "index_to_name.json"], "with_onnxruntime", ""),
    ],
)
def test_the_manifest_and_the_names_of_files_tell_the_runtime(model, names, runtime, form):
    files = runtimes.choose("/", names, model)
    assert (files.runtime, files.form) == (runtime, form)


@pytest.mark.parametrize(
    ("model", "names", "why"),
    [
        ({"serializedFile": "w.h5"}, [], "no runtime is known for w.h5"),
        ({"serializedFile": "w.onnx", "modelFile": "model.py"}, [], "goes with weights"),
        ({}, ["a.onnx", "b.onnx"], "a.onnx, b.onnx found"),
        ({}, ["readme"], "none found"),
    ],
)
def test_what_cannot_be_told_says_what_was_sought(model, names, why):
    with pytest.raises(ValueError, match=why):
        runtimes.choose("/", names, model)


def test_a_runtime_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        RuntimeError, match=f"n-symbol.json needs mxnet, which is not in the environment of {sys.executable}"
    ):
        runtimes.open_model(Context(tmp_path, {"serializedFile": "n-symbol.json"}))


# Torch and MXNet, in environments of their own

TORCH = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(3, 10)
    def forward(self, x):
        return self.line(x.mean((2, 3)))
"""
MAKE_TORCH = """
import sys, torch
sys.path.insert(0, ".")
from model import Net
torch.manual_seed(0)
net = Net().eval()
torch.save(net.state_dict(), "w.pt")
torch.jit.script(net).save("s.pt")
rows = torch.export.Dim("rows")
torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 8, 8),), dynamic_shapes={"x": {0: rows}}), "e.pt2")
"""
MAKE_MXNET = """
import mxnet as mx
from mxnet import gluon
mx.random.seed(0)
net = gluon.nn.HybridSequential()
net.add(gluon.nn.Conv2D(4, 3), gluon.nn.BatchNorm(), gluon.nn.GlobalAvgPool2D(), gluon.nn.Dense(10))
net.initialize(mx.init.Xavier())
net.hybridize()
net(mx.nd.zeros((1, 3, 8, 8)))
net.export("gluon")
data = mx.sym.FullyConnected(mx.sym.Flatten(mx.sym.Variable("data")), num_hidden=10, name="fc")
module = mx.mod.Module(mx.sym.SoftmaxOutput(data, name="softmax"))
module.bind([("data", (1, 3, 8, 8))], [("softmax_label", (1,))])
module.init_params(mx.init.Xavier())
module.save_checkpoint("module", 7)
"""
RUN = """
import importlib.util, json, sys
import numpy as np
def loaded(name):
    spec = importlib.util.spec_from_file_location("h_" + name, sys.argv[1] + "/" + name + ".py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
class Context:
    def __init__(self, model):
        self.system_properties = {"model_dir": sys.argv[2], "gpu_id": None}
        self.manifest, self.model_yaml_config = {"model": model}, {"handler": {}}
    def get_all_request_header(self, index): return {}
    def set_response_status(self, *about): pass
    def set_response_content_type(self, *about): pass
picture = open("picture.png", "rb").read()
x = np.linspace(0, 1, 2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
found = []
for model in json.loads(sys.argv[3]):
    context = Context(model)
    handler = loaded("tensor").Tensor()
    handler.initialize(context)
    both = handler.handle([{"body": x.tolist()}, {"body": {handler.runtime.inputs[0].name: x[:1].tolist()}}], context)
    assert np.allclose(both[0][:1], both[1], atol=1e-6), both
    again = handler.handle([{"body": x[:1].tolist()}], context)  # another batch size
    assert np.allclose(again[0], both[1], atol=1e-6)
    handler = loaded("image_classifier").ImageClassifier()
    handler.form = None
    handler.initialize(context)
    handler.form = handler.form._replace(size=(8, 8), resize=None)
    (classes,) = handler.handle([{"data": picture}], context)
    assert len(classes) == 5 and list(classes.values()) == sorted(classes.values(), reverse=True), classes
    found.append(both[0])
print(json.dumps(found))
"""


def run_in(python, tmp_path, make, models):
    (tmp_path / "picture.png").write_bytes(picture(size=(30, 20)))
    subprocess.run([python, "-c", make], cwd=tmp_path, check=True, capture_output=True)
    command = [python, "-c", RUN, str(FOLDER), str(tmp_path), json.dumps(models)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.strip().rpartition("\n")[2])


def test_torch_models_of_every_form_answer_alike(tmp_path, torch_python):
    (tmp_path / "model.py").write_text(TORCH)
    eager = {"serializedFile": "w.pt", "modelFile": "model.py"}
    answers = run_in(
        torch_python, tmp_path, MAKE_TORCH, [eager, {"serializedFile": "s.pt"}, {"serializedFile": "e.pt2"}]
    )
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-5)
    np.testing.assert_allclose(answers[2], answers[0], rtol=1e-5)


def test_gluon_and_module_networks_run(tmp_path, mxnet_python):
    models = [{"serializedFile": "gluon-symbol.json"}, {"serializedFile": "module-0007.params"}]
    gluon, module = run_in(mxnet_python, tmp_path, MAKE_MXNET, models)
    assert np.shape(gluon) == (2, 10)
    np.testing.assert_allclose(np.sum(module, 1), 1, rtol=1e-5)
