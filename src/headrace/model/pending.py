"""A request inside a model: what it brought, and the Future of its answer. One record, from submit to answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from headrace.engine.future import Future
from headrace.engine.guard import Guard
from headrace.engine.here import on_a_stream
from headrace.engine.timeouts import checked
from headrace.model.failure import failure_of

if TYPE_CHECKING:
    from headrace.model.batcher import Counts
    from headrace.model.instance import Instance
    from headrace.model.run import Run


class Pending(Future[Any]):
    """One request. `rows` counts against `max_batch_size`; requests are joined only if their `alike` is equal.

    Its run leaves what came of it in `outcome` or `failure`; the outcome of the Future is settled after that. One that
    runs alone is its own Work (`engine.source`), and the way to stop it (`backends.base.Stop`): `model.run` has those
    that are joined.
    """

    __slots__ = (
        "alike", "counts", "deadline", "failure", "handle", "held", "inputs", "instance", "joined", "model", "names",
        "nbytes", "outcome", "priority", "queued_at", "requested", "rows", "unread", "waited",
    )  # fmt: skip

    parted = False
    """It has been answered in part: it cannot be run once more."""
    outcome: Any  # there once it ran, and did not fail
    queued_at: float  # seconds, once it waits
    counts: Counts  # of its batcher, once it was pulled
    waited: float  # seconds, until it was pulled
    heard_by: int = 0
    """The thread that is about to wait for it, where that is known when it enters."""

    def __init__(self, model: Owner, inputs: tuple[Any, ...], guard: Guard) -> None:
        # As Future.__init__, without the call: this is the hot path.
        self._guard = guard
        self._done = self._begun = self._seen = False
        self._error = None
        self._callbacks = None
        self.model = model
        self.inputs = inputs
        self.names: tuple[str, ...] | None = None
        self.rows = 1
        self.alike: Hashable = None
        self.priority: float = 0
        self.deadline: float | None = None
        self.failure: BaseException | None = None
        self.joined: Run | None = None  # while it runs with others
        self.instance: Instance | None = None  # while it runs alone, or is about to
        self.requested = False  # that run was asked to stop
        self.handle: Any = None  # what its instance's `kill` takes
        self.unread = 0  # bytes of its outputs, where they are charged until they are read
        self.held = False  # inside the engine
        self.nbytes = 0  # that it is charged with there

    def take_part(self, part: Any, nbytes: int, read: Callable[[int], object]) -> bool:
        """A part of its answer has come, and the rest will. False: nobody takes it. Else `read` is called with how many
        of its bytes have been read."""
        return False

    def answer(self, outputs: Any) -> Any:
        """The value of the Future, of what its run gave. Outside the lock."""
        return outputs

    @property
    def is_queued(self) -> bool:
        return not self._begun and not self._done

    @property
    def name(self) -> str:
        """Of its model."""
        return self.model.name

    # ---- as Work, where it runs alone

    def run(self) -> None:
        instance = self.instance
        assert instance is not None, "it was pulled"
        if self._done:  # cancelled while its stream had it in hand
            return
        instance.run_one(self, self if instance.stoppable else None)  # type: ignore[arg-type]  # it has what a Stop has
        if self.failure is None:
            try:
                self.outcome = self.answer(self.outcome)
            except BaseException as error:  # of outputs of a kind of their own
                self.failure = failure_of("answered with what cannot be given:", error)

    def complete(self, now: float) -> None:
        counts = self.counts
        if self.failure is None:
            counts.completed += 1
        else:
            counts.failed += 1
        if counts.meter is not None:
            counts.meter.queue_seconds.observe(self.waited)
            if self.rows == 1:
                counts.meter.alone += 1
            else:
                counts.meter.rows.observe(self.rows)
        self.finish(now)

    def deliver(self) -> None:
        """It is finished: tell whoever waits. Without the lock."""
        self.drop()
        self._tell()

    def futures(self) -> tuple[Pending]:
        return (self,)

    # ----

    def _wait(self, timeout: float | None) -> None:
        hear = getattr(self.instance, "hear", None)  # only workers have it
        if hear is not None and not (on_a_stream() or self._guard.forked or self._guard.lock._is_owned()):  # type: ignore[attr-defined]
            left = hear(self, checked(timeout))
            if self._done:
                return
            timeout = left if timeout is not None else None
        super()._wait(timeout)

    def finish(self, now: float) -> None:
        """Its run has ended: give it its outcome, unless it was cancelled meanwhile. With the lock held."""
        self._ended_at = now
        if not self._done:
            failure = self.failure
            if failure is None:
                self._value = self.outcome
                self._done = True
            else:
                self._mark(None, failure)
                self.model.on_error(self)
            if self._guard.finished is not None:
                self._guard.finished.note(self)
        self.leave()

    def drop(self) -> None:
        """A kept Future must not keep what it no longer needs. Not with the lock held: what goes may have finalisers,
        which are somebody else's code."""
        self.joined = self.instance = self.handle = self.outcome = self.failure = None
        self.inputs = ()

    def leave(self) -> None:
        """It is inside no more. With the lock held."""

    def let_go(self) -> None:
        """Nobody needs the inputs any more: drop them, and give back the room it has."""
        self.inputs = ()

    def _settled(self) -> None:
        """Not run, or cancelled: `finish` settles the others."""
        if self._error is not None:
            self.model.on_error(self)
        if self._begun:  # it runs: it is inside until that ends, and `finish` lets it go
            joined, instance = self.joined, self.instance
            if joined is not None:
                joined.stop_if_nobody_is_left()
            elif instance is not None:
                self.requested = True
                if self.handle is not None:
                    instance.kill(self.handle)
        else:
            # Before anybody hears of the outcome: who then submits the next one must find the room.
            self.let_go()


class Owner:
    """What a Pending belongs to: told when one of its requests ends with an error."""

    name: str

    def on_error(self, pending: Pending) -> None:
        raise NotImplementedError
