"""Full load of all kinds for half an hour: what grows, and who is not answered.

    python benchmarks/soak.py [--minutes 30] [--warm 2] [--out FOLDER]

One server (no-op, a tensor model, metrics door open) and, all at once: keep-alive connections that saturate it (wrk),
raw tensors, new connections one after the other, pipelined requests, bad requests, slow clients, clients that leave
without their answer, scrapes. Every client but those that mean to fail looks at its answer. Once a second: memory
(RSS, of it what is of no file, and PSS), descriptors and threads of the server. After `--warm` minutes the memory must
not grow by 1 %, nor descriptors and threads at all. Writes results/soak.md and soak.png; exit
status 1 if a gate is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from turns import Gate, gates_table  # isort: skip - it knows where the peers are
import load
from machine import surroundings
from measure import first_answer
from processes import Server, free_port
from servers import ours

HERE = Path(__file__).resolve().parent
GROWTH = 0.01
"""Of the memory, from the beginning to the end of what is counted."""
BUSY = 64
"""Keep-alive connections of wrk. It is started again every WRK_SECS, which is load of its own kind."""
WRK_SECS = 20
PATIENCE = 30.0
SCRAPES = 0.1
"""Seconds between two. The first thousand or so take about 12 MiB, and no more after that: they are to be over soon."""
NAMES = {"rss": "RSS", "pss": "PSS", "own": "anonymous memory"}
NOOP = b'{"data":[1,2,3]}'
GARBAGE = (
    b"NOT HTTP\r\n\r\n",
    b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET /ping HTTP/1.1\r\n\r\n",
    b"GET /ping HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
)


@dataclass(frozen=True)
class Sample:
    minute: float
    rss: float
    pss: float
    own: float
    """Of RSS, what is mapped from no file. PSS falls when others use the same libraries, this does not."""
    descriptors: int
    threads: int


class Load:
    """The clients, and what became of their requests."""

    def __init__(self, port: int, metrics: int, tensor: bytes) -> None:
        self.port, self.metrics, self.tensor = port, metrics, tensor
        self.good: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self.stopping = False

    async def run(self, kinds: dict[str, tuple[int, Callable[[], Awaitable[int]]]]) -> None:
        await asyncio.gather(
            *(self._again_and_again(kind, once) for kind, (number, once) in kinds.items() for _ in range(number))
        )

    async def _again_and_again(self, kind: str, once: Callable[[], Awaitable[int]]) -> None:
        while not self.stopping:
            try:
                async with asyncio.timeout(PATIENCE):
                    self.good[kind] += await once()
            except (OSError, AssertionError, TimeoutError, asyncio.IncompleteReadError) as error:
                self.bad[f"{kind}: {type(error).__name__} {str(error)[:100]}"] += 1
                await asyncio.sleep(0.1)

    async def saturating(self) -> int:
        """wrk, for a while."""
        url = f"http://127.0.0.1:{self.port}/predictions/noop"
        process = await asyncio.create_subprocess_exec(
            *load.command(url, connections=BUSY, seconds=WRK_SECS),
            env=load.environment(load.BODY),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            while process.returncode is None and not self.stopping:
                try:
                    await asyncio.wait_for(asyncio.shield(process.wait()), 0.5)
                except TimeoutError:
                    continue
            if process.returncode is None:  # it is told what it counted all the same
                process.send_signal(2)
            found = load.counted((await process.communicate())[0].decode())
        finally:
            if process.returncode is None:
                process.kill()
        if found["failed"]:
            self.bad[f"wrk: {found['failed']} failed"] += found["failed"]
        return int(found["good"])

    async def tensors(self) -> int:
        """One connection, a hundred tensors."""
        reader, writer = await self._connect()
        request = posted("tensor", self.tensor, "application/octet-stream")
        for _ in range(100):
            writer.write(request)
            await writer.drain()
            status, body = await answer(reader)
            assert status == 200, body[:100]
        await closed(writer)
        return 100

    async def newcomer(self) -> int:
        reader, writer = await self._connect()
        writer.write(posted("noop", NOOP))
        status, body = await answer(reader)
        assert status == 200, body[:100]
        assert b"ok!" in body
        await closed(writer)
        return 1

    async def pipelined(self) -> int:
        reader, writer = await self._connect()
        writer.write(posted("noop", NOOP) * 50)
        for _ in range(50):
            assert (await answer(reader))[0] == 200
        await closed(writer)
        return 50

    async def refused(self) -> int:
        """Each of what is refused, and that it is."""
        wrong = (posted("nosuch", NOOP), posted("noop", b"{", "application/json"), posted("tensor", b"xyz", "image/x"))
        for request in (*GARBAGE, *wrong):
            reader, writer = await self._connect()
            writer.write(request)
            status, body = await answer(reader)
            assert 400 <= status < 500, (status, body[:100])
            await closed(writer)
        await asyncio.sleep(0.02)
        return len(GARBAGE) + len(wrong)

    async def slow(self) -> int:
        """Its request comes in drops, and is answered."""
        reader, writer = await self._connect()
        request = posted("noop", NOOP)
        for at in range(0, len(request), 8):
            writer.write(request[at : at + 8])
            await asyncio.sleep(0.02)
        assert (await answer(reader))[0] == 200
        await closed(writer)
        return 1

    async def leaving(self) -> int:
        """Goes without its answer, or in the middle of its request."""
        for request in (posted("tensor", self.tensor, "application/octet-stream"), posted("noop", NOOP)[:-3]):
            _, writer = await self._connect()
            writer.write(request)
            await writer.drain()
            writer.transport.abort()
        await asyncio.sleep(0.01)
        return 2

    async def scrape(self) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.metrics)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        status, body = await answer(reader)
        assert status == 200
        assert b"headrace_" in body
        await closed(writer)
        await asyncio.sleep(SCRAPES)
        return 1

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


def posted(model: str, body: bytes, content_type: str = "application/json") -> bytes:
    head = f"POST /predictions/{model} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(head.split()[1]), await reader.readexactly(int(length.split(b":")[1]))


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def sample(server: Server, minute: float) -> Sample:
    memory, pid = server.memory(), server.process.pid
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    threads = len(os.listdir(f"/proc/{pid}/task"))
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    own = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Anonymous:")) / 1024
    return Sample(minute, memory.rss, memory.pss, own, descriptors, threads)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="of load, warm-up and all (%(default)s)")
    parser.add_argument("--warm", type=float, help="minutes that do not count; a tenth of --minutes, at most 3")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of soak.md, soak.png (%(default)s)")
    options = parser.parse_args()
    warm = min(3.0, options.minutes / 10) if options.warm is None else options.warm
    if not 0 <= warm < options.minutes:
        parser.error(f"--warm is below --minutes, {options.minutes:g}, not {warm:g}")
    load.open_files()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as made:
        folder = Path(made)
        clients, samples, idle = asyncio.run(soaked(folder, options.minutes))
    counted = [each for each in samples if each.minute >= warm]
    gates = judge(counted, samples[0], idle, clients)
    picture = options.out / "soak.png"
    draw(samples, warm, picture)
    text = page(gates, clients, counted, options.minutes, warm)
    print(f"\n{text}")
    command = "python benchmarks/soak.py " + " ".join(sys.argv[1:])
    (options.out / "soak.md").write_text(f"# Soak\n\n`{command.strip()}`\n\n{text}\n\n![memory](soak.png)\n")
    return 0 if all(gate.holds for gate in gates) else 1


async def soaked(folder: Path, minutes: float) -> tuple[Load, list[Sample], Sample]:
    """(the clients, the server every second, the server when they had gone)."""
    write_tensor_model(folder / "tensor.onnx")
    metrics = free_port()
    spec = ours("noop=noop_model:noop", f"tensor={folder / 'tensor.onnx'}", metrics=f"127.0.0.1:{metrics}")
    server = Server(spec.argv, env=spec.env, cwd=folder, log=folder / "server.log")
    try:
        first_answer(server, spec)
        clients = Load(int(spec.url.split(":")[2].split("/")[0]), metrics, bytes(4 * 3 * 64 * 64))
        kinds: dict[str, tuple[int, Callable[[], Awaitable[int]]]] = {
            "keep-alive (wrk)": (1, clients.saturating),
            "tensors": (4, clients.tensors),
            "new connections": (4, clients.newcomer),
            "pipelined": (2, clients.pipelined),
            "refused": (2, clients.refused),
            "slow": (8, clients.slow),
            "left": (2, clients.leaving),
            "scrapes": (1, clients.scrape),
        }
        running = asyncio.create_task(clients.run(kinds))
        begun, samples = time.perf_counter(), []
        while (minute := (time.perf_counter() - begun) / 60) < minutes and not server.exited():
            samples.append(sample(server, minute))
            if len(samples) % 10 == 0:
                print(progress(samples[-1], minutes, clients), flush=True)
            await asyncio.sleep(1)
        clients.stopping = True
        await running
        if server.exited():
            raise RuntimeError(f"the server ended: {server.log_tail()}")
        await asyncio.sleep(3)  # connections that were left are noticed
        return clients, samples, sample(server, minutes)
    finally:
        server.stop(spec.grace)


def write_tensor_model(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2, 3], keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def judge(counted: list[Sample], first: Sample, idle: Sample, clients: Load) -> list[Gate]:
    tenth = max(1, len(counted) // 10)
    growth = {
        name: median(getattr(each, name) for each in counted[-tenth:])
        / median(getattr(each, name) for each in counted[:tenth]) - 1
        for name in ("rss", "own")
    }  # fmt: skip
    answered, failed = sum(clients.good.values()), sum(clients.bad.values())
    threads = [max(each.threads for each in part) for part in (counted[:tenth], counted[-tenth:])]
    return [
        *(
            Gate(f"growth of {NAMES[name]} after warm-up", f"{GROWTH:.0%}", f"{share:+.2%}", share < GROWTH)
            for name, share in growth.items()
        ),
        Gate(
            "descriptors when all clients have gone", f"{first.descriptors} as at the start", f"{idle.descriptors}",
            idle.descriptors <= first.descriptors,
        ),
        Gate("threads, first and last tenth", "as many", f"{threads[0]}, {threads[1]}", threads[1] <= threads[0]),
        Gate("requests that were not answered as they should", "0", f"{failed:,} of {answered + failed:,}", not failed),
    ]  # fmt: skip


def progress(now: Sample, minutes: float, clients: Load) -> str:
    return (
        f"{now.minute:5.1f} of {minutes:g} min  RSS {now.rss:6.1f}  PSS {now.pss:6.1f} MiB  {now.descriptors:4d} files"
        f"  {now.threads:3d} threads  {sum(clients.good.values()):,} good, {sum(clients.bad.values()):,} bad"
    )


def page(gates: list[Gate], clients: Load, counted: list[Sample], minutes: float, warm: float) -> str:
    at = surroundings()
    kinds = "\n".join(f"| {kind} | {count:,} |" for kind, count in clients.good.items())
    wrong = "".join(f"\n- {count:,} times {what}" for what, count in clients.bad.most_common(20))
    last, half = counted[-1], counted[len(counted) // 2]
    return (
        f"{gates_table(gates)}\n\n| requests | answered as they should |\n| --- | ---: |\n{kinds}\n{wrong}\n\n"
        f"{minutes:g} minutes, of which the first {warm:g} do not count; at the end RSS {last.rss:.1f}, PSS "
        f"{last.pss:.1f} MiB, {last.descriptors} descriptors, {last.threads} threads; RSS half way through what counts "
        f"{half.rss:.1f} MiB. Measured {at['date']} on "
        f"{at['machine']['cores']} cores {at['machine']['cpu']}; commit {at['commit']}."
    )


def draw(samples: list[Sample], warm: float, path: Path) -> None:
    """The memory over time, on a scale from nought to the most."""
    from PIL import Image, ImageDraw

    width, height, left, bottom, top = 900, 300, 60, 30, 20
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    most = max(each.rss for each in samples) * 1.1
    end = max(samples[-1].minute, 1e-9)

    def place(minute: float, mib: float) -> tuple[float, float]:
        across, up = minute / end * (width - left - 20), mib / most * (height - top - bottom)
        return left + across, height - bottom - up

    pen.rectangle((*place(0, most), place(warm, 0)[0], height - bottom), fill="#eeeeee")
    for part in range(5):
        mib = most * part / 4
        pen.line((*place(0, mib), *place(end, mib)), fill="#dddddd")
        pen.text((5, place(0, mib)[1] - 6), f"{mib:,.0f} MiB", fill="black")
    for at, (name, colour) in enumerate((("rss", "#1f6fb4"), ("pss", "#d2601a"), ("own", "#2b8a3e"))):
        pen.line([place(each.minute, getattr(each, name)) for each in samples], fill=colour, width=2)
        pen.text((left + 60 * at, 3), NAMES[name], fill=colour)
    pen.text((left, height - 20), "0", fill="black")
    pen.text((width - 90, height - 20), f"{end:.1f} minutes", fill="black")
    pen.text((left + 260, 3), "grey: warm-up, does not count", fill="#888888")
    image.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
