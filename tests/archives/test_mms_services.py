"""The services of Multi Model Server 0.4 and its templates, in workers; with MXNet in an environment of its own."""

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handler_archives import JSON, Serve, ask, ask_json, together
from PIL import Image

MAKE = """
import sys
import mxnet as mx
from mxnet.gluon import nn
mx.random.seed(3)
data = mx.sym.Variable("data")
net = mx.sym.softmax(mx.sym.FullyConnected(mx.sym.mean(data, axis=(2, 3)), num_hidden=7, name="fc"))
module = mx.mod.Module(net, data_names=["data"], label_names=None)
module.bind(for_training=False, data_shapes=[("data", (1, 3, 8, 8))])
module.init_params(mx.init.Normal(1))
module.save_checkpoint(sys.argv[1] + "/net", 0)
net = nn.Dense(7, in_units=3)
net.initialize(mx.init.Normal(1))
net.save_parameters(sys.argv[1] + "/gluon.params")
"""
SIGNATURE = {"input_type": "image/jpeg", "inputs": [{"data_name": "data", "data_shape": [0, 3, 8, 8]}]}
OLD = {"Model": {"Signature": "signature.json", "Symbol": "net-symbol.json", "Parameters": "net-0000.params"}}


@pytest.fixture(scope="module")
def made(mxnet_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mxnet")
    subprocess.run([mxnet_python, "-W", "ignore", "-c", MAKE, str(folder)], check=True)
    return folder


def files(folder: Path, *names: str) -> dict[str, str | bytes]:
    return {
        **{name: (folder / name).read_bytes() for name in names},
        "signature.json": json.dumps(SIGNATURE),
        "synset.txt": "".join(f"class {i}\n" for i in range(7)),
    }


def picture() -> bytes:
    values = np.random.default_rng(5).integers(0, 256, (20, 30, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def check_labels(answer: Any) -> None:
    assert len(answer) == 5
    chances = [each["probability"] for each in answer]
    assert chances == sorted(chances, reverse=True)
    assert {each["class"] for each in answer} <= {f"class {i}" for i in range(7)}


@pytest.mark.parametrize("manifest", [OLD, None])
def test_a_vision_service_with_a_symbolic_network(
    serve_once: Serve, mxnet_python: str, made: Path, manifest: Any
) -> None:
    source = """
    from mms.model_service.mxnet_vision_service import MXNetVisionService

    class Service(MXNetVisionService):
        pass
    """
    there = files(made, "net-symbol.json", "net-0000.params")
    if manifest:
        there["MANIFEST.json"] = json.dumps(manifest)
    model = serve_once(source, files=there, batch=2, delay=0.5, python=mxnet_python)
    answers = [
        json.loads(each) for each in together(model, [("a", (), picture()), ("b", (), (("data", "", picture()),))])
    ]
    check_labels(answers[0])
    assert answers[0] == answers[1]


def test_a_vision_service_with_a_gluon_network(serve_once: Serve, mxnet_python: str, made: Path) -> None:
    source = """
    from mms.model_service.gluon_vision_service import GluonVisionService
    from mxnet.gluon import nn

    class Net(nn.HybridSequential):
        pass

    class Service(GluonVisionService):
        def __init__(self, model_name, model_dir, manifest, gpu=None):
            dense = nn.Dense(7, in_units=3)
            super().__init__(model_name, model_dir, manifest, dense, gpu)

        def _inference(self, data):
            return self.net(data[0].mean(axis=(2, 3))).softmax()
    """
    model = serve_once(source, files=files(made, "gluon.params"), python=mxnet_python)
    check_labels(json.loads(ask(model, picture())))


@pytest.mark.parametrize("symbol", [None, "net-symbol.json"])
def test_a_vision_service_may_make_its_network_itself(
    serve_once: Serve, mxnet_python: str, made: Path, symbol: str | None
) -> None:
    """As 0.4's own examples of Gluon networks did: their manifests say that there is no symbolic one."""
    source = """
    import os
    from mms.model_service.mxnet_vision_service import MXNetVisionService
    from mxnet import nd
    from mxnet.gluon import nn

    class Service(MXNetVisionService):
        def __init__(self, model_name, model_dir, manifest, gpu=None):
            super(Service, self).__init__(model_name, model_dir, manifest, gpu)
            self.net = nn.Dense(7, in_units=3)
            if self.param_filename:
                self.net.load_parameters(os.path.join(model_dir, self.param_filename), ctx=self.ctx)
            self.net.hybridize()

        def _preprocess(self, data):
            return nd.array([[len(data[0][0][key]) for key in ("title", "review", "author")]], ctx=self.ctx)

        def _inference(self, data):
            return self.net(data).softmax()

        def _postprocess(self, data):
            return [{"category": self.labels[int(data[0].argmax(axis=0).asscalar())]}]
    """
    about = {"Signature": "signature.json", "Parameters": "gluon.params", "Model-Format": "Gluon-Imperative"}
    there = files(made, "gluon.params")
    there["signature.json"] = json.dumps({**SIGNATURE, "input_type": "application/json"})
    there["MANIFEST.json"] = json.dumps({"Model": {**about, "Symbol": symbol} if symbol else about})
    model = serve_once(source, files=there, python=mxnet_python)
    told = json.dumps([{"title": "short", "review": "a longer one", "author": "me"}]).encode()
    for answer in (ask(model, told, JSON), ask(model, (("data", "", told),))):
        assert json.loads(answer)["category"].startswith("class ")


def test_a_service_of_its_own_is_made_with_its_manifest(serve: Serve) -> None:
    source = """
    from mms.model_service.model_service import SingleNodeService

    class Service(SingleNodeService):
        def __init__(self, model_name, model_dir, manifest, gpu=None):
            self.name, self.files = model_name, manifest["Model"]

        def _inference(self, data):
            return [[self.name, self.files["Signature"], data]]
    """
    signature = {"input_type": "application/json", "inputs": [{"data_name": "a"}, {"data_name": "b"}]}
    model = serve(source, files={"signature.json": json.dumps(signature)}, batch=2, delay=0.5)
    first, second = together(model, [("x", (), (("a", "", b"[1]"), ("b", "", b"{'k': 2}"))), ("y", JSON, b"3")])
    assert json.loads(first) == ["m", "signature.json", [[1], {"k": 2}]]
    assert json.loads(second) == ["m", "signature.json", [3, 3]]


def test_the_template_of_services_runs_and_says_what_failed(serve: Serve) -> None:
    source = """
    import logging

    class ModelHandler(object):
        def __init__(self):
            self._context, self._batch_size, self.initialized = None, 0, False

        def initialize(self, context):
            self._context, self._batch_size, self.initialized = context, context.system_properties["batch_size"], True

        def handle(self, data, context):
            try:
                return [10 // row["body"] for row in data]
            except Exception as e:
                logging.error(e, exc_info=True)
                request_processor = context.request_processor
                request_processor.report_status(500, "Unknown inference error")
                return [str(e)] * self._batch_size

    _service = ModelHandler()

    def handle(data, context):
        if not _service.initialized:
            _service.initialize(context)
        if data is None:
            return None
        return _service.handle(data, context)
    """
    model = serve(source)
    assert ask_json(model, 5) == 2
    body, _, status, reason, _ = ask_json(model, 0)
    assert (status, reason) == (500, "Unknown inference error")
    assert b"by zero" in body


def test_sentences_are_numbered(serve: Serve) -> None:
    source = """
    from mms.utils.mxnet.nlp import encode_sentences
    from mms.utils.mxnet.ndarray import top_probability
    import numpy as np

    def handle(data, context):
        if data is None:
            return None
        rows, known = encode_sentences([["a", "b"], ["b", "c"]])
        return [[rows, encode_sentences([["c"]], known)[0], top_probability(np.array([[0.1, 0.9]]), ["x", "y"], 1)]]
    """
    assert ask_json(serve(source), 0) == [[[0, 1], [1, 2]], [[2]], [{"probability": 0.9, "class": "y"}]]
