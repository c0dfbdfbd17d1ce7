"""What is left of archives that come and go: 100 of them with handlers of their own, loaded and unloaded ten times.

    python benchmarks/archives.py [--archives 100] [--rounds 10] [--at-once 8]

Each is packed, has other bytes than the others (so a folder of its own in the cache), is loaded by `Lifecycle.register`
with one worker process, answers one request, and is unloaded when `--at-once` others have come. After each round: the
memory of this process, its descriptors, threads and child processes, and the files in the cache and in the temporary
folder. Fails if anything but memory is more than after the first round, or if memory grew by more than GROWTH from the
second round to the last. Writes benchmarks/results/archives.md.

Memory that is freed may stay with the process: the C library keeps it in arenas, one for each of some threads (at most
eight times the cores), and every worker that is loaded has a thread. `MALLOC_ARENA_MAX=1` before the command shows
how much of a growth that is. That no object of ours stays is tested in tests/serving/test_nothing_is_left.py.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from machine import surroundings  # noqa: E402

from headrace.archives.cache import Cache  # noqa: E402
from headrace.serving.compile_options import CompileOptions  # noqa: E402
from headrace.serving.lifecycle import Lifecycle  # noqa: E402
from headrace.serving.service import Service  # noqa: E402
from headrace.serving.sources import Sources  # noqa: E402
from headrace.serving.wanted import Wanted  # noqa: E402
from headrace.testing import make_archive  # noqa: E402

HANDLER = """
class Service:
    def initialize(self, context):
        with open("weights.bin", "rb") as file:
            self.first = file.read(1)

    def handle(self, data, context):
        return ["NUMBER"] * len(data)
"""
WEIGHTS = 1 << 20
"""Bytes of each archive beside its code."""
GROWTH = 2.0
"""MiB."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="archives-") as made:
        folder = Path(made)
        tempfile.tempdir = str(folder / "tmp")
        Path(tempfile.tempdir).mkdir()
        rows = measure(folder, options.archives, options.rounds, options.at_once)
    first, second, last = rows[0], rows[min(1, len(rows) - 1)], rows[-1]
    grown = last[0] - second[0]
    leaks = [name for name, a, b in zip(COLUMNS[1:], first[1:-1], last[1:-1], strict=True) if b > a]
    lines = [
        f"{options.archives} archives, {options.rounds} rounds, at most {options.at_once} loaded at once; "
        f"{last[-1]:.0f} s a round.\n",
        "| after round | " + " | ".join(COLUMNS) + " |",
        "| ---: |" + " ---: |" * len(COLUMNS),
        *(
            f"| {number} | {row[0]:.1f} | " + " | ".join(map(str, row[1:-1])) + " |"
            for number, row in enumerate(rows, 1)
        ),
        f"\nMemory from the second round to the last: {grown:+.1f} MiB (gate {GROWTH:g}). More than after the first "
        f"round: {', '.join(leaks) or 'nothing'}.",
    ]
    where = ", ".join(f"{key} {value}" for key, value in surroundings().items())
    text = "\n".join(lines)
    print(text)
    (HERE / "results" / "archives.md").write_text(
        f"# Archives that come and go\n\n{text}\n\n`python benchmarks/archives.py {' '.join(sys.argv[1:])}`; {where}\n"
    )
    return 1 if leaks or grown > GROWTH else 0


COLUMNS = ("memory, MiB (RSS)", "descriptors", "threads", "child processes", "files in the cache", "temporary files")


def measure(folder: Path, count: int, rounds: int, at_once: int) -> list[tuple[float, ...]]:
    store, cache = folder / "store", folder / "cache"
    for number in range(count):
        files = {"service.py": HANDLER.replace("NUMBER", str(number)), "weights.bin": os.urandom(WEIGHTS)}
        make_archive(store, f"m{number}", files=files, handler="service")
    service = Service(max_requests=100, max_bytes=1 << 30)
    lifecycle = Lifecycle(service, CompileOptions(), Sources(store, cache=Cache(cache)))
    rows = []
    for number in range(1, rounds + 1):
        began = time.monotonic()
        loaded: deque[str] = deque()
        for each in range(count):
            entry = lifecycle.register(Wanted(None, f"m{each}.mar"), min_workers=1)
            loaded.append(entry.name)
            assert entry.served is not None
            answer = entry.served.model(("id", (), b""))
            assert answer == str(each).encode(), answer
            del entry
            if len(loaded) > at_once:
                lifecycle.unload(loaded.popleft())
        while loaded:
            lifecycle.unload(loaded.popleft())
        rows.append((*held(cache), time.monotonic() - began))
        print(f"round {number}: {rows[-1]}", flush=True)
    service.stop()
    return rows


def held(cache: Path) -> tuple[float, ...]:
    """What there is now, in the order of COLUMNS."""
    gc.collect()
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return (
        memory,
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        len(children),
        sum(1 for _ in cache.rglob("*")),
        sum(1 for _ in Path(tempfile.gettempdir()).rglob("*")),
    )


if __name__ == "__main__":
    sys.exit(main())
