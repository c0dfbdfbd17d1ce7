"""`model.trace`: an engine's recording, of which the events of one model are written, as a picture or for Perfetto."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

from headrace.engine.trace import PERFETTO, Trace, Write
from headrace.errors import Closed, InvalidOption
from headrace.model.drawing import Subject
from headrace.model.shown import Window, check_window
from headrace.model.timeline import CALLER, Row, Timeline, timeline_of

if TYPE_CHECKING:
    from headrace.model.model import Model


def trace_of(
    model: Model, paths: Sequence[str | os.PathLike[str]], window: Window | None, capacity: int, note: str
) -> Trace:
    check_window(window)
    if not isinstance(note, str):
        raise InvalidOption(f"note is a text for below the title, not a {type(note).__name__}")
    if model.closed:
        raise Closed(f"model {model.name} is closed")
    engine, port = model.engine, model.port
    if engine is not None:
        engine.check_process()

    def on_stop(trace: Trace) -> None:
        with model.guard.lock:
            if model.traced is trace:
                model.traced = None
        if engine is not None and port is not None:
            engine.stop_tracing(trace, [port])
        else:
            with model.guard.lock:
                model.guard.end_trace(trace)
            trace.streams, trace.masks = [CALLER], [0]

    def png(trace: Trace, file: BinaryIO) -> None:
        from headrace.model.picture import picture

        subject = _subject(model, trace, note)
        picture(timeline_of_trace(model, trace), subject, window).save(file, "PNG", optimize=True)

    writers: Mapping[str, Write] = {".png": png, **PERFETTO}
    trace = Trace(
        *paths,
        capacity=capacity,
        on_stop=on_stop,
        process_name=_process_name(model.name, model.scheduler),
        source=port.name if port is not None else model.name,
        writers=writers,
    )
    with model.guard.lock:
        if model.traced is not None:
            raise InvalidOption(f"this model is being traced into {model.traced.path}; stop that first")
        model.traced = trace
        model.guard.begin_trace(trace)
    return trace


def timeline_of_trace(model: Model, trace: Trace) -> Timeline:
    """What a trace of `model` that has stopped has recorded."""
    cores = model.engine.cores if model.engine is not None else ()
    rows = [
        Row(name, tuple(core.cpu for core in cores if mask >> core.cpu & 1))
        for name, mask in zip(trace.streams, trace.masks)
    ]
    return timeline_of(trace.recorded()[0], rows, trace.unfinished)


def _subject(model: Model, trace: Trace, note: str) -> Subject:
    cores = model.engine.cores if model.engine is not None else ()
    schedulers = trace.process_name.removeprefix(_process_name(model.name, ""))
    nodes = {core.cpu: core.node for core in cores}
    return Subject(model.name, schedulers, len(cores), nodes, note, trace.recorded()[1])


def _process_name(name: str, schedulers: str) -> str:
    return f"headrace {name}, {schedulers}"
