"""Which engine holds which cores of this process. Two engines never hold the same core.

The default engine is made on first use and holds what no other engine holds. While it has no models and no operations
its share follows: an engine made later takes cores from it, an engine that is closed gives them back. An engine that
was never used and is forgotten holds nothing.

At the interpreter's exit every open engine is closed: a stream that is still in a runtime when it is torn down takes
the process with it. In a forked child there are no engines: threads are not copied, so the parent's would never run
anything.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from headrace.engine.timeouts import checked
from headrace.engine.topology import Core, Topology, read_topology
from headrace.engine.unseen import tell
from headrace.errors import InvalidOption, NotEnoughCores

if TYPE_CHECKING:
    from headrace.engine.engine import Engine

deciding = threading.RLock()
"""Held while it is decided who has which cores. An engine takes it before its own lock, never after."""
_held: WeakKeyDictionary[Engine, tuple[Core, ...]] = WeakKeyDictionary()  # the open engines and their cores
_open: WeakSet[Engine] = WeakSet()  # all of them, also those with a topology of their own
_default: Engine | None = None
_topology: Topology | None = None
EXIT_SECONDS = 5.0
"""How long the interpreter's exit waits for what is inside; and once more for runs that go on."""


def machine() -> Topology:
    """The machine as this process may use it. Read once, when it is first needed: an affinity that changes later
    changes nothing."""
    global _topology
    with deciding:
        if _topology is None:
            _topology = read_topology()
        return _topology


def default_engine() -> Engine:
    """The process's own engine: all cores no other engine holds. NotEnoughCores if others hold them all."""
    global _default
    from headrace.engine.engine import Engine

    with deciding:
        if _default is None or _default.closed:
            _default = Engine()
        _share_out()
        if not _default.cores:
            raise NotEnoughCores(1, 0, "other engines hold them all; close one, or compile on it with engine=")
        return _default


def claim_cores(engine: Engine, num_cores: int | None, topology: Topology | None) -> tuple[Core, ...]:
    """The cores `engine` holds from now on. With a `topology` of its own it shares with nobody, and claims nothing."""
    if num_cores is not None and (isinstance(num_cores, bool) or not isinstance(num_cores, int) or num_cores < 1):
        raise InvalidOption(f"num_cores is a whole number from 1, not {num_cores!r}")
    with deciding:
        free = topology.usable if topology is not None else _free(except_for=_idle_default())
        wanted = len(free) if num_cores is None else num_cores
        if wanted > len(free) or not free:
            alone = topology is not None or len(free) == len(machine().usable)
            why = "this process may use no more" if alone else "engines that are open hold the others"
            if not alone:
                why += "; close one, or compile on it with engine="
            if free:
                why += f"; ask for num_cores={len(free)} at most"
            raise NotEnoughCores(max(wanted, 1), len(free), why)
        taken = free[:wanted]
        _open.add(engine)
        if topology is None:
            _held[engine] = taken
            _share_out()
        return taken


def give_back_cores(engine: Engine) -> None:
    global _default
    with deciding:
        _open.discard(engine)
        _held.pop(engine, None)
        if _default is engine:
            _default = None
        _share_out()


def _share_out() -> None:
    """The default engine gets what no other engine holds, if it can still change."""
    engine = _idle_default()
    if engine is not None:
        _held[engine] = _free(except_for=engine)
        engine.take_cores(_held[engine])


def _idle_default() -> Engine | None:
    return _default if _default is not None and not _default.closed and not _default.in_use else None


def _free(except_for: Engine | None = None) -> tuple[Core, ...]:
    held = {core.cpu for owner, cores in _held.items() if owner is not except_for for core in cores}
    return tuple(core for core in machine().usable if core.cpu not in held)


def waitall(timeout: float | None = None) -> None:
    """Wait until nothing is inside any open engine of this process, at most `timeout` seconds for all of them.

    Raises the errors nobody has looked at, of all of them, once, as an ExceptionGroup; else as `Engine.waitall`. Where
    there is no engine there is nothing to wait for, and none is made. A NaiveEngine has nothing inside, and keeps its
    errors for a `waitall` of its own.
    """
    seconds = checked(timeout)
    until = None if seconds is None else time.monotonic() + seconds
    busy = engines = _open_engines()
    while busy:  # what runs on one may push on another that was waited for before
        for engine in busy:
            try:
                engine.wait_until_idle(None if until is None else max(0.0, until - time.monotonic()))
            except TimeoutError:
                raise TimeoutError(f"work is still inside after {seconds} s") from None
        engines += [each for each in _open_engines() if each not in engines]
        busy = [engine for engine in engines if engine.budget.inside]
    tell([engine.take_unseen() for engine in engines])


def _open_engines() -> list[Engine]:
    with deciding:
        return list(_open)


def _close_all() -> None:
    until = time.monotonic() + EXIT_SECONDS
    for engine in list(_open):
        engine.close(timeout=max(0.0, until - time.monotonic()))


def _in_the_child() -> None:
    global _default
    for engine in list(_open):
        engine.forked = engine.guard.forked = True
        engine.budget.ceiling = 0  # who comes is sent where `forked` is looked at
    _open.clear()
    _held.clear()
    _default = None
    deciding.release()


atexit.register(_close_all)
# Taken over the fork, so that the child finds it free and what it guards whole.
os.register_at_fork(before=deciding.acquire, after_in_parent=deciding.release, after_in_child=_in_the_child)
