"""What a model did wrong, as an error of ours."""

from __future__ import annotations

from headrace.errors import BackendError


def failure_of(what: str, error: BaseException) -> BackendError:
    try:
        text = str(error)
    except BaseException:  # a `__str__` of the model's own: it must not end the stream
        text = "(what it says cannot be shown)"
    failure = BackendError(f"the model {what} {type(error).__name__}{': ' if text else ''}{text}")
    failure.__cause__ = error
    return failure
