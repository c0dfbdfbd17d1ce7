"""The logger of services of Multi Model Server 0.4."""

from __future__ import annotations

import logging
from typing import Any


def get_logger(name: Any = None) -> logging.Logger:
    return logging.getLogger(name if isinstance(name, str) else "headrace.handler")
