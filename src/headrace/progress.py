"""Progress of long work, on stderr. Nothing is imported or drawn unless somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def track(values: Iterator[T], description: str, total: int | None) -> Iterator[T]:
    """`values`, with a bar that says how many have passed, how fast, and how long it will take."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(description, total=total)
        try:
            for value in values:
                bar.advance(task)
                yield value
        finally:  # whoever stops early stops the work behind it now, not when its generator is collected
            close = getattr(values, "close", None)
            if close is not None:
                close()
