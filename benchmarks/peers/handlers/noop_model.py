"""headrace: a function is a model."""

from __future__ import annotations


def noop(data: object) -> dict[str, str]:
    return {"prediction": "ok!"}
