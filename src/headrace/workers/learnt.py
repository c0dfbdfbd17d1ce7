"""What workers say of the model they have loaded, or why they could not.

Rule 1: what the first one says holds for all: one that has loaded something else must not go on.
Rule 2: whoever compiles the model is told what is wrong with it (`refusal`); the traceback is for the operator.
"""

from __future__ import annotations

import json
import logging

from headrace.errors import HeadraceError, InvalidModel
from headrace.workers.loadable import Loadable

_log = logging.getLogger("headrace.workers")


class Learnt:
    def __init__(self, model: Loadable, name: str, memory_limit: int | None) -> None:
        self._model, self._name, self._memory_limit = model, name, memory_limit
        self.parameters: tuple[str, ...] | None = None
        """The names it can be called by; None: any."""
        self.required: tuple[str, ...] = ()
        self.describes = False
        """Whether what it runs can be asked what it says of itself."""
        self.awaits = False
        """Whether it is a coroutine function."""
        self.refusal: HeadraceError | None = None
        """Why it could not be loaded, as it is raised."""

    def loaded(self, payload: bytes) -> str | None:
        """One of them has loaded it. Why it must not go on with that, if it must not."""
        about = json.loads(payload)
        try:
            self._model.loaded(about)
        except HeadraceError as error:
            self.refusal = error
            return str(error)
        named = about.get("parameters")
        self.parameters = None if named is None else tuple(map(str, named))
        self.required = tuple(map(str, about.get("required", ())))
        self.describes, self.awaits = bool(about.get("describes")), bool(about.get("awaits"))
        return None

    def cannot_load(self, payload: bytes) -> str:
        """Why it could not."""
        about = json.loads(payload)
        self.refusal = self._model.refusal(about)
        why = str(self.refusal)
        limit = self._memory_limit
        if limit is not None and (about["type"] == "MemoryError" or _wants_memory(about["message"])):
            why = f"{self._model} cannot be loaded in a worker: MemoryError: it may have {limit:,} bytes (memory_limit)"
            self.refusal = InvalidModel(why)
        if about["type"] not in ("Refused", "NotLoaded", "NotInstalled"):
            _log.error("%s\n%s", why, about["traceback"], extra={"model": self._name, "request_id": None})
        return why

    def could_not_load(self, how: str) -> HeadraceError:
        """What is raised for it. `how`: what became of the worker that was to load it."""
        if self.refusal is not None:
            return self.refusal
        limit = self._memory_limit
        more = "" if limit is None or "memory_limit" in how else f"; it may have {limit:,} bytes (memory_limit)"
        return InvalidModel(f"{self._model} cannot be loaded: a worker of model {self._name} {how}{more}")


def _wants_memory(message: str) -> bool:
    """Whether an import or a runtime says at length that it had no memory."""
    return any(words in message for words in ("Cannot allocate memory", "failed to map segment", "bad_alloc"))
