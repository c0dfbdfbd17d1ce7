"""What the engine itself costs: pushing, awaiting, waiting, the event loop's lag, memory, an idle process.

    python benchmarks/engine.py [--rounds 5] [--only push,submit,alone,wait,lag,memory,idle] [--quick] [--out FOLDER]

    push     100,000 empty operations with 2 reads and 1 write over 1,000 Vars, from one thread, until all have ended
    submit   64 tasks that await `model.submit(x)` on 2 streams, beside the plain loop of `session.run` and `to_thread`
    alone    one request at a time, the same way
    wait     for a 35 ms operation with 10 unrelated ones pushed behind it, beside the same alone
    lag      how late a 1 ms sleep on the event loop ends while 64 awaiters keep 2 streams busy
    memory   of 1,000,000 operations pushed without waiting, in a process of its own
    idle     CPU time of a process that has loaded a model and does nothing

Every figure and its references take turns in each round. Prints medians and what was aimed at, appends every turn to
results/engine.jsonl and writes results/engine.md. A missed gate is printed, and is no failure of the run. `--quick`
shows that it works; its figures say little.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

# Before NumPy and the runtime are imported, which read them then. One thread for a matmul of NumPy: two operations are
# to share two cores, not to fight over one pool of threads. And no thread that sends usage data.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import onnxruntime
import uvloop
from onnx import TensorProto, helper, numpy_helper
from turns import Figure, Gate, Plan, Turn, Values, percentiles, run

import headrace as hr

PACKAGES = ("headrace", "numpy", "onnxruntime", "uvloop")
DIGITS = Path(hr.__file__).parent / "bundled" / "digits" / "digits.onnx"
STREAMS = 2
IN_FLIGHT = 64
WARM = 0.1
"""Seconds of a closed loop before anything is counted."""
SLEEP = 0.001
OPERATION = 0.035
BEHIND = 10
VARS = 1000
MIB = 2**20


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(CHILDREN[sys.argv[2]](float(sys.argv[3]))))
        return 0
    return run("engine", "The engine", FIGURES, PACKAGES, __doc__)


# ---- push


def push(plan: Plan) -> Figure:
    n = 10_000 if plan.quick else 100_000
    chosen = random.Random(0)
    picks = [chosen.sample(range(VARS), 3) for _ in range(n)]
    found = plan.take_turns(
        "push",
        {
            "headrace, default bound": lambda: pushed(picks),
            "headrace, bound 10,000": lambda: pushed(picks, max_operations=10_000),
            "ThreadPoolExecutor(2).submit": lambda: submitted_to_executor(n),
        },
    )
    us = found.middle("headrace, default bound", "us")
    gate = Gate("push + run + settle, each", "6 us", f"{us:.2f} us", us <= 6, "3 us", us <= 3)
    return Figure(
        f"Push, run and settle {n:,} empty operations, 2 reads and 1 write over {VARS:,} Vars, Futures kept",
        found.table({"us": ("us each", ".2f")}),
        [gate],
        "The executor knows no dependencies and no bound. MXNet's 15 to 19 us are as published, not measured here.",
    )


def nop() -> None:
    pass


def pushed(picks: list[list[int]], **bounds: int) -> Values:
    variables = [hr.Var() for _ in range(VARS)]
    sets = [((variables[a], variables[b]), (variables[c],)) for a, b, c in picks]
    with hr.Engine(**bounds) as engine:
        begun = time.perf_counter()
        futures = [engine.push(nop, reads=reads, writes=writes) for reads, writes in sets]
        engine.waitall()
        taken = time.perf_counter() - begun
        assert all(future.can_read() for future in futures)
    return {"us": taken / len(picks) * 1e6}


def submitted_to_executor(n: int) -> Values:
    with ThreadPoolExecutor(STREAMS) as executor:
        begun = time.perf_counter()
        futures = [executor.submit(nop) for _ in range(n)]
        executor.shutdown()
        taken = time.perf_counter() - begun
        assert all(future.done() for future in futures)
    return {"us": taken / n * 1e6}


# ---- submit, alone

TINY, SMALL, MIDDLE, MILLISECOND = 16, 136, 304, 384
"""Sides of the matrix. By itself, on one core of an EPYC, a run takes about 5, 50, 500 and 1,000 us."""


def submit(plan: Plan) -> Figure:
    sections, gates = [], []
    for side in (TINY, SMALL, MIDDLE):
        table, of_direct, of_threads = submit_one(plan, side)
        sections.append(table)
        if side == TINY:
            what = f"submit + await, {IN_FLIGHT} in flight, rate"
            gates = [
                Gate(
                    f"{what} of session.run's", "0.5", f"{of_direct:.2f}", of_direct >= 0.5, "0.75", of_direct >= 0.75
                ),
                Gate(f"{what} of asyncio.to_thread's", "3x", f"{of_threads:.1f}x", of_threads >= 3),
            ]
    return Figure(
        f"Submit and await, {IN_FLIGHT} in flight, {STREAMS} streams",
        "\n\n".join(sections),
        gates,
        "The gates are for the 16x16 MatMul on asyncio's own loop, each request run by itself. The plain loop is one "
        "thread: two streams may pass it where a run is long. `joined`: `max_batch_size=32`, up to 32 requests in one "
        "run.",
    )


def submit_one(plan: Plan, side: int) -> tuple[str, float, float]:
    """The table of one model; its rate on asyncio's own loop as a share of the plain loop's and of `to_thread`'s."""
    with ExitStack() as stack:
        doors = Doors(side, stack.enter_context(hr.Engine(num_cores=STREAMS)), stack)
        turns: dict[str, Turn] = {"session.run": lambda: doors.direct_rate(plan.secs)}
        for loop in (asyncio, uvloop):
            for name, call in doors.calls.items():
                turns[f"{name}, {loop.__name__}"] = lambda loop=loop, call=call: on_loop(
                    loop, closed_loop(call, plan.secs)
                )
        found = plan.take_turns(f"submit {side}", turns)
    rates = {name: found.middle(name, "requests_per_s") for name in turns}
    direct, ours, threads = (rates[n] for n in ("session.run", "model.submit, asyncio", "asyncio.to_thread, asyncio"))
    of_direct = {name: f"{value / direct:.2f}" for name, value in rates.items()}
    of_threads = {}
    for loop in (asyncio, uvloop):
        reference = rates[f"asyncio.to_thread, {loop.__name__}"]
        for name in (f"{name}, {loop.__name__}" for name in doors.calls):
            of_threads[name] = f"{rates[name] / reference:.2f}"
    more = {"of session.run": of_direct, "of to_thread, same loop": of_threads}
    table = found.table({"requests_per_s": ("requests/s", ",.0f")}, more)
    return (
        f"{described(side)}: {1e6 / direct:,.1f} us by itself.\n\n{table}",
        ours / direct,
        ours / threads,
    )


def alone(plan: Plan) -> Figure:
    with ExitStack() as stack:
        doors = Doors(TINY, stack.enter_context(hr.Engine(num_cores=STREAMS)), stack)
        loops: dict[str, Turn] = {"session.run": lambda: doors.direct_delays(plan.secs)}
        for loop in (asyncio, uvloop):
            for name, call in doors.calls.items():
                if "joined" not in name:
                    loops[f"{name}, {loop.__name__}"] = lambda loop=loop, call=call: on_loop(
                        loop, one_at_a_time(call, plan.secs)
                    )
        found = plan.take_turns("alone", loops)
    return Figure(
        f"One request at a time, {described(TINY)}",
        found.table({"p50_us": ("p50 us", ",.1f"), "p99_us": ("p99 us", ",.1f")}),
        [],
    )


class Doors:
    """One model behind everything that is compared. What is opened is closed with `stack`."""

    def __init__(self, side: int, engine: hr.Engine, stack: ExitStack) -> None:
        model = matmul(side)
        x = np.random.default_rng(0).random((1, side) if side == TINY else (1, side, side), dtype=np.float32)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        run = session.run
        self.run, self.x = run, x
        compiled, joined = (
            stack.enter_context(
                hr.compile_model(
                    model, scheduler="multi_stream", num_streams=STREAMS, engine=engine, max_batch_size=size
                )
            )
            for size in (1, 32)
        )
        assert np.allclose(compiled(x), run(["y"], {"x": x})[0])
        executor = stack.enter_context(ThreadPoolExecutor(STREAMS))
        self.calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "model.submit": lambda: compiled.submit(x),
            "asyncio.to_thread": lambda: asyncio.to_thread(run, ["y"], {"x": x}),
            "run_in_executor(2)": lambda: asyncio.get_running_loop().run_in_executor(executor, run, ["y"], {"x": x}),
            "model.submit, joined": lambda: joined.submit(x),
        }

    def direct_rate(self, secs: float) -> Values:
        """The plain loop: one thread, back to back. The clock is read once in 100 runs."""
        run, x = self.run, self.x
        runs, begun = 0, time.perf_counter()
        until = begun + secs
        while (ended := time.perf_counter()) < until:
            for _ in range(100):
                run(["y"], {"x": x})
            runs += 100
        return {"requests_per_s": runs / (ended - begun)}

    def direct_delays(self, secs: float) -> Values:
        run, x = self.run, self.x
        times, ended = [], time.perf_counter()
        until = ended + secs
        while (begun := ended) < until:
            run(["y"], {"x": x})
            ended = time.perf_counter()
            times.append(ended - begun)
        return percentiles(times, 1e6, "us")


async def closed_loop(call: Callable[[], Awaitable[Any]], secs: float) -> Values:
    """`IN_FLIGHT` tasks, each awaiting `call()` back to back. What ends within `secs` counts."""
    answered, stop = 0, False

    async def caller() -> None:
        nonlocal answered
        while not stop:
            await call()
            answered += 1

    callers = asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    await asyncio.sleep(WARM)
    before, begun = answered, time.perf_counter()
    await asyncio.sleep(secs)
    counted, taken = answered - before, time.perf_counter() - begun
    stop = True
    await callers
    return {"requests_per_s": counted / taken}


async def one_at_a_time(call: Callable[[], Awaitable[Any]], secs: float) -> Values:
    times, ended = [], time.perf_counter()
    since = ended + WARM
    until = since + secs
    while (begun := ended) < until:
        await call()
        ended = time.perf_counter()
        if begun >= since:
            times.append(ended - begun)
    return percentiles(times, 1e6, "us")


def on_loop(module: Any, work: Any) -> Any:
    with asyncio.Runner(loop_factory=module.new_event_loop) as runner:
        return runner.run(work)


def matmul(side: int) -> bytes:
    """y = x @ w, with as many rows as come: the smallest as vectors, the others as square matrices."""
    shape = ["n", side] if side == TINY else ["n", side, side]
    weights = np.random.default_rng(0).standard_normal((side, side)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matmul",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def described(side: int) -> str:
    return f"{side}x{side} MatMul of {'one row' if side == TINY else f'{side} rows'}, float32, batch 1"


# ---- wait


def wait(plan: Plan) -> Figure:
    kinds: dict[str, Callable[[], object]] = {
        f"sleep({OPERATION})": lambda: time.sleep(OPERATION),
        "NumPy matmul": matmul_of_35_ms(),
    }
    turns: dict[str, Turn] = {}
    for kind, function in kinds.items():
        turns[f"headrace, {kind}"] = lambda function=function: waited_on_engine(function, plan)
        turns[f"ThreadPoolExecutor(2), {kind}"] = lambda function=function: waited_on_executor(function, plan)
    found = plan.take_turns("wait", turns)
    ratios = {name: found.middle(name, "behind_ms") / found.middle(name, "alone_ms") for name in turns}
    columns = {"alone_ms": ("alone, ms", ".1f"), "behind_ms": (f"{BEHIND} behind it, ms", ".1f")}
    gates = []
    for kind in kinds:
        ratio, bare = ratios[f"headrace, {kind}"], ratios[f"ThreadPoolExecutor(2), {kind}"]
        what = f"wait for one of {BEHIND + 1} operations, of it alone, {kind}"
        gates.append(Gate(what, "1.1x", f"{ratio:.2f}x (executor {bare:.2f}x)", ratio <= 1.1))
    return Figure(
        f"Wait for one operation with {BEHIND} unrelated ones pushed behind it, {STREAMS} streams",
        found.table(columns, {"ratio": {name: f"{ratio:.2f}" for name, ratio in ratios.items()}}),
        gates,
        "MXNet's 4x are as published, not measured here. A matmul beside another one is slower by what the two cores "
        "share: the executor's line, two bare threads, says how much that is here.",
    )


def matmul_of_35_ms() -> Callable[[], object]:
    def side_of(side: int) -> tuple[Callable[[], object], float]:
        a = np.random.default_rng(0).random((side, side), dtype=np.float32)
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - begun)
        return lambda: a @ a, median(times)

    _, taken = side_of(512)
    function, _ = side_of(int(512 * (OPERATION / taken) ** (1 / 3)))
    return function


def waited_on_engine(function: Callable[[], object], plan: Plan) -> Values:
    with hr.Engine(num_cores=STREAMS) as engine:

        def one(behind: int) -> float:
            variables = [hr.Var() for _ in range(behind + 1)]
            begun = time.perf_counter()
            first, *_ = [engine.push(function, writes=(variable,)) for variable in variables]
            first.wait_to_read()
            taken = time.perf_counter() - begun
            engine.waitall()
            return taken

        return waits(one, plan)


def waited_on_executor(function: Callable[[], object], plan: Plan) -> Values:
    with ThreadPoolExecutor(STREAMS) as executor:

        def one(behind: int) -> float:
            begun = time.perf_counter()
            first, *others = [executor.submit(function) for _ in range(behind + 1)]
            first.result()
            taken = time.perf_counter() - begun
            for other in others:
                other.result()
            return taken

        return waits(one, plan)


def waits(one: Callable[[int], float], plan: Plan) -> Values:
    one(1)  # starts the threads
    pairs = [(one(0), one(BEHIND)) for _ in range(1 if plan.quick else 5)]
    return {key: median(taken) * 1000 for key, taken in zip(("alone_ms", "behind_ms"), zip(*pairs))}


# ---- lag


def lag(plan: Plan) -> Figure:
    secs = 0.4 if plan.quick else 3.0
    with ExitStack() as stack:
        engine = stack.enter_context(hr.Engine(num_cores=STREAMS))
        turns: dict[str, Turn] = {"nothing else": lambda: asyncio.run(lag_beside(None, secs))}
        names = {MILLISECOND: "1 ms", TINY: "5 us"}
        for side, takes in names.items():
            doors = Doors(side, engine, stack)
            awaited, direct = doors.calls["model.submit"], partial(doors.run, ["y"], {"x": doors.x})
            turns[f"{IN_FLIGHT} awaiters, model of {takes}"] = lambda call=awaited: asyncio.run(lag_beside(call, secs))
            executor = doors.calls["run_in_executor(2)"]
            turns[f"{IN_FLIGHT} on run_in_executor(2), model of {takes}"] = lambda call=executor: asyncio.run(
                lag_beside(call, secs)
            )
            turns[f"two bare threads, model of {takes}"] = lambda call=direct: beside_threads(call, secs)
        found = plan.take_turns("lag", turns)
    columns = {
        "p50_ms": ("p50 ms", ".2f"),
        "p99_ms": ("p99 ms", ".2f"),
        "requests_per_s": ("runs/s meanwhile", ",.0f"),
    }
    gates = []
    for takes in names.values():
        p99 = found.middle(f"{IN_FLIGHT} awaiters, model of {takes}", "p99_ms")
        what = f"event-loop lag p99, {IN_FLIGHT} awaiters, model of {takes}"
        gates.append(Gate(what, "2 ms", f"{p99:.2f} ms", p99 <= 2, "0.5 ms", p99 <= 0.5))
    return Figure(
        f"Event-loop lag: how late sleep({SLEEP}) ends while {STREAMS} streams are busy, asyncio's own loop",
        found.table(columns),
        gates,
        "The bare threads call `session.run` back to back, on the same two cores as the loop.",
    )


async def lag_beside(call: Callable[[], Awaitable[Any]] | None, secs: float) -> Values:
    """How late the loop is, with `IN_FLIGHT` awaiters of `call` on it."""
    load = asyncio.create_task(closed_loop(call, secs)) if call else None
    late = []
    since = time.perf_counter() + WARM
    until = since + secs
    while (begun := time.perf_counter()) < until:
        await asyncio.sleep(SLEEP)
        if begun >= since:
            late.append(time.perf_counter() - begun - SLEEP)
    values = percentiles(late, 1e3, "ms")
    return values | await load if load else values


def beside_threads(call: Callable[[], object], secs: float) -> Values:
    stop = threading.Event()
    runs = [0] * STREAMS

    def back_to_back(mine: int) -> None:
        while not stop.is_set():
            call()
            runs[mine] += 1

    threads = [threading.Thread(target=back_to_back, args=(mine,)) for mine in range(STREAMS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    try:
        values = asyncio.run(lag_beside(None, secs))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return values | {"requests_per_s": sum(runs) / (time.perf_counter() - begun)}


# ---- memory and idle: each turn in a process of its own


def memory(plan: Plan) -> Figure:
    n = 200_000 if plan.quick else 1_000_000
    found = plan.take_turns(
        "memory",
        {
            "headrace, default bound": lambda: in_child("memory", n),
            "ThreadPoolExecutor(2).submit": lambda: in_child("executor_memory", n),
        },
        rounds=min(plan.rounds, 3),
    )
    ours = "headrace, default bound"
    grown, inside = found.worst(ours, "later_mib"), found.worst(ours, "max_inside")
    bound = found.middle(ours, "bound")
    columns = {
        "before_mib": ("RSS before, MiB", ".1f"),
        "first_mib": ("growth by 100,000", ".1f"),
        "whole_mib": (f"by {n:,}", ".1f"),
        "after_mib": ("once all have ended", ".1f"),
        "max_inside": ("most inside", ",.0f"),
        "bound": ("bound", ",.0f"),
    }
    return Figure(
        f"{n:,} operations, 1 read and 1 write over {VARS:,} Vars, pushed without waiting, no Future kept; "
        "at most 3 rounds",
        found.table(columns),
        [
            Gate("growth of RSS after the first 100,000", "flat: 1 MiB", f"{grown:.2f} MiB", grown <= 1),
            Gate("most operations inside", f"bound: {bound:,.0f}", f"{inside:,.0f}", inside <= bound),
        ],
        "Growth is of the largest RSS so far over that before, seen every 10,000 pushes, and what is inside every 100. "
        "The gates are held against the worst round. The executor has no bound.",
    )


def in_child(what: str, size: float) -> Values:
    return in_python(__file__, "--child", what, str(size))


def in_python(*arguments: str) -> Values:
    ran = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE)
    values: Values = json.loads(ran.stdout)
    return values


def memory_child(n: float) -> Values:
    chosen, variables = random.Random(0), [hr.Var() for _ in range(VARS)]
    pairs = cycle([chosen.sample(variables, 2) for _ in range(10_000)])
    most = 0
    with hr.Engine() as engine:
        engine.push(nop).wait_to_read()  # starts the streams

        def push_some(count: int) -> None:
            nonlocal most
            for i, (read, write) in enumerate(islice(pairs, count)):
                engine.push(nop, reads=(read,), writes=(write,))
                if not i % 100:
                    most = max(most, engine.statistics().budget.inside)

        grown = growth(push_some, engine.waitall, int(n))
        bound = engine.statistics().budget.max_count
    return {**grown, "max_inside": most, "bound": bound}


def executor_memory_child(n: float) -> Values:
    with ThreadPoolExecutor(STREAMS) as executor:
        executor.submit(nop).result()

        def push_some(count: int) -> None:
            for _ in range(count):
                executor.submit(nop)

        return growth(push_some, executor.shutdown, int(n))


def growth(push_some: Callable[[int], None], finish: Callable[[], None], n: int) -> Values:
    before = top = rss_mib()
    early = before
    for pushed_so_far in range(10_000, n + 1, 10_000):
        push_some(10_000)
        top = max(top, rss_mib())
        if pushed_so_far <= 100_000:
            early = top
    finish()
    after = rss_mib()
    return {
        "before_mib": before,
        "first_mib": early - before,
        "whole_mib": top - before,
        "later_mib": top - early,
        "after_mib": after - before,
    }


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def idle(plan: Plan) -> Figure:
    secs = 1 if plan.quick else 5
    found = plan.take_turns(
        "idle",
        {
            "headrace, digits model loaded": lambda: in_child("idle", secs),
            "only imports onnxruntime and NumPy": lambda: in_python("-c", BARE_IDLE, str(secs)),
        },
        rounds=min(plan.rounds, 3),
    )
    percent = found.middle("headrace, digits model loaded", "cpu_percent")
    return Figure(
        f"CPU of an idle process, over {secs} s; at most 3 rounds",
        found.table({"cpu_percent": ("% of one core", ".3f")}),
        [Gate("idle with a model loaded", "2 %", f"{percent:.3f} %", percent < 2, "0.5 %", percent <= 0.5)],
    )


def idle_child(secs: float) -> Values:
    with hr.compile_model(DIGITS, scheduler="multi_stream") as model:
        for _ in range(10):
            model(np.zeros((1, 1, 8, 8), np.float32))
        cpu, begun = time.process_time(), time.perf_counter()  # of all threads
        time.sleep(secs)
        return {"cpu_percent": (time.process_time() - cpu) / (time.perf_counter() - begun) * 100}


# Not in this file: that imports more.
BARE_IDLE = """
import json, sys, time
import numpy, onnxruntime
cpu, begun = time.process_time(), time.perf_counter()
time.sleep(float(sys.argv[1]))
print(json.dumps({"cpu_percent": (time.process_time() - cpu) / (time.perf_counter() - begun) * 100}))
"""


FIGURES: dict[str, Callable[[Plan], Figure]] = {
    "push": push,
    "submit": submit,
    "alone": alone,
    "wait": wait,
    "lag": lag,
    "memory": memory,
    "idle": idle,
}
CHILDREN: dict[str, Callable[[float], Values]] = {
    "memory": memory_child,
    "executor_memory": executor_memory_child,
    "idle": idle_child,
}

if __name__ == "__main__":
    sys.exit(main())
