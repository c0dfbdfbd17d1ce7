"""Which engine holds which cores of this process. Two engines never hold the same core.

The default engine is made on first use and holds what no other engine holds. While it has no models and no operations
its share follows: an engine made later takes cores from it, an engine that is closed gives them back.
"""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING

from headrace.engine.topology import Core, Topology, read_topology
from headrace.errors import InvalidOption, NotEnoughCores

if TYPE_CHECKING:
    from headrace.engine.engine import Engine

_lock = threading.RLock()
_held: dict[int, tuple[Core, ...]] = {}  # id of an open engine -> its cores
_default: Engine | None = None
_topology: Topology | None = None
EXIT_SECONDS = 5.0
"""How long the interpreter's exit waits for what runs on the default engine."""


def machine() -> Topology:
    """The machine as this process may use it; read once."""
    global _topology
    with _lock:
        if _topology is None:
            _topology = read_topology()
        return _topology


def default_engine() -> Engine:
    """The process's own engine: all cores no other engine holds. NotEnoughCores if others hold them all."""
    global _default
    from headrace.engine.engine import Engine

    with _lock:
        if _default is None or _default.closed:
            _default = Engine()
            atexit.register(_default.close, timeout=EXIT_SECONDS)
        elif not _default.in_use:
            free = _free(except_for=id(_default))
            if not free:
                raise NotEnoughCores(1, 0, "other engines hold them all; close one, or compile on it with engine=")
            _held[id(_default)] = free
            _default.take_cores(free)
        return _default


def claim_cores(engine: Engine, num_cores: int | None, topology: Topology | None) -> tuple[Core, ...]:
    """The cores `engine` holds from now on. With a `topology` of its own it shares with nobody, and claims nothing."""
    if num_cores is not None and (isinstance(num_cores, bool) or not isinstance(num_cores, int) or num_cores < 1):
        raise InvalidOption(f"num_cores is a whole number from 1, not {num_cores!r}")
    with _lock:
        if topology is not None:
            free = topology.usable
        else:
            idle_default = _default is not None and not _default.closed and not _default.in_use
            free = _free(except_for=id(_default) if idle_default else None)
        wanted = len(free) if num_cores is None else num_cores
        if wanted > len(free) or not free:
            why = "this process may use no more" if not _held or topology else "engines that are open hold the others"
            raise NotEnoughCores(max(wanted, 1), len(free), why)
        taken = free[:wanted]
        if topology is None:
            _held[id(engine)] = taken
            if _default is not None and id(_default) in _held and _default is not engine and not _default.in_use:
                _held[id(_default)] = _free(except_for=id(_default))
        return taken


def give_back_cores(engine: Engine) -> None:
    global _default
    with _lock:
        _held.pop(id(engine), None)
        if _default is engine:
            atexit.unregister(engine.close)
            _default = None


def _free(except_for: int | None = None) -> tuple[Core, ...]:
    held = {core.cpu for owner, cores in _held.items() if owner != except_for for core in cores}
    return tuple(core for core in machine().usable if core.cpu not in held)


def waitall(timeout: float | None = None) -> None:
    """`Engine.waitall` of the process's own engine."""
    with _lock:
        engine = _default
    if engine is not None:
        engine.waitall(timeout)
