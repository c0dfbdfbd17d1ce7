import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

PATIENCE = 30.0


class Crowd:
    """Threads that each do one thing; `join` raises what one of them raised."""

    def __init__(self, *tasks: Callable[[], object]) -> None:
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._do, args=(task,), daemon=True) for task in tasks]
        for thread in self._threads:
            thread.start()

    def _do(self, task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException as error:
            self._errors.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                faulthandler.dump_traceback()  # where they all are
            if thread.is_alive() and self._errors:  # whose futures keep their room, for which the others wait
                raise self._errors.pop(0)
            assert not thread.is_alive(), "a thread hangs"
        while self._errors:
            raise self._errors.pop(0)


@pytest.fixture
def in_threads() -> Iterator[Callable[..., Crowd]]:
    """Does each of some things in a thread of its own; all are joined at the end, if not before."""
    crowds: list[Crowd] = []

    def in_threads(*tasks: Callable[[], object]) -> Crowd:
        crowds.append(Crowd(*tasks))
        return crowds[-1]

    yield in_threads
    for crowd in crowds:
        crowd.join()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Lets other threads run until something is so: for states that nothing announces."""

    def until(so: Callable[[], object]) -> None:
        patience = time.monotonic() + PATIENCE
        while not so():
            assert time.monotonic() < patience, "it never came to be so"
            time.sleep(0)  # no waiting, only the others' turn

    return until


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads change places after a few instructions, not after milliseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
