"""Where the time of one call to a worker goes, with nothing beside it: the figures of decision 20.

    python benchmarks/lone.py [--calls 2000]

By size: the median of a call with so many bytes each way. Calls: the functions, Python's and C's, that the caller's
thread goes through from one call to the next, counted by `sys.setprofile`; and, as the server does it, an event loop's
thread from one request to the next (without HTTP).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import headrace as hr
from headrace.model.pending import Owner, Pending

SIZES = (4_000, 20_000, 200_000, 600_000, 1_200_000)
"""Bytes."""
COUNTED = 20
"""Calls that are looked at."""


class Nobody(Owner):
    name = "nobody"

    def on_error(self, pending: Pending) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    calls = parser.parse_args().calls
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "lone_handlers.py").write_text("def echo(x): return x\n")
        sys.path.insert(0, folder)
        with hr.compile_model("lone_handlers:echo", isolation="process") as model:
            values: dict[str, Any] = {"a number": 1}
            values |= {f"{nbytes:,} bytes": np.zeros(nbytes, np.uint8) for nbytes in SIZES}
            print("| each way | p50 us | functions of the caller's thread |\n| --- | ---: | ---: |")
            for name, value in values.items():
                print(f"| {name} | {timed(model, value, calls):.0f} | {functions(model, value)} |", flush=True)
            on_a_loop = asyncio.run(functions_on_a_loop(model))
            print(f"\nOn an event loop, a number: {on_a_loop} functions from one to the next.")
    return 0


def timed(model: hr.Model, value: Any, calls: int) -> float:
    """Microseconds."""
    took = []
    for _ in range(calls + 200):  # the first ones warm up
        began = time.perf_counter()
        model(value)
        took.append(time.perf_counter() - began)
    return median(took[200:]) * 1e6


def functions(model: hr.Model, value: Any) -> int:
    with counted() as count:
        for _ in range(COUNTED):
            model(value)
    return round(count[0] / COUNTED)


async def functions_on_a_loop(model: hr.Model) -> int:
    async def ask() -> None:
        pending = Pending(Nobody(), (1,), model.guard)
        model.send(pending)
        await pending

    for _ in range(200):
        await ask()
    with counted() as count:
        for _ in range(COUNTED):
            await ask()
    return round(count[0] / COUNTED)


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many functions this thread calls meanwhile."""
    count = [0]

    def look(_: Any, event: str, __: Any) -> None:
        if event in ("call", "c_call"):
            count[0] += 1

    sys.setprofile(look)
    try:
        yield count
    finally:
        sys.setprofile(None)


if __name__ == "__main__":
    raise SystemExit(main())
