"""Plain Python: a callable as a model.

It runs on a stream's thread: what holds the GIL for long holds up everything in the process. It is called as it was
called upon: `f(x)`, `f(*xs)` or `f(**d)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from headrace.backends.base import Loaded, LoadOptions, Stop
from headrace.errors import InvalidModel, InvalidOption


class CallableSession:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def run(self, inputs: tuple[Any, ...], names: tuple[str, ...] | None = None, stop: Stop | None = None) -> list[Any]:
        if names is None:
            return [self.function(*inputs)]
        return [self.function(**dict(zip(names, inputs)))]

    def close(self) -> None:
        pass


class PythonBackend:
    name = "python"

    def load(self, model: Any, options: LoadOptions) -> Loaded:
        if not callable(model):
            raise InvalidModel(f"the python backend runs callables, not {type(model).__name__}")
        functions = (model, getattr(model, "__call__", None))  # noqa: B004 - an object may be called by its method
        if any(map(inspect.iscoroutinefunction, functions)):
            raise InvalidModel(
                f"{_name_of(model)} is a coroutine function; a model is called on a stream's thread, which runs no "
                "event loop. With isolation='process' it has an event loop of its own, and concurrency=N of its runs "
                "go on at once; or pass a plain function"
            )
        if any(inspect.isgeneratorfunction(f) or inspect.isasyncgenfunction(f) for f in functions):
            raise InvalidModel(f"{_name_of(model)} is a generator function; pass a function that returns its answer")
        if options.batch_size is not None or options.input_shapes is not None:
            raise InvalidOption("batch_size and input_shapes fix the shapes of an ONNX model; a callable has none")
        session = CallableSession(model)
        sessions = tuple(session for _ in options.widths)
        named, required = _parameters(model)
        return Loaded(
            self.name,
            "python",
            _name_of(model),
            sessions,
            inputs=None,
            outputs=None,
            parameters=named,
            required=required,
            spreads=True,
        )


def _name_of(model: Any) -> str:
    return getattr(model, "__name__", None) or type(model).__name__


def _parameters(model: Callable[..., Any]) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The names it can be called by (None: it does not say, or takes any), and those it cannot be called without."""
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):  # builtins without a signature
        return None, ()
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = tuple(p.name for p in by_name if p.default is p.empty)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return None if takes_any else tuple(p.name for p in by_name), required


backend = PythonBackend()
