"""The engine: owns cores, runs operations by their reads and writes, and lends its streams to models.

Rule 1: one lock is the linearisation point. It covers dependencies, sources and leases; it is never held across a
        run, a callback, a wake-up or a wait. There is no dispatcher thread: who submits starts an idle stream, and a
        stream that ends a run picks its own next one.
Rule 2: for each run a stream leases its cores (`leases`). What runs never needs more cores than there are.
Rule 3: a stream that has been granted cores and not yet pulled is `waking`. Work arriving meanwhile is left to it, as
        long as it fits in the run it will pull.
Rule 4: of a port's idle streams at most one watches the clock (`alarm`), and only while a deadline is pending.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from headrace.clock import Clock, SystemClock
from headrace.engine.admission import Budget, Permit
from headrace.engine.dependencies import Var, accesses
from headrace.engine.future import Future, on_a_stream
from headrace.engine.leases import Group, Lane, Leases
from headrace.engine.mailbox import loop_runs_here
from headrace.engine.operations import Operation, OperationSource, check_push
from headrace.engine.ownership import claim_cores, deciding, give_back_cores
from headrace.engine.source import Refused, Source, Work
from headrace.engine.statistics import EngineStatistics
from headrace.engine.stream import Stream
from headrace.engine.topology import Core, Topology
from headrace.errors import Closed, InvalidOption, NotEnoughCores, WouldDeadlock

_log = logging.getLogger("headrace.engine")

MAX_OPERATIONS = 1024
UNSEEN = 1000
"""How many errors nobody has looked at `waitall` remembers."""


class Port:
    """Where one source meets its streams. Changed only by `Engine`, with its lock held."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.group = Group()
        self.streams: tuple[Stream, ...] = ()
        self.attached = True
        self.watcher: Stream | None = None  # the idle stream that watches the clock
        self.drained: threading.Event | None = (
            None  # set when nothing waits and nothing runs, if someone waits for that
        )


class Engine:
    """Runs operations by their read and write dependencies, and models by their schedulers, on the cores it owns.

    `num_cores`: how many of the process's cores it takes (None: all that no other engine holds). NotEnoughCores if
    fewer are free. `max_operations` bounds what is inside; when it is reached a push waits (`on_full="block"`) or
    raises Overloaded ("reject"; always so on a thread that runs an event loop). `topology` replaces the machine's, for
    tests: such an engine shares cores with nobody.
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
        if on_full not in ("block", "reject"):
            raise InvalidOption(f"on_full is 'block' or 'reject', not {on_full!r}")
        if isinstance(max_operations, bool) or not isinstance(max_operations, int) or max_operations < 1:
            raise InvalidOption(f"max_operations is a whole number from 1, not {max_operations!r}")
        if max_bytes is not None and (isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1):
            raise InvalidOption(f"max_bytes is a whole number from 1, or None for no bound, not {max_bytes!r}")
        self.cores: tuple[Core, ...] = claim_cores(self, num_cores, topology)
        self.clock: Clock = clock or SystemClock()
        self.budget = Budget(max_operations, max_bytes)
        self.on_full = on_full
        self._lock = threading.Lock()
        self._leases = Leases(_mask(self.cores))
        self._ports: list[Port] = []
        self._operations: Port | None = None
        self._unseen: deque[Future[Any]] = deque(maxlen=UNSEEN)
        self._noting = threading.RLock()  # re-entrant for the reason `future._settling` is
        self._closed = False
        self.forked = False
        """This is a child of the process that made it: its streams were not copied, its locks may be held for ever."""
        self._ended = threading.Event()  # the first `close` is over

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

        The Future holds what `fn` returns, or raises what it raised. Larger `priority` first among what may start;
        `deadline` in absolute `time.monotonic` seconds: not started by then, it fails with DeadlineExceeded. Raises
        Overloaded, or waits, when the engine is full; TypeError for what is not a function, not a Var or not a number.
        """
        check_push(fn, priority, deadline)
        sets = accesses(reads, writes)
        port = self._operations or self._open_operations()
        source = port.source
        assert isinstance(source, OperationSource)
        operation = Operation(fn, sets, priority, deadline, self.admit(), source)
        self.offer(port, source.add, operation)
        return operation

    def waitall(self, timeout: float | None = None) -> None:
        """Wait until nothing is inside. Raises the errors nobody has looked at, once, as an ExceptionGroup.

        Every Future has its outcome then; the callbacks of the last ones may still be on their way. TimeoutError if the
        time is up; WouldDeadlock on a stream.
        """
        if on_a_stream():
            raise WouldDeadlock("waitall on one of the engine's own streams would wait for itself")
        if not self.budget.wait_until_idle(timeout):
            raise TimeoutError(f"work is still inside after {timeout} s")
        with self._noting:
            unseen = [future for future in self._unseen if not future._seen]
            self._unseen.clear()
            errors = [error for error in (future.exception() for future in unseen) if error is not None]
        if errors:
            raise BaseExceptionGroup("work on this engine failed, and nobody has looked", errors)

    def statistics(self) -> EngineStatistics:
        with self._lock:
            leased = self._leases.cores & ~self._leases.free
            return EngineStatistics(
                cores=len(self.cores),
                cores_leased=leased.bit_count(),
                streams=sum(len(port.streams) for port in self._ports),
                streams_running=sum(port.group.running for port in self._ports),
                ports=len(self._ports),
                budget=self.budget.statistics(),
            )

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """End the engine: what is inside is finished first (`drain`), or refused with Closed where it has not begun.

        With a `timeout` in seconds, what has not begun by then is refused, and a run that does not end in as many again
        is left to itself. Its streams end; its cores are free again. Whoever closes it once more waits until the first
        one is done, or does with `drain=False` what that one waits to do.
        """
        if self.forked:
            return
        with self._lock:
            first, self._closed = not self._closed, True
        self.budget.close()
        try:
            if on_a_stream():  # this stream is part of what would be waited for
                if not first:  # and two streams that closed it would wait for each other's end
                    return
            elif drain and first:
                self.budget.wait_until_idle(timeout)
            elif drain:
                self._ended.wait(timeout)
            until = None if timeout is None else time.monotonic() + timeout  # one for all of them
            for port in list(self._ports):
                self.detach(port, None if until is None else max(0.0, until - time.monotonic()))
            give_back_cores(self)
        finally:
            if first:
                self._ended.set()

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
        with self._lock:
            assert not self.in_use, "the cores of an engine in use are settled"
            self.cores = cores
            self._leases = Leases(_mask(cores))
            self._operations = None

    # ---- what models call

    def admit(self, nbytes: int = 0, timeout: float | None = None) -> Permit:
        """A permit to be inside; Overloaded if there is none within `timeout` seconds, or at once as `on_full` says.

        Never waits where an event loop runs.
        """
        self.check_process()
        if self.on_full == "reject" or loop_runs_here():
            return self.budget.admit(nbytes)
        return self.budget.acquire(nbytes, timeout)

    def check_process(self) -> None:
        """Closed, in a child of the process that made this engine."""
        if self.forked:
            raise Closed(
                "this engine belongs to the process this one was forked from: its streams are threads, and a fork does "
                "not copy them. Compile models after the fork, or start processes by spawn"
            )

    def attach(self, source: Source, masks: Sequence[int], name: str) -> Port:
        """Start one stream for each core mask, all pulling from `source`.

        NotEnoughCores if `masks` were made before another engine took some of these cores.
        """
        port = Port(source)
        port.streams = tuple(Stream(self, port, mask, i, f"headrace-{name}-{i}") for i, mask in enumerate(masks))
        started: list[Stream] = []
        try:
            # Before others can see the port: whoever detaches it joins its threads, and must find them started.
            for stream in port.streams:
                stream.start()
                started.append(stream)
            with deciding, self._lock:
                if self._closed:
                    raise Closed("the engine is closed")
                if not masks or any(not mask or mask & ~self._leases.cores for mask in masks):
                    wanted = set().union(*(_bits(mask) for mask in masks))
                    have = _bits(self._leases.cores)
                    raise NotEnoughCores(
                        max(1, len(wanted)), len(wanted & have), "another engine has taken the others meanwhile"
                    )
                self._ports.append(port)
        except BaseException:
            with self._lock:
                port.attached = False
                for stream in port.streams:
                    stream.stopping = stream.rung = True
            for stream in started:
                stream.ring()
                stream.join()
            raise
        return port

    def offer(self, port: Port, add: Callable[[Any, float], None], item: Any) -> None:
        """Put `item` into the port's source with `add(item, now)`, and start whoever should start.

        After `detach` the item is refused: it is settled with Closed.
        """
        wake: list[Stream] = []
        refused: Refused = []
        with self._lock:
            now = self.clock.now()
            add(item, now)
            if port.group.idle:
                if port.attached:
                    self._arrange(port, now, wake)
                else:
                    port.source.pull(now, False, 0, refused)
        for stream in wake:
            stream.ring()
        for future, error in refused:
            future.settle(error=error)

    def drain(self, port: Port) -> None:
        """Wait until nothing of the port waits or runs. What is in its last run may still be about to be delivered."""
        with self._lock:
            if not port.group.running and port.source.is_empty():
                return
            drained = port.drained = port.drained or threading.Event()
        drained.wait()

    def detach(self, port: Port, timeout: float | None = None) -> None:
        """End the port's streams. What has not begun is refused with Closed; what runs is waited for.

        With a `timeout`, a stream whose run does not end within so many seconds is left to itself: a daemon thread.
        """
        refused: Refused = []
        wake: list[Stream] = []
        with self._lock:
            if port.attached:
                port.attached = False
                self._ports.remove(port)
                port.source.abandon(Closed("the model or the engine was closed"))
                port.source.pull(self.clock.now(), False, 0, refused)
                self._leases.leave(port.group)
                self._grant(wake)
                for stream in port.streams:
                    stream.stopping = True
                    if not stream.lane.running:  # one that runs sees it when it looks for its next run
                        self._wake(stream, wake)
        for stream in wake:
            stream.ring()
        for future, error in refused:
            future.settle(error=error)
        until = None if timeout is None else time.monotonic() + timeout
        for stream in port.streams:
            stream.join(None if until is None else max(0.0, until - time.monotonic()))

    def remember(self, future: Future[Any]) -> None:
        """`future` holds an error: keep it for `waitall`, unless somebody looks before."""
        with self._noting:
            # Whoever looked has it; kept here, its traceback would keep the inputs of the failed run alive.
            while self._unseen and self._unseen[0]._seen:
                self._unseen.popleft()
            self._unseen.append(future)

    # ---- what streams call

    def turn(self, stream: Stream, done: Work | None) -> Work | None:
        """`stream` has ended `done` (None: it has just woken). Its next work; None: it should sleep, or stop."""
        port, lane = stream.port, stream.lane
        group, source = port.group, port.source
        work: Work | None = None
        refused: Refused = []
        wake: list[Stream] = []
        with self._lock:
            now, leases = self.clock.now(), self._leases
            if done is not None:
                done.complete(now)
                if leases.contended:
                    self._let_others_go_first(port, lane, now, wake)
            else:
                stream.rung = False
                stream.alarm = None
                if port.watcher is stream:
                    port.watcher = None
            while True:
                if not lane.running:
                    if not stream.stopping:
                        self._arrange(port, now, wake, stream)
                    if not lane.running:
                        if stream.stopping:
                            # What its last run made ready is refused: no other stream of the port may be left to do it.
                            source.pull(now, False, stream.index, refused)
                            stream.ended = True
                        self._tell_drained(port)
                        break
                lane.awake()
                work = source.pull(now, group.running > 1, stream.index, refused)
                if work is not None:
                    if group.idle and port.attached:
                        self._arrange(port, now, wake, stream)
                    break
                leases.release(lane)
                if leases.contended:
                    self._grant(wake, stream)
        for other in wake:
            other.ring()
        if refused:
            for future, error in refused:
                future.settle(error=error)
        if done is not None:
            try:
                done.deliver()
            except BaseException:  # the stream must outlive it: it has been given its next work, and holds cores
                _log.exception("an outcome could not be delivered")
        return work

    def woke_by_itself(self, stream: Stream) -> bool:
        """Its alarm woke it. True: a ring has been promised as well, and it must hear it. Nobody rings it from now on
        until its turn: a bell that is rung twice raises."""
        with self._lock:
            rung, stream.rung = stream.rung, True
            return rung

    # ---- with the lock held

    def _arrange(self, port: Port, now: float, wake: list[Stream], me: Stream | None = None) -> None:
        """Start the streams there is work for. Where work waits for company, see that somebody watches the clock.

        `me`: the caller, who need not be woken.
        """
        group, source = port.group, port.source
        while group.idle and not group.in_line and source.batches(now, group.running > 0) > group.waking:
            lane = self._leases.want(group)
            if lane is None:
                return
            if lane.stream is not me:
                self._wake(lane.stream, wake)
        if group.idle and port.watcher is None and not group.in_line:
            deadline = source.next_deadline()
            if deadline is not None and not group.waking:
                watcher: Stream = group.idle[-1].stream
                if me is not None and not me.lane.running:
                    watcher = me
                port.watcher, watcher.alarm = watcher, deadline
                if watcher is not me:
                    self._wake(watcher, wake)

    def _let_others_go_first(self, port: Port, lane: Lane, now: float, wake: list[Stream]) -> None:
        """`lane` has ended a run while others wait for cores: it stands behind them if it has more to do."""
        group = port.group
        self._leases.release(lane)
        if port.attached and port.source.batches(now, group.running > 0) > group.waking:
            self._leases.line_up(group)
        self._grant(wake, lane.stream)

    def _grant(self, wake: list[Stream], me: Stream | None = None) -> None:
        for lane in self._leases.grant():
            if lane.stream is not me:
                self._wake(lane.stream, wake)

    @staticmethod
    def _wake(stream: Stream, wake: list[Stream]) -> None:
        if not stream.rung:
            stream.rung = True
            wake.append(stream)

    @staticmethod
    def _tell_drained(port: Port) -> None:
        if port.drained is not None and not port.group.running and port.source.is_empty():
            port.drained.set()
            port.drained = None  # whoever drains it again waits for what comes meanwhile

    def _open_operations(self) -> Port:
        """Streams for pushed operations, one for each core: made when the first one comes."""
        with deciding:
            if self._operations is None:
                source = OperationSource(self.remember)
                self._operations = self.attach(source, [1 << core.cpu for core in self.cores], "operations")
            return self._operations


def _bits(mask: int) -> set[int]:
    return {cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1}


def _mask(cores: Iterable[Core]) -> int:
    mask = 0
    for core in cores:
        mask |= 1 << core.cpu
    return mask
