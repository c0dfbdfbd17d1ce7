"""Who hears what a worker's process says, while the worker's own thread sleeps: an event loop, one caller, or that.

Rule 1: all but `listen` is for whoever has the turn (`serving`).
Rule 2: nobody else has to hear. A loop that is left to hear and does not, for a few milliseconds, has it taken out of
        its hands; after MISSED such times it is not asked for a while.
Rule 3: a caller hears while its run alone is with the process. Who has left without a word is found out when the
        worker's thread looks whether the process hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from headrace.model.pending import Pending
from headrace.model.run import Run
from headrace.workers.caller import Caller
from headrace.workers.connection import Connection
from headrace.workers.ear import Ear
from headrace.workers.in_hand import InHand
from headrace.workers.watch import Watch

GRACE = 0.002
"""Seconds after an answer during which the next ones are left to the loop that hears them. It may be blocked."""
LONG_GRACE = 0.008
"""The same of one that has heard for a while: each look fights it for the interpreter."""
MISSED = 8
"""Answers in a row that a loop has left to the worker's thread after which it is not asked to hear for a while."""
DEAF = 1.0
"""Seconds."""
LARGE = 1 << 20
"""Bytes of an answer from which on copying it is nothing for a loop."""


class Hearing:
    def __init__(self, connection: Connection, hand: InHand, watch: Watch) -> None:
        self._connection, self._hand, self._watch = connection, hand, watch
        self.ear: Ear | None = None
        """What has an event loop hear what comes."""
        self.caller: Caller | None = None
        """Who hears what comes, and waits for it."""
        self._by_loop = False  # the worker's thread leaves it to its loop for a while
        self.missed = 0
        """Answers in a row that a loop was to hear, and did not."""
        self._deaf_until = 0.0

    # ---- whoever sends

    def choose(self, hear: Callable[[], object]) -> None:
        """Something was sent on this thread: have it hear the answer, if it will. `hear`: on its loop."""
        sent = self._hand.sent
        self.caller = None
        if len(sent) == 1 and self.ear is None and self._is_awaited_here():
            self.caller = Caller.here()
        elif sent and (self.ear is None or self.ear.loop is not asyncio._get_running_loop()):
            self._listen_here(hear)
        self._connection.leave(self._by_loop or self.caller is not None)

    def _is_awaited_here(self) -> bool:
        work: Any = next(iter(self._hand.sent.values())).work
        return not isinstance(work, Run) and work.heard_by == threading.get_ident()

    def lend_to(self, caller: Caller, request: Pending) -> None:
        """The caller waits for `request`: where nothing else is with the process, it hears what comes from now on."""
        sent = self._hand.sent
        if self.caller is not None or self.ear is not None or len(sent) != 1:
            return
        if next(iter(sent.values())).work is request:
            self.caller = caller
            self._connection.leave(True)

    def _listen_here(self, hear: Callable[[], object]) -> None:
        """Have the loop that runs here, if one does, hear what the process answers."""
        loop = asyncio._get_running_loop()
        if loop is None:
            return
        if self._hand.answer_room > LARGE or time.monotonic() < self._deaf_until:
            return
        self.stop_listening()
        with contextlib.suppress(NotImplementedError, OSError):
            self.ear = Ear(loop, self._connection.fd, hear)
            self.missed = 0

    def stop_listening(self) -> None:
        """No loop hears any more."""
        ear, self.ear = self.ear, None
        if ear is not None:
            ear.close()

    # ---- the worker's thread

    def leave(self) -> None:
        """It is about to sleep: leave it to whoever hears."""
        ear = self.ear
        self._by_loop = ear is not None and ear.is_awake and time.monotonic() - self._watch.since < GRACE
        if self.caller is not None and not self._waits_for_the_only_one():
            self.caller = None
        self._connection.leave(self._by_loop or self.caller is not None)

    def listen(self, patience: float) -> list[tuple[int, int]]:
        """What there is to hear, within so many seconds; what others were to hear too, if they may not have."""
        by_loop = self._by_loop
        events = self._listen_beside_loop(patience) if by_loop else self._connection.listen(patience)
        if not (events or by_loop):  # whoever was to hear may have left without a word
            events = [(self._connection.fd, select.EPOLLIN)]
        return events

    def _listen_beside_loop(self, patience: float) -> list[tuple[int, int]]:
        """Until something else than frames comes, or the loop has heard nothing for a while."""
        grace = GRACE
        while True:
            heard = self._watch.since
            events = self._connection.listen(min(patience, grace))
            if events or patience < grace or self._watch.since == heard:
                return events
            grace = min(LONG_GRACE, 2 * grace)

    def thread_has_heard(self) -> None:
        """What a loop was to hear, if one was."""
        if self.ear is not None:
            self.missed += 1
            if self.missed >= MISSED or self._hand.answer_room > LARGE:  # the loop is busy, or blocked
                self.stop_listening()
                self._deaf_until = time.monotonic() + DEAF

    def _waits_for_the_only_one(self) -> bool:
        """Whether the caller does that hears what comes. If it does not, or another's is with the process as well, it
        is for the worker's thread to hear."""
        sent = self._hand.sent
        return len(sent) == 1 and not any(request._done for request in next(iter(sent.values())).requests)
