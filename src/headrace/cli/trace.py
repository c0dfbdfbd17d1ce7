"""`headrace trace`: real requests to a model under each scheduler, and a picture of what its streams did with them."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.engine.scheduler import Scheduler
from headrace.errors import BackendError, InvalidInput, InvalidModel, InvalidOption

if TYPE_CHECKING:  # what only a run needs is imported by it: `headrace --help` is quick
    from headrace.cli.load import Limit
    from headrace.model.model import Model
    from headrace.model.timeline import Figures

SECONDS = 3.0
ENDINGS = (".png", ".json", ".json.gz")
OTHER_ENDINGS = (".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".webp", ".gz", ".txt", ".html", ".onnx")
"""What nobody calls a folder."""
_SHAPE = re.compile(r"\s*(?:([^\[\]=,\s]+)\s*=\s*)?\[([\d,\s]*)\]\s*(?:,|$)")
_HELP = {
    "model": "An ONNX file, or module:function. Without one, the bundled digits model.",
    "scheduler": "A scheduler to trace; again for another. Without any, all that have streams.",
    "all": "All schedulers that have streams.",
    "callers": "So many callers, each with one request at a time; 4 unless --rate is given.",
    "rate": "In place of callers: requests that arrive at random, so many a second on average.",
    "seed": "Of the arrivals. One is drawn, and said, if none is given.",
    "requests": "Stop after so many requests.",
    "seconds": f"Stop after so many seconds; {SECONDS:g} unless --requests is given.",
    "out": "A folder for the files, or one file: .png, .json or .json.gz.",
    "shapes": "Shapes of the inputs: [1,3,224,224] in their order, or x=[1,3,224,224]. What is free is 1.",
    "input": "What a module:function is called with, as JSON: a list is its arguments, an object its named ones.",
    "window": "Milliseconds the picture shows; else as many runs as have room for their numbers.",
    "cores": "Cores the model may use; none: all.",
    "streams": "Streams, where the scheduler lets you choose.",
    "batch": "Requests (rows) joined into one run.",
    "delay": "Seconds a free stream waits for company.",
}


@dataclass(frozen=True)
class Traced:
    scheduler: Scheduler
    streams: str
    figures: Figures
    files: tuple[Path, ...]


def trace(
    model: Annotated[str, typer.Argument(help=_HELP["model"], show_default=False)] = "",
    scheduler: Annotated[list[str] | None, typer.Option(help=_HELP["scheduler"])] = None,
    every: Annotated[bool, typer.Option("--all", help=_HELP["all"])] = False,
    callers: Annotated[int | None, typer.Option(min=1, max=10_000, help=_HELP["callers"])] = None,
    rate: Annotated[float | None, typer.Option(help=_HELP["rate"])] = None,
    seed: Annotated[int | None, typer.Option(help=_HELP["seed"])] = None,
    requests: Annotated[int | None, typer.Option(min=1, help=_HELP["requests"])] = None,
    seconds: Annotated[float | None, typer.Option(help=_HELP["seconds"])] = None,
    out: Annotated[Path, typer.Option(help=_HELP["out"])] = Path(),
    input_shapes: Annotated[str | None, typer.Option(help=_HELP["shapes"])] = None,
    value: Annotated[str | None, typer.Option("--input", help=_HELP["input"])] = None,
    window: Annotated[float | None, typer.Option(help=_HELP["window"])] = None,
    num_cores: Annotated[int | None, typer.Option(min=1, help=_HELP["cores"])] = None,
    num_streams: Annotated[int | None, typer.Option(min=1, help=_HELP["streams"])] = None,
    max_batch_size: Annotated[int, typer.Option(min=1, help=_HELP["batch"])] = 1,
    max_batch_delay: Annotated[float, typer.Option(min=0, help=_HELP["delay"])] = 0.0,
) -> None:
    """Draw what each scheduler does with real requests: streams, cores, who runs when, and who waits.

    Runs MODEL on made-up inputs, and writes NAME-SCHEDULER.png, and .json for ui.perfetto.dev.
    """
    from headrace.cli.load import Limit

    for flag, number in (("--rate", rate), ("--seconds", seconds), ("--window", window)):
        if number is not None and not 0 < number < float("inf"):
            raise InvalidOption(f"{flag} is a number above 0, not {number:g}")
    if rate is not None and callers is not None:
        raise InvalidOption("--callers and --rate are two ways to send requests: give one of them")
    wanted = _schedulers(scheduler, every)
    if rate is not None and Scheduler.naive in wanted:
        raise InvalidOption("naive runs each request in its caller, so nothing can arrive meanwhile: use --callers")
    if rate is not None and seed is None:
        seed = secrets.randbelow(1_000_000)
    shapes, given = _shapes(input_shapes), _value(value)
    source, single = _source(model), _out(out, wanted)
    limit = Limit(requests, SECONDS if requests is None and seconds is None else seconds)
    from headrace.engine.ownership import machine
    from headrace.engine.placement import plan

    # Where the scheduler lets one choose; elastic does within what the machine has, so only if it is asked for alone.
    chosen = {
        each: num_streams
        if each is Scheduler.multi_stream or (each is Scheduler.elastic and len(wanted) == 1)
        else None
        for each in wanted
    }
    for each in wanted:  # before any is run: what cannot be placed is told at once
        if each is not Scheduler.naive:
            plan(each, machine().usable, num_cores, chosen[each])
    traced = []
    for each in wanted:
        options = {
            "scheduler": each,
            "input_shapes": shapes,
            "num_cores": num_cores,
            "num_streams": chosen[each],
            "max_batch_size": max_batch_size,
            "max_batch_delay": max_batch_delay,
        }
        load = (callers or 4, rate, seed or 0, limit)
        traced.append(_traced(source, options, given, load, out, single, window and window / 1e3))
    _print(traced, limit, callers or 4, rate, seed)


def _traced(
    source: Any,
    options: dict[str, Any],
    given: tuple[Any] | None,
    load: tuple[int, float | None, int, Limit],
    out: Path,
    single: bool,
    window: float | None,
) -> Traced:
    from headrace.cli.load import closed_loop, poisson
    from headrace.model.compile import compile_model
    from headrace.model.timeline import figures
    from headrace.model.tracing import timeline_of_trace

    callers, rate, seed, limit = load
    with compile_model(source, **options) as model, ExitStack() as stack:
        value = _inputs(model, given)
        _warm_up(model, value)
        stem = f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', model.name)}-{model.scheduler}"
        files = (out,) if single else (out / f"{stem}.png", out / f"{stem}.json")
        trace = stack.enter_context(model.trace(*files, window=window, note=_note(callers, rate)))
        report = stack.enter_context(_progress(str(model.scheduler), limit))
        try:
            if rate is None:
                closed_loop(model, value, callers, limit, report)
            else:
                poisson(model, value, rate, seed, limit, report)
        except (BackendError, InvalidInput) as error:
            raise InvalidModel(f"{model.name} failed while it was traced: {error}") from error
        trace.stop()
        streams = len(model.placements)
        widths = sorted({place.width for place in model.placements})
        said = f"{streams} x {'-'.join(map(str, dict.fromkeys((widths[0], widths[-1]))))}" if widths else "caller"
        return Traced(model.scheduler, said, figures(timeline_of_trace(model, trace)), files)


def _warm_up(model: Model, value: Any) -> None:
    """Every stream has run once or twice: the first runs of a model are slower, and not what is to be seen."""
    try:
        for _ in range(2):
            for future in [model.submit(value) for _ in range(max(1, len(model.placements)))]:
                future.result()
    except (BackendError, InvalidInput) as error:
        raise InvalidModel(
            f"{model.name} does not run on made-up inputs: {error}; give shapes that fit with --input-shapes, or to a "
            "function with --input what it takes"
        ) from error


def _schedulers(names: Sequence[str] | None, every: bool) -> list[Scheduler]:
    if names and every:
        raise InvalidOption("--all and --scheduler exclude each other: give one of them")
    if names:
        return list(dict.fromkeys(Scheduler.of(name) for name in names))
    return [each for each in Scheduler if each is not Scheduler.naive]


def _source(model: str) -> Any:
    from headrace.serving.kinds import import_callable
    from headrace.serving.wanted import CALLABLE

    if not model:
        from headrace.server.options import BUNDLED_DIGITS

        return Path(BUNDLED_DIGITS) / "digits.onnx"
    if CALLABLE.match(model) and not Path(model).exists():
        return import_callable(model)
    return model


def _shapes(text: str | None) -> dict[str, list[int]] | list[list[int]] | None:
    """`[1,3],[2]` in the order of the inputs, or `x=[1,3],y=[2]`."""
    if text is None:
        return None
    found: list[tuple[str | None, list[int]]] = []
    at = 0
    while at < len(text):
        one = _SHAPE.match(text, at)
        if one is None:
            break
        found.append((one[1], [int(n) for n in one[2].split(",") if n.strip()]))
        at = one.end()
    named = {name: shape for name, shape in found if name is not None}
    if at < len(text) or not found or len(named) not in (0, len(found)):
        raise InvalidOption(f"--input-shapes is [1,3,224,224],[1,5] or x=[1,3,224,224],y=[1,5], not {text!r}")
    return named or [shape for _, shape in found]


def _value(text: str | None) -> tuple[Any] | None:
    """In a tuple, as it may be null."""
    if text is None:
        return None
    try:
        return (json.loads(text),)
    except ValueError as error:
        raise InvalidOption(f"--input is JSON, as 3 or '[1, 2]' or '{{\"x\": 1}}', not {text!r}: {error}") from error


def _inputs(model: Model, given: tuple[Any] | None) -> Any:
    """What every request brings: what was given, or made-up values for the inputs the model says it has."""
    import numpy as np

    if given is not None:
        if model.inputs is not None:
            raise InvalidOption("--input is for a module:function; an ONNX model gets random values of --input-shapes")
        return given[0]
    if model.inputs is None:
        if model.required:
            raise InvalidOption(f"{model.name} takes arguments: say with --input what it is to be called with, as JSON")
        return []
    rng = np.random.default_rng(0)
    made = {}
    for spec in model.inputs:
        shape = tuple(1 if n is None else n for n in spec.shape)
        if spec.dtype.kind == "f":
            made[spec.name] = rng.random(shape).astype(spec.dtype)
        elif spec.dtype.kind == "O":
            made[spec.name] = np.full(shape, "a", object)
        else:  # what may be a place in a table: 0 and 1 are in most
            made[spec.name] = rng.integers(0, 2, shape).astype(spec.dtype)
    return made


def _out(out: Path, wanted: Sequence[Scheduler]) -> bool:
    """Whether `out` is one file. A folder is made, if there is none."""
    if out.name.lower().endswith(ENDINGS) and not out.is_dir():
        if len(wanted) > 1:
            raise InvalidOption(
                f"--out {out} is one file, and {len(wanted)} schedulers are to be traced: give a folder, or one "
                "--scheduler"
            )
        return True
    if out.suffix.lower() in OTHER_ENDINGS and not out.is_dir():
        raise InvalidOption(f"--out {out}: a file is {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidOption(f"--out {out} is to be a folder, and cannot be made: {error.strerror}") from error
    return False


def _note(callers: int, rate: float | None) -> str:
    if rate is not None:
        return f"{rate:g} requests/s arrive at random"
    return (
        "1 caller, with one request at a time"
        if callers == 1
        else f"{callers} callers, each with one request at a time"
    )


# --- showing ----------------------------------------------------------------------------------------------------------


class _progress:
    """A bar on stderr: how many of the requests, or how much of the time. Called as a `load.Report`."""

    def __init__(self, name: str, limit: Limit) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._limit = limit
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
        self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(name, total=1.0, said="")

    def __enter__(self) -> _progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, requests: int, seconds: float) -> None:
        parts = []
        if self._limit.requests is not None:
            parts.append(requests / self._limit.requests)
        if self._limit.seconds is not None:
            parts.append(seconds / self._limit.seconds)
        self._bar.update(self._task, completed=min(1.0, max(parts)), said=f"{requests:,} requests")


def _print(traced: Sequence[Traced], limit: Limit, callers: int, rate: float | None, seed: int | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for heading in ("scheduler", "streams x cores", "requests", "requests/s", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="left" if heading.startswith("s") else "right", no_wrap=True)
    for one in traced:
        said = one.figures
        table.add_row(
            str(one.scheduler), one.streams, f"{said.requests:,}", f"{said.per_second:,.1f}", *_milliseconds(said)
        )
    arrivals = f", seed {seed}" if rate is not None else ""
    console.print(f"{_note(callers, rate)}{arrivals}", markup=False, highlight=False)
    console.print(table)
    for one in traced:
        for file in one.files:
            print(f"written: {file}")


def _milliseconds(said: Figures) -> Iterator[str]:
    for seconds in (said.p50, said.p99):
        yield "-" if seconds is None else f"{seconds * 1e3:,.2f}"
