"""How what serves ends: it takes no more requests, those inside end, and it goes.

Rule 1: the state is changed first, the group closed second, and waited for third: a request that looked before the
        first, and asks for its permit after the second, is let into nothing, and looks again.
Rule 2: where the requests inside do not end in time it serves on, and whoever asked is told (StillBusy); but what has
        been replaced goes with them.
"""

from __future__ import annotations

import logging
import threading

from headrace.errors import StillBusy
from headrace.serving.located import Located
from headrace.serving.registry import Entry, State
from headrace.serving.served import Served
from headrace.serving.service import Service
from headrace.serving.states import States

_log = logging.getLogger("headrace.serving")


class Leaving:
    def __init__(self, service: Service, states: States) -> None:
        self._budget, self._become = service.budget, states.become

    def drain(self, entry: Entry[Served], timeout: float | None) -> None:
        served, budget = entry.served, self._budget
        assert served is not None
        before, reason = entry.state, entry.reason
        self._become(entry, State.DRAINING)
        budget.close_group(served.group)
        try:
            empty = budget.wait_until_empty(served.group, timeout)
        except BaseException:
            empty = False
            raise
        finally:
            if not empty:
                budget.close_group(served.group, False)
                self._become(entry, State.READY)
                if before is State.FAILED:
                    self._become(entry, State.FAILED, reason)
        if not empty:
            raise StillBusy(entry.name, entry.version, timeout or 0.0)

    def retire(self, old: Served, located: Located, timeout: float | None) -> None:
        """It takes no more requests: who looked before finds the new one. Those inside end, and it goes."""
        budget = self._budget
        budget.close_group(old.group)

        def go() -> None:
            try:
                old.model.close()
            finally:
                located.close()

        if budget.wait_until_empty(old.group, timeout):
            go()
            return
        _log.warning("model %s:%s: requests to what was replaced did not end in time; it goes with them", old.name,
                     old.version)  # fmt: skip

        def wait() -> None:
            budget.wait_until_empty(old.group)
            go()

        threading.Thread(target=wait, name=f"headrace-{old.name}-retires", daemon=True).start()

    def let_go(self, entry: Entry[Served], state: State) -> None:
        """Nobody is inside."""
        served, entry.served = entry.served, None
        self._become(entry, state)
        if served is not None:
            served.model.close()
