"""A model that was compiled: call it, submit to it, map over it, close it. Safe from any thread."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from headrace.backends.base import Loaded, Session
from headrace.counters import Histogram
from headrace.engine.admission import Budget, Charge
from headrace.engine.engine import Engine
from headrace.engine.events import RUN, SUBMIT
from headrace.engine.future import Future
from headrace.engine.guard import Guard, refuse_to_wait_inside
from headrace.engine.here import on_a_stream, refuse_to_wait_on_a_stream
from headrace.engine.placement import Placement
from headrace.engine.port import Port
from headrace.engine.scheduler import Scheduler
from headrace.engine.source import Refused
from headrace.engine.timeouts import check_timeout, is_number, until_of
from headrace.engine.trace import Trace
from headrace.engine.unread import whoever_is_here
from headrace.errors import Closed, InvalidOption
from headrace.model.batcher import Batcher, Meter
from headrace.model.call import Call
from headrace.model.crew import Crew
from headrace.model.forms import CallableForms, Forms, TensorForms
from headrace.model.gil import Gil, warning
from headrace.model.instance import Instance, LocalInstance, close_all
from headrace.model.joining import likeness
from headrace.model.mapping import in_their_order
from headrace.model.pending import Owner, Pending
from headrace.model.probe import can_look
from headrace.model.run import Requests
from headrace.model.statistics import ModelMeasures, ModelStatistics
from headrace.model.timeline import CALLER
from headrace.model.warm_up import warm_up
from headrace.model.warm_up_later import WarmUpLater
from headrace.model.watched import Watch, WatchedInstance
from headrace.model.working_set import WorkingSet, kind_of
from headrace.sizes import nbytes_of
from headrace.tensor import TensorSpec
from headrace.wording import count_of

if TYPE_CHECKING:
    from headrace.model.rescheduling import Origin

_log = logging.getLogger("headrace.model")


class Model(Owner):
    """Made by `compile_model`. `close()` it, or use it in a `with`."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        scheduler: Scheduler,
        placements: Sequence[Placement],
        engine: Engine | None,
        max_batch_size: int,
        max_batch_delay: float,
        batching: str = "as asked",
        bound: bool = False,
        origin: Origin | None = None,
        crew: Crew | None = None,
    ) -> None:
        """`engine` None: the naive scheduler, which runs in the caller. `bound`: its streams stay on their cores.
        `origin`: where to load it from for streams of other widths; None: it has the ones it has. `crew`: it runs in
        worker processes, which have been started."""
        self.name = loaded.name
        self.backend = loaded.backend
        self.platform = loaded.platform
        self.inputs: tuple[TensorSpec, ...] | None = loaded.inputs
        self.outputs: tuple[TensorSpec, ...] | None = loaded.outputs
        self.parameters, self.required = loaded.parameters, loaded.required
        self.scheduler = scheduler
        self.placements = tuple(placements)
        self.engine = engine
        self.batching = batching
        """Why `max_batch_size` is what it is."""
        self.origin = origin
        self._in_lists = in_lists = max_batch_size > 1 and loaded.inputs is None
        self._joins_rows = max_batch_size > 1 and loaded.inputs is not None
        self._forms: Forms
        if loaded.inputs is not None and loaded.outputs is not None:
            self._forms = TensorForms(loaded.inputs, loaded.outputs)
        else:
            self._forms = CallableForms(loaded, in_lists)
        self._gives = None if loaded.outputs is None else len(loaded.outputs)
        self.sessions = loaded.sessions
        """One for each stream, in their order; the same object may stand there several times."""
        self._instances = self._instances_of(loaded.sessions)
        self.crew = crew
        self._batcher = Batcher(max_batch_size, max_batch_delay) if crew is None else crew.batcher
        self._source = Requests(self._batcher, self._instances, self.name) if crew is None else crew.source
        self.gil: Gil | None = None
        """Whether its runs hold the interpreter lock; None: not known (yet), or too short to matter."""
        self._watch: Watch | None = None  # while that is being found out
        self._in_caller = threading.RLock()  # naive: one request at a time
        self._run_seconds = 0.0  # naive: else its port counts them
        self._run_times = Histogram()  # the same, where they are measured
        self.guard = engine.guard if engine is not None else Guard()
        self._budget: Budget = engine.budget if engine is not None else Budget(1 << 30, guard=self.guard)
        self._closed = False
        self._to_close = list(self._instances)
        self.rescheduling = threading.RLock()  # one after the other. Taken before the engine's
        self.helpers: list[threading.Thread] = []  # that wait for former streams
        self._later: WarmUpLater | None = None
        self.traced: Trace | None = None  # while it is
        self._port: Port | None = None if crew is None else crew.port
        if engine is not None and crew is None:
            if engine.budget.max_bytes is not None:
                self._source.working_set = WorkingSet(engine.budget.max_bytes)
                self._source.is_alone = engine.runs_one
            self._port = engine.attach(self._source, [p.mask for p in self.placements], self.name, bound=bound)
        if loaded.inputs is None and crew is None and can_look():
            self._watch = Watch(
                self._judge, lambda: engine is None or self._port is None or engine.runs_only(self._port)
            )
            self._source.use(self._watched())

    # ---- what users call

    def __call__(self, value: Any, *, timeout: float | None = None, priority: float = 0) -> Any:
        """The model's answer to `value`.

        A tensor model takes an array, a list of arrays in input order, or a dict by name, and answers in the same form
        (a list if one array goes in and several come out). A callable takes anything: a list is passed as `f(*xs)`, a
        dict as `f(**d)`. `timeout`: seconds within which the run must have begun. Larger `priority` first among what
        waits; a step is worth one second of waiting.

        Raises InvalidInput before anything runs, BackendError if the model fails, DeadlineExceeded, Overloaded,
        Closed.
        """
        self._may_wait()
        if self.crew is None:
            return self.submit(value, timeout=timeout, priority=priority).result()
        call = self._read(value, timeout, priority)
        call.heard_by = threading.get_ident()
        self._enter_or_wait(call, timeout)
        return call.result()

    def submit(self, value: Any, *, timeout: float | None = None, priority: float = 0) -> Future[Any]:
        """As a call, but returns a Future at once.

        It waits only for room in the engine (see `Engine`), at most `timeout` seconds, and never on a thread that runs
        an event loop: when that time is up, and there, it raises Overloaded. DeadlineExceeded where the run could not
        begin within `timeout`, as far as is known. Inputs are referenced, not copied: leave them alone until the Future
        is done.
        """
        if timeout is None and type(priority) is int and not priority and not self._closed and not self._joins_rows:
            call = Call(self, self._forms.read(value), 0, None)  # as `_read`, without the call
        else:
            call = self._read(value, timeout, priority)
        self._enter_or_wait(call, timeout)
        return call

    async def asubmit(self, value: Any, *, timeout: float | None = None, priority: float = 0) -> Any:
        """As a call, for an event loop: waits for room and for the answer without blocking it."""
        self._may_wait()
        call = self._read(value, timeout, priority)
        engine, port = self.engine, self._port
        if engine is None or port is None or not engine.try_enter(port, self._batcher.add, call):
            if engine is None or port is None:
                self._budget.admit(0, call)
                self._run_here(call)
            elif engine.on_full == "shed":
                engine.enter(port, self._batcher.add, call, self._charge(call), timeout, self._check_open)
            else:
                await self._enter(engine, port, call, timeout)
        try:
            return await call
        except asyncio.CancelledError:
            call.forsake()  # whoever keeps this error keeps the call, and nobody can read it
            raise

    def map(
        self, values: Iterable[Any], *, window: int | None = None, progress: bool = False, total: int | None = None
    ) -> Iterator[Any]:
        """The answers to `values`, in their order, with at most `window` of them inside.

        `window` defaults to what keeps every stream busy. An error is raised in its place and ends the iteration;
        what was submitted after it is cancelled. `progress` draws a bar on stderr (`total`: how many come, where
        `values` has no length).
        """
        if window is None:
            streams = len(self.crew) if self.crew is not None else max(1, len(self.placements))
            window = max(16, 2 * streams * self._batcher.max_batch_size)
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise InvalidOption(f"window is a whole number from 1, not {window!r}")
        self._may_wait()
        answers = in_their_order(self.submit, values, window)
        if not progress:
            return answers
        from headrace.progress import track

        return track(answers, self.name, total if total is not None else _length(values))

    def statistics(self) -> ModelStatistics:
        counts = self._batcher.counts
        return ModelStatistics(
            streams=len(self.crew) if self.crew is not None else max(1, len(self.placements)),
            submitted=counts.submitted,
            completed=counts.completed,
            failed=counts.failed,
            cancelled=counts.cancelled,
            late=counts.late,
            refused=counts.refused,
            waiting=len(self._batcher),
            running=counts.started - counts.completed - counts.failed,
            runs=counts.runs,
            rows=counts.rows,
            queue_seconds=counts.queue_seconds,
            run_seconds=self._port.run_seconds if self._port is not None else self._run_seconds,
            gil=self.gil,
        )

    def trace(
        self,
        *paths: str | os.PathLike[str],
        window: float | tuple[float, float] | None = None,
        capacity: int = 1_000_000,
        note: str = "",
    ) -> Trace:
        """Record what this model's streams do from now on, into a picture or a trace for ui.perfetto.dev.

            with model.trace("streams.png", "streams.json"):
                ...

        What is written follows from how a name ends: .png, .json or .json.gz. In the picture cores are lanes, and a run
        is a bar across the cores of its stream; above them is who waits. It shows as many runs as have room for their
        numbers, or a `window`: so many seconds, or from when to when. `note` is written under its title. The newest
        `capacity` events of the engine are kept. Written at the end of the block, by `stop()`, or when the model or its
        engine is closed. InvalidOption if it cannot be, or if the model is being traced.
        """
        from headrace.model.tracing import trace_of

        return trace_of(self, paths, window, capacity, note)

    def reschedule(
        self,
        scheduler: str | Scheduler | None = None,
        *,
        num_streams: int | None = None,
        num_cores: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Go on by another scheduler, or with other streams: while requests come, wait and run, none of which is lost.

        `scheduler` None: the one it has. The others are as for `compile_model`, defaults too. What waits is served by
        the new streams, in its order; what runs ends where it runs. Sessions of other widths are made beside the old
        ones first; where that fails, nothing has changed. Returns when the old streams have ended; with a `timeout`,
        at the latest so many seconds after the new ones have taken over. On a stream, say in a callback, it does not
        wait for that.

        InvalidOption, NotEnoughCores as for `compile_model`, and InvalidOption from and to "naive"; InvalidModel if the
        model's file has changed; Closed.
        """
        from headrace.model.rescheduling import reschedule

        if self.crew is not None:
            raise InvalidOption(f"model {self.name} runs in worker processes, and has no streams: see `scale`")

        reschedule(self, scheduler, num_streams, num_cores, timeout)

    def rebatch(self, max_batch_size: int | None = None, max_batch_delay: float | None = None) -> None:
        """Join by other bounds from now on; None leaves one as it is. No request is lost, and none waits longer for
        company than the new delay, in seconds.

        InvalidOption for what is none; where the model's rows must not be joined; and for callables where it would
        change whether they are called with one request or with a list of them.
        """
        from headrace.model.rebatching import rebatch

        rebatch(self, max_batch_size, max_batch_delay)

    @property
    def workers(self) -> tuple[Any, ...]:
        """Of each worker process: `index`, `state`, `pid`, `starts`, `reason` (why it failed last), `threads` and
        `cpus` (its share of the cores), `memory_limit` and what it is `limited_by`, `rss` (resident bytes). () where
        the model runs in this process."""
        return () if self.crew is None else tuple(self.crew.statuses())

    def scale(self, workers: int, *, timeout: float | None = None, replan: bool = True) -> None:
        """Have so many worker processes from now on, without losing a request.

        Those that go finish what they have; new ones are waited for. Those that stay have another share of the cores
        then: they are replaced one after the other, each once it has finished what it has; with `replan=False` they go
        on as they are. Waiting for new ones and replacing takes `timeout` seconds at most; who has not been replaced by
        then keeps its share.
        InvalidOption where the model runs in this process.
        """
        self._workers().scale(workers, timeout, replan=replan)

    def restart(self) -> None:
        """Replace each worker process by a new one, one after the other. Returns at once.

        The new one is started beside the old one, which goes once that is ready, and has finished what it has. Where a
        new one cannot load, the old ones go on: the log and `workers[…].reason` say why.
        """
        self._workers().restart()

    def close(self, *, drain: bool = True) -> None:
        """Answer what is inside (`drain`), or refuse with Closed what has not begun; then let the model go.

        What runs is waited for: in this process nothing can end it. With `drain=False` runs in worker processes are
        told to end, and ended with their worker after `cancel_grace` seconds; they fail with Closed or WorkerDied.
        Whoever closes it again waits for the same end, or with `drain=False` cuts the draining short. On a stream, say
        in a callback, it returns at once and a thread of its own does this: a stream that waited here would wait for
        itself, and may have its next run in hand.
        """
        with self._in_caller:
            first, self._closed = not self._closed, True
        if self._port is None or not (on_a_stream() or self.guard.lock._is_owned()):  # type: ignore[attr-defined]
            self._end(drain)
        elif first or not drain:
            threading.Thread(target=self._end, args=(drain,), name=f"headrace-{self.name}-close", daemon=True).start()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        takes = "; ".join(map(str, self.inputs)) if self.inputs is not None else "anything"
        state = " closed" if self._closed else ""
        if self.crew is not None:
            workers = count_of(len(self.crew), "worker")
            return f"<Model {self.name} on {self.backend}, {workers}: {takes}{state}>"
        streams = count_of(len(self.placements) or 1, "stream")
        if self.gil is not None and self.gil.holds:
            state = f", holds the GIL for {self.gil.share:.0%} of its runs{state}"
        return f"<Model {self.name} on {self.backend}, {self.scheduler}, {streams}: {takes}{state}>"

    @property
    def max_batch_size(self) -> int:
        return self._batcher.max_batch_size

    @property
    def may_join(self) -> bool:
        """Whether several requests may go in one run: it was loaded so that they may."""
        return self._joins_rows or self._in_lists or self.always_in_lists

    @property
    def always_in_lists(self) -> bool:
        """Whether what it runs is given a list even of one request."""
        return self.crew is not None and self.crew.always_in_lists

    @property
    def batcher(self) -> Batcher:
        return self._batcher

    @property
    def max_batch_delay(self) -> float:
        """Seconds."""
        return self._batcher.max_batch_delay

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def port(self) -> Port | None:
        """Where its requests meet its streams; None: it runs in the caller."""
        return self._port

    def warm_up(self) -> None:
        """Run a tensor model once on each of its streams, with made-up inputs, so that no request pays for the first
        runs: for a second at most. `compile_model` does this. A callable is never run unasked.

        A stream is not warmed up while requests are inside: they do that. One that comes meanwhile waits for the end of
        the run that goes on. Several warm-ups are done one after the other. Raises Closed.
        """
        self._check_open()
        if self.inputs is None or self.crew is not None:  # workers have run it before they were ready
            return
        left: Sequence[int] = range(len(self.placements))
        counts = self._batcher.counts
        if self.engine is None:
            with self._in_caller:
                self._judge(warm_up(self.sessions, self.inputs, None, None).gil)
            return
        refuse_to_wait_inside(self.guard)
        if not on_a_stream():  # there it would wait for itself
            with self.rescheduling:  # the streams stay those there are
                submitted = counts.submitted
                done = warm_up(self.sessions, self.inputs, self.engine, self._port)
                if done.gil is not None:
                    self._judge(done.gil)
                left = done.left
                if counts.submitted != submitted:  # requests are the first runs
                    return
        with self._in_caller:  # where `close` says that it is closed: it closes what is there by then
            if not left or self._later is not None or counts.submitted or self._closed:
                return
            _log.info(
                "%s: its cores are busy; it is warmed up when they are free, if no request comes first", self.name
            )
            sessions = [(self.sessions[index], self.placements[index].mask) for index in left]
            self._later = WarmUpLater(self.engine, sessions, self.inputs, self.name, lambda: not counts.submitted)

    # ---- what `rescheduling` calls

    def serve_by(self, scheduler: Scheduler, placements: tuple[Placement, ...], sessions: tuple[Session, ...]) -> None:
        """The port has other streams from now on. With the engine's lock held."""
        self.scheduler, self.placements, self.sessions = scheduler, placements, sessions
        self._instances = self._instances_of(sessions)
        self._to_close = list(self._instances)
        self._source.use(self._watched())
        if self.traced is not None:
            self.traced.process_name += f", then {scheduler}"

    # ---- what doors call

    def send(self, pending: Pending) -> None:
        """Enter a request whose inputs have been checked. Its outcome's value is the list of outputs."""
        if self._closed:
            pending.settle(error=Closed(f"model {self.name} is closed"))
            return
        if self._joins_rows:
            self._make_joinable(pending)
        if self.engine is None or self._port is None:
            self._run_here(pending)
        else:
            self.engine.offer(self._port, self._batcher.add, pending)

    def send_all(self, requests: Sequence[Pending]) -> None:
        """As `send`, of several that came together."""
        if self._closed or self.engine is None or self._port is None:
            for request in requests:
                self.send(request)
            return
        if self._joins_rows:
            for request in requests:
                self._make_joinable(request)
        self.engine.offer_all(self._port, self._batcher.add, requests)

    def measure(self) -> None:
        """Keep histograms from now on, for `measures`. They cost a request about 0.3 us."""
        with self.guard.lock:
            if self._batcher.counts.meter is None:
                self._batcher.counts.meter = Meter()
                if self._port is not None:
                    self._port.run_times = self._run_times

    def measures(self) -> ModelMeasures | None:
        """None before `measure()`."""
        with self.guard.lock:
            meter = self._batcher.counts.meter
            if meter is None:
                return None
            return ModelMeasures(meter.queue_seconds.read(), self._run_times.read(), meter.read_rows())

    def on_error(self, pending: Pending) -> None:
        if self.engine is not None and not pending.cancelled():
            self.engine.remember(pending)

    # ---- inside

    def _workers(self) -> Crew:
        if self.crew is None:
            raise InvalidOption(f"model {self.name} runs in this process, and has streams: see `reschedule`")
        self._check_open()
        return self.crew

    def _instances_of(self, sessions: Sequence[Session]) -> tuple[Instance, ...]:
        return tuple(LocalInstance(session, self._in_lists, self._gives) for session in sessions)

    def _watched(self) -> Sequence[Instance]:
        """Its instances, looked at as long as it is not known whether they hold the interpreter lock."""
        watch = self._watch
        return self._instances if watch is None else [WatchedInstance(each, watch) for each in self._instances]

    def _judge(self, gil: Gil | None) -> None:
        self._watch = None
        self._source.use(self._instances)
        self.gil = gil
        if gil is not None and gil.holds:
            _log.warning("%s", warning(self.name, gil, len(self.placements)))

    def _enter_or_wait(self, call: Call, timeout: float | None) -> None:
        engine, port = self.engine, self._port
        if engine is None or port is None:
            self._budget.admit(0, call)
            self._run_here(call)
        elif not engine.try_enter(port, self._batcher.add, call):
            engine.enter(port, self._batcher.add, call, self._charge(call), timeout, self._check_open)

    def _may_wait(self) -> None:
        """WouldDeadlock on a stream, before anything is submitted: nobody could take its answer. Closed in a fork."""
        if self.engine is not None:
            self.engine.check_process()
            refuse_to_wait_on_a_stream()

    def _deadline(self, timeout: float, priority: float) -> float:
        check_timeout(timeout)
        if timeout < 0:
            raise InvalidOption(f"timeout is in seconds from now, not {timeout}")
        engine, port = self.engine, self._port
        if engine is None or port is None:
            return until_of(timeout, time.monotonic())
        now = engine.clock.now()
        deadline = until_of(timeout, now)
        engine.check_deadline(port, priority, deadline, now, self._batcher.max_batch_size)
        return deadline

    def _read(self, value: Any, timeout: float | None, priority: float) -> Call:
        """The call that `value` is, if it can be made."""
        self._check_open()
        if type(priority) is not int or priority:
            _check_priority(priority)
        deadline = None if timeout is None else self._deadline(timeout, priority)
        call = Call(self, self._forms.read(value), priority, deadline)
        if self._joins_rows:
            self._make_joinable(call)
        return call

    @staticmethod
    def _make_joinable(pending: Pending) -> None:
        pending.rows = pending.inputs[0].shape[0]
        pending.alike = likeness(pending.inputs)

    def _charge(self, call: Call) -> Charge:
        """Bytes it is charged with while it is inside; asked for again while it waits, for more may be known then."""
        nbytes, working_set = nbytes_of(call.inputs), self._source.working_set
        if working_set is None:
            return nbytes
        call.who = whoever_is_here()
        return partial(working_set.charge, kind_of(call.inputs), nbytes)

    async def _enter(self, engine: Engine, port: Port, call: Call, timeout: float | None) -> None:
        """As `Engine.enter`, without blocking the event loop."""
        try:
            await self._budget.acquire_async(self._charge(call), timeout, call)
            self._check_open()
            engine.offer(port, self._batcher.add, call)
        except BaseException:
            if call.held:
                engine.recover(port, call)
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"model {self.name} is closed")

    def _end(self, drain: bool) -> None:
        if self._later is not None:
            self._later.close()
        if self.engine is not None and self._port is not None:
            if drain:
                self.engine.drain(self._port)
            else:
                self.engine.abandon(self._port)
                self._port.cut_short()
            self.engine.detach(self._port)
        to_close, self._to_close = self._to_close, []  # each once, also where it is closed again
        close_all(to_close, self.name)
        for helper in tuple(self.helpers):  # the streams it waits for have ended
            if helper is not threading.current_thread():
                helper.join()
        trace = self.traced
        if trace is not None:
            trace.stop()

    def _run_here(self, pending: Pending) -> None:
        if self.guard.trace is not None:
            self.guard.trace.record((SUBMIT, time.monotonic(), id(pending), threading.get_ident(), self.name))
        with self._in_caller:
            if self._closed:  # by another thread, since `send` asked
                pending.settle(error=Closed(f"model {self.name} is closed"))
                return
            refused: Refused = []
            with self.guard.lock:
                now = time.monotonic()
                self._batcher.add(pending, now)
                run = self._source.pull(now, False, 0, refused)
            if run is not None:
                run.run()
                with self.guard.lock:
                    ended = time.monotonic()
                    if self.guard.trace is not None:
                        self.guard.trace.record((RUN, now, ended, CALLER, (id(pending),), self.name, pending.rows))
                    run.complete(ended)
                    self._run_seconds += ended - now
                    if self._batcher.counts.meter is not None:
                        self._run_times.observe(ended - now)
                run.deliver()
            for future, error in refused:
                future.settle(error=error)


def _check_priority(priority: object) -> None:
    if not is_number(priority):
        raise InvalidOption(f"priority is a number, not {priority!r}")


def _length(values: Iterable[Any]) -> int | None:
    try:
        return len(values)  # type: ignore[arg-type]
    except TypeError:
        return None
