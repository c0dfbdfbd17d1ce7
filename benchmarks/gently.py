"""What workers that start cost a model that serves: ResNet-18 at half its capacity, while workers come and go.

    python benchmarks/gently.py [--rounds 12] [--secs 3]

Slices of alone, of workers that start as everybody does, with a niceness alone, and as Headrace does, in an order that
is drawn anew in each round. Prints what docs/decisions/0027 shows.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

# Before the runtime is imported: no thread that sends usage data.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from machine import surroundings  # noqa: E402
from make_resnet18 import resnet18  # noqa: E402

import headrace as hr  # noqa: E402
from headrace.workers import worker  # noqa: E402

AS_IT_IS = worker.GENTLE, worker.AT_ONCE
MODES = {
    "alone": None,
    "workers start as everybody": (0.0, 0.0),
    "niceness 10": (worker.GENTLE, 0.0),
    "SCHED_IDLE for a second, then that": AS_IT_IS,
}
"""The part of the time to start in which a worker gives way, and the seconds in which it does so at once."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--secs", type=float, default=3.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "resnet18.onnx").write_bytes(resnet18(128).SerializeToString())
        Path(folder, "bench_gently.py").write_text("def answers(x): return x\n")
        sys.path.insert(0, folder)
        os.environ["PYTHONPATH"] = folder
        with hr.compile_model(str(Path(folder, "resnet18.onnx")), scheduler="multi_stream") as model:
            print(table(model, options.rounds, options.secs))
    print("\n" + ", ".join(f"{key} {value}" for key, value in surroundings().items()))
    return 0


def table(model: Any, rounds: int, secs: float) -> str:
    x = np.random.default_rng(0).random((1, 3, 128, 128), np.float32)
    rate = capacity(model, x, secs) / 2
    p99s: dict[str, list[float]] = {mode: [] for mode in MODES}
    means: dict[str, list[float]] = {mode: [] for mode in MODES}
    starts: dict[str, list[float]] = {mode: [] for mode in MODES}
    for turn in range(rounds):
        order = list(MODES)
        random.Random(turn).shuffle(order)
        for mode in order:
            with starting(mode, starts[mode]):
                times = arrivals(model, x, rate, secs, turn)
            p99s[mode].append(float(np.percentile(times, 99)))
            means[mode].append(float(np.mean(times)))
            print(f"round {turn + 1}, {mode}: p99 {p99s[mode][-1]:.0f} ms", file=sys.stderr)
    lines = [
        f"{rate:.0f} requests a second, {rounds} slices of {secs:g} s of each.\n",
        "| | mean ms | p99 ms, the middle slice | the quieter quarter | of alone | a start, ms |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for mode in MODES:
        middle, alone = median(p99s[mode]), median(p99s["alone"])
        quiet = sorted(p99s[mode])[rounds // 4]
        start = f"{1e3 * median(starts[mode]):.0f}" if starts[mode] else ""
        lines.append(
            f"| {mode} | {median(means[mode]):.1f} | {middle:.0f} | {quiet:.0f} | {middle / alone:.2f} | {start} |"
        )
    return "\n".join(lines)


def capacity(model: Any, x: np.ndarray, secs: float) -> float:
    counts: list[int] = []
    until = time.perf_counter() + secs

    def ask() -> None:
        count = 0
        while time.perf_counter() < until:
            model(x)
            count += 1
        counts.append(count)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / secs


@contextmanager
def starting(mode: str, seconds: list[float]) -> Iterator[None]:
    """Workers that start, one after the other."""
    if MODES[mode] is None:
        yield
        return
    worker.GENTLE, worker.AT_ONCE = MODES[mode]  # type: ignore[misc, attr-defined]
    stop = threading.Event()

    def start() -> None:
        while not stop.is_set():
            began = time.perf_counter()
            with hr.compile_model("bench_gently:answers", isolation="process"):
                seconds.append(time.perf_counter() - began)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        worker.GENTLE, worker.AT_ONCE = AS_IT_IS  # type: ignore[attr-defined]


def arrivals(model: Any, x: np.ndarray, rate: float, secs: float, seed: int) -> list[float]:
    """Milliseconds from when each was to come until its answer. Arrivals do not wait for answers."""
    rng, times, futures = random.Random(seed), list[float](), []
    at = time.perf_counter()
    until = at + secs
    while at < until:
        at += rng.expovariate(rate)
        time.sleep(max(0.0, at - time.perf_counter()))
        futures.append(model.submit(x))
        futures[-1].add_done_callback(lambda _, at=at: times.append(1e3 * (time.perf_counter() - at)))
    for future in futures:
        future.result()
    return times


if __name__ == "__main__":
    sys.exit(main())
