"""A stream: one thread on one placement, which runs one batch at a time and pulls its work.

All decisions are the engine's (`Dispatch.turn`); this file is the dumb loop around them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection
from typing import TYPE_CHECKING

from headrace.engine.binding import run_on
from headrace.engine.courtesy import KNOWN, LONG, give_way
from headrace.engine.here import mark_stream_thread
from headrace.engine.leases import Lane
from headrace.engine.mailbox import Hold
from headrace.engine.source import Refused, Work

if TYPE_CHECKING:
    from headrace.engine.dispatch import Dispatch
    from headrace.engine.port import Port


class Stream:
    def __init__(
        self,
        engine: Dispatch,
        port: Port,
        mask: int,
        index: int,
        name: str,
        cpus: Collection[int] | None = None,
        spare: bool = False,
    ) -> None:
        """`cpus`: where its thread stays while it runs something; None: anywhere. `spare`: it is not yet the port's,
        and sleeps until it is (`handover`)."""
        self.port, self.index, self.name = port, index, name
        self.lane: Lane = Lane(port.group, mask, self) if spare else port.group.add_lane(mask, self)
        # Set and read under the engine's lock, once it has started:
        self.stopping = False  # end when there is nothing to do
        self.ended = False  # it stopped: set by `turn`, so that it cannot be granted cores on its way out
        self.ended_at = 0.0
        self.rung = False  # a ring has been promised, and not been heard yet
        self.alarm: float | None = None  # when to look again, though nobody rings
        self.looked = False  # its alarm woke it: it has watched for as long as it was told to
        self.work: Work | None = None  # what it runs
        self.began = 0.0  # since when
        self.holds = False  # results it has just made: where bytes are bounded, who waits for itself is told after that
        # Its own: used in its turns alone.
        self.refused: Refused = []
        self.settled: list[Work] = []  # what another stream had in hand, and this one is to deliver
        self.hold = Hold()
        self._engine, self._cpus = engine, cpus
        self._bell = threading.Lock()  # locked: silent
        self._bell.acquire()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        self.rung = True  # it takes its first turn unasked: a ring before that would be one too many after it
        self._thread.start()

    def ring(self) -> None:
        """Wake it. Once for each time `rung` was set; once more where that may have been interrupted."""
        with contextlib.suppress(RuntimeError):  # it rings already
            self._bell.release()

    def join(self, timeout: float | None = None) -> None:
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    @property
    def thread(self) -> int | None:
        """Its thread's ident."""
        return self._thread.ident

    def _loop(self) -> None:
        mark_stream_thread()
        self.hold = Hold.here()
        turn, port, cpus = self._engine.turn, self.port, self._cpus
        done: Work | None = None
        gives_way = False
        while not self.ended:
            done = turn(self, done)
            if not gives_way and port.runs >= KNOWN and port.typical > LONG:
                gives_way = True
                give_way()
            if self.holds:
                self.holds = False
                self._engine.budget.let_go()
            if done is not None:
                if cpus is None:
                    done.run()
                else:
                    run_on(cpus, done.run)
            elif not self.ended:
                self._sleep()

    def _sleep(self) -> None:
        if self.alarm is None:
            self._bell.acquire()
            return
        seconds = max(0.0, self.alarm - self._engine.clock.now())
        if not self._bell.acquire(timeout=seconds) and self._engine.woke_by_itself(self):
            self._bell.acquire()  # rung between the alarm and now: hear it, so that it does not wake the next sleep
