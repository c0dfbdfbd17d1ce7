"""The layers of the house: imports go down only, and what is pure stays pure."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import headrace

ROOT = Path(headrace.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LAYERS = {
    **dict.fromkeys(
        (
            "errors",
            "config",
            "sizes",
            "wording",
            "tensor",
            "request",
            "clock",
            "counters",
            "trace",
            "lines",
            "log",
            "version",
            "progress",
        ),
        0,
    ),
    "__init__": 0,  # the façade: it imports names when they are asked for
    "engine": 1,
    **dict.fromkeys(("backends", "nd"), 2),
    **dict.fromkeys(("model", "archives", "compat"), 3),
    "workers": 4,
    **dict.fromkeys(("serving", "codecs"), 5),
    **dict.fromkeys(("server", "client", "batch", "cluster"), 6),
    **dict.fromkeys(("bench", "tuning"), 7),
    "cli": 8,
    "__main__": 9,  # is the command line
    "testing": 10,  # may import all; nothing imports it
}
SIBLINGS = {("compat", "archives"), ("compat", "model")}
"""Who may import whom on the same layer."""

ONLY_FOR_TYPES = {
    *(("cli/trace", f"headrace.{module}") for module in ("cli.load", "model.model", "model.timeline")),
    *((f"cli/{name}", "headrace.client.told") for name in ("models", "managing", "showing")),
    *((f"cli/{name}", "headrace.client.manage") for name in ("models", "managing")),
    ("engine/ownership", "headrace.engine.engine"),
    *(("engine/stream", f"headrace.engine.{module}") for module in ("dispatch", "port")),
    ("engine/guard", "headrace.engine.future"),
    ("engine/permit", "headrace.engine.admission"),
    *(("engine/statistics", f"headrace.engine.{module}") for module in ("leases", "operations", "port")),
    *(("model/pending", f"headrace.model.{module}") for module in ("batcher", "instance", "run")),
    ("model/tracing", "headrace.model.model"),
    ("model/call", "headrace.model.model"),
    ("model/model", "headrace.model.rescheduling"),
    ("workers/at_once", "headrace.workers.pool"),
    ("workers/at_once", "headrace.workers.worker"),
    ("model/rebatching", "headrace.model.model"),
    ("workers/burial", "headrace.workers.pool"),
    ("workers/roster", "headrace.workers.pool"),
    ("workers/status", "headrace.workers.worker"),
    ("workers/burial", "headrace.workers.worker"),
    ("workers/caller", "headrace.workers.serving"),
    ("workers/serving", "headrace.workers.worker"),
    ("workers/watch", "headrace.workers.pool"),
    ("workers/worker", "headrace.workers.pool"),
    *(("model/rescheduling", f"headrace.{module}") for module in ("engine.port", "model.model")),
    ("serving/inflight", "headrace.serving.served"),
    ("server/bridge", "headrace.server.exchange"),
    *(("server/exchange", f"headrace.server.{module}") for module in ("bridge", "door", "protocol")),
    ("server/protocol", "headrace.server.front"),
    *(("__init__", f"headrace.{module}") for module in (
        "client.manage", "engine.completion", "engine.dependencies", "engine.engine", "engine.future", "engine.naive",
        "engine.ownership", "engine.scheduler", "errors", "model.model", "tensor", "workers.compile",
    )),
}  # fmt: skip
"""The imports under TYPE_CHECKING. They are exempt, and so each stands here."""

PURE = [
    *(
        "engine/dependencies",
        "engine/forgetting",
        "engine/masks",
        "engine/ready_queue",
        "engine/leases",
        "engine/placement",
        "engine/scheduler",
    ),
    *("engine/pinning", "engine/queueing", "backends/refusals", "model/gil"),
    *("model/timeline", "model/shown", "model/units", "model/shapes", "model/drawing", "model/picture"),
    *(
        "model/batcher",
        "model/sequences",
        "model/sequence_batcher",
        "model/joining",
        "model/versions",
        "archives/manifest",
        "archives/entries",
        "archives/declaration",
        "archives/location",
        "serving/registry",
    ),
    *("codecs/v2_json", "codecs/v2_binary", "codecs/v2_proto", "codecs/torchserve"),
    *(
        "server/head",
        "server/target",
        "server/routes",
        "server/description",
        "server/schemas",
        "server/inference",
        "server/v2_rest",
    ),
    *("serving/describe", "server/compat", "server/managed", "server/parameters", "server/options_asked"),
    "serving/interpreters",
    "archives/requirements",
    *("workers/messages", "workers/frames", "workers/window", "workers/extents", "workers/supervision"),
    *("workers/retry", "workers/sharing", "workers/initializers"),
    *("codecs/forms", "server/custom", "server/streaming"),
    *("client/asked", "client/refused", "client/told"),
]
"""No threads, clocks, sockets or files. Not all of them have been written yet."""
IMPURE = {
    *(
        "_thread",
        "asyncio",
        "concurrent",
        "contextvars",
        "multiprocessing",
        "queue",
        "signal",
        "subprocess",
        "threading",
    ),
    *(
        "fcntl",
        "io",
        "mmap",
        "os",
        "pathlib",
        "select",
        "selectors",
        "shutil",
        "socket",
        "ssl",
        "sys",
        "tempfile",
        "time",
    ),
}


def name_of(file: Path) -> str:
    """`engine/stream`, `errors`."""
    return str(file.relative_to(ROOT).with_suffix(""))


def part_of(module: str) -> str:
    """The entry in LAYERS of a file name or of a dotted module name in the package."""
    parts = module.replace("/", ".").removeprefix("headrace").strip(".").split(".")
    return parts[0] or "__init__"


def imports(tree: ast.AST, file: Path) -> Iterator[tuple[str, bool]]:
    """(absolute dotted module, whether only for types) of every import anywhere in a file."""
    for_types: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for inside in node.body:
                for_types |= {id(one) for one in ast.walk(inside)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative imports hide which layer is meant"
            module = str(node.module)
            for alias in node.names:
                below = ROOT.joinpath(*module.split(".")[1:], alias.name)
                is_module = module.split(".")[0] == "headrace" and (below.is_dir() or below.with_suffix(".py").exists())
                yield f"{module}.{alias.name}" if is_module else module, id(node) in for_types


TREES = {name_of(file): ast.parse(file.read_text(), str(file)) for file in FILES}
IMPORTS = {name: sorted(set(imports(TREES[name], ROOT / f"{name}.py"))) for name in TREES}


def test_every_part_of_the_package_has_its_layer() -> None:
    assert len(FILES) > 50
    assert {part_of(name) for name in TREES} <= set(LAYERS)


@pytest.mark.parametrize("name", TREES)
def test_imports_go_down_only(name: str) -> None:
    part = part_of(name)
    for module, for_types in IMPORTS[name]:
        other = part_of(module) if module.split(".")[0] == "headrace" else part
        if for_types or other == part or (part, other) in SIBLINGS:
            continue
        assert other in LAYERS, f"{module} is in no layer"
        assert LAYERS[other] <= LAYERS[part], f"{name} imports {module}, which is above it"
        assert LAYERS[other] < LAYERS[part] or not LAYERS[part], f"{name} imports its sibling {module}"


def test_what_is_imported_for_types_alone_is_known() -> None:
    found = {
        (name, module)
        for name, modules in IMPORTS.items()
        for module, for_types in modules
        if for_types and module.split(".")[0] == "headrace"
    }
    assert found == ONLY_FOR_TYPES


@pytest.mark.parametrize("name", [name for name in PURE if name in TREES])
def test_what_is_pure_imports_no_threads_clocks_sockets_or_files(name: str) -> None:
    assert not {module for module, _ in IMPORTS[name] if module.split(".")[0] in IMPURE}


@pytest.mark.parametrize("name", [name for name in PURE if name in TREES])
def test_what_is_pure_opens_nothing(name: str) -> None:
    calls = {
        node.func.id for node in ast.walk(TREES[name]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "input", "print", "exec", "eval", "__import__"}


def test_most_of_what_is_pure_has_been_written() -> None:
    """A file that moves must not drop out of these tests unseen."""
    assert len([name for name in PURE if name in TREES]) >= 11


@pytest.mark.parametrize(
    "name", [name for name in TREES if not LAYERS[part_of(name)] and name not in ("progress", "__init__")]
)
def test_the_lowest_layer_needs_the_standard_library_and_numpy_alone(name: str) -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "headrace"}
    assert {module.split(".")[0] for module, _ in IMPORTS[name]} <= allowed


def test_nothing_ours_imports_the_testing_kit() -> None:
    for name, modules in IMPORTS.items():
        if part_of(name) != "testing":
            assert not any(module.startswith("headrace.testing") for module, _ in modules), name


def test_the_engine_needs_no_package_at_all() -> None:
    for name, modules in IMPORTS.items():
        if part_of(name) == "engine":
            others = {module.split(".")[0] for module, _ in modules} - set(sys.stdlib_module_names)
            assert others <= {"headrace"}, name


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os.path", [("os.path", False)]),
        ("def f():\n    from headrace.engine import engine", [("headrace.engine.engine", False)]),
        ("from headrace.errors import Closed", [("headrace.errors", False)]),
        ("from headrace import errors, nothing", [("headrace.errors", False), ("headrace", False)]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import queue\nelse:\n    import time",
         [("typing", False), ("queue", True), ("time", False)]),
    ],
)  # fmt: skip
def test_these_tests_see_every_kind_of_import(source: str, found: list[tuple[str, bool]]) -> None:
    assert sorted(imports(ast.parse(source), Path("made_up"))) == sorted(found)
