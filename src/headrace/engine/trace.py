"""A recording of what an engine or one of its models does, and the trace of it that ui.perfetto.dev and
chrome://tracing draw. Others write it in their own way: a `Write` for each ending of a file's name.

Rule 1: to record is to append to a ring (`events`). No lock, no formatting: all of that is done by `stop`.
Rule 2: the newest `capacity` events are kept, and the trace says how many were forgotten.
Rule 3: each file is whole or absent.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

from headrace.engine.events import Event, Ring, of_source
from headrace.engine.perfetto import dump
from headrace.engine.timeouts import shown
from headrace.errors import InvalidOption

MOST_EVENTS = 100_000_000


class Trace:
    """A recording. Ends with `stop`, or with its `with` block; the files are written then.

    `record` takes an event; it may be called from any thread, and costs no more than the append that it is.
    `streams` may be set to the names of the streams, in the order of their tracks; others come after, by name.
    `on_stop` is called once, before the files are written: the engine stops recording, and adds runs that still go on.
    `source`: the one port whose events are written; None: all are. `writers`: who writes which file, by the ending of
    its name; None: whatever it is called, it is a trace for Perfetto.
    """

    def __init__(
        self,
        *paths: str | os.PathLike[str],
        capacity: int = 1_000_000,
        on_stop: Callable[[Trace], None] | None = None,
        process_name: str = "headrace engine",
        source: str | None = None,
        writers: Mapping[str, Write] | None = None,
    ) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int) or not 1 <= capacity <= MOST_EVENTS:
            raise InvalidOption(
                f"capacity is how many events a trace keeps, from 1 to {MOST_EVENTS:,}, not {shown(capacity)}"
            )
        if not paths:
            raise InvalidOption("a trace needs the name of a file to be written to")
        self._files = tuple((_writable(path), _writer(path, writers)) for path in paths)
        self.capacity, self.process_name, self.source = capacity, process_name, source
        self.streams: Sequence[str] = ()
        self.masks: Sequence[int] = ()
        """The cores of each of `streams`, where they are known."""
        self.began = 0.0
        """When it began, by the engine's clock."""
        self.unfinished: Sequence[str] = ()
        """The streams whose last run still went on when the recording ended."""
        self._ring = Ring(capacity)
        self.record: Callable[[Event], None] = self._ring.append
        self._on_stop = on_stop
        self._claim = threading.Lock()
        self._stopped_by: int | None = None
        self._finished = threading.Event()

    @property
    def path(self) -> Path:
        """The first of its files."""
        return self._files[0][0]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for path, _ in self._files)

    @property
    def running(self) -> bool:
        return self._stopped_by is None

    @property
    def events(self) -> list[Event]:
        """What is recorded now, as it came."""
        return self._ring.look()[0]

    @property
    def dropped(self) -> int:
        """How many events were forgotten, because `capacity` newer ones came. At least: when several threads record in
        the very moment in which a multiple of `capacity` is reached, one of theirs may not be counted."""
        return self._ring.look()[1]

    def stop(self) -> None:
        """End the recording and write the files. Does it once; a second call waits for the first.

        Raises OSError if one cannot be written; nothing of that is left behind then, and the others are there.
        """
        with self._claim:
            first = self._stopped_by is None
            if first:
                self._stopped_by = threading.get_ident()
        if first:
            try:
                if self._on_stop is not None:
                    self._on_stop(self)
            finally:  # what was recorded is not lost because `on_stop` failed
                try:
                    self._write()
                finally:
                    self._finished.set()
        elif self._stopped_by != threading.get_ident():  # within its own `on_stop` it would wait for itself
            self._finished.wait()

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    def recorded(self) -> tuple[list[Event], int]:
        """What is to be written, in the order of time, and how many events were forgotten."""
        events, dropped = self._ring.look()
        events.sort(key=itemgetter(1))
        if self.source is not None:
            events = of_source(events, self.source, frozenset(self.streams))
        return events, dropped

    def _write(self) -> None:
        failed: BaseException | None = None
        for path, write in self._files:
            part = _part(path)
            try:
                with open(part, "xb") as file:
                    write(self, file)
                os.replace(part, path)
            except BaseException as error:
                with contextlib.suppress(OSError):  # its folder may be gone
                    part.unlink()
                failed = failed or _named(error, path)
        if failed is not None:
            raise failed


class Several:
    """Traces that record the same engine at the same time."""

    def __init__(self, traces: Sequence[Trace]) -> None:
        self._records = tuple(trace.record for trace in traces)

    def record(self, event: Event) -> None:
        for record in self._records:
            record(event)


def stop_all(traces: Iterable[Trace]) -> None:
    """Stop each; raises what the first that failed has raised."""
    failed: BaseException | None = None
    for trace in traces:
        try:
            trace.stop()
        except BaseException as error:
            failed = failed or error
    if failed is not None:
        raise failed


class Write(Protocol):
    def __call__(self, trace: Trace, file: BinaryIO) -> None:
        """Write what `trace` has recorded into `file`."""


def write_json(trace: Trace, file: BinaryIO) -> None:
    """A trace for Perfetto."""
    events, dropped = trace.recorded()
    dump(events, file.write, process_name=trace.process_name, streams=trace.streams, dropped=dropped)


def write_packed_json(trace: Trace, file: BinaryIO) -> None:
    """The same, gzipped."""
    with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=3) as packed:
        write_json(trace, packed)  # type: ignore[arg-type]  # it writes, which is all that is asked of it


PERFETTO: Mapping[str, Write] = {".json": write_json, ".json.gz": write_packed_json}


def _writer(path: str | os.PathLike[str], writers: Mapping[str, Write] | None) -> Write:
    name = os.path.basename(os.fspath(path)).lower()
    if writers is None:
        return write_packed_json if name.endswith(".gz") else write_json
    for ending, write in writers.items():
        if name.endswith(ending):
            return write
    raise InvalidOption(
        f"{os.fspath(path)!r}: what is written follows from how the name ends, and that can be {', '.join(writers)}"
    )


def _writable(path: str | os.PathLike[str]) -> Path:
    """Where to write. Says now what would be found out when the recording is over."""
    try:
        # Followed now: the folder a program is in may change, and what a link leads to is what is to be written.
        found = Path(os.path.realpath(path))
        if not found.parent.is_dir():
            raise InvalidOption(f"the trace is to be written into {found.parent}, which is no folder; make it first")
        if found.exists() and not found.is_file():
            raise InvalidOption(f"the trace is to be written to {found}, which is no file; give the name of a file")
        part = _part(found)
        open(part, "xb").close()
        part.unlink()
    except InvalidOption:
        raise
    except (OSError, ValueError) as error:
        raise InvalidOption(
            f"the trace cannot be written to {path!r}: {error}; give a file in a folder that you may write in"
        ) from error
    return found


def _named(error: BaseException, path: Path) -> BaseException:
    """With the name the user gave, not the one it was written under."""
    if not isinstance(error, OSError) or error.errno is None:
        return error
    what = f"the trace could not be written ({error.strerror}); keep its folder until it has been"
    named = OSError(error.errno, what, str(path))
    named.__cause__ = error
    return named


def _part(path: Path) -> Path:
    """A name beside it, for a file that is not whole yet. Opened as any file: others may read it as the umask says."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
