"""One server's turn: start it, see how it rests, warm it up, load it at each level, stop it.

A level during which strangers used more than `NOISE` of a core is measured again, and the quietest try is kept.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
from load import TIMEOUT, post, wrk
from processes import Server, machine_cpu_seconds
from servers import PEERS, VENVS, Spec, split

NOISE = 0.2
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    levels: tuple[int, ...]  # connections
    secs: int = 5  # of load at each level
    warm_secs: int = 4
    warm_connections: int = 32
    settle_secs: float = 2.0  # between the first answer and looking at the idle server
    idle_secs: float = 3.0
    tries: int = 3
    secs_at: Mapping[int, int] = field(default_factory=dict)  # at levels that need longer
    timeout: int = TIMEOUT  # seconds after which a request is lost


def turn(spec_name: str, plan: Plan, say: Callable[[str], None]) -> Generator[Row, None, None]:
    """A row per level, as they come. The server is stopped when the iterator is closed or used up."""
    name, variant = split(spec_name)
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        spec = PEERS[name].build(folder, variant)
        server = Server(spec.argv, env={**spec.env, "DO_NOT_TRACK": "1"}, cwd=folder, log=folder / "server.log")
        try:
            cold = first_answer(server, spec)
            idle = idle_cpu(server, plan)
            say(f"first answer after {cold:.2f} s, idle CPU {idle:.1f} %; warming up")
            load(spec, plan.warm_connections, plan.warm_secs, plan)
            about = {
                "server": f"{name}:{variant}",
                "cold_s": round(cold, 3),
                "idle_cpu_percent": round(idle, 2),
                "versions": versions(name),
                **machine.surroundings(),
            }
            for connections in plan.levels:
                row = quietest(server, spec, connections, plan)
                if server.exited():
                    raise RuntimeError(f"ended under {connections} connections: {server.log_tail()}")
                yield {**about, "connections": connections, **row}
        finally:
            server.stop(spec.grace)


def first_answer(server: Server, spec: Spec) -> float:
    """Seconds from the start of the process to the first good answer to a real request."""
    if spec.setup is not None:
        server.wait_until(spec.setup, spec.ready_within)
    body, answer = spec.body.read_bytes(), b""

    def answered() -> bool:
        nonlocal answer
        status, answer = post(spec.url, body, content_type=spec.content_type)
        return status == 200

    try:
        cold = server.wait_until(answered, spec.ready_within)
    except RuntimeError as error:
        raise RuntimeError(f"{error}\nlast answer: {answer[:300]!r}") from None
    if spec.must not in answer:
        raise RuntimeError(f"{spec.must!r} is not in its answer {answer[:300]!r}")
    return cold


def idle_cpu(server: Server, plan: Plan) -> float:
    """CPU per cent of one core while nobody asks for anything."""
    time.sleep(plan.settle_secs)
    before = server.cpu_seconds()
    time.sleep(plan.idle_secs)
    return (server.cpu_seconds() - before) / plan.idle_secs * 100


def quietest(server: Server, spec: Spec, connections: int, plan: Plan) -> Row:
    rows: list[Row] = []
    while len(rows) < plan.tries and not (rows and rows[-1]["strangers_cores"] <= NOISE):
        rows.append(loaded(server, spec, connections, plan))
    best = min(rows, key=lambda row: row["strangers_cores"])
    return {**best, "tries": len(rows), "noisy": best["strangers_cores"] > NOISE}


def loaded(server: Server, spec: Spec, connections: int, plan: Plan) -> Row:
    """One level once: what wrk saw, and who used the processors meanwhile."""
    cpu, (busy, stolen), client, began = server.cpu_seconds(), machine_cpu_seconds(), client_cpu(), time.perf_counter()
    row = load(spec, connections, plan.secs_at.get(connections, plan.secs), plan)
    wall = time.perf_counter() - began
    cpu, client = server.cpu_seconds() - cpu, client_cpu() - client
    busy, stolen = (after - before for after, before in zip(machine_cpu_seconds(), (busy, stolen), strict=True))
    memory = server.memory()
    return {
        **row,
        # Of good answers: refusals are cheap, and would make a server that refuses look thrifty.
        "cpu_us_per_request": round(cpu * 1e6 / row["good"], 1) if row["good"] else None,
        "server_cores": round(cpu / wall, 2),
        "client_cores": round(client / wall, 2),
        "strangers_cores": round((busy - cpu - client) / wall, 2),
        "stolen_cores": round(stolen / wall, 2),
        "rss_mib": memory.rss,
        "pss_mib": memory.pss,
        "processes": memory.processes,
    }


def load(spec: Spec, connections: int, seconds: int, plan: Plan) -> Row:
    return wrk(
        spec.url,
        connections=connections,
        seconds=seconds,
        body=spec.body,
        content_type=spec.content_type,
        timeout=plan.timeout,
    )


def client_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # wrk has been waited for, the server not yet
    return used.ru_utime + used.ru_stime


def versions(name: str) -> dict[str, str]:
    peer = PEERS[name]
    found = machine.versions(VENVS / f"venv-{peer.venv}" if peer.venv else None, peer.packages)
    return found | {"java": machine.java() or "?"} if peer.java else found
