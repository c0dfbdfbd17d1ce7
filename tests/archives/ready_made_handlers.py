"""The handlers that need no code, loaded as a worker loads them: by their paths, with nothing of ours imported."""

import importlib.util
import io
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

import headrace

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
