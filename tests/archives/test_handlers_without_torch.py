"""What of TorchServe's handlers needs no torch: ONNX files, micro-batching, timing. In Headrace's own environment."""

import json
from typing import Any

import onnx
import pytest
from handler_archives import JSON, Serve, ask, ask_json, together
from onnx import TensorProto, helper

TOLD = """
import headrace_worker
told = []
headrace_worker.tell_metrics = told.extend
"""


def doubling() -> bytes:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])
    graph = helper.make_graph([node], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(onnx.ModelProto.SerializeToString(model))


def test_an_onnx_file_under_the_base_handler(serve: Serve) -> None:
    source = (
        TOLD
        + """
from ts.torch_handler.base_handler import BaseHandler, ONNX_AVAILABLE

class Service(BaseHandler):
    def preprocess(self, data):
        assert ONNX_AVAILABLE
        return super().preprocess([row["body"] for row in data])

    def postprocess(self, data):
        return [{"y": each, "told": told[-1:]} for each in super().postprocess(data)]
"""
    )
    about = {"serializedFile": "m.onnx"}
    model = serve(source, about, {"m.onnx": doubling()})
    assert ask_json(model, [1, 2]) == {"y": [2, 4], "told": []}
    name, kind, unit, value, dimensions = ask_json(model, [3, 4])["told"][0]
    assert (name, kind, unit, dimensions) == ("HandlerTime", "gauge", "ms", {"ModelName": "m", "Level": "Model"})
    assert value >= 0


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({}, "its manifest names no serializedFile"),
        ({"serializedFile": "m.bin"}, "is no model: a .pt"),
        ({"modelFile": "two.py"}, "two.py needs torch in the environment of its worker"),
        ({"serializedFile": "m.pt"}, "m.pt needs torch in the environment of its worker"),
    ],
)
def test_no_model_is_a_named_error(serve: Serve, about: dict[str, Any], why: str) -> None:
    files: dict[str, str | bytes] = {"m.bin": b"", "m.pt": b"", "two.py": "class A: pass\n"}
    with pytest.raises(Exception, match=why):
        serve(None, {"handler": "base_handler", **about}, files)


def test_a_batch_in_small_pieces_keeps_its_order(serve: Serve) -> None:
    source = """
    from gated import gated
    from ts.handler_utils.micro_batching import MicroBatching
    from ts.torch_handler.base_handler import BaseHandler

    class Service(BaseHandler):
        def initialize(self, context):
            pieces = MicroBatching(self, micro_batch_size=2)
            self.handle = gated(pieces)
            pieces.parallelism = context.model_yaml_config["micro_batching"]["parallelism"]

        def preprocess(self, data):
            return [row["body"] for row in data]

        def inference(self, data):
            if -1 in data:
                raise ValueError("minus one")
            return [(each * 2, len(data)) for each in data]

        def postprocess(self, data):
            return [list(each) for each in data]
    """
    yaml = "micro_batching:\n  parallelism: {preprocess: 2, inference: 3}\n"
    model = serve(source, {"configFile": "model.yaml"}, {"model.yaml": yaml}, batch=8, delay=0.5)
    answers = [json.loads(each) for each in together(model, [("i", JSON, str(i).encode()) for i in range(20)])]
    assert [each[0] for each in answers] == [2 * i for i in range(20)]
    assert max(each[1] for each in answers) == 2
    failing = together(model, [("i", JSON, str(i).encode()) for i in (5, -1, 6)])
    assert [json.loads(failing[0])[0], json.loads(failing[2])[0]] == [10, 12]
    assert "minus one" in str(failing[1])


def test_steps_are_timed_where_the_yaml_asks_for_it(serve: Serve) -> None:
    source = (
        TOLD
        + """
from ts.handler_utils.timer import timed

class Service:
    def initialize(self, context):
        self.context = context

    @timed
    def inference(self, data):
        return data

    def handle(self, data, context):
        self.inference(data)
        return [[name for name, *_ in told]]
"""
    )
    yaml = {"model.yaml": "handler:\n  profile: true\n"}
    model = serve(source, {"configFile": "model.yaml"}, yaml)
    ask(model)
    assert ask_json(model, 0) == ["ts_handler_inference"]
    model = serve(source)
    ask(model)
    assert ask_json(model, 0) == []


def test_label_files_of_all_forms(serve: Serve) -> None:
    source = """
    from ts.utils.util import load_label_mapping, map_class_to_label

    def handle(data, context):
        if data is None:
            return None
        try:
            labels = load_label_mapping(data[0]["body"])
            return [map_class_to_label([[0.75, 0.25]], labels, [[1, 0]])[0]]
        except Exception as error:
            return [str(error)]
    """
    files: dict[str, str | bytes] = {
        "plain.json": '{"0": "cat", "1": "dog"}',
        "wordnet.json": '{"0": ["n1", "cat"], "1": ["n2", "dog"]}',
        "names.json": '{"object_type_names": ["cat", "dog"]}',
        "list.json": "[]",
        "bad.json": '{"0": 1}',
    }
    model = serve(source, files=files)
    for name in ("plain", "wordnet", "names"):
        assert ask_json(model, f"{name}.json") == {"dog": 0.75, "cat": 0.25}
    assert ask_json(model, "absent.json") == {"1": 0.75, "0": 0.25}
    assert b"must be an object" in ask(model, b'"list.json"', JSON)
    assert b"the name of class '0' must be text" in ask(model, b'"bad.json"', JSON)
