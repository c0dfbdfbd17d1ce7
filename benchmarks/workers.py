"""What worker processes cost, and what they save.

    python benchmarks/workers.py [--only http,archive,trips,start,kills,faults,weights,restarts] [--secs 4] [--rounds 3]

`http`: a model that does nothing, one worker, beside the peers that are installed and beside the server's own process.
`archive`: a no-op archive, served by us and by Multi Model Server, beside a function. `trips`: calls from one thread of
the library. `start`: until `compile_model` returns. `kills`: `kill -9` of the only worker each second, under load.
`faults`: the p99 of a model at a quarter of its capacity, while another one is broken, beside its p99 while that one is
healthy and as busy, in turns. `weights`: what 4 workers of ResNet-18 have of its weights, each with a copy of its own
and all with one, and how long a run takes. `restarts`, only when asked for: what is left of a thousand. Writes
benchmarks/results/workers.md, where what was not run stays.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from machine import surroundings  # noqa: E402
from measure import Plan  # noqa: E402
from run import measure  # noqa: E402
from table import markdown, measured_on  # noqa: E402

import headrace as hr  # noqa: E402
from headrace.testing import RunningServer, run_server  # noqa: E402

ARCHIVES = ["headrace:process", "headrace-archive", "mms-archive:tuned", "mms-archive:batch"]
NAMES = ["headrace:process", "headrace:default", "mms:tuned", "mosec:tuned", "mms:batch", "mosec:batch"]
HANDLERS = """
import os, signal, sys, time
def steady(x): return "OK"
def echo(x): return x
def own_pid(x): return os.getpid()
def healthy(x):
    until = time.perf_counter() + 0.002
    while time.perf_counter() < until: pass
    return 1
def stopped(x): os.kill(os.getpid(), signal.SIGSTOP)
def loops(x):
    while True: pass
def hogs(x): return len(bytearray(1 << 40))
def exits(x): os._exit(3)
def prints(x):
    for _ in range(20000): print("x" * 50)
    return 1
def short(xs): return xs[1:]
def lists_steady(xs): return ["OK"] * len(xs)
def lists_healthy(xs): return [healthy(x) for x in xs]
def large(x): return bytes(1_000_000_000)
"""
SAYS = {
    "stopped": "was stopped by a signal",
    "loops": "in loops",
    "hogs": "MemoryError",
    "exits": "exit status 3",
    "prints": "lines of output were not logged",
    "short": "came back as 0 answers",
    "large": "does not fit",
}
"""What the log has to say of each fault."""
OPTIONS = {"hogs": ("--memory-limit", str(1 << 30)), "short": ("--max-batch-size", "4")}
PACE = 400.0
"""Requests a second, at most, of the model beside the steady one: about what the healthy one does."""
ORDER = ("trips", "start", "kills", "faults", "weights", "restarts", "archive", "http")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="http,archive,trips,start,kills,faults,weights")
    parser.add_argument("--secs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--faults", default=",".join(SAYS), help="which of them")
    options = parser.parse_args()
    chosen = options.only.split(",")
    parts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bench_handlers.py").write_text(HANDLERS)
        sys.path.insert(0, folder)
        if "trips" in chosen:
            parts.append(trips())
        if "start" in chosen:
            parts.append(start())
        if "kills" in chosen:
            parts.append(kills(folder, options.secs))
        if "faults" in chosen:
            parts.append(faults(folder, options.secs, options.faults.split(",")))
        if "weights" in chosen:
            parts.append(weights(Path(folder), options.rounds))
        if "restarts" in chosen:
            parts.append(restarts())
    if "archive" in chosen:
        parts.append(archive(Plan(levels=[1, 100, 200], secs=options.secs, warm_secs=2, tries=1), options.rounds))
    if "http" in chosen:
        plan = Plan(levels=[1, 100, 200], secs=options.secs, warm_secs=2, tries=1)
        rows, _ = measure(NAMES, plan, rounds=options.rounds, out=None)
        parts.append(f"{markdown(rows)}\n\n{measured_on(rows)}")
    print("\n\n".join(parts))
    keep(dict(zip([name for name in ORDER if name in chosen], parts)))
    return 0


def keep(ran: dict[str, str]) -> None:
    """Into the file of results. A section that was not run stays as it is, with what it was measured at."""
    path = HERE / "results" / "workers.md"
    kept = dict(re.findall(r"^## (\w+)\n\n(.*?)\s*(?=^## |\Z)", path.read_text() if path.exists() else "", re.M | re.S))
    where = ", ".join(f"{key} {value}" for key, value in surroundings().items())
    kept |= {
        name: f"{text}\n\n`python benchmarks/workers.py {' '.join(sys.argv[1:])}`; {where}"
        for name, text in ran.items()
    }
    sections = [f"## {name}\n\n{kept[name]}\n" for name in ORDER if name in kept]
    path.write_text("\n".join(["# Worker processes\n", *sections]))


def archive(plan: Plan, rounds: int) -> str:
    """One archive with a service in the old shape, by us and by Multi Model Server, beside the plain function."""
    rows, _ = measure(ARCHIVES, plan, rounds=rounds, out=None)

    def rate(server: str, connections: int) -> float:
        same = [row for row in rows if (row["server"], row["connections"]) == (server, connections)]
        return median(row["requests_per_s"] for row in same) if same else float("nan")

    lines = [
        "| connections | of the plain function's | gate | times Multi Model Server's best | gate |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for connections in plan.levels:
        ours = rate("headrace-archive:default", connections)
        best = max(rate(f"mms-archive:{variant}", connections) for variant in ("tuned", "batch"))
        plain = rate("headrace:process", connections)
        lines.append(f"| {connections} | {ours / plain:.2f} | 0.8 | {ours / best:.2f} | 1 |")
    return f"{markdown(rows)}\n\n" + "\n".join(lines) + f"\n\n{measured_on(rows)}"


def trips() -> str:
    array = np.random.default_rng(0).random(150_000, np.float32)
    lines = ["| round trip, one caller | p50 us | p99 us | gate |", "| --- | ---: | ---: | --- |"]
    with hr.compile_model("bench_handlers:echo", isolation="process") as model:
        for what, value, gate in (("a number", 1, ""), ("0.6 MB each way", array, "100 us")):
            times = []
            for i in range(2000):
                began = time.perf_counter()
                model(value)
                if i >= 200:
                    times.append(1e6 * (time.perf_counter() - began))
            lines.append(f"| {what} | {median(times):.0f} | {np.percentile(times, 99):.0f} | {gate} |")
        count = 50_000
        began = time.perf_counter()
        for _ in model.map(range(count), window=200):
            pass
        lines.append(f"\n`map` with 200 inside: {count / (time.perf_counter() - began):,.0f} a second.")
    return "\n".join(lines)


def start() -> str:
    times = []
    for _ in range(7):
        began = time.perf_counter()
        model = hr.compile_model("bench_handlers:steady", isolation="process")
        times.append(time.perf_counter() - began)
        model.close()
    return f"Start of a worker until it is ready: {median(times):.2f} s (median of {len(times)}; gate 0.5 s)."


def restarts(count: int = 1000) -> str:
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    with hr.compile_model("bench_handlers:own_pid", isolation="process") as model:
        model(0)
        before, began = held(), time.perf_counter()
        for _ in range(count):
            os.kill(model(0), signal.SIGKILL)
        model(0)
        seconds, after = (time.perf_counter() - began) / count, held()
    return f"{count:,} restarts, {seconds:.2f} s each: descriptors and threads {before} before, {after} after."


def weights(folder: Path, rounds: int, workers: int = 4) -> str:
    """Memory: what is proportionally theirs (PSS) of all workers, beside the same with a model of no weights.
    Speed: one request at a time, models taking turns, the median of the rounds' medians."""
    import onnx
    from make_resnet18 import resnet18
    from onnx import TensorProto, helper

    network = resnet18(128)
    nbytes = sum(len(each.raw_data) for each in network.graph.initializer)
    onnx.save(network, str(folder / "resnet18.onnx"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 128, 128]) for name in "xy"]
    nothing = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(nothing, opset_imports=opset, ir_version=8), str(folder / "nothing.onnx"))
    x = np.random.default_rng(0).random((1, 3, 128, 128), np.float32)
    memory: dict[str, int] = {}
    costs: tuple[object, ...] = ()
    with ExitStack() as stack:
        models: dict[str, hr.Model] = {}
        for what, file, share in (
            ("no weights", "nothing.onnx", False),
            ("a copy each", "resnet18.onnx", False),
            ("one copy", "resnet18.onnx", True),
        ):
            model = hr.compile_model(folder / file, isolation="process", workers=workers, share_weights=share)
            stack.callback(model.close)
            for _ in model.map([x] * 8 * workers):
                pass
            time.sleep(0.5)
            memory[what] = sum(proportional(status.pid) for status in model.workers)
            models[what] = model
            if share:
                costs = model.crew.model.weights.costs  # type: ignore[union-attr]
        times: dict[str, list[float]] = {what: [] for what in models}
        for _ in range(max(5, rounds)):
            for what, model in models.items():
                took = []
                for _ in range(40):
                    began = time.perf_counter()
                    model(x)
                    took.append(1e3 * (time.perf_counter() - began))
                times[what].append(median(took))
    mib = 1 << 20
    lines = [
        f"{workers} workers of ResNet-18 (128x128), {nbytes / mib:.1f} MiB of weights.\n",
        "| | memory of all workers, MiB (PSS) | beyond no weights, in copies | one request at a time, ms | gate |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for what, used in memory.items():
        copies = (used - memory["no weights"]) / nbytes
        gate = "1.2 copies" if what == "one copy" else ""
        lines.append(f"| {what} | {used / mib:.1f} | {copies:.2f} | {median(times[what]):.2f} | {gate} |")
    lines.append(f"\nMeasured at load: {'; '.join(map(str, costs or ()))}.")
    return "\n".join(lines)


def proportional(pid: int) -> int:
    """Bytes of a process, each page divided by how many share it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this needs Linux: /proc/PID/smaps_rollup says no Pss")


class Client:
    """One keep-alive connection."""

    def __init__(self, server: RunningServer) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def ask(self, model: str) -> int:
        self._connection.request("POST", f"/predictions/{model}", b"1", {"content-type": "application/json"})
        answer = self._connection.getresponse()
        answer.read()
        return answer.status


@contextmanager
def threads(count: int, work: Callable[[], object]) -> Iterator[threading.Event]:
    over = threading.Event()

    def loop() -> None:
        while not over.is_set():
            work()

    running = [threading.Thread(target=loop, daemon=True) for _ in range(count)]
    for thread in running:
        thread.start()
    yield over
    over.set()
    for thread in running:
        thread.join(70)


def kills(folder: str, secs: int) -> str:
    statuses: dict[int, int] = {}
    ends: list[float] = []
    local = threading.local()
    with run_server("bench_handlers:steady", cwd=folder) as server:

        def work() -> None:
            if not hasattr(local, "client"):
                local.client = Client(server)
            status = local.client.ask("steady")
            ends.append(time.monotonic())
            statuses[status] = statuses.get(status, 0) + 1

        killed = []
        with threads(8, work):
            for _ in range(2 * secs):
                time.sleep(1)
                killed.append(time.monotonic())
                os.kill(worker_of(server), signal.SIGKILL)
            time.sleep(1)
    ends.sort()
    gaps = [max(b - a for a, b in pairwise(ends) if a <= at + 0.9 and b >= at) for at in killed]
    return (
        f"`kill -9` of the only worker each second, 8 clients, {len(killed)} times: statuses {statuses}; the longest "
        f"pause around a kill: median {median(gaps):.2f} s, most {max(gaps):.2f} s (gate: all 200, under 1 s)."
    )


def worker_of(server: RunningServer) -> int:
    while True:
        found = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True).stdout.split()
        if found:
            return int(found[0])
        time.sleep(0.01)


def faults(folder: str, secs: int, chosen: Sequence[str]) -> str:
    """Each fault beside a healthy neighbour that is asked for just before it, at the same rate."""
    lines = [
        "| the other model | p99 ms | beside a healthy one | ratio | its statuses | the log says |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for name in chosen:
        lists = "lists_" if name == "short" else ""
        models = [f"steady=bench_handlers:{lists}steady", f"healthy=bench_handlers:{lists}healthy"]
        options = ["--response-timeout", "1" if name in ("stopped", "loops") else "20", *OPTIONS.get(name, ())]
        with run_server(*models, f"bench_handlers:{name}", *options, cwd=folder) as server:
            client = Client(server)
            began, count = time.perf_counter(), 2000
            for _ in range(count):
                client.ask("steady")
            rate = count / (time.perf_counter() - began) / 4
            beside: dict[str, list[float]] = {"healthy": [], name: []}
            statuses: dict[int, int] = {}
            for turn in range(2):
                for other in sorted(beside, reverse=bool(turn)):
                    times, its = neighbour(server, other, rate, secs)
                    beside[other] += times
                    if other == name:
                        statuses = {key: statuses.get(key, 0) + its.get(key, 0) for key in {*statuses, *its}}
            said = SAYS[name] if re.search(SAYS[name], server.log()) else "nothing of it"
        p99, usual = (float(np.percentile(beside[each], 99)) for each in (name, "healthy"))
        lines.append(f"| {name} | {p99:.2f} | {usual:.2f} | {p99 / usual:.2f} | {statuses} | {said} |")
    return "\n".join(lines)


def neighbour(server: RunningServer, name: str, rate: float, secs: int) -> tuple[list[float], dict[int, int]]:
    """The times in ms of the steady model, asked for at `rate`, while `name` has one client, who asks at most PACE
    times a second: what is refused at once is no more work than what is answered."""
    statuses: dict[int, int] = {}
    other = Client(server)

    def work() -> None:
        until = time.perf_counter() + 1 / PACE
        status = other.ask(name)
        statuses[status] = statuses.get(status, 0) + 1
        time.sleep(max(0.0, until - time.perf_counter()))

    client, times = Client(server), []
    rng = np.random.default_rng(0)
    with threads(1, work):
        at = until = time.perf_counter()
        until += secs
        while at < until:
            at += rng.exponential(1 / rate)
            while (early := at - time.perf_counter()) > 0:
                time.sleep(early)
            client.ask("steady")
            times.append(1e3 * (time.perf_counter() - at))
    return times, statuses


if __name__ == "__main__":
    sys.exit(main())
