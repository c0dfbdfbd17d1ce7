"""Models that come and go beside ResNet-18 at half its capacity."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
from loops import arrivals, closed_loop, summary
from managed.door import Client, Clients, good, make_store, managed
from measure import NOISE
from processes import TICK, machine_cpu_seconds
from turns import Gate, gates_table, own_cpu

SIZE = 128
CALLERS = 4
"""Back to back, to see what ResNet-18 can do."""
SENDERS = 64
"""Connections of the open loop: more than are ever needed at once."""
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def beside(folder: Path, models: int, secs: float, rounds: int, kinds: list[str]) -> str:
    """Alone and beside the models take turns. Those rounds count in which strangers had the least of the machine."""
    from make_resnet18 import resnet18

    make_store(folder)
    (folder / "resnet18.onnx").write_bytes(resnet18(SIZE).SerializeToString())
    x = np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32).tobytes()
    found: list[Round] = []
    with managed(folder, "--models=resnet18=resnet18.onnx", "--scheduler=multi_stream") as server:
        manager, clients = Client(server.management), Clients(server.url)

        def ask() -> None:
            good(clients.mine().predict("resnet18", x))

        closed_loop([ask] * CALLERS, 1.0)
        # The best of some: strangers that were busy meanwhile are no smaller capacity.
        rate = max(closed_loop([ask] * CALLERS, 1.0)["requests_per_s"] for _ in range(4)) / 2
        told: list[tuple[str, list[float], str | None]] = []

        def come_and_go() -> None:
            for _ in range(-(-models // rounds)):
                kind, name = kinds[len(told) % len(kinds)], f"m{len(told)}"
                told.append((kind, *one_model(manager, clients.mine(), kind, name)))

        for number in count():
            others = Strangers(server.process.pid)
            alone, _ = loaded(ask, rate, 2 * number, lambda: time.sleep(secs))
            beside, late = loaded(ask, rate, 2 * number + 1, come_and_go)
            found.append(Round(alone, beside, others.cores(), max(late)))
            print(found[-1], flush=True)
            quiet = sum(each.strangers < NOISE for each in found)
            if quiet >= rounds or len(found) >= 2 * rounds:
                break
        log = server.log()
    failed = [f"{kind}: {error}" for kind, _, error in told if error is not None]
    counted = sorted(found, key=lambda each: each.strangers)[:rounds]
    alone = [took for each in counted for took in each.alone]
    beside = [took for each in counted for took in each.beside]
    before, now = summary(alone), summary(beside)
    ratio = now["p99_ms"] / before["p99_ms"]
    lines = [
        "| ResNet-18 at half its capacity | requests | p50 ms | p99 ms | mean ms |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for what, times, of in (("alone", alone, before), ("while models come and go", beside, now)):
        cells = " | ".join(f"{of[key]:.1f}" for key in ("p50_ms", "p99_ms", "mean_ms"))
        lines.append(f"| {what} | {len(times):,} | {cells} |")
    steps = ("register", "scale to 1", "first answer", "unregister")
    lines += ["", f"| models | {' | '.join(f'{step}, ms' for step in steps)} |", f"| --- |{' ---: |' * len(steps)}"]
    for kind in kinds:
        taken = zip(*[times for name, times, error in told if name == kind and error is None])
        lines.append(f"| {kind} | {' | '.join(f'{median(times):.1f}' for times in taken)} |")
    gates = [
        Gate(f"{len(told)} models come, are asked and go; failed", "0", str(len(failed)), not failed),
        Gate("ResNet-18's p99, of its p99 alone", "2x", f"{ratio:.2f}x", ratio < 2, "1.5x", ratio < 1.5),
    ]
    if failed or "Traceback" in log:
        print(failed[:5], log[-3000:], file=sys.stderr)
    noisy = max(each.strangers for each in counted)
    return (
        "\n".join(lines)
        + f"\n\n{rate:.1f} requests a second. The {len(counted)} quietest of {len(found)} rounds, in which "
        f"others used at most {noisy:.2f} cores.\n\n{gates_table(gates)}"
    )


@dataclass(frozen=True)
class Round:
    """Seconds that requests took."""

    alone: list[float]
    beside: list[float]
    strangers: float
    """Cores."""
    late: float

    def __str__(self) -> str:
        p99, mean = (
            " -> ".join(f"{summary(times)[key]:.1f}" for times in (self.alone, self.beside))
            for key in ("p99_ms", "mean_ms")
        )
        return (
            f"p99 {p99} ms, mean {mean} ms, sent at most {self.late * 1e3:.1f} ms late, others used "
            f"{self.strangers:.2f} cores"
        )


class Strangers:
    """What neither this process nor the server and its workers used, from now on."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._before, self._began = self._others(), time.perf_counter()

    def cores(self) -> float:
        return (self._others() - self._before) / (time.perf_counter() - self._began)

    def _others(self) -> float:
        fields = Path(f"/proc/{self._server}/stat").read_text().rpartition(")")[2].split()
        server = sum(int(each) for each in fields[11:15]) / TICK  # with the workers that have ended
        return machine_cpu_seconds()[0] - own_cpu() - server


def loaded(
    ask: Callable[[], None], rate: float, seed: int, work: Callable[[], None]
) -> tuple[list[float], list[float]]:
    """(what each request took, how late each was sent) that came while `work` went on. A failed one raises."""
    over = threading.Event()

    def until_over() -> Iterator[float]:
        for second in count():
            for moment in arrivals(rate, 1.0, 1000 * seed + second):
                if over.is_set():
                    return
                yield second + moment

    with ThreadPoolExecutor(SENDERS) as pool, ThreadPoolExecutor(1) as managing:
        working = managing.submit(work)
        working.add_done_callback(lambda _: over.set())
        taken = sent(lambda: pool.submit(ask), until_over())
        working.result()
    return taken


def sent(submit: Callable[[], Future[None]], moments: Iterator[float]) -> tuple[list[float], list[float]]:
    """As `open_loop`, of arrivals of which nobody knows how many there will be."""
    due: list[float] = []
    ends: dict[int, float] = {}
    late, futures = [], []
    begun = time.perf_counter() + 0.05
    for number, moment in enumerate(moments):
        while (wait := begun + moment - time.perf_counter()) > 0:
            time.sleep(wait)
        late.append(time.perf_counter() - begun - moment)
        future = submit()
        future.add_done_callback(lambda _, number=number: ends.setdefault(number, time.perf_counter()))
        due.append(begun + moment)
        futures.append(future)
    for future in futures:
        future.result(60)
    while len(ends) < len(due):  # a waiter may be woken before the callback of the last one has run
        time.sleep(0.001)
    return [ends[number] - at for number, at in enumerate(due)], late


def one_model(manager: Client, client: Client, kind: str, name: str) -> tuple[list[float], str | None]:
    """What each step took, in ms; what went wrong."""
    picture = next((EXAMPLES / "digits" / "held_out").glob("*.png")).read_bytes()
    file, body, content = {
        "onnx": ("onnx.onnx", np.zeros(64, np.float32).tobytes(), "application/octet-stream"),
        "archive": ("archive.mar", picture, "image/png"),
        "code": ("code.mar", b"1", "application/json"),
    }[kind]
    times: list[float] = []
    for step in (
        lambda: manager.register(file, model_name=name, initial_workers=0),
        lambda: manager.scale(name, 1),
        lambda: client.predict(name, body, content),
        lambda: manager.ask("DELETE", f"/models/{name}"),
    ):
        began = time.perf_counter()
        status, answer = step()
        times.append((time.perf_counter() - began) * 1e3)
        if status != 200:
            return times, f"{status} {answer.decode(errors='replace'):.200}"
    return times, None
