"""The names handlers import of their servers: there in a worker, of which none is installed."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from handler_archives import Serve, ask, ask_json

import headrace
from headrace.errors import InvalidModel

SOURCE = """
import importlib

def handle(data, context):
    if data is None:
        return None
    missing = []
    for name in data[0]["body"]:
        module, _, what = name.partition(":")
        try:
            value = importlib.import_module(module)
            if what:
                getattr(value, what)
        except Exception as error:
            missing.append(f"{name}: {type(error).__name__}: {error}")
    return [missing]
"""
ANYWHERE = [
    "mms", "mms:__version__", "ts", "ts:__version__",
    "mms.service:PredictionException", "mms.context:Context", "mms.context:RequestProcessor",
    "mms.metrics.dimension:Dimension", "mms.metrics.metric:Metric", "mms.metrics.metrics_store:MetricsStore",
    "mms.metrics.unit:Units", "mms.log:get_logger",
    "mms.model_service.model_service:ModelService", "mms.model_service.model_service:SingleNodeService",
    "mms.utils.mxnet.image:read", "mms.utils.mxnet.ndarray:top_probability", "mms.utils.mxnet.nlp:encode_sentences",
    "ts.context:Context", "ts.context:RequestProcessor", "ts.service:PredictionException",
    "ts.utils.util:PredictionException", "ts.utils.util:list_classes_from_module",
    "ts.utils.util:map_class_to_label", "ts.utils.util:load_label_mapping",
    "ts.handler_utils.utils:send_intermediate_predict_response",
    "ts.protocol.otf_message_handler:send_intermediate_predict_response",
    "ts.handler_utils.timer:timed", "ts.handler_utils.micro_batching:MicroBatching",
    "ts.metrics.dimension:Dimension", "ts.metrics.metric_type_enum:MetricTypes",
    "ts.metrics.metrics_store:MetricsStore", "ts.metrics.caching_metric:CachingMetric",
    "ts.metrics.metric_cache_errors:MetricsCacheKeyError",
    "ts.metrics.metric_cache_yaml_impl:MetricsCacheYamlImpl",
    "ts.torch_handler.base_handler:BaseHandler", "ts.torch_handler.base_handler:ipex_enabled",
    "ts.torch_handler.base_handler:logger", "ts.torch_handler.base_handler:XLA_AVAILABLE",
    "ts.service:emit_metrics", "mms.service:emit_metrics", "ts.handler_utils.utils:import_class",
    "ts.version:__version__", "mms.version:__version__", "ts.utils.util:deprecated", "ts.utils.util:CLEANUP_REGEX",
    "ts.torch_handler.contractions:CONTRACTION_MAP",
    "ts.handler_utils.hf_batch_streamer:TextIteratorStreamerBatch",
]  # fmt: skip
WITH_TORCH = [
    "ts.torch_handler.vision_handler:VisionHandler", "ts.torch_handler.image_classifier:ImageClassifier",
    "ts.torch_handler.image_segmenter:ImageSegmenter", "ts.torch_handler.object_detector:ObjectDetector",
    "ts.torch_handler.text_handler:TextHandler", "ts.torch_handler.text_classifier:TextClassifier",
]  # fmt: skip
WITH_MXNET = [
    "mms.model_service.mxnet_model_service:MXNetBaseService",
    "mms.model_service.mxnet_model_service:GluonImperativeBaseService",
    "mms.model_service.mxnet_vision_service:MXNetVisionService",
    "mms.model_service.gluon_vision_service:GluonVisionService",
]
PACKAGE = Path(headrace.__file__).parent
CHILD_SIDE = [
    *(PACKAGE / "archives" / f"{n}.py" for n in ("handler", "calling", "context", "measures", "wire", "envelopes")),
    *sorted((PACKAGE / "compat").rglob("*.py")),
]


def test_they_are_there_without_torch_or_mxnet(serve: Serve) -> None:
    assert ask_json(serve(SOURCE), ANYWHERE) == []


def test_those_of_torch_handlers(serve: Serve, torch_python: str) -> None:
    assert ask_json(serve(SOURCE, python=torch_python), ANYWHERE + WITH_TORCH) == []


def test_those_of_mxnet_services(serve: Serve, mxnet_python: str) -> None:
    assert ask_json(serve(SOURCE, python=mxnet_python), ANYWHERE + WITH_MXNET) == []


def test_each_is_one_thing_under_all_its_names(serve: Serve) -> None:
    model = serve(
        """
        import mms.context, mms.service, ts.context, ts.utils.util
        import mms.metrics.dimension, ts.metrics.dimension

        def handle(data, context):
            return [[
                mms.service.PredictionException is ts.utils.util.PredictionException,
                mms.context.Context is ts.context.Context is type(context),
                mms.metrics.dimension.Dimension is ts.metrics.dimension.Dimension,
            ]] if data else None
        """
    )
    assert ask_json(model, 0) == [True, True, True]


def test_classes_by_their_names_and_metrics_at_once(serve: Serve) -> None:
    model = serve(
        """
        from mms.service import emit_metrics as emits
        from ts.handler_utils.utils import import_class
        from ts.service import emit_metrics

        def named(*how):
            try:
                return import_class(*how).__name__
            except ImportError as error:
                return str(error)

        def handle(data, context):
            if data is None:
                return None
            context.metrics.add_counter("Seen", 2)
            emit_metrics(context.metrics.store)
            context.metrics.add_counter("Seen", 3)
            emits(context.metrics.cache)
            return [[
                named("collections.OrderedDict"), named("OrderedDict", "collections"),
                named("decoder.JSONDecoder", "json"), named("OrderedDict"), named(""),
                named("collections.Nothing"), named("nosuchmodule_x.Y"),
            ]]
        """
    )
    assert ask_json(model, 0) == [
        *("OrderedDict", "OrderedDict", "JSONDecoder"),
        "a class is named as MODULE.CLASS, not 'OrderedDict'",
        "a class is named as MODULE.CLASS, not ''",
        "collections has no 'Nothing'",
        "No module named 'nosuchmodule_x'",
    ]


def test_what_english_draws_together_is_told_at_length(serve: Serve) -> None:
    model = serve(
        """
        from ts.torch_handler.contractions import CONTRACTION_MAP

        def handle(data, context):
            return data and [[CONTRACTION_MAP.get(word) for word in data[0]["body"]]]
        """
    )
    words = ["don't", "won't", "it's", "they're", "I'd", "i'd've", "couldn't've", "let's", "o'clock", "ann's", "dont"]
    assert ask_json(model, words) == [
        *("do not", "will not", "it is", "they are", "I would", "i would have", "could not have", "let us"),
        *("of the clock", None, None),
    ]


STREAMS = """
import threading
import numpy as np
from ts.handler_utils.hf_batch_streamer import TextIteratorStreamerBatch

def handle(data, context):
    if data is None:
        return None
    try:
        streamer = TextIteratorStreamerBatch("the tokenizer", 2, skip_prompt=True, timeout=9, more=1)
    except ImportError as error:
        return [f"{type(error).__name__}: {error}"]

    def generate():
        for value in np.array([[1, 2], [3, 4]]), np.array([5, 6]):
            streamer.put(value)
        streamer.end()

    found = []
    for _ in range(2):  # one batch after the other
        thread = threading.Thread(target=generate)
        thread.start()
        found.append(list(streamer))
        thread.join()
    try:
        streamer.put(np.array([1]))
    except ValueError as error:
        found.append(str(error))
    return [found]
"""
STREAMERS = """
import queue

class BaseStreamer:
    pass

class TextIteratorStreamer(BaseStreamer):
    def __init__(self, tokenizer, skip_prompt=False, timeout=None, **decode_kwargs):
        assert (tokenizer, skip_prompt, timeout, decode_kwargs) == ("the tokenizer", True, 9, {"more": 1})
        self.queue = queue.Queue()
    def put(self, value):
        assert value.shape[0] == 1
        self.queue.put(str(value.tolist()))
    def end(self):
        self.queue.put(None)
    def __iter__(self):
        return self
    def __next__(self):
        piece = self.queue.get(timeout=30)
        if piece is None:
            raise StopIteration
        return piece
"""


def test_texts_of_a_batch_come_in_pieces_of_transformers(serve: Serve) -> None:
    files: dict[str, str | bytes] = {
        "transformers/__init__.py": "",
        "transformers/generation/__init__.py": "",
        "transformers/generation/streamers.py": STREAMERS,
    }
    *batches, refused = ask_json(serve(STREAMS, files=files), 0)
    assert batches == [[["[[1, 2]]", "[[3, 4]]"], ["[5]", "[6]"]]] * 2
    assert refused == "batch_size of TextIteratorStreamerBatch is 2: so many rows are expected, 1 came"


def test_without_transformers_it_is_said_what_is_needed_where_and_how_it_gets_there(serve: Serve) -> None:
    said = ask(serve(STREAMS)).decode()
    assert said.startswith("ImportError: TextIteratorStreamerBatch needs transformers, which is not in the env")
    assert "--python NAME=PATH" in said


def test_a_module_of_the_server_that_we_do_not_have_says_where_to_look(serve: Serve) -> None:
    with pytest.raises(InvalidModel, match=r"needs the module 'ts\.nothing_such'.*docs/handlers\.md lists"):
        serve("import ts.nothing_such\ndef handle(data, context):\n    return data\n")


def test_who_calls_what_is_deprecated_is_warned(serve: Serve) -> None:
    model = serve(
        """
        import warnings
        from ts.utils.util import deprecated

        @deprecated(version="1.0.0", replacement="other.name")
        def old(x):
            return x + 1

        def handle(data, context):
            if data is None:
                return None
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                return [[old(1), str(caught[0].message), caught[0].category.__name__]]
        """
    )
    assert ask_json(model, 0) == [2, "old goes with version 1.0.0: use other.name", "PendingDeprecationWarning"]


def test_a_server_that_is_installed_has_what_we_do_not(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ts/__init__.py", "ts/extra.py", "ts/context.py", "ts/utils/__init__.py", "ts/utils/more.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("NAME = 'theirs'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = serve(
        """
        import ts.extra, ts.utils.more, ts.context

        def handle(data, context):
            return [[ts.extra.NAME, ts.utils.more.NAME, hasattr(ts.context, "NAME")]] if data else None
        """
    )
    assert ask_json(model, 0) == ["theirs", "theirs", False]


def test_the_archives_own_module_of_that_name_is_first(serve: Serve) -> None:
    source = "import ts\ndef handle(data, context):\n    return [ts.NAME] if data else None\n"
    assert ask(serve(source, files={"ts.py": "NAME = 'mine'\n"})) == b"mine"


@pytest.mark.parametrize("path", CHILD_SIDE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_runs_in_a_worker_is_written_for_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert "headrace" not in imported
    if "compat" not in path.parts:
        assert imported <= {*sys.stdlib_module_names, "numpy", "headrace_worker"}


ALONE = """
import json, sys
sys.path.insert(0, sys.argv[1] + "/compat")
import _headrace_shared as shared
for name in ("context", "measures", "wire", "envelopes", "calling", "handler"):
    shared.load(name)
import importlib
for name in json.loads(sys.argv[2]):
    module, _, what = name.partition(":")
    getattr(importlib.import_module(module), what or "__name__")
context = shared.load("context").Context("m", "/", None, 1, None, "1")
read = shared.load("wire").read
rows = read((("Content-Type", "application/json"),), b"[1]", True)
print(json.dumps([rows[0], shared.load("wire").answer_of({"a": 1}).decode()]))
"""


def python_of(version: str) -> Any:
    """A Python of that version that runs, if there is one."""
    homes = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python"))
    for each in (shutil.which(f"python{version}"), *map(str, homes)):
        if each and not subprocess.run([each, "-c", ""], capture_output=True).returncode:
            return each
    return None


@pytest.mark.parametrize("version", ["ours", "3.8", "3.9"])
def test_it_needs_nothing_but_the_standard_library(version: str) -> None:
    python = sys.executable if version == "ours" else python_of(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    command = [python, "-I", "-S", "-c", ALONE, str(PACKAGE), json.dumps(ANYWHERE)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    assert json.loads(said) == [{"body": [1]}, '{\n  "a": 1\n}']
