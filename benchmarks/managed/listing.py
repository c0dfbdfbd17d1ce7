"""Looks at many models that are registered and not loaded."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loops import summary
from managed.door import Client, good, make_store, managed
from turns import Gate, gates_table


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
