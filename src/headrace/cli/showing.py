"""What `headrace models` shows: tables on stdout, what it waits for on stderr.

Rule 1: what others have written (names, urls, reasons) is text: nothing in it colours, moves or clears.
Rule 2: a program gets no escape codes and no lines that are rewritten, only what it asked for.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from headrace.wording import count_of, size_of

if TYPE_CHECKING:
    from rich.table import Table

    from headrace.client.told import ModelSeen, Operation

SHORT = 8
"""Characters of an operation's id that are shown; so many are enough to ask for it."""
_COLOURS = {
    "READY": "green", "LOADING": "yellow", "DRAINING": "yellow", "FAILED": "red", "done": "green", "running": "yellow",
    "failed": "red",
}  # fmt: skip


def listed(models: Sequence[ModelSeen], url: str) -> None:
    if not models:
        print(f"no model is registered at {url}")
        return
    table = _table()
    for heading in ("model", "version", "state", "workers", "batch", "waiting", "from"):
        right = heading in ("workers", "batch", "waiting")
        table.add_column(heading, justify="right" if right else "left", overflow="fold", no_wrap=right)
    for each in models:
        version = f"{each.version} *" if each.default and _has_others(each, models) else each.version
        table.add_row(
            plain(each.name),
            plain(version),
            _state(each.state),
            workers_of(each),
            str(each.batch_size),
            str(each.waiting),
            plain(each.url),
        )
    _console().print(table)
    if any(_has_others(each, models) for each in models):
        print("* the default version")


def shown(model: ModelSeen) -> None:
    console = _console()
    title = f"[bold]{plain(model.name)}:{plain(model.version)}[/bold]" + (" (default)" if model.default else "")
    console.print(f"{title}  {_state(model.state)}")
    about = _table(headings=False)
    about.add_column(style="dim", no_wrap=True)
    about.add_column(overflow="fold")
    about.add_row("  from", plain(model.url))
    if model.reason:
        about.add_row("  reason", plain(" ".join(model.reason.split())))
    about.add_row("  workers", workers_of(model))
    delay = f", waiting at most {model.max_batch_delay * 1000:g} ms for company" if model.max_batch_delay else ""
    about.add_row("  batch", count_of(model.batch_size, "row") + (delay if model.batch_size > 1 else ""))
    for what, seconds in (("  a run may take", model.response_timeout), ("  a load may take", model.startup_timeout)):
        if seconds is not None:
            about.add_row(what, f"{seconds:g} s")
    about.add_row("  waiting requests", f"{model.waiting:,}")
    console.print(about)
    if model.workers:
        table = _table()
        for heading in ("  worker", "pid", "state", "memory", "since"):
            table.add_column(heading, justify="right" if heading in ("pid", "memory") else "left")
        for worker in model.workers:
            table.add_row(
                f"  {plain(worker.id)}",
                str(worker.pid or "-"),
                _state("READY" if worker.ready else "UNLOADING"),
                size_of(worker.memory) if worker.memory else "-",
                moment(worker.started),
            )
        console.print(table)


def changes(operations: Sequence[Operation], today: date | None = None) -> None:
    """`today`: of what was then the time alone is shown; None: it is known."""
    if not operations:
        print("no change was made yet")
        return
    table = _table()
    for heading in ("id", "began", "change", "model", "state", "took"):
        right = heading == "took"
        table.add_column(heading, justify="right" if right else "left", overflow="fold", no_wrap=heading != "model")
    for each in operations:
        model = f"{each.model or '?'}" + (f":{each.version}" if each.version else "")
        took = "-"
        if each.started is not None and each.ended is not None:
            took = f"{(each.ended - each.started).total_seconds():.2f} s"
        began = moment(each.started, today=date.today() if today is None else today)
        table.add_row(plain(each.id[:SHORT]), began, each.kind, plain(model), _state(each.state), took)
    _console().print(table)
    failed = [each for each in operations if each.error is not None]
    if failed:
        print("\nwhy they failed:")
    for each in failed:  # below, where a reason has all the width there is, and is not cut into a column
        print(readable(f"{each.id[:SHORT]}  {' '.join(str(each.error).split())}"))


def outcome(model: ModelSeen) -> str:
    """One line: how it is now."""
    workers = count_of(model.ready_workers, "worker")
    if model.max_workers > model.min_workers:
        workers += f", and at most {model.max_workers}"
    return readable(f"{model.name}:{model.version} is {model.state} with {workers}")


def workers_of(model: ModelSeen) -> str:
    """`2`, `1 of 2` while not all are ready, `2 (1 to 4)` where their number follows the load."""
    ready, wanted = model.ready_workers, max(model.min_workers, len(model.workers))
    said = str(ready) if ready == wanted else f"{ready} of {wanted}"
    return said if model.max_workers <= model.min_workers else f"{said} ({model.min_workers} to {model.max_workers})"


@contextmanager
def progress(what: str) -> Iterator[Callable[[Callable[[], str]], None]]:
    """A line on stderr that says what is waited for, and how long it has been; only where somebody looks: else nobody
    is asked what to say."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("[dim]{task.fields[said]}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(plain(what), total=None, said="")
        yield lambda said: bar.update(task, said=plain(said()))


def as_json(value: Any) -> Any:
    """A result of `hr.manage` as JSON values: names as they are in Python, moments in ISO 8601."""
    if isinstance(value, Exception):
        return {"type": type(value).__name__, "message": str(value)}
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    if dataclasses.is_dataclass(value):
        return {each.name: as_json(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [as_json(each) for each in value]
    return value


def moment(at: datetime | None, *, today: date | None = None) -> str:
    """In the time of this machine. Of `today` without the date."""
    if at is None:
        return "-"
    here = at.astimezone()
    return here.strftime("%H:%M:%S" if here.date() == today else "%Y-%m-%d %H:%M:%S")


def readable(text: str) -> str:
    """What others have written, for a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def plain(text: str) -> str:
    """The same, within rich's markup."""
    from rich.markup import escape

    return escape(readable(text))


def _has_others(model: ModelSeen, models: Sequence[ModelSeen]) -> bool:
    return sum(each.name == model.name for each in models) > 1


def _state(state: str) -> str:
    colour = _COLOURS.get(state)
    return f"[{colour}]{plain(state)}[/{colour}]" if colour else plain(state)


def _table(*, headings: bool = True) -> Table:
    from rich.table import Table

    return Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False, show_header=headings)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)
