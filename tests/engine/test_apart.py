import os
import sys
import threading
from collections.abc import Iterator

import pytest

from headrace.engine.apart import Apart, made_with_threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")


def affinity() -> set[int]:
    return set(os.sched_getaffinity(0))


@pytest.fixture
def until() -> Iterator[threading.Event]:
    """Threads of a test end when it does."""
    event = threading.Event()
    yield event
    event.set()


def started(count: int, until: threading.Event) -> tuple[int, ...]:
    threads = [threading.Thread(target=until.wait, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return tuple(sorted(thread.native_id or 0 for thread in threads))


def test_it_is_told_the_threads_that_were_started_and_no_others(until: threading.Event) -> None:
    started(1, until)
    own: list[tuple[int, ...]] = []

    def make() -> int:
        own.append(started(2, until))
        gone = threading.Thread(target=int)
        gone.start()
        gone.join()
        while os.path.exists(f"/proc/self/task/{gone.native_id}"):  # Python is done with it before the system is
            os.sched_yield()
        return threading.get_native_id()

    maker, threads = made_with_threads((), make)
    assert maker != threading.get_native_id()
    assert [threads] == own


def test_making_nothing_but_a_value_and_failing(until: threading.Event) -> None:
    assert made_with_threads((), lambda: 3) == (3, ())
    with pytest.raises(ZeroDivisionError):
        made_with_threads((), lambda: 1 // 0)


def test_a_thread_that_is_there_makes_it(until: threading.Event) -> None:
    first = min(affinity())
    assert made_with_threads([first], affinity) == ({first}, ())


def test_threads_may_go_where_their_caller_may_but_not_to_its_core(until: threading.Event) -> None:
    cpus = sorted(affinity())
    if len(cpus) == 1:
        pytest.skip("one CPU: everything is there")
    threads, at = started(2, until), cpus[:1]
    apart = Apart(threads, lambda: at[0])
    for cpu in (cpus[0], cpus[1], cpus[0]):
        at[0] = cpu
        apart()
        assert [os.sched_getaffinity(thread) for thread in threads] == [set(cpus) - {cpu}] * 2
    assert affinity() == set(cpus)


def test_one_cpu_is_for_all(until: threading.Event) -> None:
    cpus = sorted(affinity())
    (thread,) = started(1, until)
    os.sched_setaffinity(0, cpus[:1])
    try:
        Apart((thread,), lambda: cpus[0])()
    finally:
        os.sched_setaffinity(0, cpus)
    assert os.sched_getaffinity(thread) == set(cpus[:1])


def test_nobody_is_asked_again_while_the_caller_stays(until: threading.Event) -> None:
    cpus = affinity()
    (thread,) = started(1, until)
    apart = Apart((thread,), lambda: 0)
    apart()
    os.sched_setaffinity(thread, cpus)
    apart()
    assert os.sched_getaffinity(thread) == cpus


def test_threads_that_are_gone_are_left_alone() -> None:
    at = [0]
    apart = Apart((2**31 - 1,), lambda: at[0])
    apart()
    at[0] = 1
    apart()
    assert apart._threads == ()
