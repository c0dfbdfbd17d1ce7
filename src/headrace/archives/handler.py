"""Finds and loads the handler of an archive, in a worker, as Multi Model Server and TorchServe did. Loaded by its path.

Rule 1: the archive's folder is first on `sys.path`, then `compat`, where the names are that handlers import of their
        servers (`mms`, `ts`): ours, and of a server that is really installed what we do not have.
Rule 2: a handler that cannot be loaded is a worker that cannot be: what it raised is said, and its traceback logged.
Rule 3: it is initialised once, before its worker is ready. How it is called is in `calling`.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import inspect
import logging
import os
import pickle
import sys
from typing import Any, NamedTuple

BUILT_IN = {
    "base_handler": "ts.torch_handler.base_handler",
    "image_segmenter": "ts.torch_handler.image_segmenter",
    "object_detector": "ts.torch_handler.object_detector",
    "text_classifier": "ts.torch_handler.text_classifier",
}
READY_MADE = ("image_classifier", "tensor")
"""Ours, which need no code and are for models of any runtime: files in `ready_made`."""
_OURS = "_headrace_handler_"
_HERE = os.path.dirname(os.path.abspath(__file__))
COMPAT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "compat")
_log = logging.getLogger("headrace.handler")
_loop: Any = None


class Loaded(NamedTuple):
    function: Any
    about: dict[str, Any]


class Refused(Exception):
    """Says all there is to say of what is no handler."""


class HandlerNotLoaded(Exception):
    """A handler's own code failed while it was loaded. Its cause is what it raised."""


def _neighbour(name: str) -> Any:
    """A file beside this one, under a name that nothing of the environment's is taken for."""
    full = "_headrace_" + name
    if full not in sys.modules:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
        spec = importlib.util.spec_from_file_location(full, path)
        assert spec is not None and spec.loader is not None  # noqa: PT018
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


def load(setup: dict[str, Any]) -> Loaded:
    """What `workers/served_handler` tells. Refused, or HandlerNotLoaded."""
    folder = setup["folder"]
    _find_in(folder)
    printed = _neighbour("printed").put_in_place()
    _log_to_stdout()
    measures = _neighbour("measures")
    context = _neighbour("context").Context(
        setup["model_name"],
        folder,
        setup["manifest"],
        setup["batch_size"],
        setup["gpu_id"],
        setup.get("server_version"),
        setup["limit_max_image_pixels"],
        measures.Metrics(None, setup["model_name"]),
        _config(setup["config"]),
    )
    named = setup.get("sequence_headers")
    if named is not None:
        context.header_key_sequence_id, context.header_key_sequence_start, context.header_key_sequence_end = named
    envelopes = _neighbour("envelopes")
    try:
        envelope = envelopes.made(setup["envelope"])
    except ValueError as error:
        raise Refused(str(error)) from None
    module = imported(setup["handler"], folder)
    function, owner = entry_of(module, setup["handler"].partition(":")[2] or "handle", context)
    if setup["envelope"] == "kservev2" and module.__name__ == _OURS + "tensor":
        function, envelope = owner.handle_v2, envelopes.WholeKServeV2()
    measures.flush()
    handler = _neighbour("calling").Handler(
        function, owner, context, envelope, setup["decode_input_request"], _neighbour, printed, named is None
    )
    return Loaded(handler, {"parameters": None, "required": (), "describes": handler.describes})


def _config(config: Any) -> Any:
    """As text it is the owner's pickle: YAML has dates and keys that are no text, JSON has not."""
    return pickle.loads(base64.b64decode(config)) if isinstance(config, str) else config or {}


def _find_in(folder: str) -> None:
    sys.path[:] = [folder, COMPAT, *(each for each in sys.path if each not in (folder, COMPAT))]
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = folder + (os.pathsep + others if others else "")  # for what the handler starts


def _log_to_stdout() -> None:
    """What handlers log is for the operator, as it was in the servers. A logger set up at import by others stays."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


# ---- finding it


def imported(handler: str, folder: str) -> Any:
    """The module of `module[.py][:function]`, or of a built-in name. Of a path the last part counts."""
    path = handler.partition(":")[0]
    name = os.path.basename(path)
    name = name[:-3] if name.endswith(".py") else name
    if not name:
        raise Refused(f"a handler is called MODULE[.py][:FUNCTION], not {handler!r}")
    file = os.path.join(folder, name + ".py")
    inner = os.path.join(folder, path if path.endswith(".py") else path + ".py")
    if not os.path.isfile(file) and os.path.isfile(inner):
        file = inner
        sys.path.insert(1, os.path.dirname(inner))
    is_ours = (
        (name in BUILT_IN or name in READY_MADE)
        and not os.path.exists(file)
        and not os.path.isdir(os.path.join(folder, name))
    )
    if not is_ours and _is_pythons_own(name) and not any(map(os.path.exists, (file, os.path.join(folder, name)))):
        raise Refused(
            f"the archive has no handler {handler!r}: there is no {name}.py in it, and what is Python's own is no "
            "handler"
        )
    try:
        if is_ours and name in READY_MADE:
            return _from_file(_OURS + name, os.path.join(_HERE, "ready_made", name + ".py"))
        if is_ours:
            return importlib.import_module(BUILT_IN[name])
        module = importlib.import_module(name)
        if os.path.isfile(file) and not _is_of(module, file):
            module = _from_file("_handler_" + name, file)  # it is called as something that Python has imported
        return module
    except ModuleNotFoundError as error:
        if error.name is not None and not is_ours and (name == error.name or name.startswith(error.name + ".")):
            raise Refused(
                f"the archive has no handler {handler!r}: there is no {name}.py in it, and it is none of the "
                f"built-in {', '.join(sorted((*BUILT_IN, *READY_MADE)))}"
            ) from None
        needs = f"the handler {handler!r} needs the module {error.name!r}, which is not installed for {sys.executable}"
        if (error.name or "").partition(".")[0] in ("ts", "mms"):
            needs += "; of that server we have what docs/handlers.md lists, the rest comes with its own package"
        raise HandlerNotLoaded(needs) from error
    except (Exception, SystemExit) as error:
        raise HandlerNotLoaded(f"importing the handler {handler!r} failed: {_said(error)}") from error


def _is_pythons_own(name: str) -> bool:
    """Whether it is of the standard library, where every name is something to call, and none is a handler."""
    top, home = name.partition(".")[0], os.path.dirname(os.__file__)
    if top in getattr(sys, "stdlib_module_names", sys.builtin_module_names):  # the first from Python 3.10 on
        return True
    return os.path.isfile(os.path.join(home, top + ".py")) or os.path.isfile(os.path.join(home, top, "__init__.py"))


def _is_of(module: Any, file: str) -> bool:
    found = getattr(module, "__file__", None)
    return found is not None and os.path.realpath(found) == os.path.realpath(file)


def _from_file(name: str, file: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def entry_of(module: Any, name: str, context: Any) -> Any:
    """(what is called with (data, context), the object it is of or None), initialised."""
    function = getattr(module, name, None)
    if function is not None:
        function = _waiting(function, name)
        _run(lambda: function(None, context), f"calling {name}(None, context), which initialises it,")
        return function, getattr(getattr(module, name), "__self__", None)
    kind = class_of(module, name)
    made = getattr(kind, "_headrace_made", None)  # the services of Multi Model Server 0.4 are told what they are of
    owner = _run(kind if made is None else lambda: made(context), f"making a {kind.__name__}")
    handle = getattr(owner, "handle", None)
    if not callable(handle):
        raise Refused(f"the class {kind.__name__} has no method handle(data, context)")
    _waiting(handle, f"{kind.__name__}.handle")
    initialize = getattr(owner, "initialize", None)
    if callable(initialize):
        initialize = _waiting(initialize, f"{kind.__name__}.initialize")
        _run(lambda: initialize(context), f"{kind.__name__}.initialize")
    return _waiting(owner.handle, f"{kind.__name__}.handle"), owner  # it may have been exchanged (micro-batching)


def class_of(module: Any, name: str) -> Any:
    """The one class that is defined in the module; of several, the only one that has `handle`."""
    own = {each for _, each in inspect.getmembers(module, inspect.isclass) if each.__module__ == module.__name__}
    kinds = [each for each in own if callable(getattr(each, "handle", None))] if len(own) > 1 else list(own)
    if len(kinds) > 1:  # a base class and what is made of it
        kinds = [each for each in kinds if not any(other is not each and issubclass(other, each) for other in kinds)]
    if len(kinds) != 1:
        found = ", ".join(sorted(each.__name__ for each in own)) or "none"
        raise Refused(
            f"a handler has a function {name!r} or exactly one class of its own with handle(data, context); "
            f"{module.__name__} has no such function, and the classes: {found}"
        )
    return kinds[0]


def _waiting(function: Any, name: str) -> Any:
    """The function; of a coroutine function, one that waits for it. All of a handler's run on one event loop, which
    stands still between two batches: what they have opened there stays open."""
    functions = (function, getattr(function, "__call__", None))  # noqa: B004 - an object may be called by its method
    if any(inspect.isasyncgenfunction(f) for f in functions):
        raise Refused(f"{name} is an asynchronous generator; a handler returns a list of answers")
    if not any(inspect.iscoroutinefunction(f) for f in functions):
        return function

    def waits(*arguments: Any) -> Any:
        return _event_loop().run_until_complete(function(*arguments))

    return waits


def _event_loop() -> Any:
    global _loop
    if _loop is None:
        import asyncio

        _loop = asyncio.new_event_loop()
        asyncio.set_event_loop(_loop)
    return _loop


def _run(call: Any, what: str) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:
        raise HandlerNotLoaded(f"{what} failed: {_said(error)}") from error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
