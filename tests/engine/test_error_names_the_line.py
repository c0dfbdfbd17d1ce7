"""An operation's error names the line that pushed it: an engine's own stack leads nowhere."""

import _thread
import dataclasses
import functools
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import headrace as hr
from headrace.engine.engine import Engine
from headrace.engine.naive import NaiveEngine
from headrace.engine.operations import note_where
from headrace.engine.topology import made_up
from headrace.errors import Closed, DeadlineExceeded, PoisonedVar
from headrace.testing import FakeClock, Gate

PATIENCE = 30.0
InThreads = Callable[..., Any]


@pytest.fixture(params=[NaiveEngine, lambda: Engine(topology=made_up(cores=2))], ids=["naive", "streams"])
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    with request.param() as engine:
        yield engine
        for future in list(engine._unseen):  # what a test made fail on purpose
            future.exception()


def fail() -> None:
    raise ValueError("on purpose")


def line() -> int:
    """Of the call."""
    return sys._getframe(1).f_lineno


def note(number: int) -> str:
    return f"in an operation pushed at {__file__}:{number}"


def notes(error: BaseException | None) -> list[str]:
    assert error is not None
    return getattr(error, "__notes__", [])


# ---- what an operation raised


def test_an_error_has_a_note_that_names_the_line_of_the_push(engine: Any) -> None:
    here, future = line(), engine.push(fail)
    error = future.exception(PATIENCE)
    assert notes(error) == [note(here)]
    assert note(here) in "".join(traceback.format_exception(error)), "it is seen where the error is printed"


def test_of_a_call_over_several_lines_it_is_the_one_it_begins_on(engine: Any) -> None:
    here = line() + 1
    future = engine.push(
        fail,
        reads=[hr.Var()],
        priority=0,
    )
    assert notes(future.exception(PATIENCE)) == [note(here)]


def test_it_is_the_line_of_whoever_called_push_also_by_way_of_others(engine: Any) -> None:
    def helper() -> Any:
        return engine.push(fail)

    in_helper = helper.__code__.co_firstlineno + 1
    assert notes(helper().exception(PATIENCE)) == [note(in_helper)]
    here, later = line(), functools.partial(engine.push, fail)()
    assert notes(later.exception(PATIENCE)) == [note(here)]
    here, (mapped,) = line(), list(map(engine.push, [fail]))
    assert notes(mapped.exception(PATIENCE)) == [note(here)]


def test_an_operation_pushed_by_an_operation_names_the_inner_line(engine: Any) -> None:
    def outer() -> Any:
        return engine.push(fail)

    inner = engine.push(outer).result(PATIENCE)
    assert notes(inner.exception(PATIENCE)) == [note(outer.__code__.co_firstlineno + 1)]


def test_lines_of_one_function_are_told_apart(engine: Any) -> None:
    futures, lines = [], []
    futures.append(engine.push(fail)), lines.append(line())
    futures.append(engine.push(fail)), lines.append(line())
    both = [engine.push(fail), engine.push(fail)]
    lines += [line() - 1] * 2
    assert [notes(future.exception(PATIENCE)) for future in futures + both] == [[note(number)] for number in lines]


def test_who_raises_one_object_again_and_again_adds_no_note_twice(engine: Any) -> None:
    error = ValueError("always the same")

    def fail() -> None:
        raise error

    for _ in range(3):
        assert engine.push(fail).exception(PATIENCE) is error
    first = line() - 1
    assert engine.push(fail).exception(PATIENCE) is error
    assert notes(error) == [note(first), note(line() - 1)]


def test_notes_of_the_operation_itself_stay(engine: Any) -> None:
    def fail() -> None:
        error = ValueError("on purpose")
        error.add_note("its own")
        raise error

    here, future = line(), engine.push(fail)
    assert notes(future.exception(PATIENCE)) == ["its own", note(here)]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_is_no_exception_is_noted_too(engine: Any, kind: type[BaseException]) -> None:
    def leave() -> None:
        raise kind

    here, future = line(), engine.push(leave)
    assert notes(future.exception(PATIENCE)) == [note(here)]


def test_the_errors_of_waitall_name_their_lines(engine: Any) -> None:
    here, futures = line(), [engine.push(fail) for _ in range(2)]
    with pytest.raises(BaseExceptionGroup) as group:
        engine.waitall(PATIENCE)
    assert [notes(error) for error in group.value.exceptions] == [[note(here)]] * len(futures)


def test_a_value_has_nothing_to_do_with_it(engine: Any) -> None:
    error = ValueError("returned, not raised")
    assert engine.push(lambda: error).result(PATIENCE) is error
    assert notes(error) == []


def test_a_future_does_not_keep_what_was_around_its_push(engine: Any) -> None:
    class Large:
        pass

    def push() -> tuple[Any, Any]:
        large = Large()
        return engine.push(int), weakref.ref(large)

    future, gone = push()
    assert future.result(PATIENCE) == 0
    assert gone() is None


def test_the_first_thing_a_thread_does_may_be_a_push() -> None:
    """Nobody has called it: there is no line to name."""
    pushed = threading.Event()
    with Engine(topology=made_up(cores=1)) as engine:
        _thread.start_new_thread(engine.push, (pushed.set,))
        assert pushed.wait(PATIENCE)


# ---- what was not run


def test_who_reads_what_was_not_written_learns_of_both_lines(engine: Any) -> None:
    var = hr.Var("weights")
    failed, first = engine.push(fail, writes=[var]), line()
    poisoned, second = engine.push(lambda: None, reads=[var]), line()
    error = poisoned.exception(PATIENCE)
    assert isinstance(error, PoisonedVar)
    assert "weights" in str(error)
    assert "on purpose" in str(error)
    assert note(first) in str(error)
    assert notes(error) == [note(second)]
    assert error.origin is error.__cause__ is failed.exception()


def test_along_a_chain_the_first_failure_is_named(engine: Any) -> None:
    a, b, c = hr.Var("a"), hr.Var("b"), hr.Var("c")
    engine.push(fail, writes=[a])
    first = line() - 1
    engine.push(lambda: None, reads=[a], writes=[b])
    engine.push(lambda: None, reads=[b], writes=[c])
    last, here = engine.push(lambda: None, reads=[c]), line()
    error = last.exception(PATIENCE)
    assert isinstance(error, PoisonedVar)
    assert note(first) in str(error)
    assert " c " in str(error)
    assert notes(error) == [note(here)]


def test_what_was_late_or_refused_names_its_line() -> None:
    clock, gate, hold = FakeClock(), Gate(), Gate()
    engine = Engine(topology=made_up(cores=1), clock=clock)
    engine.push(gate)
    gate.wait()
    late, first = engine.push(lambda: None, deadline=clock.now() + 1, priority=10), line()
    running = engine.push(hold, priority=5)
    refused, second = engine.push(lambda: None), line()
    clock.advance(2)
    gate.open()
    hold.wait()
    closing = threading.Thread(target=engine.close, kwargs={"drain": False})
    closing.start()
    errors = [late.exception(PATIENCE), refused.exception(PATIENCE)]
    hold.open()
    closing.join(PATIENCE)
    assert [type(error) for error in errors] == [DeadlineExceeded, Closed]
    assert [notes(error) for error in errors] == [[note(first)], [note(second)]]
    assert running.exception(PATIENCE) is None


# ---- errors that are not as errors use to be


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class NotesOfItsOwn(Exception):
    __notes__ = ("see the manual",)  # type: ignore[assignment]


class NoNotes(Exception):
    def add_note(self, note: str) -> None:
        raise RuntimeError("not with me")


class Mute(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("not with me")


class NotesThatAreNoText(Exception):
    def __init__(self) -> None:
        self.__notes__ = [1, 2]  # type: ignore[list-item]


ODD = [lambda: Frozen(7), NotesOfItsOwn, NoNotes, Mute, NotesThatAreNoText]


@pytest.mark.parametrize("make", ODD, ids=["frozen", "notes of its own", "no notes", "mute", "notes that are no text"])
def test_an_error_that_cannot_be_noted_or_shown_is_an_error_all_the_same(make: Callable[[], Exception]) -> None:
    error, var = make(), hr.Var("v")

    def fail() -> None:
        raise error

    with Engine(topology=made_up(cores=1)) as engine:
        failed = engine.push(fail, writes=[var])
        poisoned = engine.push(lambda: None, reads=[var])
        assert failed.exception(PATIENCE) is error
        found = poisoned.exception(PATIENCE)
        assert isinstance(found, PoisonedVar)
        assert found.origin is error
        assert engine.push(lambda: 1).result(PATIENCE) == 1, "the stream lives"


def test_the_note_itself() -> None:
    error = ValueError("on purpose")
    note_where(error, "a.py:1")
    note_where(error, "a.py:1")
    note_where(error, "b.py:2")
    assert notes(error) == ["in an operation pushed at a.py:1", "in an operation pushed at b.py:2"]
