"""How many workers a model has and may have: processes, or the streams of one in the server's process."""

from __future__ import annotations

from headrace.engine.ownership import default_engine
from headrace.engine.scheduler import Scheduler
from headrace.errors import InvalidOption
from headrace.model.model import Model
from headrace.serving.compile_options import CompileOptions
from headrace.serving.located import Located
from headrace.serving.registry import Entry
from headrace.serving.served import Served
from headrace.wording import are, count_of
from headrace.workers.options import MOST


def workers_of(entry: Entry[Served]) -> int:
    """Processes, or streams."""
    return 0 if entry.served is None else count(entry.served.model)


def most_workers_of(entry: Entry[Served]) -> int:
    """How many there could be, of one that is loaded: each stream wants a core of its own."""
    assert entry.served is not None
    return most(entry.served.model, entry.about.options)


def is_partly_up(entry: Entry[Served]) -> bool:
    """Whether less workers than the least are ready: some still start."""
    crew = None if entry.served is None else entry.served.model.crew
    return crew is not None and crew.ready < entry.about.min_workers


def bounds(min_workers: int, max_workers: int | None) -> tuple[int, int]:
    high = min_workers if max_workers is None else max_workers
    for name, number in (("min_worker", min_workers), ("max_worker", high)):
        if number < 0:
            raise InvalidOption(f"{name} is counted from 0 up, not {number}")
    if high < min_workers:
        raise InvalidOption("max_worker cannot be less than min_worker.")
    return min_workers, high


def within(number: int, low: int, high: int) -> int:
    return min(max(number, low), high)


def count(model: Model) -> int:
    """Of its workers: processes, or streams."""
    if model.crew is not None:
        return len(model.crew)
    return 1 if model.port is None else len(model.port.streams)


def is_apart(located: Located, options: CompileOptions) -> bool:
    """Whether it runs in worker processes, as far as that is known before it is loaded."""
    return options.isolation == "process" or (located.is_code and options.isolation != "thread")


def check_count(name: str, located: Located, options: CompileOptions, workers: int) -> None:
    if is_apart(located, options) or options.interpreters.of(name) is not None:
        if workers > MOST:
            raise InvalidOption(
                f"{workers:,} workers were asked for; {name} runs in worker processes, of which a model has at most "
                f"{MOST}"
            )
    elif workers > 1:
        cores = len(default_engine().cores)
        if options.num_cores is not None:
            cores = min(cores, options.num_cores)
        if workers > cores:
            raise InvalidOption(
                f"{workers:,} workers were asked for; {name} runs in the server's process, where each is a stream with "
                f"a core of its own, and there {are(cores)} {count_of(cores, 'core')}"
            )


def most(model: Model, options: CompileOptions) -> int:
    if model.crew is not None:
        return MOST
    cores = 1 if model.engine is None else len(model.engine.cores)
    return cores if options.num_cores is None else min(cores, options.num_cores)


def use_streams(model: Model, streams: int, cores: int | None, timeout: float | None = None) -> None:
    """A model in this process: so many requests at once, on so many `cores` (None: all). InvalidOption where there are
    not as many."""
    scheduler = Scheduler.single_stream if streams == 1 else Scheduler.multi_stream
    model.reschedule(scheduler, num_streams=None if streams == 1 else streams, num_cores=cores, timeout=timeout)
