"""How a callable reaches a worker: by name. The worker imports it; nothing of it is copied."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from headrace.errors import InvalidModel
from headrace.workers.loadable import Loadable

NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")

MAIN = "__mp_main__"
"""What a script is called where it is imported, as by `multiprocessing`: what a callable starts with that finds it."""


@dataclass(frozen=True)
class Named(Loadable):
    """`callable`: `module:function`. `file`: the script it is in, where it was run as one (not with `python -m`)."""

    callable: str
    file: str | None = None
    is_main: bool = False
    """Whether it is in what was run: what that does when it is run is not to be done in a worker."""

    @property
    def name(self) -> str:
        return self.callable.rpartition(":")[2].rpartition(".")[2]

    def told(self) -> dict[str, Any]:
        """What a worker is told of it (`workers/callables`)."""
        return {"loader": "callable", "callable": self.callable, "file": self.file, "is_main": self.is_main}

    def __str__(self) -> str:
        if self.file is None:
            return self.callable
        return f"{os.path.basename(self.file)}:{self.callable.partition(':')[2]}"


def is_name(text: str) -> bool:
    """Whether this says `module:function`."""
    return NAME.match(text) is not None


def named(model: Any) -> Named:
    """InvalidModel for what no worker could find, with what to do."""
    if isinstance(model, str):
        if not NAME.match(model):
            raise InvalidModel(
                f"a worker process runs a callable, given as a function or as 'module:function', not {model!r}"
            )
        return Named(model)
    if not callable(model):
        raise InvalidModel(
            "a worker process runs an ONNX file, or a callable, given as a function or as 'module:function', not "
            f"{type(model).__name__}"
        )
    module = getattr(model, "__module__", None)
    path = getattr(model, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str):
        raise InvalidModel(
            f"a worker finds its callable by name, and this {type(model).__name__} has none: assign it to a name of "
            "a module, and pass 'module:name'"
        )
    if "<" in path:  # <locals>, <lambda>
        raise InvalidModel(
            f"a worker finds its callable by name, and {path} has none that can be imported: define it with `def` at "
            "the top of a module"
        )
    owner = getattr(model, "__self__", None)
    if owner is not None and not isinstance(owner, type | ModuleType):
        raise InvalidModel(
            f"a worker finds its callable by name, and {path} is bound to an object of this process: pass a function "
            "that makes the object, or 'module:name' where the module makes it"
        )
    at: Any = sys.modules.get(module)
    for part in path.split("."):
        at = getattr(at, part, None)
    if at is not model and getattr(at, "__func__", at) is not getattr(model, "__func__", model):
        raise InvalidModel(
            f"a worker finds its callable by name, and {module}:{path} is something else: pass 'module:name' of it"
        )
    if module != "__main__":
        return Named(f"{module}:{path}")
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":  # `python -m package.main`: what is relative in it needs that name
        return Named(f"{spec.name}:{path}", is_main=True)
    file = getattr(main, "__file__", None)
    if not isinstance(file, str) or not os.path.isfile(file):
        raise InvalidModel(
            f"a worker imports {path} by name, and what is typed into an interpreter or a notebook is in no file: put "
            "it into a module"
        )
    return Named(f"{MAIN}:{path}", os.path.abspath(file), is_main=True)


class Unguarded(InvalidModel):
    """A worker that imports a script would start what the script starts, and so on for ever."""


def check_guard() -> None:
    """Unguarded where this is a worker that imports the script whose function it is to run."""
    script = getattr(sys.modules.get("headrace_worker"), "importing", None)
    if script is not None:
        raise Unguarded(
            f"{script} starts worker processes when it is imported, and each worker imports it: put what is to be done "
            'when it is run under `if __name__ == "__main__":`'
        )
