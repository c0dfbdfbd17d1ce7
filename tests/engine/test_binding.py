import os
import sys
import threading

import pytest

from headrace.engine.binding import bind, made_on, run_on

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")


def affinity() -> set[int]:
    return set(os.sched_getaffinity(0))


def test_it_is_made_by_a_thread_that_is_there_and_the_caller_stays_as_it_was() -> None:
    before, (first, *_) = affinity(), sorted(affinity())
    found, thread = made_on([first], lambda: (affinity(), threading.get_ident()))
    assert found == {first}
    assert thread != threading.get_ident()
    assert affinity() == before


def test_nowhere_in_particular_is_here() -> None:
    assert made_on((), threading.get_ident) == threading.get_ident()


def test_cpus_that_are_not_there_change_nothing() -> None:
    before = affinity()
    assert made_on([100_000], lambda: (bind([100_000]), affinity())) == (False, before)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_what_it_raises_is_raised_to_the_caller(error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        made_on(affinity(), fail)
    assert raised.value is error


def test_threads_started_there_stay_there() -> None:
    first = min(affinity())
    found: list[set[int]] = []

    def start() -> None:
        thread = threading.Thread(target=lambda: found.append(affinity()))
        thread.start()
        thread.join()

    made_on([first], start)
    assert found == [{first}]


def test_a_run_is_there_and_what_comes_after_it_is_where_it_was() -> None:
    before, (first, *_) = affinity(), sorted(affinity())
    assert run_on([first], affinity) == {first}
    assert affinity() == before
    with pytest.raises(ValueError, match="no"):
        run_on([first], lambda: int("no"))
    assert affinity() == before


def test_a_run_on_cpus_that_are_not_there_is_a_run_all_the_same() -> None:
    assert run_on([100_000], affinity) == affinity()
