"""Schedulers under load, beside bare ONNX Runtime, DeepSparse and a queueing model. ResNet-18, 128x128, float32.

    python benchmarks/schedulers.py [--rounds 5] [--only multi,single,two,memory,poisson] [--quick] [--out FOLDER]

    multi    multi_stream on all cores under 1 to 32 callers, beside bare loops with as many threads as streams
    single   single_stream the same way, beside bare callers of one session on all cores that take turns by a lock
    two      two models at once, 4 callers each: what each keeps of its rate alone; beside the same without leases
    memory   what more streams of width 1 add to 128 MiB of weights
    poisson  open loop: Poisson arrivals at 20, 50 and 80 % of capacity, beside what queueing theory says

Closed loops: what ends in the seconds after a warm-up counts. Open loop: arrivals are fixed beforehand (seeded), and a
request's time counts from when it was to come. Figures and references take turns in each round (about 18 minutes in
all). Prints medians and gates, appends every turn to results/schedulers.jsonl and writes results/schedulers.md. A
missed gate is printed, and is no failure of the run. `--quick` shows that it works; its figures say little.
DeepSparse is measured where it is installed (benchmarks/peers/install.sh deepsparse).
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import accumulate, count
from pathlib import Path
from statistics import fmean, median
from typing import Any

# Before the runtime is imported: no thread that sends usage data.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import onnxruntime
from loops import Call, arrivals, closed_loop, closed_loops, open_loop, replayed, summary
from turns import Figure, Gate, Plan, Rounds, Turn, Values, helpers, line, run

import headrace as hr
from headrace.engine.queueing import Load
from headrace.engine.topology import read_topology

import deepsparse_process  # isort: skip  # beside the peers: `turns` has put their folder on the path
from make_resnet18 import resnet18  # isort: skip

PACKAGES = ("headrace", "numpy", "onnxruntime")
SIZE = 128
CALLERS = (1, 2, 4, 8, 32)
SHARES = (0.2, 0.5, 0.8)
JOINED = 8
"""Requests in a batch, where what wins by joining is shown."""
TOGETHER = 4
"""Callers of each of two models."""
COLUMNS = {
    "requests_per_s": ("requests/s", ",.1f"),
    "p50_ms": ("p50 ms", ".1f"),
    "p99_ms": ("p99 ms", ".1f"),
}


def main() -> int:
    return run("schedulers", "Schedulers", FIGURES, PACKAGES, __doc__)


# ---- multi, single


def multi(plan: Plan) -> Figure:
    """As many bare threads as there are streams, and no more than callers: the best anybody can do with a loop."""
    with ExitStack() as stack:
        path, x = stack.enter_context(resnet(SIZE))
        engine = stack.enter_context(hr.Engine())
        cores = len(engine.cores)
        model = stack.enter_context(hr.compile_model(path, scheduler="multi_stream", engine=engine))
        joining = stack.enter_context(
            hr.compile_model(path, scheduler="multi_stream", engine=engine, max_batch_size=JOINED)
        )
        shared, own = bare(path, 1), [bare(path, 1) for _ in range(cores)]
        loops = {1: ["bare, 1 thread"], cores: [f"bare, {cores} threads, {which}" for which in ("one session", "own")]}
        turns: dict[str, Turn] = {
            loops[1][0]: timed(plan, [calling(shared, x)]),
            loops[cores][0]: timed(plan, [calling(shared, x)] * cores),
            loops[cores][-1]: timed(plan, [calling(session, x) for session in own]),
        }
        peer = stack.enter_context(deepsparse(path, "multi_stream", cores))
        for n in CALLERS:
            turns[f"multi_stream, {n} callers"] = timed(plan, [lambda: model(x)] * n)
            if n > cores:
                turns[f"multi_stream joining up to {JOINED}, {n} callers"] = timed(plan, [lambda: joining(x)] * n)
            turns |= peer(plan, n)
        found = plan.take_turns("multi", turns)
        check(model, shared, x)
    best = {1: loops[1][0], cores: max(loops[cores], key=lambda name: found.middle(name, "requests_per_s"))}
    references = {n: best[1 if n == 1 else cores] for n in CALLERS}
    return under_callers("multi_stream", found, references, cores)


def single(plan: Plan) -> Figure:
    """One bare session on all cores. Its callers take turns by a lock, which is what keeps its rate."""
    with ExitStack() as stack:
        path, x = stack.enter_context(resnet(SIZE))
        engine = stack.enter_context(hr.Engine())
        cores = len(engine.cores)
        model = stack.enter_context(hr.compile_model(path, scheduler="single_stream", engine=engine))
        wide, lock = bare(path, cores), threading.Lock()
        direct = calling(wide, x)

        def locked() -> None:
            with lock:
                direct()

        peer = stack.enter_context(deepsparse(path, "single_stream", 0))
        turns: dict[str, Turn] = {}
        for n in CALLERS:
            turns[f"single_stream, {n} callers"] = timed(plan, [lambda: model(x)] * n)
            turns[f"bare with a lock, {n} callers"] = timed(plan, [locked] * n)
            turns |= peer(plan, n)
        for n in CALLERS[-2:]:
            turns[f"bare without a lock, {n} callers"] = timed(plan, [direct] * n)
        found = plan.take_turns("single", turns)
        check(model, wide, x)
    references = {n: f"bare with a lock, {n} callers" for n in CALLERS}
    return under_callers("single_stream", found, references, 1)


def under_callers(scheduler: str, found: Rounds, references: dict[int, str], streams: int) -> Figure:
    """Its rate of the reference's, in the same round, and its p99 of what the queue in front of it explains twice."""
    ours = {n: f"{scheduler}, {n} callers" for n in CALLERS}
    alone = found.middle(ours[1], "p50_ms")
    rates = {n: median(found.quotients(ours[n], "requests_per_s", references[n])) for n in CALLERS}
    tails = {n: found.middle(ours[n], "p99_ms") / (2 * alone * max(1, n / streams)) for n in CALLERS}
    slowest, longest = min(rates, key=rates.__getitem__), max(tails, key=tails.__getitem__)
    worst, tail = rates[slowest], tails[longest]
    gates = [
        Gate(
            f"{scheduler}, rate of the bare loop's, 1 to 32 callers",
            "0.95",
            f"{worst:.3f} at {slowest}",
            worst >= 0.95,
            "0.99",
            worst >= 0.99,
        ),
        Gate(
            f"{scheduler}, p99 of 2 x p50 of one caller x max(1, callers/streams)",
            "1",
            f"{tail:.2f} at {longest}",
            tail < 1,
        ),
    ]
    against = {
        n: median(found.quotients(ours[n], "requests_per_s", peer))
        for n in CALLERS
        if (peer := f"DeepSparse {scheduler}, {n} callers") in found.values
    }
    if against and scheduler == "multi_stream":
        least = min(against, key=against.__getitem__)
        gates.append(
            Gate(
                "multi_stream, rate of DeepSparse's, 1 to 32 callers",
                "1",
                f"{against[least]:.3f} at {least}",
                against[least] >= 1,
            )
        )
    more = {
        "of the bare loop": {ours[n]: f"{rate:.3f}" for n, rate in rates.items()},
        "p99 of its bound": {ours[n]: f"{tail:.2f}" for n, tail in tails.items()},
    }
    if against:
        more["of DeepSparse's"] = {ours[n]: f"{rate:.3f}" for n, rate in against.items()}
    loops = "; ".join(dict.fromkeys(name.split(", ")[0] if "lock" in name else name for name in references.values()))
    notes = "" if any("DeepSparse" in name for name in found.values) else "DeepSparse: not installed here.\n"
    return Figure(
        f"{scheduler}, closed loop",
        found.table(COLUMNS, more),
        gates,
        f"{notes}The bare loop is: {loops}. DeepSparse 1.8.0 runs in a process of its own, stopped but for its turns.",
    )


@contextmanager
def deepsparse(path: str, scheduler: str, streams: int) -> Iterator[Callable[[Plan, int], dict[str, Turn]]]:
    """Its turns under so many callers; none where it is not installed."""
    if (reason := deepsparse_process.missing()) is not None:
        print(f"DeepSparse: skipped, {reason}", flush=True)
        yield lambda plan, callers: {}
        return
    with deepsparse_process.DeepSparse(Path(path), SIZE, scheduler, streams) as process:
        helpers.add(process.pid)
        print(f"DeepSparse {scheduler}: {process.about}", flush=True)
        try:
            yield lambda plan, callers: {
                f"DeepSparse {scheduler}, {callers} callers": lambda: process.closed_loop(callers, secs(plan))
            }
        finally:
            helpers.discard(process.pid)


# ---- two


def two(plan: Plan) -> Figure:
    """What two models keep of their rates when they run at once. 1 is the whole machine, shared out without loss."""
    kinds = ("single_stream", "multi_stream")
    pairs = (("single_stream", "single_stream"), ("multi_stream", "multi_stream"), ("single_stream", "multi_stream"))
    with ExitStack() as stack:
        (large, x), (small, z) = (stack.enter_context(resnet(size)) for size in (SIZE, SIZE // 2))
        engine = stack.enter_context(hr.Engine())
        # Two that believe they have the machine to themselves: what happens where nobody leases cores.
        apart = [stack.enter_context(hr.Engine(topology=read_topology())) for _ in range(2)]

        def callers(path: str, value: Any, scheduler: str, on: hr.Engine) -> list[Call]:
            model = stack.enter_context(hr.compile_model(path, scheduler=scheduler, engine=on))
            return [lambda: model(value)] * TOGETHER

        shared = {kind: (callers(large, x, kind, engine), callers(small, z, kind, engine)) for kind in kinds}
        unaware = {kind: (callers(large, x, kind, apart[0]), callers(small, z, kind, apart[1])) for kind in kinds}
        cores = len(engine.cores)
        unbound = [
            [calling(session, value)] * TOGETHER
            for session, value in ((bare(large, cores), x), (bare(small, cores), z))
        ]
        turns: dict[str, Turn] = {}
        for kind in kinds:
            for model, name in enumerate(("128x128", "64x64")):
                turns[alone(kind, name)] = timed(plan, shared[kind][model])
        for first, second in pairs:
            pair = f"{first} + {second}"
            turns[pair] = at_once(plan, shared[first][0], shared[second][1])
            turns[f"{pair}, no leases"] = at_once(plan, unaware[first][0], unaware[second][1])
        turns["bare sessions on all cores"] = at_once(plan, *unbound)
        found = plan.take_turns("two", turns)
    rows, gates = [("", "128x128, of alone", "64x64, of alone", "sum", "p99 ms", "p99 ms"), ("---", *["---:"] * 5)], []
    for name in turns:
        if "alone" in name:
            continue
        first, second = next((pair for pair in pairs if name.startswith(" + ".join(pair))), pairs[0])
        kept = [
            found.quotients(name, "first_per_s", alone(first, "128x128"), "requests_per_s"),
            found.quotients(name, "second_per_s", alone(second, "64x64"), "requests_per_s"),
        ]
        both = median([a + b for a, b in zip(*kept)])
        tails = (f"{found.middle(name, key):.0f}" for key in ("first_p99_ms", "second_p99_ms"))
        marked = ("~" if name in found.noisy else "") + name
        rows.append((marked, f"{median(kept[0]):.2f}", f"{median(kept[1]):.2f}", f"{both:.2f}", *tails))
        if name in {" + ".join(pair) for pair in pairs}:
            gates.append(Gate(f"two models, {name}: sum of rates of alone", "0.95", f"{both:.3f}", both >= 0.95))
    return Figure(
        f"Two models at once on one engine, {TOGETHER} callers each, closed loop",
        "\n".join(line(row) for row in rows)
        + "\n\n"
        + found.table({"requests_per_s": ("requests/s", ",.1f")}, of=[name for name in turns if "alone" in name]),
        gates,
    )


def alone(kind: str, name: str) -> str:
    return f"{kind}, {name} alone"


def at_once(plan: Plan, first: list[Call], second: list[Call]) -> Turn:
    def turn() -> Values:
        values: Values = {}
        for name, times in closed_loops({"first": first, "second": second}, secs(plan)).items():
            values[f"{name}_per_s"] = len(times) / secs(plan)
            values[f"{name}_p99_ms"] = summary(times)["p99_ms"]
        return values

    return turn


# ---- memory


def memory(plan: Plan) -> Figure:
    """The measuring is done by benchmarks/weights.py, each case in a process of its own."""
    title = "What streams of width 1 add to 128 MiB of weights; at most 3 rounds"
    try:
        import weights
    except ImportError:
        return Figure(title, "Not there yet: benchmarks/weights.py.", [])
    rows: list[Any] = []

    def turn() -> Values:
        rows[:] = weights.measure()
        return {f"{row.how}, {row.streams}": row.grew / 2**20 for row in rows}

    found = plan.take_turns("memory", {"weights": turn}, rounds=min(plan.rounds, 3))
    cells = [("", "memory MiB", "more than one stream, of the weights"), ("---", "---:", "---:")]
    more: dict[str, float] = {}
    for row in rows:
        grew = found.middle("weights", f"{row.how}, {row.streams}")
        one = found.middle("weights", f"{row.how}, 1")
        more[f"{row.how}, {row.streams}"] = share = (grew - one) * 2**20 / weights.WEIGHTS
        cells.append((f"{row.how}, {row.streams}", f"{grew:.1f}", f"{share:.1%}"))
    worst = max(share for name, share in more.items() if name.startswith("multi_stream"))
    gate = Gate("memory that more streams of width 1 add, of the weights", "5 %", f"{worst:.1%}", worst <= 0.05)
    return Figure(title, "\n".join(map(line, cells)), [gate])


# ---- poisson


class Opened:
    """One model under arrivals, and what it takes when it is busy: measured in each round before they come."""

    def __init__(self, model: hr.Model, x: Any, plan: Plan) -> None:
        self.model, self.x, self.plan = model, x, plan
        self.streams = len(model.placements)
        self.service, self.first, self.services = 0.0, 0.0, [0.0]
        self.window = 1.0 if plan.quick else 10.0
        self.seeds = {share: count(int(share * 1000)) for share in SHARES}

    def busy(self) -> Values:
        """All streams busy: the time of a run by the rate of a queue that is never empty, so with what lies between two
        runs; how it varies, by callers that never queue. Then those that find nobody inside, after pauses as random as
        they will be: how long a thread has slept, and on which core it wakes, makes much of the difference."""
        call = [lambda: self.model(self.x)]
        self.services = closed_loops({"": call * self.streams}, secs(self.plan))[""]
        rate = closed_loop(call * (4 * self.streams), secs(self.plan))["requests_per_s"]
        self.service = self.streams / rate
        self.first = max(self.service, median(self._rested(rate)))
        return {
            "capacity_per_s": rate,
            "service_ms": self.service * 1e3,
            "first_ms": self.first * 1e3,
            "cv": summary(self.services)["cv"],
        }

    def _rested(self, capacity: float) -> list[float]:
        at = arrivals(capacity / 10, self.window / 2, seed=1)
        taken, _ = open_loop(lambda: self.model.submit(self.x), at)
        left = accumulate((moment + took for moment, took in zip(at, taken)), max)  # when all who came before had left
        return [taken[0], *(took for gone, moment, took in zip(left, at[1:], taken[1:]) if gone < moment)]

    def under(self, share: float) -> Values:
        """Arrivals at a share of capacity."""
        rate, seed = share * self.streams / self.service, next(self.seeds[share])
        at = arrivals(rate, self.window, seed)
        before = self.model.statistics()
        taken, late = open_loop(lambda: self.model.submit(self.x), at)
        after = self.model.statistics()
        # The same runs at the pace of the busy ones: their mean is of callers, a little more than of streams.
        scale = self.service / fmean(self.services)
        luck = replayed(at, [took * scale for took in self.services], self.first - self.service, self.streams, seed)
        first = len(at) // 20  # nothing is inside yet
        load = Load(rate, self.streams, self.service, summary(self.services)["cv"], self.first)
        values = {
            "rate_per_s": rate,
            "run_ms": (after.run_seconds - before.run_seconds) / (after.runs - before.runs) * 1e3,
        }
        for name, times in (("", taken), ("replayed_", luck)):
            values |= {name + key: value for key, value in summary(times[first:]).items() if key != "cv"}
        values |= {"predicted_mean_ms": load.mean * 1e3}
        values |= {f"predicted_p{p}_ms": load.quantile(p / 100) * 1e3 for p in (50, 99)}
        ordered = sorted(late)
        return values | {
            "late_p50_ms": ordered[len(late) // 2] * 1e3,
            "late_p99_ms": ordered[len(late) * 99 // 100] * 1e3,
        }


def poisson(plan: Plan) -> Figure:
    kinds = ("single_stream", "multi_stream", "elastic")
    keys = ("mean_ms", "p50_ms", "p99_ms")
    with ExitStack() as stack:
        path, x = stack.enter_context(resnet(SIZE))
        engine = stack.enter_context(hr.Engine())
        turns: dict[str, Turn] = {}
        streams = {}
        for kind in kinds:
            opened = Opened(stack.enter_context(hr.compile_model(path, scheduler=kind, engine=engine)), x, plan)
            streams[kind] = opened.streams
            turns[f"{kind}, busy"] = opened.busy
            for share in SHARES:
                turns[f"{kind}, {share:.0%}"] = lambda opened=opened, share=share: opened.under(share)
        found = plan.take_turns("poisson", turns)
    headings = ["", "requests/s", "a run, ms", *(f"{key[:-3]} ms" for key in keys), "sent late, p99 ms"]
    rows, gates = [headings, ["---", *["---:"] * (len(headings) - 1)]], []
    for kind in kinds:
        worst = (0.0, "")
        for share in SHARES:
            name = f"{kind}, {share:.0%}"
            cells = [f"{found.middle(name, key):.1f}" for key in ("rate_per_s", "run_ms")]
            for key in keys:
                off = median(found.quotients(name, key, name, f"predicted_{key}")) - 1
                worst = max(worst, (abs(off), f"{off:+.0%}, {key[:-3]} at {share:.0%}"))
                said, luck = (found.middle(name, f"{by}_{key}") for by in ("predicted", "replayed"))
                cells.append(f"{found.middle(name, key):.1f} ({said:.1f}, {luck:.1f})")
            marked = ("~" if name in found.noisy else "") + name
            rows.append([marked, *cells, f"{found.middle(name, 'late_p99_ms'):.2f}"])
        gates.append(Gate(f"{kind}, Poisson: off the prediction at most", "15 %", worst[1], worst[0] <= 0.15))
    busy = {
        "capacity_per_s": ("capacity, requests/s", ".1f"),
        "service_ms": ("a run behind another, ms", ".2f"),
        "first_ms": ("after a pause, ms", ".2f"),
        "cv": ("cv", ".3f"),
    }
    return Figure(
        "Open loop: Poisson arrivals at shares of each scheduler's capacity",
        "\n".join(map(line, rows)) + "\n\n" + found.table(busy, of=[f"{kind}, busy" for kind in kinds]),
        gates,
        "Measured, and in brackets: what `engine/queueing` says, from what runs took in the same round's `busy`; then "
        "those runs put behind the very same arrivals, which is what the luck of the draw makes of it. "
        f"{', '.join(f'{kind} has {n} stream(s)' for kind, n in streams.items())} here. A request's time counts from "
        "when it was to come; `sent late` is how much of it was the sender's.",
    )


# ---- what they share


@contextmanager
def resnet(size: int) -> Iterator[tuple[str, Any]]:
    """The path of a model, and an input for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"resnet18-{size}.onnx")
        onnx.save(resnet18(size), str(path))
        yield str(path), np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)


def bare(path: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def calling(session: Any, x: Any) -> Call:
    return lambda: session.run(None, {"x": x})


def check(model: hr.Model, session: Any, x: Any) -> None:
    """They compute the same."""
    assert np.allclose(model(x), session.run(None, {"x": x})[0], rtol=1e-3, atol=1e-3)


def timed(plan: Plan, calls: list[Call]) -> Turn:
    return lambda: closed_loop(calls, secs(plan))


def secs(plan: Plan) -> float:
    return plan.secs * 2


FIGURES: dict[str, Callable[[Plan], Figure]] = {
    "multi": multi,
    "single": single,
    "two": two,
    "memory": memory,
    "poisson": poisson,
}

if __name__ == "__main__":
    sys.exit(main())
