"""The handlers that need no code: what they import, which runtime they open, and those of other environments."""

import ast
import json
import subprocess
import sys

import numpy as np
import pytest
from ready_made_handlers import FOLDER, Context, picture, runtimes

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
