"""ResNet-18 (random weights, 128x128, float32) under concurrent callers, beside bare ONNX Runtime loops.

    python benchmarks/resnet.py [--callers 1,2,8,32] [--secs 4] [--rounds 5]

Closed loop. `multi_stream`: threads call `model(x)`. The references, in the same run and taking turns with it: as many
threads as there are streams, each calling `session.run` back to back, on one shared session of one thread and on a
session of one thread for each (the better one counts); and one caller on a session that uses all cores, for
`single_stream`. Writes benchmarks/results/resnet.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime

import headrace as hr

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from machine import surroundings  # noqa: E402

SIZE = 128
Call = Callable[[], object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=lambda text: [int(n) for n in text.split(",")], default="1,2,8,32")
    parser.add_argument("--secs", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "resnet18.onnx"))
        subprocess.run([sys.executable, str(HERE / "peers" / "make_resnet18.py"), path, str(SIZE)], check=True)
        text = measure(path, options.callers, options.secs, options.rounds)
    print(f"\n{text}")
    command = "python benchmarks/resnet.py " + " ".join(sys.argv[1:])
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "resnet.md").write_text(f"# ResNet-18 under callers\n\n`{command.strip()}`\n\n{text}\n")
    return 0


def measure(path: str, callers: list[int], secs: float, rounds: int) -> str:
    x = np.random.default_rng(0).random((1, 3, SIZE, SIZE), dtype=np.float32)
    cores = len(os.sched_getaffinity(0))
    shared, wide = bare(path, 1), bare(path, cores)
    own = [bare(path, 1) for _ in range(cores)]
    multi = hr.compile_model(path, scheduler="multi_stream")
    single = hr.compile_model(path, scheduler="single_stream")
    with multi, single:
        # (name, callers, what each of the callers calls)
        runs: list[tuple[str, int, list[Call]]] = [
            (f"bare: {cores} threads, one session", cores, [lambda: shared.run(None, {"x": x})] * cores),
            (f"bare: {cores} threads, a session each", cores, [lambda s=s: s.run(None, {"x": x}) for s in own]),
            (f"bare: 1 caller, {cores} cores", 1, [lambda: wide.run(None, {"x": x})]),
        ]
        runs += [("multi_stream", n, [lambda: multi(x)] * n) for n in callers]
        runs += [("single_stream", n, [lambda: single(x)] * n) for n in callers]
        runs += [("bare: one session, no bound", max(callers), [lambda: wide.run(None, {"x": x})] * max(callers))]
        rates: dict[tuple[str, int], list[float]] = {}
        tails: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for number in range(1, rounds + 1):
            for name, n, calls in runs:
                rate, p50, p99 = closed_loop(calls, secs if number else 1)
                rates.setdefault((name, n), []).append(rate)
                tails.setdefault((name, n), []).append((p50, p99))
                print(
                    f"[{number}/{rounds}] {name:34s} {n:3d} callers {rate:7.1f}/s p50 {p50:6.1f} p99 {p99:6.1f} ms",
                    flush=True,
                )
    best = max(median(found) for (name, n), found in rates.items() if name.startswith(f"bare: {cores} threads"))
    one = median(rates[f"bare: 1 caller, {cores} cores", 1])
    lines = [
        "| | callers | requests/s | of the bare loop | p50 ms | p99 ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (name, n), found in rates.items():
        reference = {"multi_stream": best, "single_stream": one}.get(name)
        share = f"{median(found) / reference:.3f}" if reference else ""
        p50, p99 = (median(values) for values in zip(*tails[name, n]))
        lines.append(f"| {name} | {n} | {median(found):.1f} | {share} | {p50:.1f} | {p99:.1f} |")
    at = surroundings()
    lines += [
        "",
        f"Measured {at['date']} on {at['machine']['cores']} cores {at['machine']['cpu']}, {at['machine']['kernel']}; "
        f"commit {at['commit']}; onnxruntime {onnxruntime.__version__}. Medians of {rounds} rounds of {secs:g} s, "
        "taking turns.",
    ]
    return "\n".join(lines)


def bare(path: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def closed_loop(calls: list[Call], secs: float) -> tuple[float, float, float]:
    """(calls a second, p50 ms, p99 ms) of one thread for each call, back to back."""
    times: list[list[float]] = [[] for _ in calls]
    start = threading.Barrier(len(calls) + 1)
    until = 0.0

    def caller(call: Call, mine: list[float]) -> None:
        start.wait()
        begun = time.perf_counter()
        while begun < until:
            call()
            ended = time.perf_counter()
            mine.append(ended - begun)
            begun = ended

    threads = [threading.Thread(target=caller, args=pair) for pair in zip(calls, times)]
    for thread in threads:
        thread.start()
    begun = time.perf_counter()
    until = begun + secs
    start.wait()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - begun
    every = sorted(t * 1000 for mine in times for t in mine)
    return len(every) / taken, every[len(every) // 2], every[min(len(every) - 1, len(every) * 99 // 100)]


if __name__ == "__main__":
    sys.exit(main())
