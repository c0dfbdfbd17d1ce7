"""Loads a callable, in a worker: by its name, or from the script it is in. Loaded by its path there."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from typing import Any, NamedTuple


class Loaded(NamedTuple):
    function: Any
    about: dict[str, Any]
    """`parameters`: the names it can be called by, None for any; `required`: those it cannot be called without;
    `awaits`: whether what it returns is awaited, and several runs may go on at once (`coroutines`)."""


class Refused(Exception):
    """Says all there is to say of what cannot be loaded."""


def load(setup: dict[str, Any]) -> Loaded:
    """`callable`: `module:function`; `file`: its script, where its module is one that was run."""
    module_name, _, name = setup["callable"].partition(":")
    worker: Any = sys.modules.get("headrace_worker")  # not where tests load
    if setup.get("is_main") and worker is not None:
        worker.importing = setup.get("file") or module_name
    try:
        value: Any = _imported(module_name, setup.get("file"))
    finally:
        if worker is not None:
            worker.importing = None
    if setup.get("is_main"):
        sys.modules["__main__"] = value  # so requests made of what is in it can be read
    for part in name.split("."):
        if not hasattr(value, part):
            raise Refused(f"module {module_name} has no {name!r}")
        value = getattr(value, part)
    if not callable(value):
        raise Refused("{} is a {}, not a callable".format(setup["callable"], type(value).__name__))
    functions = (value, getattr(value, "__call__", None))  # noqa: B004 - an object may be called by its method
    if any(inspect.isgeneratorfunction(f) or inspect.isasyncgenfunction(f) for f in functions):
        raise Refused("{} is a generator function; pass a function that returns its answer".format(setup["callable"]))
    named, required = _parameters(value)
    awaits = any(map(inspect.iscoroutinefunction, functions))
    return Loaded(value, {"parameters": named, "required": required, "awaits": awaits})


def _imported(name: str, file: Any) -> Any:
    """`file`: of a script; its module is imported under that name."""
    try:
        return _module_of_file(file, name) if file else importlib.import_module(name)
    except ModuleNotFoundError as error:
        if file is None and error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise Refused(
                f"no module named {error.name!r} (looked in {os.getcwd()} and the Python path of {sys.executable})"
            ) from None
        raise Refused(f"importing {file or name} failed: {error}") from error
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # a script that ends itself must not do so without a word
        if type(error).__name__ == "Unguarded":  # says it all
            raise Refused(str(error)) from error
        hint = ""
        if file and isinstance(error, SystemExit):
            hint = '; put what is to be done when it is run under `if __name__ == "__main__":`'
        raise Refused(f"importing {file or name} failed: {type(error).__name__}: {error}{hint}") from error


def _parameters(function: Any) -> tuple[Any, Any]:
    """As the python backend's: the names it can be called by, and those it cannot be called without."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None, ()
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = tuple(p.name for p in by_name if p.default is p.empty)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return (None if takes_any else tuple(p.name for p in by_name)), required


def _module_of_file(path: str, name: str) -> Any:
    """A script's module, without what it does when it is run: its name is not `__main__`."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = sys.modules["__main__"] = module  # what imports `multiprocessing` calls this one `__mp_main__`
    spec.loader.exec_module(module)
    module.__spec__ = None  # nobody can import it by its name: `multiprocessing` is to take its file
    return module
