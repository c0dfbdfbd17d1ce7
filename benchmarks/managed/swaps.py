"""Versions that are exchanged each second, under load."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from managed.door import CODE, Client, good, make_store, managed
from turns import Gate, gates_table

from headrace.testing import make_archive

PACE = 50.0
"""Requests a second of each connection, while versions are exchanged."""
CONNECTIONS = 2


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
