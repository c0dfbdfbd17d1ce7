"""Models that come, change and go while others serve.

    python benchmarks/management.py [--only beside,swaps,kills,listing] [--models 100] [--swaps 60] [--kills 50]

`beside`: 100 models, one after the other, are registered, scaled from none to one, asked and unregistered over REST,
while ResNet-18 (128x128, `multi_stream`) serves arrivals that do not wait for answers, at half of what it can do. A
third each: ONNX files, digits archives (both in the server's process), archives with code (a worker process each).
`swaps`: two models (an ONNX file, and a function in workers) have another version every second, under load. `kills`:
`kill -9` of the server while models are registered and unregistered; what comes back is what had been told to be made.
`listing`: looks at 1,000 models that are registered and not loaded. Writes benchmarks/results/management.md, where what
was not run stays.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

# Before the runtime is imported: no thread that sends usage data.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from loops import arrivals, closed_loop, summary  # noqa: E402
from machine import surroundings  # noqa: E402
from measure import NOISE  # noqa: E402
from processes import TICK, machine_cpu_seconds  # noqa: E402
from turns import Gate, gates_table, own_cpu  # noqa: E402

from headrace.server.options import BUNDLED_DIGITS  # noqa: E402
from headrace.testing import RunningServer, make_archive, run_server  # noqa: E402

ORDER = ("beside", "swaps", "kills", "listing")
SIZE = 128
CALLERS = 4
"""Back to back, to see what ResNet-18 can do."""
SENDERS = 64
"""Connections of the open loop: more than are ever needed at once."""
PACE = 50.0
"""Requests a second of each connection, while versions are exchanged."""
CODE = "def handle(data, context):\n    return None if data is None else ['VERSION'] * len(data)\n"
CONNECTIONS = 2
RAW = {"content-type": "application/octet-stream"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ORDER))
    parser.add_argument("--models", type=int, default=100, help="that come and go beside ResNet-18 (%(default)s)")
    parser.add_argument("--kinds", default="onnx,archive,code", help="of those models (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="in which they come and go (%(default)s)")
    parser.add_argument("--secs", type=float, default=6, help="of ResNet-18 alone in each round (%(default)s)")
    parser.add_argument("--swaps", type=int, default=60, help="one a second (%(default)s)")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--listed", type=int, default=1000, help="models that are registered (%(default)s)")
    options = parser.parse_args()
    figures: dict[str, Callable[[Path], str]] = {
        "beside": lambda folder: beside(folder, options.models, options.secs, options.rounds, options.kinds.split(",")),
        "swaps": lambda folder: swaps(folder, options.swaps),
        "kills": lambda folder: kills(folder, options.kills),
        "listing": lambda folder: listing(folder, options.listed),
    }
    chosen = options.only.split(",")
    for name in [name for name in ORDER if name in chosen]:
        with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
            text = figures[name](Path(folder))
        print(f"## {name}\n\n{text}\n", flush=True)
        keep(name, text)
    return 0


def keep(name: str, text: str) -> None:
    """Into the file of results. A section that was not run stays as it is, with what it was measured at."""
    path = HERE / "results" / "management.md"
    kept = dict(re.findall(r"^## (\w+)\n\n(.*?)\s*(?=^## |\Z)", path.read_text() if path.exists() else "", re.M | re.S))
    where = ", ".join(f"{key} {value}" for key, value in surroundings().items() if key != "wrk")
    kept[name] = f"{text}\n\n`python benchmarks/management.py {' '.join(sys.argv[1:])}`; {where}"
    sections = [f"## {each}\n\n{kept[each]}\n" for each in ORDER if each in kept]
    path.write_text("\n".join(["# Management\n", *sections]))


class Client:
    """One keep-alive connection."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def predict(self, model: str, body: bytes, kind: str = "application/octet-stream") -> tuple[int, bytes]:
        return self.ask("POST", f"/predictions/{model}", body, **{"content-type": kind})

    def register(self, url: str, **parameters: object) -> tuple[int, bytes]:
        return self.ask("POST", f"/models?{urlencode({'url': url, **parameters})}")

    def scale(self, model: str, workers: int) -> tuple[int, bytes]:
        return self.ask("PUT", f"/models/{model}?min_worker={workers}&synchronous=true")


class Clients:
    """A connection for each thread that asks."""

    def __init__(self, url: str) -> None:
        self._url, self._own = url, threading.local()

    def mine(self) -> Client:
        if not hasattr(self._own, "client"):
            self._own.client = Client(self._url)
        client: Client = self._own.client
        return client


@contextlib.contextmanager
def managed(folder: Path, *arguments: str) -> Iterator[RunningServer]:
    doors = ("--management-address=127.0.0.1:0", "--model-store=store", "--manage-callables=yes")
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    with run_server(*doors, *arguments, cwd=folder, env=environment) as server:
        yield server


def good(answer: tuple[int, bytes]) -> bytes:
    status, body = answer
    if status != 200:
        raise RuntimeError(f"{status}: {body.decode(errors='replace'):.300}")
    return body


# ---- beside


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


def make_store(folder: Path) -> Path:
    store = folder / "store"
    store.mkdir()
    shutil.copy(Path(BUNDLED_DIGITS, "digits.onnx"), store / "onnx.onnx")
    files = {path.name: path for path in Path(BUNDLED_DIGITS).iterdir() if path.is_file()}
    manifest = json.loads(Path(BUNDLED_DIGITS, "MAR-INF", "MANIFEST.json").read_text())["model"]
    make_archive(
        store, "archive", files=files, handler=manifest["handler"], serialized_file=manifest["serializedFile"],
        config_file=manifest.get("configFile"),
    )  # fmt: skip
    make_archive(store, "code", files={"service.py": CODE.replace("VERSION", "ok")})
    return store


def one_model(manager: Client, client: Client, kind: str, name: str) -> tuple[list[float], str | None]:
    """What each step took, in ms; what went wrong."""
    picture = next((HERE.parent / "examples" / "digits" / "held_out").glob("*.png")).read_bytes()
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


# ---- swaps


def swaps(folder: Path, number: int) -> str:
    """An ONNX model that adds its version to eight zeros, and a function in a worker that tells its own."""
    store = make_store(folder)
    with managed(folder, "--models=onnx=onnx.onnx") as server:
        manager, watches = Client(server.management), [Watch(server.url, ask) for ask in (ask_onnx, ask_code)]
        names = [watch.ask.__name__.removeprefix("ask_") for watch in watches]
        took: dict[str, list[float]] = {name: [] for name in names}
        good(manager.ask("DELETE", "/models/onnx"))
        with contextlib.ExitStack() as stack:
            for version in range(1, number + 2):
                began = time.perf_counter()
                for name, watch in zip(names, watches):
                    make_version(store, name, version)
                    begun = time.perf_counter()
                    good(
                        manager.register(version_file(name), model_name=name, model_version=version, initial_workers=1)
                    )
                    if version > 1:
                        good(manager.ask("PUT", f"/models/{name}/{version}/set-default"))
                        watch.is_default(version)
                        good(manager.ask("DELETE", f"/models/{name}/{version - 1}"))
                        took[name].append((time.perf_counter() - begun) * 1e3)
                    else:
                        watch.is_default(version)
                        stack.enter_context(watch)
                time.sleep(max(0.0, began + 1 - time.perf_counter()))
        rest = [json.loads(good(manager.ask("GET", f"/models/{name}/all"))) for name in names]
    lines = [
        "| | swaps | a swap, ms | requests | failed | mixed | older than before | older than the default |",
        "| --- |" + " ---: |" * 7,
    ]
    wrong = sum(len(each) != 1 for each in rest)
    for name, watch in zip(names, watches):
        found = (watch.answers, *(len(each) for each in (watch.failed, watch.mixed, watch.back, watch.stale)))
        wrong += sum(found[1:])
        lines.append(f"| {name} | {number} | {median(took[name]):.0f} | {' | '.join(f'{n:,}' for n in found)} |")
        for each in (watch.failed, watch.mixed, watch.back, watch.stale):
            if each:
                print(name, each[:3], file=sys.stderr)
    gates = [Gate("a version a second: failed, mixed or old answers", "0", str(wrong), not wrong)]
    return (
        "\n".join(lines) + f"\n\n{CONNECTIONS} connections for each model, {PACE:g} requests a second each. Older than "
        "before: on one connection. Older than the default: asked after a manager had been told of a newer one.\n\n"
        f"{gates_table(gates)}"
    )


class Watch:
    """Asks one model on some connections, and looks at every answer."""

    def __init__(self, url: str, ask: Callable[[Client], tuple[int, set[int]]]) -> None:
        """`ask`: the status, and all versions that the answer has traces of."""
        self._url, self.ask = url, ask
        self.answers, self._default = 0, 0
        self.failed: list[object] = []
        self.mixed: list[object] = []
        self.back: list[object] = []
        self.stale: list[object] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CONNECTIONS)]

    def is_default(self, version: int) -> None:
        self._default = version

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        client, before = Client(self._url), 0
        while not self._over.is_set():
            until, default = time.perf_counter() + 1 / PACE, self._default
            try:
                status, versions = self.ask(client)
            except Exception as error:
                self.failed.append(error)
                client = Client(self._url)
                continue
            self.answers += 1
            if status != 200:
                self.failed.append((status, versions))
            elif len(versions) != 1:
                self.mixed.append(versions)
            else:
                (version,) = versions
                if version < before:
                    self.back.append((before, version))
                if version < default:
                    self.stale.append((default, version))
                before = version
            time.sleep(max(0.0, until - time.perf_counter()))


EIGHT = json.dumps({"inputs": [{"name": "x", "shape": [8, 1], "datatype": "FP32", "data": [0] * 8}]}).encode()


def ask_onnx(client: Client) -> tuple[int, set[int]]:
    status, body = client.ask("POST", "/v2/models/onnx/infer", EIGHT)
    if status != 200:
        return status, set()
    told = json.loads(body)
    return status, {int(told["model_version"]), *map(int, told["outputs"][0]["data"])}


def ask_code(client: Client) -> tuple[int, set[int]]:
    status, body = client.predict("code", b"1", "application/json")
    return status, {int(body)} if status == 200 else set()


def version_file(name: str) -> str:
    return "version.onnx" if name == "onnx" else "version.mar"


def make_version(store: Path, name: str, version: int) -> None:
    """In the place of the one before."""
    if name == "code":
        make_archive(store, "version", files={"service.py": CODE.replace("VERSION", str(version))})
        return
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", 1]) for end in "xy"]
    more = helper.make_tensor("more", TensorProto.FLOAT, [1], [float(version)])
    graph = helper.make_graph([helper.make_node("Add", ["x", "more"], ["y"])], "g", ends[:1], ends[1:], [more])
    half = store / "half"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(half))
    half.replace(store / "version.onnx")


# ---- kills


def kills(folder: Path, number: int) -> str:
    make_store(folder)
    snapshot, rng = folder / "models.json", random.Random(0)
    told: State = {}
    maybe: State | None = None
    wrong: list[str] = []
    changes, models, inside = 0, 0, [0, 0]
    starts: list[float] = []
    for turn in range(number + 1):
        began = time.perf_counter()
        with managed(folder, f"--snapshot={snapshot}", "--models=onnx=onnx.onnx") as server:
            starts.append(time.perf_counter() - began)
            manager, client = Client(server.management), Client(server.url)
            if not turn:
                good(manager.ask("DELETE", "/models/onnx"))
            there = state_of(manager)
            if there not in (told, told if maybe is None else maybe):
                wrong.append(f"{there}; it was {told}, or {maybe}")
            told, maybe = there, None
            for (name, version), workers in told.items():
                if workers and not name.endswith(DEFAULT):
                    body = np.zeros(64, np.float32).tobytes()
                    models += 1
                    status, answer = client.ask("POST", f"/predictions/{name}/{version}", body, **RAW)
                    if status != 200:
                        wrong.append(f"{name}:{version} answers {status} {answer!r:.100}")
            if list(folder.glob(".models.json.*")):
                wrong.append("half a snapshot was left")
            if turn == number:
                break
            timer = threading.Timer(rng.uniform(0.0, 0.6), server.process.kill)
            timer.start()
            try:
                while True:
                    maybe, change = next_change(told, rng)
                    coming = len(maybe) > len(told)
                    good(change(manager))
                    told, maybe, changes = maybe, None, changes + 1
            except (OSError, http.client.HTTPException):
                inside[coming] += 1
            timer.join()
            server.process.wait()
    for each in wrong[:5]:
        print(each, file=sys.stderr)
    gates = [Gate(f"{number} kills; not the last complete state", "0", str(len(wrong)), not wrong)]
    return (
        f"`kill -9` within 0.6 s, while a manager registers, scales, gives versions and unregisters: {changes:,} "
        f"changes were confirmed, {sum(inside)} were under way, of which {inside[True]} registered "
        f"something. {models} models that had come back were asked. A start takes {median(starts):.2f} s."
        f"\n\n{gates_table(gates)}"
    )


State = dict[tuple[str, str], int]
"""Workers of each version of each model; of (NAME/default, VERSION) 1."""
DEFAULT = "/default"


def state_of(manager: Client) -> State:
    state: State = {}
    for each in json.loads(good(manager.ask("GET", "/models?limit=1000")))["models"]:
        name = each["modelName"]
        (default,) = json.loads(good(manager.ask("GET", f"/models/{name}")))
        state[f"{name}{DEFAULT}", default["modelVersion"]] = 1
        for version in json.loads(good(manager.ask("GET", f"/models/{name}/all"))):
            state[name, version["modelVersion"]] = version["minWorkers"]
    return state


def next_change(state: State, rng: random.Random) -> tuple[State, Callable[[Client], tuple[int, bytes]]]:
    """(what it leads to, the change): of one of four models, the next of what can be done with it."""
    name = f"m{rng.randrange(4)}"
    file = ("onnx.onnx", "code.mar")[int(name[1:]) % 2]
    mine = {version: workers for (each, version), workers in state.items() if each == name}
    default = next((version for each, version in state if each == name + DEFAULT), None)
    after = dict(state)
    if default is None:
        after |= {(name, "1"): 1, (name + DEFAULT, "1"): 1}
        return after, lambda manager: manager.register(file, model_name=name, model_version="1", initial_workers=1)
    (*_, last) = sorted(mine, key=int)
    if len(mine) == 1 and mine[last] and rng.random() < 0.5:
        after[name, last] = 0
        return after, lambda manager: manager.scale(name, 0)
    if len(mine) == 1 and rng.random() < 0.5:
        new = str(int(last) + 1)
        after[name, new] = 1
        return after, lambda manager: manager.register(file, model_name=name, model_version=new, initial_workers=1)
    if len(mine) == 1:
        del after[name, last], after[name + DEFAULT, last]
        return after, lambda manager: manager.ask("DELETE", f"/models/{name}/{last}")
    if default != last:
        del after[name + DEFAULT, default]
        after[name + DEFAULT, last] = 1
        return after, lambda manager: manager.ask("PUT", f"/models/{name}/{last}/set-default")
    first = min(mine, key=int)
    del after[name, first]
    return after, lambda manager: manager.ask("DELETE", f"/models/{name}/{first}")


# ---- listing


def listing(folder: Path, number: int) -> str:
    make_store(folder)
    rng = random.Random(0)
    with managed(folder, "--models=onnx=onnx.onnx") as server:
        manager, client = Client(server.management), Client(server.url)
        began = time.perf_counter()
        for i in range(number):
            good(manager.register("onnx.onnx", model_name=f"m{i}", initial_workers=0))
        registering = (time.perf_counter() - began) / number
        looks: dict[str, tuple[int, Callable[[], tuple[int, bytes]]]] = {
            "describe one": (2000, lambda: manager.ask("GET", f"/models/m{rng.randrange(number)}")),
            "list, a page of 100": (500, lambda: manager.ask("GET", "/models")),
            "list, all pages": (100, lambda: all_pages(manager)),
            "v2 index": (100, lambda: manager.ask("POST", "/v2/repository/index", b"{}")),
        }
        pings = Pings(client)
        alone = pings.during(lambda: time.sleep(2))
        lines = [
            "| look | p50 ms | p99 ms | p99 of /ping on the inference port, ms |",
            "| --- | ---: | ---: | ---: |",
            f"| none | | | {alone:.2f} |",
        ]
        slowest = 0.0
        for what, (times, ask) in looks.items():
            taken: list[float] = []

            def look(ask: Callable[[], object] = ask, times: int = times, taken: list[float] = taken) -> None:
                for _ in range(times):
                    began = time.perf_counter()
                    good(ask())  # type: ignore[arg-type]
                    taken.append(time.perf_counter() - began)

            beside = pings.during(look)
            found = summary(taken)
            if what.startswith(("describe", "list, a page")):
                slowest = max(slowest, found["p50_ms"])
            lines.append(f"| {what} | {found['p50_ms']:.2f} | {found['p99_ms']:.2f} | {beside:.2f} |")
    gates = [
        Gate(
            f"describe and list with {number:,} models without workers, p50", "5 ms", f"{slowest:.2f} ms", slowest < 5,
            "2 ms", slowest < 2,
        )
    ]  # fmt: skip
    return "\n".join(lines) + f"\n\nTo register one: {registering * 1e3:.2f} ms.\n\n{gates_table(gates)}"


def all_pages(manager: Client) -> tuple[int, bytes]:
    token: str | None = "0"
    while token is not None:
        answer = manager.ask("GET", f"/models?next_page_token={token}")
        token = json.loads(good(answer)).get("nextPageToken")
    return answer


class Pings:
    """Of the inference port, 200 a second."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def during(self, work: Callable[[], object]) -> float:
        """Their p99 in ms."""
        with ThreadPoolExecutor(1) as pool:
            working, taken = pool.submit(work), []
            while not working.done():
                began = time.perf_counter()
                good(self._client.ask("GET", "/ping"))
                taken.append(time.perf_counter() - began)
                time.sleep(0.005)
            working.result()
        return summary(taken)["p99_ms"]


if __name__ == "__main__":
    sys.exit(main())
