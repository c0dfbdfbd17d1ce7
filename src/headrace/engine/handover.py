"""Other streams for a port, while requests come, wait and run.

Rule 1: nothing is lost. What waits stays where it is, in its order, and is pulled by the new streams; what had been
        taken in a bundle and has not begun waits again; what runs ends on the stream it is on, which pulls no more.
Rule 2: all of the change is one step under the engine's lock. What can fail (threads) was made before it: where that
        fails, nothing has happened.
Rule 3: old and new streams need not wait for each other. Each leases its cores for a run, so what runs never needs more
        than there are, and the port keeps its place among those who wait for cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from headrace.engine.bundle import deliver
from headrace.engine.dispatch import Dispatch
from headrace.engine.guard import refuse_to_wait_inside
from headrace.engine.masks import bits_of
from headrace.engine.port import Port
from headrace.engine.source import Refused, Work
from headrace.engine.stream import Stream
from headrace.errors import Closed, NotEnoughCores


def replace_streams(
    engine: Dispatch, port: Port, masks: Sequence[int], switch: Callable[[], object], *, bound: bool = False
) -> tuple[Stream, ...]:
    """One stream for each core mask pulls from the port's source, instead of those that did. Returns the streams of
    before that have not ended: see `have_ended`.

    `switch()` is called within the step, with the engine's lock held: what it changes is so for every pull of the new
    streams and for none of the old ones. `bound`: each runs on its own cores. Closed if the port was detached.
    """
    refuse_to_wait_inside(engine.guard)
    with engine.guard.lock:
        number, port.made = port.made, port.made + len(masks)
    new = tuple(
        Stream(
            engine, port, mask, i, f"headrace-{port.name}-{number + i}", bits_of(mask) if bound else None, spare=True
        )
        for i, mask in enumerate(masks)
    )
    started: list[Stream] = []
    wake: list[Stream] = []
    refused: Refused = []
    settled: list[Work] = []
    try:
        for stream in new:
            stream.start()
            started.append(stream)
        with engine.guard.lock:
            if engine._closed or not port.attached:
                raise Closed("the model or the engine was closed meanwhile")
            if not masks or any(not mask or mask & ~engine._leases.cores for mask in masks):
                wanted = set().union(*(bits_of(mask) for mask in masks))
                have = wanted & bits_of(engine._leases.cores)
                raise NotEnoughCores(max(1, len(wanted)), len(have), "the engine does not have the others")
            engine._busy = True
            try:
                settled = _exchange(engine, port, new, wake)
                switch()
                now = engine.clock.now()
                engine._grant(wake)
                engine._arrange(port, now, wake)
                engine._put_what_was_put_off(wake, refused)
            finally:
                engine._busy = False
            former = tuple(port.former)
    except BaseException:
        if port.streams is not new:
            _dismiss(engine, started)
        raise
    try:
        engine._follow_up(wake, refused)
    except BaseException:  # Ctrl-C: some were not rung
        engine.recover(port, None)
        raise
    deliver(settled)
    return former


def have_ended(engine: Dispatch, port: Port, streams: Sequence[Stream], timeout: float | None = None) -> bool:
    """Wait, at most `timeout` seconds, until these have. False if some still run."""
    until = None if timeout is None else time.monotonic() + timeout
    for stream in streams:
        stream.join(None if until is None else max(0.0, until - time.monotonic()))
    with engine.guard.lock:
        _forget(engine, port)
        return all(stream.ended for stream in streams)


def _exchange(engine: Dispatch, port: Port, new: tuple[Stream, ...], wake: list[Stream]) -> list[Work]:
    """With the lock held. What has ended in bundles, and is to be delivered."""
    settled = engine._take_back(port, engine.clock.now())
    old = port.streams
    engine._leases.exchange(port.group, [stream.lane for stream in old], [stream.lane for stream in new])
    for stream in old:
        stream.stopping = True
        if not stream.lane.running:  # one that runs sees it when it looks for its next run
            engine._wake(stream, wake)
    _forget(engine, port)
    port.former += old
    port.streams = new
    port.watcher, port.vigilant = None, False
    # What the old ones took says nothing about the new ones, which may be wider or narrower.
    port.typical = port.quickest = float("inf")
    port.runs_before = port.runs
    return settled


def _forget(engine: Dispatch, port: Port) -> None:
    """Streams that have ended, unless somebody traces, whose picture they are in. With the lock held."""
    if engine.guard.trace is None:
        port.former = [stream for stream in port.former if not stream.ended]


def _dismiss(engine: Dispatch, streams: Sequence[Stream]) -> None:
    """They were never the port's."""
    wake: list[Stream] = []
    with engine.guard.lock:
        for stream in streams:
            stream.stopping = True
            engine._wake(stream, wake)
    for stream in wake:
        stream.ring()
    for stream in streams:
        stream.join()
