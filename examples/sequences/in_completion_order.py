"""One thread, hundreds of requests in flight, lengths that vary: read results as they complete, or in submission order?

    python examples/sequences/in_completion_order.py [--requests 1000] [--load 0.7] [--plot latency.png]

The same arrivals (Poisson, at `--load` of what the machine can do) are served twice by one thread that submits and
reads. In submission order it waits for the oldest result, and while it waits it can neither read the others nor submit
what arrives. In completion order it waits for whatever is ready first, and never longer than until the next arrival.
Latency is from the arrival of a request to the moment its result is read.
"""

from __future__ import annotations

import argparse
import queue
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from make_model import WIDTH, make_model

import headrace as hr

SHORTEST, LONGEST = 8, 2048


@dataclass
class Outcome:
    name: str
    latencies: list[float] = field(default_factory=list)
    """Milliseconds from arrival to reading, in the order of arrival."""
    blocked: float = 0.0
    """The longest a request that had arrived waited to be submitted, in milliseconds."""
    in_flight: int = 0
    """The most requests that were inside at once."""

    def line(self) -> str:
        mean, p50, p99 = np.mean(self.latencies), *np.percentile(self.latencies, [50, 99])
        return (
            f"  {self.name:<18} mean {mean:8.2f}   p50 {p50:8.2f}   p99 {p99:8.2f} ms   "
            f"longest unsubmitted {self.blocked:7.2f} ms   most in flight {self.in_flight}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--load", type=float, default=0.7, help="of what the streams can do")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="write a picture (needs matplotlib)")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    # Most are short, a few are very long: as sentences are.
    lengths = np.clip(rng.lognormal(4.5, 1.2, options.requests), SHORTEST, LONGEST).astype(int)
    inputs = [rng.random((n, 1, WIDTH), dtype=np.float32) for n in lengths]
    with hr.compile_model(make_model(), scheduler="multi_stream", name="sequences") as model:
        capacity = measure_capacity(model, inputs)
        arrivals = np.cumsum(rng.exponential(1 / (options.load * capacity), options.requests))
        steps = f"{lengths.min()} to {lengths.max()} steps"
        print(f"{options.requests} requests of {steps}, {options.load:.0%} of {capacity:.0f}/s")
        outcomes = [in_submission_order(model, inputs, arrivals), in_completion_order(model, inputs, arrivals)]
    for outcome in outcomes:
        print(outcome.line())
    if options.plot:
        plot(outcomes, lengths, options.plot)
        print(f"  wrote {options.plot}")


def measure_capacity(model: hr.Model, inputs: list[Any]) -> float:
    """Requests a second when as many as possible are inside; it warms the model up as well."""
    for _ in range(2):
        begun = time.perf_counter()
        for _answer in model.map(inputs):
            pass
    return len(inputs) / (time.perf_counter() - begun)


def in_submission_order(model: hr.Model, inputs: list[Any], arrivals: Any) -> Outcome:
    outcome = Outcome("submission order")
    inside: deque[tuple[int, hr.Future[Any]]] = deque()
    begun, submitted = time.perf_counter(), 0
    while len(outcome.latencies) < len(inputs):
        submitted = submit_arrived(model, inputs, arrivals, begun, submitted, outcome, inside)
        if not inside:
            time.sleep(max(0.0, begun + arrivals[submitted] - time.perf_counter()))
            continue
        number, future = inside.popleft()
        future.wait_to_read()  # nothing else happens on this thread meanwhile
        outcome.latencies.append((time.perf_counter() - begun - arrivals[number]) * 1000)
    return outcome


def in_completion_order(model: hr.Model, inputs: list[Any], arrivals: Any) -> Outcome:
    outcome = Outcome("completion order")
    latencies: dict[int, float] = {}
    inside: deque[tuple[int, hr.Future[Any]]] = deque()
    ready: queue.SimpleQueue[int] = queue.SimpleQueue()
    begun, submitted = time.perf_counter(), 0
    while len(latencies) < len(inputs):
        submitted = submit_arrived(model, inputs, arrivals, begun, submitted, outcome, inside)
        while inside:
            number, future = inside.popleft()
            future.add_done_callback(partial(tell, ready, number))
        until = begun + arrivals[submitted] if submitted < len(inputs) else None
        try:
            number = ready.get(timeout=None if until is None else max(0.0, until - time.perf_counter()))
        except queue.Empty:
            continue
        latencies[number] = (time.perf_counter() - begun - arrivals[number]) * 1000
        outcome.in_flight = max(outcome.in_flight, submitted - len(latencies))
    outcome.latencies = [latencies[number] for number in range(len(inputs))]
    return outcome


def tell(ready: queue.SimpleQueue[int], number: int, _: object) -> None:
    ready.put(number)


def submit_arrived(
    model: hr.Model,
    inputs: list[Any],
    arrivals: Any,
    begun: float,
    submitted: int,
    outcome: Outcome,
    inside: deque[tuple[int, hr.Future[Any]]],
) -> int:
    """Submit everything that has arrived. How many have been submitted in all."""
    while submitted < len(inputs) and (late := time.perf_counter() - begun - arrivals[submitted]) >= 0:
        outcome.blocked = max(outcome.blocked, late * 1000)
        inside.append((submitted, model.submit(inputs[submitted])))
        submitted += 1
    outcome.in_flight = max(outcome.in_flight, len(inside))
    return submitted


def plot(outcomes: list[Outcome], lengths: Any, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for outcome, colour in zip(outcomes, ("#b5533c", "#2a6f97")):
        left.scatter(lengths, outcome.latencies, s=7, alpha=0.6, color=colour, label=outcome.name)
        shares = np.arange(1, len(lengths) + 1) / len(lengths) * 100
        right.plot(shares, np.sort(outcome.latencies), color=colour, label=outcome.name)
    left.set(xscale="log", yscale="log", xlabel="length of the sequence", ylabel="latency, ms")
    left.set_title("short requests no longer pay for long ones", fontsize=10)
    right.set(xlabel="share of requests, %")
    right.set_title("latency, sorted", fontsize=10)
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, which="major")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
