"""One thread, hundreds of requests in flight, lengths that vary: who reads which result next?

    python examples/sequences/in_completion_order.py [--requests 750] [--load 0.6] [--rounds 5] [--plot latency.png]

One thread accepts what arrives, submits it, and reads the results. Between arrivals it reads in one of these ways:

    submission order   waits for the oldest result, as one must where results can only be waited for
    can_read           asks every future in flight whether it can be read, and naps for a millisecond if none can
    poll               `engine.poll`: what has ended, in the order it ended, or nothing once the next arrival is due
    poll, short first  the same, and submitted with a priority that lets short sequences past long ones

The same arrivals are served in each way. *steady*: at random, at `--load` of what the machine can do. *crowd*: as many,
but the middle third comes at once. A latency is from the arrival to the moment the thread has the result. An arrival is
kept waiting while the thread is blocked and cannot submit it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from make_model import TOKENS, make_model

import headrace as hr

SHORTEST, LONGEST = 8, 1024

InFlight = dict[hr.Future[Any], int]  # in the order of submission; the values are the requests' numbers
Read = Callable[[hr.Engine, InFlight, float], list[hr.Future[Any]]]


def read_oldest(_: hr.Engine, in_flight: InFlight, __: float) -> list[hr.Future[Any]]:
    oldest = next(iter(in_flight))
    oldest.wait_to_read()  # whatever else ends or arrives meanwhile waits as well
    return [oldest]


def ask_each(_: hr.Engine, in_flight: InFlight, idle: float) -> list[hr.Future[Any]]:
    readable = [future for future in in_flight if future.can_read()]
    if not readable:
        time.sleep(min(idle, 0.001))
    return readable


def poll(engine: hr.Engine, _: InFlight, idle: float) -> list[hr.Future[Any]]:
    return engine.poll(32, timeout=idle)


WAYS: dict[str, tuple[Read, bool]] = {
    "submission order": (read_oldest, False),
    "can_read": (ask_each, False),
    "poll": (poll, False),
    "poll, short first": (poll, True),
}


@dataclass(frozen=True)
class Served:
    order: list[int]
    """The requests' numbers, in the order their results were read."""
    latencies: Any
    """Milliseconds, by the requests' numbers."""
    kept_waiting: float
    """The longest, in milliseconds, that an arrival waited for the thread."""
    most_in_flight: int

    def figures(self) -> list[float]:
        p50, p99 = np.percentile(self.latencies, [50, 99])
        return [float(np.mean(self.latencies)), p50, p99, self.kept_waiting, self.most_in_flight]


def serve(
    engine: hr.Engine, model: hr.Model, inputs: list[Any], arrivals: Any, read: Read, short_first: bool
) -> Served:
    """The one thread: requests come in at `arrivals` (seconds from now), their results go out."""
    in_flight: InFlight = {}
    order: list[int] = []
    latencies = np.zeros(len(inputs))
    arrived, most, kept_waiting = 0, 0, 0.0
    begun = time.perf_counter()
    while len(order) < len(inputs):
        while arrived < len(inputs) and (late := time.perf_counter() - begun - arrivals[arrived]) >= 0:
            kept_waiting = max(kept_waiting, late)
            # A step of priority is worth a second of waiting: the longest lets others past for one second, no more.
            priority = -len(inputs[arrived]) / LONGEST if short_first else 0
            in_flight[model.submit(inputs[arrived], priority=priority)] = arrived
            arrived += 1
        most = max(most, len(in_flight))
        idle = max(0.0, begun + arrivals[arrived] - time.perf_counter()) if arrived < len(inputs) else 1.0
        if not in_flight:
            time.sleep(idle)
            continue
        for future in read(engine, in_flight, idle):
            number = in_flight.pop(future)  # KeyError if it had been handed out before
            assert len(future.result()) == len(inputs[number])
            latencies[number] = time.perf_counter() - begun - arrivals[number]
            order.append(number)
    return Served(order, latencies * 1000, kept_waiting * 1000, most)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=750)
    parser.add_argument("--load", type=float, default=0.6, help="of what the machine can do")
    parser.add_argument("--rounds", type=int, default=5, help="of each figure their median is printed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="write a picture (needs matplotlib)")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    # Most are short, a few are very long: as sentences are.
    lengths = np.clip(rng.lognormal(4.0, 1.2, options.requests), SHORTEST, LONGEST).astype(int)
    inputs = [rng.integers(0, TOKENS, length) for length in lengths]
    steady = rng.exponential(size=options.requests)
    crowd = steady.copy()
    crowd[options.requests // 3 : 2 * options.requests // 3] = 0
    rounds: dict[tuple[str, str], list[Served]] = {}
    with hr.Engine() as engine, hr.compile_model(make_model(), scheduler="multi_stream", engine=engine) as model:
        capacity = measure_capacity(model, inputs)
        engine.poll()  # the first poll looks for what has ended before, and takes its time
        for _ in range(options.rounds):
            for load, gaps in {"steady": steady, "crowd": crowd}.items():
                arrivals = np.cumsum(gaps) / gaps.mean() / (options.load * capacity)
                for way, (read, short_first) in WAYS.items():
                    served = serve(engine, model, inputs, arrivals, read, short_first)
                    rounds.setdefault((load, way), []).append(served)
        streams = model.statistics().streams
    print(f"{len(inputs)} requests of {lengths.min()} to {lengths.max()} tokens, {streams} streams, ", end="")
    print(f"{options.load:.0%} of {capacity:.0f} requests a second; milliseconds, medians of {options.rounds} rounds\n")
    print(f"{'':<27}{'mean':>8}{'p50':>8}{'p99':>8}{'longest kept waiting':>23}{'most in flight':>17}")
    for (load, way), runs in rounds.items():
        mean, p50, p99, kept_waiting, most = np.median([run.figures() for run in runs], axis=0)
        print(f"{load:<8}{way:<19}{mean:8.1f}{p50:8.1f}{p99:8.1f}{kept_waiting:23.1f}{most:17.0f}")
    if options.plot:
        from picture import draw

        draw(rounds, lengths, options.plot)


def measure_capacity(model: hr.Model, inputs: list[Any]) -> float:
    """Requests a second with every stream busy; the better of two goes, for the first one warms up."""
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        for _answer in model.map(inputs):
            pass
        seconds.append(time.perf_counter() - begun)
    return len(inputs) / min(seconds)


if __name__ == "__main__":
    main()
