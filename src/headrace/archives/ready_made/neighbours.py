"""The files beside this one, by their paths: Headrace need not be in the environment. Loaded by its path as well.

A file that needs others in its functions says `neighbours: Any = None` at its top, and finds this module there.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any


def load(name: str) -> Any:
    """The module in the file `name` beside this one, loaded once."""
    full = "_headrace_ready_made_" + name
    if full not in sys.modules:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
        spec = importlib.util.spec_from_file_location(full, path)
        assert spec is not None and spec.loader is not None  # noqa: PT018
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[full]
            raise
        module.neighbours = sys.modules[__name__]  # type: ignore[attr-defined]
    return sys.modules[full]
