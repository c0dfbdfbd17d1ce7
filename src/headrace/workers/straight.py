"""The shortest way of a request to a worker: it enters its model, is taken and is sent in one step of the engine.

The usual way is three: it enters, a stream is woken for it, and that takes it. Where a loop has a request and a worker
stands idle, each of them is done by the same thread right after the other.

Rule 1: what may begin is asked of the source all the same, once it is in there: who waits longer, or matters more, goes
        first, and what is to wait for company does.
Rule 2: where anything is not as it is most of the time, nothing is done, and it goes the usual way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from headrace.engine.dispatch import Dispatch
from headrace.engine.remote import RemotePort, may_enter_in_exchange
from headrace.engine.source import Entering


def straight(engine: Dispatch, port: RemotePort) -> Callable[[Entering], bool]:
    """For `port.straight`: of a pool whose idle workers are all alike to a request."""
    group = port.group

    def send(entering: Entering) -> bool:
        try:
            lane = group.idle[-1]  # whom the engine would take, too
        except IndexError:
            return False
        serving = lane.stream.serving
        if serving is None or asyncio._get_running_loop() is None or not may_enter_in_exchange(engine):
            return False
        return bool(serving.send_at_once(entering))

    return send
