"""The one data plane every door calls. Knows models and requests; knows no HTTP.

The way of a request: `open` at its headers (a READY model is pinned, a permit is held, or it is refused), then the door
decodes its body, then `start`, then `deliver`, and `depart` whenever nobody waits for it any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from headrace.engine.admission import Budget, BudgetStatistics
from headrace.engine.permit import Permit
from headrace.errors import Closed, InvalidInput, ModelNotFound
from headrace.model.model import Model
from headrace.serving.inflight import InFlight
from headrace.serving.registry import Registry
from headrace.serving.served import Served


class Service:
    def __init__(self, max_requests: int, max_bytes: int | None) -> None:
        self.registry: Registry[Served] = Registry()
        self.budget = Budget(max_requests, max_bytes)
        self._stopping = threading.Event()
        self._refuses = False  # the same, where each request looks at it
        self._when_stopped: list[Callable[[], object]] = []

    def when_stopped(self, call: Callable[[], object]) -> None:
        """`call()` once every model is closed. It may be called more than once."""
        self._when_stopped.append(call)

    def open(self, name: str, version: str | None, nbytes: int) -> InFlight:
        """A request for `name` has begun to come in; it holds `nbytes`. No name: it is for the one model there is.

        ModelNotFound and ModelNotReady before Overloaded: absence is not told as business. End it with `start`, or
        with `refuse`.
        """
        if not name:
            name = self.registry.only()
        while True:
            served = self.registry.ready(name, version)
            if self._refuses:
                raise Closed("the server is stopping")
            permit = self.budget.admit_to(served.group, nbytes)
            if permit is not None:
                return InFlight(served, permit)
            # It began to go between the two looks. Its state was changed before: it is not found READY once more.

    def hold(self, nbytes: int) -> Permit:
        """For a body that will say which model it is for: `pin` it, or release it."""
        if self._refuses:
            raise Closed("the server is stopping")
        return self.budget.admit(nbytes)

    def pin(self, name: str, permit: Permit) -> InFlight:
        """As `open`, with a permit that is held already."""
        while True:
            served = self.registry.ready(name or self.registry.only(), None)
            if self.budget.join(permit, served.group):
                return InFlight(served, permit)

    def registered(self, name: str, version: str | None) -> Served | None:
        """What `open` would have pinned, in whatever state it is: to count a refusal under its model. None: no such."""
        try:
            return self.registry.find(name or self.registry.only(), version).served
        except (ModelNotFound, InvalidInput):
            return None

    def start(
        self,
        request: InFlight,
        inputs: tuple[Any, ...],
        deliver: Callable[[InFlight], object],
        names: tuple[str, ...] | None = None,
    ) -> None:
        """Its body has been decoded: have it run. `deliver(request)` is called once, on the thread that settles it."""
        request.inputs, request.names, request.receiver = inputs, names, deliver
        request.served.model.send(request)

    def start_all(self, model: Model, requests: Sequence[InFlight]) -> None:
        """As `start`, of several of one model, whose inputs and receivers they have already."""
        try:
            model.send_all(requests)
        except Exception as error:
            for request in requests:
                request.settle(error=error)

    def refuse(self, request: InFlight) -> None:
        """It will not be started: give its permit back."""
        request.let_go()

    def stop(self, timeout: float | None = None) -> bool:
        """Answer what is inside, refuse what comes, then close every model. False if `timeout` seconds were too few."""
        self._refuses = True
        self._stopping.set()
        if not self.budget.wait_until_idle(timeout):
            return False
        for entry in self.registry:
            if entry.served is not None:
                entry.served.model.close()
        for call in self._when_stopped:
            call()
        return True

    def cut_short(self) -> None:
        """What still runs in worker processes is ended at once."""
        for entry in self.registry:
            served = entry.served
            if served is not None and served.model.engine is not None and served.model.port is not None:
                served.model.engine.abandon(served.model.port)
                served.model.port.cut_short(0.0)

    def statistics(self) -> BudgetStatistics:
        return self.budget.statistics()
