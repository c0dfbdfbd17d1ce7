"""`kill -9` of a server while models are registered and unregistered: what comes back."""

from __future__ import annotations

import http.client
import json
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from managed.door import RAW, Client, good, make_store, managed
from turns import Gate, gates_table


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
