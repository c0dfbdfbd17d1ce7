"""TorchServe's base and built-in handlers, in workers whose environment has torch, and no torchvision or Headrace."""

import io
import json
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handler_archives import JSON, Serve, ask, ask_json, together
from PIL import Image

MODEL = """
import torch

class Part(torch.nn.Linear):
    pass

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 10)

    def forward(self, x):
        return self.fc(x.mean((2, 3)) if x.dim() == 4 else x)
"""
SOURCES = {
    "net.py": MODEL.replace("class Part(torch.nn.Linear):\n    pass\n", ""),
    "segmenter.py": """
        import torch
        class Segmenter(torch.nn.Module):
            def forward(self, x):
                return {"out": torch.stack((x[:, 0], x[:, 0] * 0 + 100), 1)}
        """,
    "detector.py": """
        import torch
        class Detector(torch.nn.Module):
            def forward(self, pictures):
                found = {"boxes": torch.tensor([[0.0, 1, 2, 3], [4, 5, 6, 7]]), "labels": torch.tensor([1, 2]),
                         "scores": torch.tensor([0.75, 0.25])}
                return [dict(found, boxes=found["boxes"] + each.shape[1]) for each in pictures]
        """,
    "text.py": """
        import torch
        class Text(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.bag = torch.nn.EmbeddingBag(8, 2, mode="sum")
            def forward(self, words, offsets):
                return self.bag(words, offsets)
        """,
}
MAKE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import net, text
torch.manual_seed(3)
model = net.Net().eval()
torch.save(model.state_dict(), sys.argv[1] + "/weights.pt")
torch.jit.trace(model, torch.rand(1, 3, 8, 8)).save(sys.argv[1] + "/scripted.pt")
batch = torch.export.Dim("batch", min=1, max=64)
program = torch.export.export(model, (torch.rand(2, 3),), dynamic_shapes=({0: batch},))
torch.export.save(program, sys.argv[1] + "/net.pt2")
torch.save(text.Text().state_dict(), sys.argv[1] + "/text.pt")
words = ["good", "not", "very", "not very", "very good", "cafe", "it", "is"]
class Known(dict):
    def __missing__(self, word):
        return 0
torch.save({word: i for i, word in enumerate(words)}, sys.argv[1] + "/source_vocab.pt")
import json
print(json.dumps({"w": model.fc.weight.tolist(), "b": model.fc.bias.tolist()}))
"""


@pytest.fixture(scope="module")
def made(torch_python: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(the files of models, the weights of the network)."""
    folder = tmp_path_factory.mktemp("models")
    for name, source in SOURCES.items():
        (folder / name).write_text(textwrap.dedent(source))
    said = subprocess.run(
        [torch_python, "-W", "ignore", "-c", MAKE, str(folder)], check=True, stdout=subprocess.PIPE
    ).stdout
    weights = json.loads(said)
    return folder, np.array(weights["w"]), np.array(weights["b"])


def files(folder: Path, *names: str, **others: str) -> dict[str, str | bytes]:
    return {
        **{name: (folder / name).read_bytes() for name in names},
        **{k.replace("__", "."): v for k, v in others.items()},
    }


def picture(mode: str = "RGB", size: tuple[int, int] = (320, 256)) -> bytes:
    values = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).convert(mode).save(file, "PNG")
    return file.getvalue()


def softmax(scores: Any) -> Any:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def as_imagenet(body: bytes) -> Any:
    """What torchvision's transforms would give, in NumPy."""
    shown = Image.open(io.BytesIO(body)).convert("RGB")
    width, height = shown.size
    short = min(width, height)
    shown = shown.resize((int(256 * width / short), int(256 * height / short)), Image.Resampling.BILINEAR)
    left, top = round((shown.width - 224) / 2), round((shown.height - 224) / 2)
    values = np.asarray(shown.crop((left, top, left + 224, top + 224)), np.float64) / 255
    return ((values - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)


BASE = """
import torch
from ts.torch_handler.base_handler import BaseHandler

class Service(BaseHandler):
    def preprocess(self, data):
        return torch.tensor([row.get("data") or row.get("body") for row in data])

    def get_insights(self, data, raw, target):
        return [{"explained": raw, "target": target}]

    def describe_handle(self):
        return {"model": type(self.model).__name__, "device": str(self.get_device()), "at": self.map_location,
                "initialized": self.initialized, "mapping": self.mapping, "path": self.model_pt_path.split("/")[-1]}
"""


def test_an_eager_network_and_its_state_dict(serve_once: Serve, torch_python: str, made: Any) -> None:
    folder, weights, bias = made
    about = {"modelFile": "net.py", "serializedFile": "weights.pt"}
    model = serve_once(BASE, about, files(folder, "net.py", "weights.pt"), batch=4, delay=0.5, python=torch_python)
    rows = np.random.default_rng(1).random((6, 3))
    bodies = [("id", JSON, json.dumps(row.tolist()).encode()) for row in rows]
    answers = [json.loads(each) for each in together(model, bodies)]
    assert np.allclose(answers, rows @ weights.T + bias, atol=1e-5)
    assert ask_json(model, [1, 2, 3], (("explain", "True"),)) == {"explained": [1, 2, 3], "target": 0}
    assert ask_json(model, 0, (("describe", "True"),)) == {
        "model": "Net", "device": "cpu", "at": "cpu", "initialized": True, "mapping": None, "path": "weights.pt",
    }  # fmt: skip


def test_a_handler_need_not_call_the_base_handlers_init(serve_once: Serve, torch_python: str, made: Any) -> None:
    """TorchServe's own example of micro-batching does not."""
    source = """
    import torch
    from ts.handler_utils.micro_batching import MicroBatching
    from ts.torch_handler.base_handler import BaseHandler

    class Service(BaseHandler):
        def __init__(self):
            self.handle = MicroBatching(self)

        def initialize(self, ctx):
            super().initialize(ctx)
            self.handle.micro_batch_size = ctx.model_yaml_config["micro_batching"]["micro_batch_size"]

        def preprocess(self, data):
            return torch.tensor([row["body"] for row in data])

        def postprocess(self, data):
            return [[len(data), len(row)] for row in data]
    """
    about = {"modelFile": "net.py", "configFile": "model.yaml"}
    there = files(made[0], "net.py", model__yaml="micro_batching: {micro_batch_size: 2}\n")
    model = serve_once(source, about, there, batch=4, delay=0.5, python=torch_python)
    width = len(made[2])
    answers = [json.loads(each) for each in together(model, [("id", JSON, b"[1.0, 2.0, 3.0]")] * 4)]
    assert {tuple(answer) for answer in answers} <= {(1, width), (2, width)}


def test_a_file_with_the_parts_of_a_network_names_them(serve_once: Serve, torch_python: str, made: Any) -> None:
    about = {"modelFile": "parts.py", "serializedFile": "weights.pt"}
    with pytest.raises(Exception, match=r"parts.py must define exactly one class, the model; it defines 2: Net, Part"):
        serve_once(BASE, about, {**files(made[0], "weights.pt"), "parts.py": MODEL}, python=torch_python)


@pytest.mark.parametrize("name", ["scripted.pt", "net.pt2"])
def test_networks_that_need_no_code(serve_once: Serve, torch_python: str, made: Any, name: str) -> None:
    folder, weights, bias = made
    source = BASE.replace('("body") for row in data])', '("body") for row in data]).reshape(-1, 3)')
    if name == "scripted.pt":  # it was traced with pictures
        source = source.replace(".reshape(-1, 3)", ".reshape(-1, 3, 1, 1)")
    model = serve_once(source, {"serializedFile": name}, files(folder, name), python=torch_python)
    assert np.allclose(ask_json(model, [0.5, 1.0, 2.0]), weights @ [0.5, 1.0, 2.0] + bias, atol=1e-5)


def test_pictures_are_classified(serve_once: Serve, torch_python: str, made: Any) -> None:
    folder, weights, bias = made
    labels = json.dumps({str(i): [f"n{i}", f"class {i}"] for i in range(10)})
    about = {"handler": "image_classifier", "serializedFile": "scripted.pt"}
    there = files(folder, "scripted.pt", index_to_name__json=labels)
    model = serve_once(None, about, there, python=torch_python)
    for mode in ("RGB", "RGBA", "L", "P"):
        body = picture(mode)
        answer = json.loads(ask(model, body, (("Content-Type", "image/png"),)))
        expected = softmax(weights @ as_imagenet(body).mean((1, 2)) + bias)
        best = np.argsort(-expected)[:5]
        assert list(answer) == [f"class {i}" for i in best]
        assert np.allclose(list(answer.values()), expected[best], atol=1e-5)


def test_pictures_are_segmented_and_searched(serve_once: Serve, torch_python: str, made: Any) -> None:
    about = {"handler": "image_segmenter", "modelFile": "segmenter.py"}
    model = serve_once(None, about, files(made[0], "segmenter.py"), python=torch_python)
    answer = json.loads(ask(model, picture()))
    assert np.shape(answer) == (224, 224, 2)
    assert answer[0][0] == [1.0, 1.0]
    labels = json.dumps({"object_type_names": ["nothing", "cat", "dog"]})
    about = {"handler": "object_detector", "modelFile": "detector.py"}
    there = files(made[0], "detector.py", index_to_name__json=labels)
    model = serve_once(None, about, there, batch=2, delay=0.5, python=torch_python)
    answers = together(model, [("a", (), picture(size=(20, 10))), ("b", (), picture(size=(40, 30)))])
    assert [json.loads(each) for each in answers] == [
        [{"cat": [10, 11, 12, 13], "score": 0.75}],
        [{"cat": [30, 31, 32, 33], "score": 0.75}],
    ]


def test_texts_are_classified(serve_once: Serve, torch_python: str, made: Any) -> None:
    source = """
    from ts.torch_handler.text_classifier import TextClassifier

    class Service(TextClassifier):
        def inference(self, data, *args, **kwargs):
            self.seen = data.tolist(), self._offsets
            return super().inference(data)

        def postprocess(self, data):
            super().postprocess(data)
            return [list(self.seen)] * len(data)
    """
    about = {"modelFile": "text.py", "serializedFile": "text.pt"}
    there = files(made[0], "text.py", "text.pt", "source_vocab.pt")
    model = serve_once(source, about, there, python=torch_python)
    text = "<b>It's</b> not very g\u00f6od!".encode()
    assert json.loads(ask(model, b"Not", (("Content-Type", "text/plain"),))) == [[1], [0]]
    with pytest.raises(Exception, match="KeyError: 'it is'"):  # expanded, cleaned, and in pairs
        ask(model, text, (("Content-Type", "text/plain"),))
    about["handler"] = "text_classifier"
    built_in = serve_once(None, about, there, python=torch_python)
    answer = json.loads(ask(built_in, b"very good"))
    assert set(answer) == {"0", "1"}
    assert sum(answer.values()) == pytest.approx(1)


def test_a_tensor_is_saved_and_compiling_is_by_yaml(serve_once: Serve, torch_python: str, made: Any) -> None:
    source = """
    import io, torch
    from ts.torch_handler.base_handler import BaseHandler

    class Service(BaseHandler):
        def handle(self, data, context):
            body = data[0]["body"]
            if body:
                return [torch.load(io.BytesIO(body)).tolist()]
            if context.get_request_header(0, "kind"):
                return [type(self.model).__name__]
            return [torch.arange(3)]
    """
    about = {"modelFile": "net.py", "configFile": "model.yaml"}
    yaml = "pt2:\n  compile:\n    enable: true\n    backend: eager\n"
    there = files(made[0], "net.py", model__yaml=yaml)
    model = serve_once(source, about, there, python=torch_python)
    saved = ask(model)
    assert saved[:2] == b"PK"
    assert json.loads(ask(model, saved)) == [0, 1, 2]
    assert ask(model, b"", (("kind", "1"),)) == b"OptimizedModule"
