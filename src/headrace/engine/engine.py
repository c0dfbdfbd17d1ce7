"""The engine users hold: it owns cores, takes operations in, and lends its streams to models.

How work meets streams is in `dispatch`; what may be inside, in `admission`; who holds which cores, in `ownership`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from headrace.clock import Clock
from headrace.engine.admission import Budget, Charge, weigh
from headrace.engine.dependencies import Var, accesses
from headrace.engine.dispatch import Dispatch
from headrace.engine.finished import Finished, check_poll
from headrace.engine.future import Future
from headrace.engine.guard import FORKED, Guard, refuse_to_wait_inside
from headrace.engine.here import on_a_stream
from headrace.engine.leases import Leases
from headrace.engine.mailbox import loop_runs_here
from headrace.engine.masks import mask_of
from headrace.engine.operations import Operation, OperationSource, check_push
from headrace.engine.ownership import claim_cores, deciding, give_back_cores, machine
from headrace.engine.permit import Holder, Permit
from headrace.engine.port import Port
from headrace.engine.shedding import Shedding
from headrace.engine.statistics import EngineStatistics
from headrace.engine.timeouts import checked
from headrace.engine.topology import Core, Topology
from headrace.engine.trace import Trace, stop_all
from headrace.engine.unread import whoever_is_here
from headrace.engine.unseen import Unseen, tell
from headrace.errors import Closed, DeadlineExceeded, InvalidOption, Overloaded, WouldDeadlock
from headrace.wording import count_of

MAX_OPERATIONS = 1024
ON_FULL = ("block", "reject", "shed")


class Engine(Dispatch):
    """Runs operations by their read and write dependencies, and models by their schedulers, on the cores it owns.

    `num_cores`: how many of the process's cores it takes (None: all that no other engine holds). NotEnoughCores if
    fewer are free. `max_operations` and `max_bytes` bound what is inside; when a bound is reached a push waits
    (`on_full="block"`), raises Overloaded ("reject"; always so on a thread that runs an event loop), or has what
    matters least make room ("shed"). `topology` replaces the machine's, for tests: such an engine shares cores with
    nobody.
    """

    def __init__(
        self,
        *,
        num_cores: int | None = None,
        max_operations: int = MAX_OPERATIONS,
        max_bytes: int | None = None,
        on_full: str = "block",
        topology: Topology | None = None,
        clock: Clock | None = None,
    ) -> None:
        if topology is not None and not isinstance(topology, Topology):
            raise TypeError(f"topology is a Topology, or None for this machine's, not {type(topology).__name__}")
        if on_full not in ON_FULL:
            raise InvalidOption(f"on_full is 'block', 'reject' or 'shed', not {on_full!r}")
        if isinstance(max_operations, bool) or not isinstance(max_operations, int) or max_operations < 1:
            raise InvalidOption(f"max_operations is a whole number from 1, not {max_operations!r}")
        if max_bytes is not None and (isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1):
            raise InvalidOption(f"max_bytes is a whole number from 1, or None for no bound, not {max_bytes!r}")
        guard = Guard()
        budget = Budget(max_operations, max_bytes, guard)
        super().__init__(claim_cores(self, num_cores, topology), budget, guard, clock)
        self.on_full = on_full
        self.topology = topology if topology is not None else machine()
        self._operations: Port | None = None
        self._unseen = Unseen()
        if on_full == "shed":
            self._shedding = Shedding(_is_queued)
        self.forked = False
        """This is a child of the process that made it: its streams were not copied."""
        if max_bytes is not None:
            guard.looks = (budget.was_read,)
        self._finished: Finished | None = None  # once it has been polled
        self._ending = self._over = False  # a `close` is on its way, or over; over
        self._ended = threading.Event()  # it is over, or was interrupted

    # ---- what users call

    def push(
        self,
        fn: Callable[[], Any],
        *,
        reads: Iterable[Var] = (),
        writes: Iterable[Var] = (),
        priority: float = 0,
        deadline: float | None = None,
    ) -> Future[Any]:
        """Have `fn()` run once everything pushed before on what it reads or writes has ended. Returns at once.

        The Future holds what `fn` returns, or raises what it raised, with a note that names the line that pushed it.
        Larger `priority` first among what may start; a step is worth one second of waiting. `deadline` in absolute
        `time.monotonic` seconds: not started by then, it fails with DeadlineExceeded; where it cannot be started by
        then, `push` raises that at once. When the engine is full it raises Overloaded, or waits: until the deadline,
        and then raises DeadlineExceeded. TypeError for what is not a function, not a Var or not a number.
        """
        if type(priority) is not int or priority or deadline is not None or not callable(fn):
            check_push(fn, priority, deadline)
        port = self._operations
        if port is None:
            port = self._open_operations()
        source: OperationSource = port.source  # type: ignore[assignment]
        if deadline is not None:
            self.check_deadline(port, priority, deadline, self.clock.now())
        try:
            frame = sys._getframe(1)
        except ValueError:  # the first thing a thread does
            frame = sys._getframe()
        operation = Operation(fn, accesses(reads, writes), priority, deadline, source, frame.f_code, frame.f_lasti)
        if not self.try_enter(port, source.add, operation):
            if self.budget.max_bytes is not None:
                operation.who = whoever_is_here()
            self.enter(port, source.add, operation, 0)
        return operation

    def waitall(self, timeout: float | None = None) -> None:
        """Wait until nothing is inside. Raises the errors nobody has looked at, once, as an ExceptionGroup.

        Every Future has its outcome then; the callbacks of the last ones may still be on their way. TimeoutError if the
        time is up; WouldDeadlock on a stream.
        """
        self.wait_until_idle(timeout)
        tell([self.take_unseen()])

    def poll(self, max_n: int | None = None, timeout: float | None = 0.0) -> list[Future[Any]]:
        """What has ended since the last poll and nobody has looked at, in the order it ended: at most `max_n`.

        Never blocks, unless a `timeout` in seconds is given (None: for ever): then it waits so long for the first.
        What another thread or task was waiting for when it ended is theirs, and is not handed out; nor are futures the
        caller has let go of. The first call is slow: it looks for what has ended before.
        """
        check_poll(max_n, timeout)
        self.check_process()
        with self.guard.lock:
            if self._finished is None:
                self._finished = Finished(self.guard)
                if self._over:
                    self._finished.end()
        return self._finished.take(max_n, timeout)

    def trace(self, path: str | os.PathLike[str], *, capacity: int = 1_000_000) -> Trace:
        """Record what happens from now on, into a file that ui.perfetto.dev and chrome://tracing open.

            with engine.trace("trace.json"):
                ...

        Streams are tracks, runs bars on them; arrows lead from where a request was submitted to its run and to where it
        was read; counters show what waits and what is inside. The newest `capacity` events are kept. The file (gzipped
        if its name ends in .gz) is written at the end of the block, by `stop()`, or when the engine is closed.
        InvalidOption if it cannot be, or if the engine is being traced.
        """
        self.check_process()
        trace = Trace(path, capacity=capacity, on_stop=self.stop_tracing)
        with self.guard.lock:
            for other in self.guard.traces:
                if other.source is None:
                    raise InvalidOption(f"this engine is being traced into {other.path}; stop that first")
            self.guard.begin_trace(trace)
        return trace

    def dump_state(self) -> str:
        """For a hang: what runs and since when, what waits and for whom, and who waits for room; as text."""
        from headrace.engine.dump import dump

        return dump(self)

    def statistics(self) -> EngineStatistics:
        """What the engine has done and what it does now: one moment's numbers."""
        with self.guard.lock:
            return EngineStatistics.of(self._leases, self._ports, self._operations, self.budget)

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """End the engine: what is inside is finished first (`drain`), or refused with Closed where it has not begun.

        With a `timeout` in seconds, what has not begun by then is refused, and a run that does not end in as many again
        is left to itself. Its streams end; its cores are free again. Whoever closes it once more waits until the first
        one is done, or does with `drain=False` what that one waits to do.
        """
        timeout = checked(timeout)
        if self.forked:
            return
        refuse_to_wait_inside(self.guard)
        with self.guard.lock:
            self._closed = True
            first = self._begin_to_end()
        self.budget.close()
        if not on_a_stream():
            self._end(drain, timeout, first)
        elif first or not drain:
            # A stream that waited here would wait for itself; or for another one, of this engine or of one that is
            # closed by a stream of this.
            threading.Thread(
                target=self._end, args=(drain, timeout, first), name="headrace-engine-close", daemon=True
            ).start()

    def _end(self, drain: bool, timeout: float | None, first: bool) -> None:
        try:
            while drain and not first and self._ended.wait(timeout) and not self._over:
                with self.guard.lock:  # the first one was interrupted: this one is the first now, or another one is
                    first = self._begin_to_end()
            if drain and first:
                self.budget.wait_until_idle(timeout)
            until = None if timeout is None else time.monotonic() + timeout  # one for all of them
            ports = list(self._ports)
            for port in ports:  # first all of them: what waits for cores must not get those another one lets go of
                self.abandon(port)
                if not drain:
                    port.cut_short()
            for port in ports:
                self.detach(port, None if until is None else max(0.0, until - time.monotonic()))
            give_back_cores(self)
            stop_all(self.guard.traces)
            with self.guard.lock:
                if self._finished is not None:
                    self._finished.end()
        except BaseException:  # Ctrl-C: whoever closes it again does it all
            if first:
                with self.guard.lock:
                    self._ending = False
                self._ended.set()
            raise
        if first:
            self._over = True
            self._ended.set()

    def _begin_to_end(self) -> bool:
        """Whether it is for the caller. With the lock held."""
        if self._ending:
            return False
        self._ending = True
        if self._ended.is_set():
            self._ended = threading.Event()
        return True

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def in_use(self) -> bool:
        """Whether it has models or operations, or a last run of theirs goes on, so that its cores are settled."""
        return bool(self._ports) or self._leases.free != self._leases.cores

    def take_cores(self, cores: tuple[Core, ...]) -> None:
        """Other cores than before. Only while it is not in use."""
        with self.guard.lock:
            assert not self.in_use, "the cores of an engine in use are settled"
            self.cores = cores
            self._leases = Leases(mask_of(cores))
            self._operations = None

    # ---- what models and `hr.waitall` call

    def wait_until_idle(self, timeout: float | None = None) -> None:
        """Wait until nothing is inside, or raise as `waitall` does."""
        timeout = checked(timeout)
        if on_a_stream():
            raise WouldDeadlock("waitall on one of the engine's own streams would wait for itself")
        refuse_to_wait_inside(self.guard)
        self.check_process()
        if not self.budget.wait_until_idle(timeout):
            raise TimeoutError(f"work is still inside after {timeout} s")

    def take_unseen(self) -> tuple[list[Future[Any]], int]:
        with self.guard.lock:
            return self._unseen.take()

    def enter(
        self,
        port: Port,
        add: Callable[[Any, float], None],
        item: Any,
        charge: Charge,
        timeout: float | None = None,
        check: Callable[[], object] | None = None,
    ) -> None:
        """`item` is inside, and in the port's source, once there is room. Raises as `admit`; or as `check`, which is
        called once there is."""
        try:
            self.admit(charge, timeout, item.priority, item.deadline, item)
            if check is not None:
                check()
            self.offer(port, add, item)
        except BaseException:
            if item.held:
                self.recover(port, item)
            raise

    def admit(
        self,
        charge: Charge = 0,
        timeout: float | None = None,
        priority: float = 0,
        deadline: float | None = None,
        holder: Holder | None = None,
    ) -> Holder:
        """A permit to be inside, or the `holder`. Overloaded if there is no room within `timeout` seconds, or at once,
        as `on_full` says.

        Never waits where an event loop runs. With a `deadline` and no `timeout` it waits until then, and raises
        DeadlineExceeded.
        """
        self.check_process()
        holder = holder or Permit(self.budget)
        if self.guard.lock._is_owned():  # type: ignore[attr-defined]  # see `refuse_to_wait_inside`
            return self.budget.admit(charge, holder)
        if self._shedding is not None:
            return self._admit_shedding(self._shedding, charge, priority, deadline, holder)
        if self.on_full == "reject" or loop_runs_here():
            return self.budget.admit(charge, holder)
        if deadline is None or timeout is not None:
            return self.budget.acquire(charge, timeout, holder)
        try:
            return self.budget.acquire(charge, deadline - self.clock.now(), holder)
        except Overloaded as full:
            raise DeadlineExceeded(f"there was no room in the engine by the deadline: {full}") from None

    def _admit_shedding(
        self,
        shedding: Shedding[weakref.ref[Any]],
        charge: Charge,
        priority: float,
        deadline: float | None,
        holder: Holder,
    ) -> Holder:
        while True:
            try:
                return self.budget.admit(charge, holder)
            except Overloaded as full:
                victim = None
                try:
                    with self.guard.lock:  # found and settled in one step: it could begin in between
                        nbytes = weigh(charge)
                        if self.budget.max_bytes is not None:
                            room = sum(
                                item.nbytes for ref in shedding.below(priority, deadline) if (item := ref()) is not None
                            )
                            if self.budget.nbytes - room + nbytes > self.budget.max_bytes and self.budget.nbytes > room:
                                raise  # all of them together would not make enough room: none is sent away in vain
                        found = shedding.victim(priority, deadline)
                        victim = found() if found is not None else None
                        if victim is None:
                            raise
                        full.add_note("it had been taken in, and made room for what matters more")
                        victim.end(error=full)
                finally:
                    if victim is not None and victim._error is full:  # also where this was interrupted
                        victim.follow_up()

    def check_process(self) -> None:
        """Closed, in a child of the process that made this engine."""
        if self.forked:
            raise Closed(FORKED)

    def check_deadline(self, port: Port, priority: float, deadline: float, now: float, together: int = 1) -> None:
        """DeadlineExceeded if what comes `now` could not be started by `deadline`: it has passed, or all streams are
        busy beyond it with what stands in front, `together` to a run, though no run took longer than the quickest have.
        """
        if now > deadline:
            raise DeadlineExceeded(f"the deadline had passed {now - deadline:.3f} s before this came")
        source = port.source
        if now + port.wait(len(source) // together) <= deadline:
            return
        with self.guard.lock:  # a closer look: who has left, or would be overtaken, is not in the way
            runs = sum(not each._done and each.priority >= priority for each in source.waiting()) // together
        wait = port.wait(runs)
        if now + wait > deadline:
            raise DeadlineExceeded(
                f"it could not be started in time: {count_of(runs, 'run')} wait in front, which is {wait:.3f} s of "
                f"work, and the deadline is {deadline - now:.3f} s away"
            )

    def remember(self, future: Future[Any]) -> None:
        """`future` holds an error: keep it for `waitall`, unless somebody looks before. With the lock held, or not."""
        with self.guard.lock:
            self._unseen.add(future)

    def _open_operations(self) -> Port:
        """Streams for pushed operations, one for each core: made when the first one comes."""
        refuse_to_wait_inside(self.guard)  # it takes a lock that is taken before the engine's
        with deciding:
            if self._operations is None:
                source = OperationSource(self.remember, self.budget)
                self._operations = self.attach(source, [1 << core.cpu for core in self.cores], "operations")
            return self._operations


def _is_queued(item: weakref.ref[Any]) -> bool:
    """Whether it can still be shed. By weak reference: what has ended is its owner's, to keep or to let go of."""
    queued = item()
    return queued is not None and queued.is_queued
