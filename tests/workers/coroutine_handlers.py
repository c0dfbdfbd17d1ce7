"""Coroutine functions that worker processes run in these tests."""

import asyncio
import contextvars
import os
import signal
import sys
import threading
import time

import numpy as np

INSIDE = []
MOST = [0]
VALUE = contextvars.ContextVar("value", default="none")


async def _until(*path):
    while not os.path.exists(os.path.join(*path)):
        await asyncio.sleep(0.005)


def _say(*path):
    with open(os.path.join(*path), "w"):
        pass


async def meets(count):
    """Returns once so many are inside."""
    INSIDE.append(1)
    while len(INSIDE) < count:
        await asyncio.sleep(0.005)
    return os.getpid()


async def ends_together(given):
    """So many bytes, once so many are inside: all in one turn of the loop."""
    count, nbytes = given
    if not INSIDE:
        MOST.append(asyncio.Event())
    INSIDE.append(1)
    if len(INSIDE) == count:
        MOST[-1].set()
    await MOST[-1].wait()
    return b"x" * nbytes


async def counts(_):
    """The most that were inside."""
    INSIDE.append(1)
    MOST[0] = max(MOST[0], len(INSIDE))
    for _ in range(3):
        await asyncio.sleep(0)
    INSIDE.pop()
    return MOST[0]


async def gate(folder):
    """A path waits there; all else is answered at once."""
    if isinstance(folder, str):
        _say(folder, f"reached-{os.getpid()}")
        await _until(folder, "open")
    return os.getpid()


async def heeds(folder):
    import headrace_worker

    if headrace_worker.cancelled():
        return "cancelled before it began"
    _say(folder, "reached")
    try:
        await _until(folder, "open")
    except asyncio.CancelledError:
        if headrace_worker.cancelled():
            _say(folder, "cancelled")
        raise


async def ignores(folder):
    """But for numbers: those wait for the gate, and for so many of them inside."""
    if not isinstance(folder, str):
        folder, count = folder
        INSIDE.append(1)
        _say(folder, f"reached-{os.getpid()}-{len(INSIDE)}")
        await _until(folder, "open")
        while len(INSIDE) < count:
            await asyncio.sleep(0.005)
        return os.getpid()
    _say(folder, f"reached-{os.getpid()}")
    while not os.path.exists(os.path.join(folder, "open")):
        try:
            await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            _say(folder, "ignored")
    return os.getpid()


async def inner_wait(folder):
    await _until(folder, "open")


async def hangs(folder):
    """Of two words the first says what it does."""
    if not isinstance(folder, str):
        return os.getpid()
    what, _, folder = folder.partition(" ")
    _say(folder, f"reached-{os.getpid()}")
    if what == "blocks":
        while not os.path.exists(os.path.join(folder, "open")):
            time.sleep(0.005)
    elif what == "waits":
        await inner_wait(folder)
    return os.getpid()


async def dies_if(x):
    if x == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(x, str):
        _say(x, f"reached-{os.getpid()}")
        await _until(x, "open")
    return x


async def ends_it_later(x):
    """It says "later": a thread ends the process, and nothing says whose. Others as `dies_if`."""
    if x == "later":
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()
        await asyncio.sleep(1000)
    return await dies_if(x)


async def blocks_later(x):
    """It says "later": a callback of its own blocks the loop for good. Others as `hangs`."""
    if x == "later":
        asyncio.get_running_loop().call_soon(time.sleep, 1000)
        await asyncio.sleep(1000)
    return await hangs(x)


async def holds(folder):
    """As `gate`, and each says that it is inside."""
    INSIDE.append(1)
    _say(folder, f"reached-{os.getpid()}-{len(INSIDE)}")
    await _until(folder, "open")
    return os.getpid()


async def fails(kind):
    await asyncio.sleep(0)
    if kind == "exit":
        sys.exit(3)
    if kind == "cancelled":
        raise asyncio.CancelledError
    raise ValueError(f"no {kind}")


async def in_context(x):
    before = VALUE.get()
    VALUE.set(x)
    for _ in range(3):
        await asyncio.sleep(0)
    return before, VALUE.get(), await asyncio.to_thread(VALUE.get)


async def batch(xs):
    await asyncio.sleep(0)
    if "bad" in xs:
        raise ValueError("there is a bad one")
    return [(len(xs), x) for x in xs]


async def double(x):
    await asyncio.sleep(0)
    return x * 2


async def room(folder, x):
    """An array of `x` bytes; or, where it is an array, nothing, once the gate is open."""
    if isinstance(x, int):
        return np.ones(x, np.uint8)
    _say(folder, f"reached-{os.getpid()}")
    await _until(folder, "open")
    return None


KEPT = []


async def keeps(x):
    await asyncio.sleep(0)
    KEPT.append(x)
    return [float(each.sum()) for each in KEPT]


async def generates(_):
    yield 1


BEHIND = []


async def leaves_something_behind(folder):
    async def goes_on():
        try:
            await asyncio.sleep(1000)
        finally:
            _say(folder, "ended")

    BEHIND.append(asyncio.create_task(goes_on()))
    await asyncio.sleep(0)


class Called:
    async def __call__(self, x):
        await asyncio.sleep(0)
        return x


called = Called()
