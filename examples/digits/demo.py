"""Sends held-out handwritten digits to a Headrace server as pictures, from 32 clients at once, and checks the answers.

    python examples/digits/demo.py [--clients 32] [--rounds 10]

It starts the server itself (`headrace serve`, with the bundled digits model), on 127.0.0.1:8080 or, if that port is
taken, on a free one. Clients are threads with the standard library's HTTP client, so a good part of the machine is busy
being the clients: the rate is what this program sees, not what the server can do.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from headrace.testing import run_server

PICTURES = Path(__file__).resolve().parent / "held_out"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PORT = 8080


@dataclass
class Answer:
    picture: Path
    seconds: float
    classes: dict[str, float] | None
    """Label to probability, likeliest first; None if the request failed."""

    @property
    def label(self) -> str:
        return NAMES[int(self.picture.stem.partition("-")[2])]

    @property
    def guess(self) -> str | None:
        return next(iter(self.classes)) if self.classes else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=32, help="how many send at once")
    parser.add_argument("--rounds", type=int, default=10, help="how often all pictures are sent")
    options = parser.parse_args()
    pictures = sorted(PICTURES.glob("*.png"))
    port = PORT if is_free(PORT) else 0
    if not port:
        print(f"demo: port {PORT} is taken; taking a free one")
    with run_server(f"--inference-address=127.0.0.1:{port}", "--scheduler=multi_stream") as server:
        print(f"demo: serving the bundled digits model at {server.url}")
        started = time.perf_counter()
        answers = send_all(pictures * options.rounds, server.port, options.clients)
        seconds = time.perf_counter() - started
        status = server.stop()
    if status != 0:
        print(f"demo: the server ended with {status}", file=sys.stderr)
        return 1
    return report(answers, seconds)


def send_all(pictures: list[Path], port: int, clients: int) -> list[Answer]:
    """Each client keeps one connection, and takes the next picture when its last one is answered."""
    bodies = {picture: picture.read_bytes() for picture in set(pictures)}
    todo, answers = iter(pictures), []
    lock = threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while True:
            with lock:
                picture = next(todo, None)
            if picture is None:
                connection.close()
                return
            answer = ask(connection, picture, bodies[picture])
            with lock:
                answers.append(answer)
            bar.advance(task)

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{clients} clients", total=len(pictures))
        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return answers


def ask(connection: http.client.HTTPConnection, picture: Path, body: bytes) -> Answer:
    started = time.perf_counter()
    classes = None
    try:
        connection.request("POST", "/predictions/digits", body, {"Content-Type": "image/png"})
        response = connection.getresponse()
        text = response.read()
        if response.status == 200:
            classes = json.loads(text)
        else:
            print(f"demo: {picture.name}: {response.status} {text.decode()}", file=sys.stderr)
    except (OSError, http.client.HTTPException) as error:
        print(f"demo: {picture.name}: {error!r}", file=sys.stderr)
        connection.close()
    return Answer(picture, time.perf_counter() - started, classes)


def report(answers: list[Answer], seconds: float) -> int:
    answered = [answer for answer in answers if answer.classes is not None]
    failed = len(answers) - len(answered)
    if not answered:
        print("demo: no request was answered", file=sys.stderr)
        return 1
    print("\n  picture      is     taken for")
    for answer in itertools.islice(
        sorted({a.picture: a for a in answered}.values(), key=lambda a: a.picture), 0, 360, 60
    ):
        assert answer.classes is not None
        top = ", ".join(f"{name} {probability:.3f}" for name, probability in answer.classes.items())
        print(f"  {answer.picture.name:<12} {answer.label:<6} {top}")
    right = sum(answer.guess == answer.label for answer in answered)
    times = sorted(answer.seconds * 1000 for answer in answered)
    p50, p99 = times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)]
    print(
        f"\ndemo: accuracy={right / len(answered):.4f} requests={len(answers)} rps={len(answered) / seconds:.0f} "
        f"p50_ms={p50:.2f} p99_ms={p99:.2f} failed={failed}"
    )
    return 0 if failed == 0 else 1


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
            sock.listen()
        except OSError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
