"""What a handler is told beside its data."""

from _headrace_shared import load

_ours = load("context")

Context = _ours.Context
RequestProcessor = _ours.RequestProcessor
