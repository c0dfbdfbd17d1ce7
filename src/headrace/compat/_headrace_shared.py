"""The files these names are made of. A worker has loaded them; where a handler is tried outside one, they are now."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any


def load(name: str) -> Any:
    """The file `name` of `headrace/archives`, once for a process."""
    full = "_headrace_" + name
    if full not in sys.modules:
        home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        spec = importlib.util.spec_from_file_location(full, os.path.join(home, "archives", name + ".py"))
        assert spec is not None and spec.loader is not None  # noqa: PT018
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]
