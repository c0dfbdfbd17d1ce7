"""How a handler is found and loaded: real archives in real workers."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from handler_archives import Serve, ask, ask_json

import headrace as hr
from headrace.workers.pool import Pool


def test_a_function_is_called_once_to_initialise_itself(serve: Serve) -> None:
    model = serve(
        """
        calls = []

        def handle(data, context):
            calls.append(None if data is None else len(data))
            if data is None:
                assert context.request_processor is None
                assert context.system_properties["model_dir"]
                return None
            return [str(calls)]
        """
    )
    assert ask(model) == b"[None, 1]"
    assert ask(model) == b"[None, 1, 1]"


@pytest.mark.parametrize(
    "handler",
    ["service.py:run", "service:run", "some/where/service.py:run"],
)
def test_the_function_and_the_module_are_named_in_the_manifest(serve: Serve, handler: str) -> None:
    model = serve("def run(data, context):\n    return ['ran']\n", {"handler": handler})
    assert ask(model) == b"ran"


def test_the_registration_may_name_another_handler(serve: Serve) -> None:
    files: dict[str, str | bytes] = {"other.py": "def go(data, context):\n    return ['other']\n"}
    assert ask(serve("def handle(data, context):\n    return ['first']\n", files=files, handler="other:go")) == b"other"


def test_a_class_of_its_own_is_made_and_initialised(serve: Serve) -> None:
    model = serve(
        """
        from base import Base
        from collections import OrderedDict

        class Service(Base):
            def initialize(self, context):
                self.name = context.model_name
        """,
        files={
            "base.py": "class Base:\n    def handle(self, data, context):\n        return [self.name] * len(data)\n"
        },
    )
    assert ask(model) == b"m"


def test_of_several_classes_the_one_with_handle_is_it(serve: Serve) -> None:
    model = serve(
        """
        class Helper:
            pass

        class Base:
            def handle(self, data, context):
                return ["base"]

        class Service(Base):
            def handle(self, data, context):
                return ["service"]
        """
    )
    assert ask(model) == b"service"


def test_handle_may_be_exchanged_while_it_is_initialised(serve: Serve) -> None:
    model = serve(
        """
        class Service:
            def initialize(self, context):
                self.handle = lambda data, context: ["exchanged"]

            def handle(self, data, context):
                return ["first"]
        """
    )
    assert ask(model) == b"exchanged"


def test_the_archives_folder_is_first_and_where_it_runs(serve: Serve, tmp_path: Path) -> None:
    model = serve(
        """
        import os, subprocess, sys
        import json_tools, numpy

        def handle(data, context):
            here = context.system_properties["model_dir"]
            seen = [os.getcwd() == here, sys.path[0] == here, os.environ["PYTHONPATH"].split(":")[0] == here]
            other = subprocess.run([sys.executable, "-c", "import json_tools; print(json_tools.NAME)"],
                                   stdout=subprocess.PIPE)
            return [[*seen, json_tools.NAME, other.stdout.decode().strip()]]
        """,
        files={"json_tools.py": "NAME = 'mine'\n"},
        folder=tmp_path / "archive",
    )
    assert ask_json(model, 0) == [True, True, True, "mine", "mine"]


def test_a_handler_may_be_called_as_a_module_of_python_is(serve: Serve) -> None:
    files: dict[str, str | bytes] = {"signal.py": "def handle(data, context):\n    return ['mine']\n"}
    assert ask(serve(files=files, model={"handler": "signal.py"})) == b"mine"
    files = {"colorsys/__init__.py": "def handle(data, context):\n    return ['mine']\n"}
    assert ask(serve(files=files, model={"handler": "colorsys"})) == b"mine"
    files = {"code.py": "class Model:\n    def handle(self, data, context):\n        return ['mine']\n"}
    assert ask(serve(files=files, model={"handler": "code"})) == b"mine"


def refusal(serve: Serve, source: str | None, handler: str = "service.py:handle") -> str:
    with pytest.raises(hr.InvalidModel) as caught:
        serve(source, {"handler": handler})
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "handler", "why"),
    [
        (None, "absent.py", "the archive has no handler 'absent.py'"),
        (
            None,
            "os:system",
            "the archive has no handler 'os:system': there is no os.py in it, and what is Python's own",
        ),
        (None, "subprocess.py:call", "what is Python's own is no handler"),
        (None, "os.path:join", "what is Python's own is no handler"),
        (None, "builtins:print", "what is Python's own is no handler"),
        ("import nosuchmodule_x", "service", "needs the module 'nosuchmodule_x', which is not installed"),
        ("1 / 0", "service", "importing the handler 'service' failed: ZeroDivisionError"),
        ("import sys; sys.exit(3)", "service", "importing the handler 'service' failed: SystemExit"),
        ("def (", "service", "importing the handler 'service' failed: SyntaxError"),
        ("X = 1", "service", "no such function, and the classes: none"),
        (
            "class A:\n  def handle(s, d, c): pass\nclass B:\n  def handle(s, d, c): pass",
            "service",
            "the classes: A, B",
        ),
        ("class A:\n  pass", "service", "class A has no method handle"),
        (
            "class A:\n  def __init__(self, x): pass\n  def handle(s, d, c): pass",
            "service",
            "making a A failed: TypeError",
        ),
        (
            "class A:\n  def initialize(s, c): 1 / 0\n  def handle(s, d, c): pass",
            "service",
            "A.initialize failed: Zero",
        ),
        ("def handle(data, context): raise KeyError('w')", "service", "initialises it, failed: KeyError: 'w'"),
        ("async def handle(data, context): yield", "service", "handle is an asynchronous generator"),
    ],
)
def test_what_cannot_be_loaded_says_why(serve: Serve, source: str | None, handler: str, why: str) -> None:
    assert why in refusal(serve, source, handler)


def test_what_a_worker_cannot_be_told_is_refused_at_once(serve: Serve) -> None:
    with pytest.raises(
        hr.InvalidModel, match=r"cannot be told what to load, which takes 2,[0-9,]+ bytes: at most 1,048"
    ):
        serve("def handle(data, context): return data", {"description": "x" * 2_000_000})


def test_an_error_of_ours_while_a_worker_starts_is_told_and_nobody_waits(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pool, "setup", lambda *_: 1 // 0)
    with pytest.raises(hr.InvalidModel, match="has ended: ZeroDivisionError"):
        serve("def handle(data, context): return data")


def test_the_operator_has_the_traceback(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "headrace.workers")
    refusal(serve, "class A:\n  def initialize(s, c):\n    raise ValueError('no weights')\n  def handle(s, d, c): pass")
    logged = caplog.text
    assert "ValueError: no weights" in logged
    assert "service.py" in logged


def test_an_archive_without_a_handler_and_an_unknown_envelope_are_refused(serve: Serve) -> None:
    with pytest.raises(hr.HeadraceError, match="names no handler, and none was given"):
        serve(model={"handler": None})
    with pytest.raises(hr.HeadraceError, match="service_envelope is one of"):
        serve("def handle(data, context):\n    return data\n", envelope="seldon")


def test_yaml_comes_as_it_was_written(serve: Serve) -> None:
    model = serve(
        """
        def handle(data, context):
            config = context.model_yaml_config
            return [[repr(config["day"]), config["by"][1], config["handler"]["top"]]]
        """,
        {"configFile": "model.yaml"},
        {"model.yaml": "day: 2024-01-02\nby:\n  1: one\nhandler:\n  top: 3\n"},
    )
    assert ask_json(model, 0) == ["datetime.date(2024, 1, 2)", "one", 3]


def test_what_it_logs_and_prints_is_for_the_operator(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = serve(
        """
        import logging

        def handle(data, context):
            logging.getLogger(__name__).info("in the handler")
            print("and printed", flush=True)
            return [""]
        """
    )
    ask(model)
    model.close()
    assert "in the handler" in caplog.text
    assert "and printed" in caplog.text


def test_handlers_may_be_coroutines_and_what_they_open_stays_open(serve: Serve) -> None:
    source = """
        import asyncio

        class Service:
            async def initialize(self, context):
                self.words = asyncio.Queue()
                self.waits = asyncio.ensure_future(self.words.get())

            async def handle(self, data, context):
                self.words.put_nowait(bytes(data[0]["body"]).decode())
                said, self.waits = await self.waits, asyncio.ensure_future(self.words.get())
                answers = await asyncio.gather(*[asyncio.sleep(0, said) for _ in data])
                context.set_response_content_type(0, "text/plain")
                return answers
    """
    model = serve(source, {"handler": "service"})
    for word in (b"one", b"two"):
        assert ask(model, word) == (word, "text/plain", 200, None, ())
    function = """
        async def handle(data, context):
            if data is not None and data[0]["body"] == b"bad":
                raise ValueError("no good")
            return ["awaited"] if data else None
    """
    model = serve(function)
    assert ask(model, b"x") == b"awaited"
    with pytest.raises(hr.BackendError, match="no good"):
        ask(model, b"bad")
    assert ask(model, b"x") == b"awaited"


@pytest.mark.parametrize("labels", [["cat", "dog"], {"0": {"name": "cat"}, "thresholds": [0.5]}, {"0": 7}])
def test_index_to_name_is_what_the_handler_takes_it_for(serve: Serve, labels: Any) -> None:
    model = serve(
        """
        import json, os
        class Own:
            def initialize(self, context):
                with open(os.path.join(context.system_properties["model_dir"], "index_to_name.json")) as file:
                    self.labels = json.load(file)
            def handle(self, data, context):
                return [self.labels]
        """,
        {"handler": "service.py"},
        {"index_to_name.json": json.dumps(labels)},
    )
    assert ask_json(model, 0) == labels
