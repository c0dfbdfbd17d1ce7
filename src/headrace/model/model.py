"""A model that was compiled: call it, submit to it, map over it, close it. Safe from any thread.

What its streams pull is `Requests`, which puts the pure Batcher behind the engine's Source and hands each batch to the
stream's own Instance.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from headrace.backends.base import Loaded
from headrace.engine.admission import Budget, Permit
from headrace.engine.engine import Engine
from headrace.engine.future import Future, on_a_stream, refuse_to_wait_on_a_stream
from headrace.engine.placement import Placement
from headrace.engine.scheduler import Scheduler
from headrace.engine.source import Refused
from headrace.errors import Closed, InvalidOption, Overloaded
from headrace.model.batcher import Batcher
from headrace.model.forms import CallableForms, Form, Forms, TensorForms, nbytes_of
from headrace.model.instance import Instance, LocalInstance, Outcome
from headrace.model.joining import likeness
from headrace.model.pending import Owner, Pending
from headrace.model.statistics import ModelStatistics
from headrace.tensor import TensorSpec


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
    ) -> None:
        """`engine` None: the naive scheduler, which runs in the caller."""
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
        in_lists = max_batch_size > 1 and loaded.inputs is None
        self._joins_rows = max_batch_size > 1 and loaded.inputs is not None
        self._forms: Forms
        if loaded.inputs is not None and loaded.outputs is not None:
            self._forms = TensorForms(loaded.inputs, loaded.outputs)
        else:
            self._forms = CallableForms(loaded, in_lists)
        self._instances: tuple[Instance, ...] = tuple(LocalInstance(s, in_lists) for s in loaded.sessions)
        self._batcher = Batcher(max_batch_size, max_batch_delay)
        self._source = Requests(self._batcher, self._instances)
        self._in_caller = threading.RLock()  # naive: one request at a time
        self._budget: Budget = engine.budget if engine is not None else Budget(1 << 30)
        self._closed = False
        self._port = None
        if engine is not None:
            self._port = engine.attach(self._source, [p.mask for p in self.placements], self.name)

    # ---- what users call

    def __call__(self, value: Any, *, timeout: float | None = None) -> Any:
        """The model's answer to `value`.

        A tensor model takes an array, a list of arrays in input order, or a dict by name, and answers in the same form
        (a list if one array goes in and several come out). A callable takes anything: a list is passed as `f(*xs)`, a
        dict as `f(**d)`. `timeout`: seconds within which the run must have begun.

        Raises InvalidInput before anything runs, BackendError if the model fails, DeadlineExceeded, Overloaded,
        Closed.
        """
        self._may_wait()
        return self.submit(value, timeout=timeout).result()

    def submit(self, value: Any, *, timeout: float | None = None) -> Future[Any]:
        """As a call, but returns a Future at once.

        It waits only for room in the engine (see `Engine`), at most `timeout` seconds, and never on a thread that runs
        an event loop: then, and there, it raises Overloaded. Inputs are referenced, not copied: leave them alone until
        the Future is done.
        """
        deadline = self._deadline(timeout)
        inputs, names, form = self._forms.read(value)
        nbytes = nbytes_of(inputs)
        engine = self.engine
        permit = self._budget.admit(nbytes) if engine is None else engine.admit(nbytes, timeout)
        return self._send(Call(self, inputs, permit, names, form), deadline)

    async def asubmit(self, value: Any, *, timeout: float | None = None) -> Any:
        """As a call, for an event loop: waits for room and for the answer without blocking it."""
        self._may_wait()
        deadline = self._deadline(timeout)
        inputs, names, form = self._forms.read(value)
        permit = await self._budget.acquire_async(nbytes_of(inputs), timeout)
        return await self._send(Call(self, inputs, permit, names, form), deadline)

    def map(
        self, values: Iterable[Any], *, window: int | None = None, progress: bool = False, total: int | None = None
    ) -> Iterator[Any]:
        """The answers to `values`, in their order, with at most `window` of them inside.

        `window` defaults to what keeps every stream busy. An error is raised in its place and ends the iteration;
        what was submitted after it is cancelled. `progress` draws a bar on stderr (`total`: how many come, where
        `values` has no length).
        """
        if window is None:
            window = max(16, 2 * max(1, len(self.placements)) * self._batcher.max_batch_size)
        if window < 1:
            raise InvalidOption(f"window is a whole number from 1, not {window}")
        self._may_wait()
        answers = self._map(values, window)
        if not progress:
            return answers
        from headrace.progress import track

        return track(answers, self.name, total if total is not None else _length(values))

    def statistics(self) -> ModelStatistics:
        counts = self._batcher.counts
        return ModelStatistics(
            streams=max(1, len(self.placements)),
            submitted=counts.submitted,
            completed=counts.completed,
            failed=counts.failed,
            cancelled=counts.cancelled,
            late=counts.late,
            refused=counts.refused,
            waiting=len(self._batcher),
            running=counts.running,
            runs=counts.runs,
            rows=counts.rows,
            queue_seconds=counts.queue_seconds,
            run_seconds=counts.run_seconds,
        )

    def close(self, *, drain: bool = True) -> None:
        """Answer what is inside (`drain`), or refuse with Closed what has not begun; then let the model go.

        Whoever closes it again waits for the same end, or with `drain=False` cuts the draining short. On a stream, say
        in a callback, it returns at once and a thread of its own does this: a stream that waited here would wait for
        itself, and may have its next run in hand.
        """
        with self._in_caller:
            first, self._closed = not self._closed, True
        if self._port is None or not on_a_stream():
            self._end(drain)
        elif first or not drain:
            threading.Thread(target=self._end, args=(drain,), name=f"headrace-{self.name}-close", daemon=True).start()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        takes = "; ".join(map(str, self.inputs)) if self.inputs is not None else "anything"
        streams, state = len(self.placements) or 1, " closed" if self._closed else ""
        return f"<Model {self.name} on {self.backend}, {self.scheduler}, {streams} streams: {takes}{state}>"

    @property
    def max_batch_size(self) -> int:
        return self._batcher.max_batch_size

    @property
    def max_batch_delay(self) -> float:
        """Seconds."""
        return self._batcher.max_batch_delay

    # ---- what doors call

    def send(self, pending: Pending) -> None:
        """Enter a request whose inputs have been checked. Its outcome's value is the list of outputs."""
        if self._closed:
            pending.settle(error=Closed(f"model {self.name} is closed"))
            return
        if self._joins_rows:
            pending.rows = pending.inputs[0].shape[0]
            pending.alike = likeness(pending.inputs)
        if self.engine is None or self._port is None:
            self._run_here(pending)
        else:
            self.engine.offer(self._port, self._batcher.add, pending)

    def on_error(self, pending: Pending) -> None:
        if self.engine is not None and not pending.cancelled():
            self.engine.remember(pending)

    # ---- inside

    def _may_wait(self) -> None:
        """WouldDeadlock on a stream, before anything is submitted: nobody could take its answer. Closed in a fork."""
        if self.engine is not None:
            self.engine.check_process()
            refuse_to_wait_on_a_stream()

    def _deadline(self, timeout: float | None) -> float | None:
        """Also asks whether the model is open: nobody waits for room in order to hear that it is not."""
        if self._closed:
            raise Closed(f"model {self.name} is closed")
        if timeout is None:
            return None
        if not timeout >= 0:
            raise InvalidOption(f"timeout is in seconds from now, not {timeout}")
        return timeout + (self.engine.clock.now() if self.engine is not None else time.monotonic())

    def _send(self, call: Call, deadline: float | None) -> Call:
        if self._closed:  # while it waited for room
            call.let_go()
            raise Closed(f"model {self.name} is closed")
        call.deadline = deadline
        self.send(call)
        return call

    def _end(self, drain: bool) -> None:
        if self.engine is not None and self._port is not None:
            if drain:
                self.engine.drain(self._port)
            self.engine.detach(self._port)
        for instance in self._instances:
            instance.close()

    def _run_here(self, pending: Pending) -> None:
        with self._in_caller:
            if self._closed:  # by another thread, since `send` asked
                pending.settle(error=Closed(f"model {self.name} is closed"))
                return
            now = time.monotonic()
            self._batcher.add(pending, now)
            refused: Refused = []
            run = self._source.pull(now, False, 0, refused)
            if run is not None:
                run.run()
                run.complete(time.monotonic())
                run.deliver()
            for future, error in refused:
                future.settle(error=error)

    def _map(self, values: Iterable[Any], window: int) -> Iterator[Any]:
        inside: deque[Future[Any]] = deque()
        try:
            for value in values:
                while True:
                    try:
                        inside.append(self.submit(value))
                        break
                    except Overloaded:  # others fill the engine: our own oldest is what we can wait for
                        if not inside:
                            raise
                        yield inside.popleft().result()
                    except Exception:  # its place is behind the answers that are still to come
                        while inside:
                            yield inside.popleft().result()
                        raise
                if len(inside) >= window:
                    yield inside.popleft().result()
            while inside:
                yield inside.popleft().result()
        finally:
            for future in inside:
                future.cancel()


class Call(Pending):
    """A request of the library: remembers the form it came in, and answers in that form."""

    __slots__ = ("form",)
    model: Model

    def __init__(
        self, model: Model, inputs: tuple[Any, ...], permit: Permit, names: tuple[str, ...] | None, form: Form
    ) -> None:
        super().__init__(model, inputs, permit)
        self.names, self.form = names, form

    def settle(self, value: Any = None, error: BaseException | None = None) -> bool:
        if error is None:
            value = self.model._forms.write(value, self.form)
        return super().settle(value, error)


class Run:
    """One batch on one instance: what a stream does at a time."""

    __slots__ = ("_batch", "_instance", "_outcomes", "_requests")

    def __init__(self, requests: Requests, instance: Instance, batch: list[Pending]) -> None:
        self._requests, self._instance, self._batch = requests, instance, batch
        self._outcomes: list[Outcome] = []

    def run(self) -> None:
        self._outcomes = self._instance.run(self._batch)

    def complete(self, now: float) -> None:
        failures = sum(outcome.error is not None for outcome in self._outcomes)
        self._requests.batcher.ended(self._batch, failures, now)

    def deliver(self) -> None:
        for request, outcome in zip(self._batch, self._outcomes):
            request.ended = True
            if not request.settle(outcome.value, outcome.error):  # cancelled while it ran: only now is it out
                request.let_go()


class Requests:
    """A model's Source: the pure Batcher, and for each stream the Instance that runs its batches."""

    def __init__(self, batcher: Batcher, instances: Sequence[Instance]) -> None:
        self.batcher, self._instances = batcher, instances
        self.batches: Callable[[float, bool], int] = batcher.batches
        self.next_deadline: Callable[[], float | None] = batcher.next_deadline
        self.is_empty: Callable[[], bool] = batcher.is_empty
        self.abandon: Callable[[BaseException], None] = batcher.abandon

    def pull(self, now: float, busy: bool, stream: int, refused: Refused) -> Run | None:
        batch = self.batcher.pull(now, busy, refused)
        return Run(self, self._instances[stream], batch) if batch else None


def _length(values: Iterable[Any]) -> int | None:
    try:
        return len(values)  # type: ignore[arg-type]
    except TypeError:
        return None
