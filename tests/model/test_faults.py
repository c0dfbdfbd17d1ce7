"""What a backend may do to an engine, call by call: whatever it does, every request ends once, and the engine lives.

Each test is over when `Faulty.check` has counted what became of its requests, run one more, and closed everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import headrace as hr
import headrace.model.compile
from headrace.backends.base import Loaded, LoadOptions
from headrace.engine.placement import plan
from headrace.engine.scheduler import Scheduler
from headrace.engine.topology import made_up
from headrace.model.model import Model
from headrace.testing import Gate

PATIENCE = 30.0
FLOAT = np.dtype(np.float32)
SPEC = hr.TensorSpec("x", FLOAT, (None, 2)), hr.TensorSpec("y", FLOAT, (None, 2))
Run = Callable[[Any], Any]


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("this error cannot be shown")

    __repr__ = __str__


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int = 7


class SpokenIll(hr.HeadraceError):
    def __str__(self) -> str:
        raise RuntimeError("this error cannot be shown")


def noted() -> Exception:
    error = ValueError("its notes are none")
    error.__notes__ = None  # type: ignore[assignment]
    return error


def row(value: float, rows: int = 1) -> Any:
    return np.full((rows, 2), value, np.float32)


class FaultySession:
    """Twice what comes in; `fault(x)` instead, where there is one and `x` holds a negative number."""

    def __init__(self) -> None:
        self.fault: Run | None = None
        self.before: Callable[[], object] | None = None
        self.sizes: list[int] = []
        self.outputs = 1
        self.closed = 0
        self.close_fails: BaseException | None = None

    def run(self, inputs: tuple[Any, ...], names: Any = None) -> Any:
        if self.before is not None:
            self.before()
        (x,) = inputs
        if isinstance(x, list):  # a callable that is given a list
            self.sizes.append(len(x))
            if self.fault is not None and any(np.any(each < 0) for each in x):
                return self.fault(x)
            return [[each * 2 for each in x]]
        self.sizes.append(len(x))
        if self.fault is not None and np.any(x < 0):
            return self.fault(x)
        return [x * 2] * self.outputs

    def close(self) -> None:
        self.closed += 1
        if self.close_fails is not None:
            raise self.close_fails


class Faulty:
    """A model of a hand-made session, on an engine of its own; and all that was ever submitted to it."""

    def __init__(
        self, streams: int = 1, max_batch_size: int = 1, callables: bool = False, outputs: int = 1, **options: Any
    ) -> None:
        self.threads = set(threading.enumerate())
        self.session = FaultySession()
        self.session.outputs = outputs
        self.engine = hr.Engine(topology=made_up(streams), **options)
        takes, gives = SPEC
        loaded = Loaded(
            "made up",
            "made up",
            "faulty",
            (self.session,) * streams,
            inputs=None if callables else (takes,),
            outputs=None if callables else tuple(dataclasses.replace(gives, name=f"y{i}") for i in range(outputs)),
        )
        self.model = Model(
            loaded,
            scheduler=Scheduler.multi_stream,
            placements=plan(Scheduler.multi_stream, self.engine.cores, None, streams),
            engine=self.engine,
            max_batch_size=max_batch_size,
            max_batch_delay=0.0,
        )
        self.futures: list[hr.Future[Any]] = []
        self.ended: list[hr.Future[Any]] = []
        self.gates: list[Gate] = []

    def submit(self, value: Any, **options: Any) -> hr.Future[Any]:
        future = self.model.submit(value, **options)
        future.add_done_callback(self.ended.append)
        self.futures.append(future)
        return future

    def held(self) -> Gate:
        """The runs that begin from now on wait at it."""
        gate = Gate()
        self.gates.append(gate)
        self.session.before = gate
        return gate

    def together(self, *values: Any) -> list[hr.Future[Any]]:
        """They wait until they can be joined: their outcomes come in one run of all, if the model joins."""
        gate = self.held()
        self.submit(row(0))
        gate.wait()
        self.session.before = None
        futures = [self.submit(value) for value in values]
        gate.open()
        return futures

    def outcomes(self, futures: list[hr.Future[Any]]) -> list[Any]:
        """A number where all elements of the answer are that, the name of the error where there is none."""
        return [outcome(future) for future in futures]

    def check(self, more: bool = True) -> None:
        """Every request has ended, once; and the engine lives, closes, and leaves nothing."""
        self.session.fault = self.session.before = None
        if more:
            assert [outcome(self.submit(row(5))) for _ in range(3)] == [10.0] * 3
            assert self.engine.push(lambda: "alive").result(PATIENCE) == "alive"
        self.engine.close(timeout=PATIENCE)
        for future in self.futures:
            assert future.done()
        self.model.close()
        assert len(self.ended) == len(set(self.ended)) == len(self.futures)
        counts, budget = self.model.statistics(), self.engine.statistics().budget
        ended = counts.completed + counts.failed + counts.cancelled + counts.late + counts.refused
        assert (counts.submitted, counts.running, counts.waiting) == (ended, 0, 0)
        assert counts.submitted == len(self.futures)
        assert (budget.inside, budget.waiting) == (0, 0)
        for thread in set(threading.enumerate()) - self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), thread


def outcome(future: hr.Future[Any]) -> Any:
    error = future.exception(PATIENCE)
    if error is not None:
        return type(error).__name__
    value = future.result()
    if not isinstance(value, np.ndarray | list) or not len(value):
        return f"{value}"
    value = np.asarray(value)
    assert np.all(value == value.flat[0])
    return float(value.flat[0])


@pytest.fixture
def faulty() -> Iterator[Callable[..., Faulty]]:
    made: list[Faulty] = []

    def make(*args: Any, **options: Any) -> Faulty:
        made.append(Faulty(*args, **options))
        return made[-1]

    yield make
    for each in made:
        for gate in each.gates:
            gate.open()
        each.engine.close(drain=False, timeout=1.0)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    def until(so: Callable[[], object]) -> None:
        patience = time.monotonic() + PATIENCE
        while not so():
            assert time.monotonic() < patience, "it never came to be so"
            time.sleep(0)  # no waiting, only the others' turn

    return until


# ---- it raises

ERRORS: list[Callable[[], BaseException]] = [
    lambda: ValueError("no"),
    lambda: SystemExit(3),
    KeyboardInterrupt,
    MemoryError,
    RecursionError,
    StopIteration,
    GeneratorExit,
    asyncio.CancelledError,
    Unspeakable,
    Frozen,
    noted,
    lambda: ExceptionGroup("several", [ValueError(1), Unspeakable()]),
]
NAMES = [
    "an Exception", "SystemExit", "KeyboardInterrupt", "MemoryError", "RecursionError", "StopIteration",
    "GeneratorExit", "CancelledError", "one that cannot be shown", "a frozen one", "one with broken notes", "a group",
]  # fmt: skip


def raising(error: Callable[[], BaseException]) -> Run:
    def fault(x: Any) -> Any:
        raise error()

    return fault


@pytest.mark.parametrize("max_bytes", [None, 1 << 30], ids=["", "bytes bounded"])
@pytest.mark.parametrize("callables", [False, True], ids=["rows", "a list"])
@pytest.mark.parametrize("size", [1, 4], ids=["alone", "joined"])
@pytest.mark.parametrize("error", ERRORS, ids=NAMES)
def test_whatever_a_run_raises_ends_the_request_it_is_of_and_nothing_else(
    error: Callable[[], BaseException], size: int, callables: bool, max_bytes: int | None,
    faulty: Callable[..., Faulty],
) -> None:  # fmt: skip
    f = faulty(max_batch_size=size, callables=callables, max_bytes=max_bytes)
    f.model(row(1))
    f.futures, f.ended = [], []
    before = f.model.statistics()
    f.session.fault = raising(error)
    if max_bytes is None or not callables:
        futures = f.together(row(1), row(-2), row(3))
        assert f.outcomes(futures) == [2.0, "BackendError", 6.0]
        failed = futures[1].exception()
        assert type(failed.__cause__) is type(error())
        assert type(error()).__name__ in str(failed)
        assert f.session.sizes[-4:] == [3, 1, 1, 1] if size > 1 else [1, 1, 1, 1]
    assert (before.submitted, before.completed) == (1, 1)
    f.futures.append(done := hr.Future())  # type: ignore[var-annotated]  # the one that was called
    done.add_done_callback(f.ended.append)
    done.settle(0)
    f.check()


@pytest.mark.parametrize("error", [lambda: hr.InvalidInput("not this"), SpokenIll], ids=["InvalidInput", "unspoken"])
def test_an_error_of_ours_comes_as_it_is(error: Callable[[], BaseException], faulty: Callable[..., Faulty]) -> None:
    f = faulty(max_batch_size=4)
    f.session.fault = raising(error)
    futures = f.together(row(1), row(-2))
    assert f.outcomes(futures) == [2.0, type(error()).__name__]
    f.check()


@pytest.mark.parametrize("error", ERRORS, ids=NAMES)
def test_whatever_an_operation_raises_is_its_own_and_the_engine_lives(
    error: Callable[[], BaseException], faulty: Callable[..., Faulty]
) -> None:
    f, raised, var = faulty(), error(), hr.Var()

    def operation() -> None:
        raise raised

    future = f.engine.push(operation, writes=[var])
    reader = f.engine.push(lambda: None, reads=[var])
    assert future.exception(PATIENCE) is raised
    assert isinstance(reader.exception(PATIENCE), hr.PoisonedVar)
    f.check()


@pytest.mark.parametrize("joined", [False, True])
def test_a_list_with_errors_in_it_fails_those_alone(joined: bool, faulty: Callable[..., Faulty]) -> None:
    f = faulty(max_batch_size=4, callables=True)
    f.session.fault = lambda xs: [[Unspeakable() if np.any(x < 0) else x * 2 for x in xs]]
    futures = f.together(*([row(1), row(-2), row(3)] if joined else [row(-2)]))
    assert f.outcomes(futures) == ([2.0, "BackendError", 6.0] if joined else ["BackendError"])
    f.check()


# ---- it hangs


def test_while_one_run_hangs_the_other_stream_goes_on_and_what_hangs_is_named(faulty: Callable[..., Faulty]) -> None:
    f, stuck = faulty(streams=2), Gate()
    f.gates.append(stuck)
    f.session.fault = lambda x: (stuck(), [x * 2])[1]
    hangs = f.submit(row(-1))
    stuck.wait()
    assert f.outcomes([f.submit(row(i)) for i in range(20)]) == [2.0 * i for i in range(20)]
    state = f.engine.dump_state()
    (line,) = [line for line in state.splitlines() if ": runs faulty" in line]
    assert "headrace-faulty-" in line
    assert "in __call__" in state, "where it hangs"
    assert not hangs.done()
    with pytest.raises(TimeoutError):
        hangs.result(0)
    with pytest.raises(TimeoutError):
        f.engine.waitall(0)
    stuck.open()
    assert outcome(hangs) == -2.0
    f.check()


@pytest.mark.parametrize("drain", [True, False])
def test_closing_with_a_timeout_ends_though_a_run_hangs(drain: bool, faulty: Callable[..., Faulty]) -> None:
    f, stuck = faulty(), Gate()
    f.gates.append(stuck)
    f.session.fault = lambda x: (stuck(), [x * 2])[1]
    hangs = f.submit(row(-1))
    stuck.wait()
    waits = [f.submit(row(1)), f.submit(row(2))]
    waits[1].cancel()
    f.engine.close(drain=drain, timeout=0.05)
    assert not hangs.done()
    assert f.outcomes(waits) == ["Closed", "Cancelled"]
    with pytest.raises(hr.Closed):
        f.model.submit(row(1))
    with pytest.raises(hr.Closed):
        f.engine.push(lambda: None)
    stuck.open()
    assert outcome(hangs) == -2.0, "it was let alone, and answers all the same"
    f.check(more=False)


def test_what_is_cancelled_while_it_hangs_is_let_go_and_its_stream_comes_back(faulty: Callable[..., Faulty]) -> None:
    f, stuck = faulty(max_batch_size=4), Gate()
    f.gates.append(stuck)
    f.session.fault = lambda x: (stuck(), [x * 2])[1]
    futures = f.together(row(-1), row(2))
    stuck.wait()
    assert futures[0].cancel()
    assert futures[0].cancelled()
    stuck.open()
    assert f.outcomes(futures) == ["Cancelled", 4.0]
    f.check()


# ---- it gives what it should not


class Odd:
    """What cannot be asked for anything."""

    def __getattr__(self, name: str) -> Any:
        raise Unspeakable

    def __len__(self) -> int:
        raise Unspeakable

    def __iter__(self) -> Any:
        raise Unspeakable

    def __getitem__(self, i: Any) -> Any:
        raise Unspeakable


class OddDict(dict[str, Any]):
    def values(self) -> Any:
        raise Unspeakable


NO_OUTPUTS: dict[str, Run] = {
    "None": lambda x: None,
    "a number": lambda x: 7,
    "no output": lambda x: [],
    "an array, not a list": lambda x: x * 2,
    "a tuple": lambda x: (x * 2,),
    "two outputs": lambda x: [x * 2, x * 2],
    "None in a list": lambda x: [None],
    "a list in a list": lambda x: [[1.0, 2.0]],
    "a number in a list": lambda x: [7.0],
}
WRONG: dict[str, Run] = {
    **NO_OUTPUTS,
    "no dimension": lambda x: [np.float32(1)],
    "a row too few": lambda x: [x[1:] * 2],
    "a row too many": lambda x: [np.concatenate([x, x[:1]])],
    "another dtype": lambda x: [(x * 2).astype(np.int64)],
    "other columns": lambda x: [np.concatenate([x, x], 1)],
    "another rank": lambda x: [x[..., None]],
}


@pytest.mark.parametrize("max_bytes", [None, 1 << 30], ids=["", "bytes bounded"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_whatever_a_joined_run_gives_nothing_mixes_and_all_are_answered(
    wrong: Run, max_bytes: int | None, faulty: Callable[..., Faulty]
) -> None:
    f = faulty(max_batch_size=4, max_bytes=max_bytes)
    f.model(row(0))
    f.session.fault = wrong
    f.futures = []
    values = [row(1), row(-2), row(3)]
    futures = f.together(*values)
    for value, future in zip(values, futures):
        if future.exception(PATIENCE) is None and isinstance(future.result(), np.ndarray):
            # Its own numbers, if any: none that came of another's.
            assert set(np.unique(future.result())) <= {2 * value[0, 0], value[0, 0]}, "another one's rows"
    f.engine.waitall(PATIENCE)
    f.futures.append(called := hr.Future())  # type: ignore[var-annotated]
    called.add_done_callback(f.ended.append)
    called.settle(0)
    f.check()


ROWS_DO_NOT_FIT = ["None", "a number", "None in a list", "a list in a list", "no dimension"]


@pytest.mark.parametrize("wrong", [*ROWS_DO_NOT_FIT, "a row too few", "a row too many"])
def test_a_joined_run_whose_rows_do_not_fit_is_run_again_one_by_one(wrong: str, faulty: Callable[..., Faulty]) -> None:
    f = faulty(max_batch_size=4)
    f.session.fault = WRONG[wrong]
    futures = f.together(row(1), row(-2), row(3))
    assert f.outcomes([futures[0], futures[2]]) == [2.0, 6.0]
    assert f.session.sizes[-4:] == [3, 1, 1, 1]
    futures[1].exception(PATIENCE)
    f.check()


@pytest.mark.parametrize("form", ["one", "list", "dict"])
@pytest.mark.parametrize("wrong", NO_OUTPUTS.values(), ids=NO_OUTPUTS)
def test_a_run_that_does_not_give_its_outputs_is_an_error_in_every_form(
    wrong: Run, form: str, faulty: Callable[..., Faulty]
) -> None:
    f = faulty()
    f.session.fault = wrong
    x = row(-1)
    future = f.submit({"one": x, "list": [x], "dict": {"x": x}}[form])
    assert outcome(future) == "BackendError"
    f.check()


@pytest.mark.parametrize("form", ["one", "list", "dict"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_run_alone_that_gives_what_it_should_not_ends_and_the_stream_lives(
    wrong: Run, form: str, faulty: Callable[..., Faulty]
) -> None:
    f = faulty(max_bytes=1 << 30)
    f.session.fault = wrong
    x = row(-1)
    future = f.submit({"one": x, "list": [x], "dict": {"x": x}}[form])
    future.exception(PATIENCE)
    f.check()


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("form", ["one", "list", "dict"])
@pytest.mark.parametrize("came", [1, 3])
def test_outputs_that_are_missing_or_too_many_are_an_error(
    came: int, form: str, size: int, faulty: Callable[..., Faulty]
) -> None:
    f = faulty(outputs=2, max_batch_size=size)
    f.session.fault = lambda x: [x] * came
    x = row(-1)
    future = f.submit({"one": x, "list": [x], "dict": {"x": x}}[form])
    assert "2 outputs" in str(future.exception(PATIENCE))
    assert outcome(future) == "BackendError"
    f.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("size", [1, 2])
def test_outputs_that_cannot_be_asked_for_anything_are_an_error(size: int, faulty: Callable[..., Faulty]) -> None:
    f = faulty(max_batch_size=size)
    f.session.fault = lambda x: Odd()
    future = f.together(row(1), row(-1))[1]
    assert isinstance(future.exception(1.0), hr.BackendError)
    f.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("answer", [OddDict(x=1), Odd(), [Odd()], {"x": Odd()}], ids=["a dict", "odd", "list", "in it"])
@pytest.mark.parametrize("as_operation", [False, True])
def test_where_bytes_are_counted_an_answer_that_cannot_be_is_given_all_the_same(
    answer: Any, as_operation: bool, faulty: Callable[..., Faulty]
) -> None:
    f = faulty(callables=True, max_bytes=1 << 30, on_full="reject")
    f.session.fault = lambda x: [answer]
    future = f.engine.push(lambda: answer) if as_operation else f.submit(row(-1))
    assert future.exception(1.0) is None
    assert future.result() is answer
    assert f.engine.push(lambda: "alive").result(1.0) == "alive"
    f.check()


# ---- it holds the interpreter


def test_a_run_that_holds_the_interpreter_keeps_nobody_from_an_answer(faulty: Callable[..., Faulty]) -> None:
    f = faulty(streams=2)

    def busy(x: Any) -> Any:
        total = 0
        for i in range(60_000):
            total += i
        return [x * 2]

    f.session.fault = busy

    async def main() -> list[Any]:
        return await asyncio.gather(*(f.model.asubmit(row(i)) for i in (-1, 2, -3, 4)))

    futures = [f.submit(row(i)) for i in (-1, 2, -3, 4, -5, 6)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.05)
    try:
        assert [float(y[0, 0]) for y in asyncio.run(asyncio.wait_for(main(), PATIENCE))] == [-2.0, 4.0, -6.0, 8.0]
        assert f.outcomes(futures) == [-2.0, 4.0, -6.0, 8.0, -10.0, 12.0]
    finally:
        sys.setswitchinterval(before)
    f.engine.waitall(PATIENCE)
    assert f.model.statistics().completed == 10


# ---- it does not load, or does not close


class FaultyBackend:
    name = "faulty"

    def __init__(self, load: Callable[[LoadOptions], Loaded]) -> None:
        self._load = load

    def load(self, model: Any, options: LoadOptions) -> Loaded:
        return self._load(options)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[LoadOptions], Loaded]], None]:
    """What `compile_model` finds for any model."""

    def use(load: Callable[[LoadOptions], Loaded]) -> None:
        monkeypatch.setattr(headrace.model.compile, "backend_for", lambda model, name: FaultyBackend(load))

    return use


@pytest.mark.parametrize("error", ERRORS, ids=NAMES)
def test_a_load_that_fails_leaves_the_engine_as_it_was(
    error: Callable[[], BaseException], backend: Any, faulty: Callable[..., Faulty]
) -> None:
    f = faulty()
    raised = error()

    def load(options: LoadOptions) -> Loaded:
        raise raised

    backend(load)
    before = f.engine.statistics()
    with pytest.raises(type(raised)) as seen:
        hr.compile_model("any", engine=f.engine)
    assert seen.value is raised
    assert f.engine.statistics() == before
    f.check()


def loads(session: FaultySession, rows: int | None = None) -> Callable[[LoadOptions], Loaded]:
    takes, gives = (dataclasses.replace(spec, shape=(rows, 2)) for spec in SPEC)
    return lambda options: Loaded("x", "x", "x", (session,) * len(options.widths), inputs=(takes,), outputs=(gives,))


@pytest.mark.parametrize("why", ["fixed rows", "a closed engine", "a trial that is interrupted"])
def test_a_model_that_was_loaded_and_cannot_be_had_is_closed(
    why: str, backend: Any, faulty: Callable[..., Faulty]
) -> None:
    f, session = faulty(), FaultySession()
    backend(loads(session, 1 if why == "fixed rows" else None))
    if why == "a closed engine":
        f.engine.close()
    if why == "a trial that is interrupted":

        def interrupt() -> None:
            raise KeyboardInterrupt

        session.before = interrupt
    with pytest.raises((hr.InvalidOption, hr.Closed, KeyboardInterrupt)):
        hr.compile_model("any", engine=f.engine, max_batch_size=4)
    assert session.closed == 1
    f.check(more=why != "a closed engine")


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_model_whose_trial_gives_what_it_should_not_is_not_joined(
    wrong: Run, backend: Any, faulty: Callable[..., Faulty]
) -> None:
    f, session = faulty(), FaultySession()
    session.run = lambda inputs, names=None: wrong(inputs[0])  # type: ignore[method-assign]
    backend(loads(session))
    with hr.compile_model("any", engine=f.engine, max_batch_size=None) as model:
        if model.max_batch_size > 1:  # then what it gives agrees, whatever it is
            assert model.batching == "a batch and its members run alone agree"
    f.check()


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, Unspeakable])
@pytest.mark.parametrize("first", ["the model", "the engine"])
def test_a_session_that_does_not_close_keeps_neither_the_others_nor_the_engine_from_closing(
    error: type[BaseException], first: str, backend: Any, faulty: Callable[..., Faulty]
) -> None:
    f = faulty(streams=3)
    sessions = [FaultySession() for _ in range(3)]
    sessions[0].close_fails = error("it does not close")
    backend(lambda options: dataclasses.replace(loads(sessions[0])(options), sessions=tuple(sessions)))
    model = hr.compile_model("any", engine=f.engine, scheduler="multi_stream")
    assert float(model(row(1))[0, 0]) == 2.0
    if first == "the engine":
        f.engine.close()
    with contextlib.suppress(error):  # whether it says so or logs it
        model.close()
    assert [session.closed for session in sessions] == [1, 1, 1]
    f.check(more=first == "the model")


def test_a_session_that_serves_several_streams_is_closed_with_its_model(faulty: Callable[..., Faulty]) -> None:
    f = faulty(streams=2)
    f.submit(row(1)).result(PATIENCE)
    f.check()
    assert f.session.closed >= 1
