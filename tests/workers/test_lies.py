"""Half frames, lying lengths, answers twice and to nothing, from real processes to their owner and the other way round:
the process ends, and is replaced; nobody waits for ever, and nobody else pays."""

import json
import os
import random
import select
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import worker_handlers
from worker_watching import wait_for

import headrace as hr
from headrace.workers import frames, messages
from headrace.workers.arena import Arena
from headrace.workers.process import Process
from headrace.workers.values import Encoder

Compile = Callable[..., hr.Model]


def test_one_that_dies_while_it_answers_begins_once_more_or_is_told(compiled: Compile) -> None:
    for idempotent, starts in ((True, 3), (False, 2)):
        model = compiled(None, source="lying_handlers:dies_while_answering", idempotent=idempotent)
        assert model("a") == "a"
        with pytest.raises(hr.WorkerDied, match="exit status 7"):
            model("now")
        assert model("b") == "b"
        assert [status.starts for status in model.crew.statuses()] == [starts]  # type: ignore[union-attr]


LIES = ["a length", "a kind", "the owner's kind", "a generation", "an id", "a count", "a place", "room", "memory"]


@pytest.mark.parametrize("lie", [*LIES, "twice"])
def test_a_lie_is_the_end_of_its_process_and_of_its_request_alone(compiled: Compile, lie: str) -> None:
    model = compiled(None, source="lying_handlers:lies", idempotent=False)
    assert model("") == "ok"
    if lie == "twice":
        assert model(lie) is None  # the first of both was one
    else:
        with pytest.raises(hr.WorkerDied, match="no answer"):
            model(lie)
    wait_for(lambda: [status.starts for status in model.crew.statuses()] == [2])  # type: ignore[union-attr]
    assert model("") == "ok"


def test_what_follows_half_a_frame_is_no_answer(compiled: Compile) -> None:
    model = compiled(None, source="lying_handlers:lies", idempotent=False, response_timeout=0.5)
    with pytest.raises((hr.WorkerDied, hr.ResponseTimeout)):
        model("half and stay")
    assert model("") == "ok"


# ---- the other direction: whatever its owner sends, a process answers or ends


class Owner:
    """The owner's end of a real process, by hand."""

    def __init__(self, name: str) -> None:
        self.arena = Arena(1 << 20)
        self.process = Process([sys.executable], os.environ, self.arena, 5)
        self.process.sock.settimeout(20)
        self._how: str | None = None
        self._decoder = frames.Decoder(frames.FROM_WORKER, 5)
        module, _, callable = name.partition(":")
        setup = {
            "loader": "callable",
            "callable": f"{module}:{callable}",
            "in_lists": False,
            "folder": str(Path(worker_handlers.__file__).parent),
        }
        self.send(frames.SETUP, json.dumps(setup).encode())
        assert [frame.kind for frame in self.hear()] == [frames.READY]

    def send(self, kind: int, payload: bytes = b"", **about: int) -> None:
        self.process.sock.sendall(frames.encode(kind, payload, **{"generation": 5, **about}))

    def run(self, id: int, value: object) -> None:
        pickled, _ = Encoder().encode([((value,), None)])
        self.send(frames.RUN, messages.pack_piece(0, 0) + messages.pack_small(pickled), id=id, count=1)

    def hear(self) -> list[frames.Frame]:
        """Some frames; none: it has ended."""
        while data := self.process.sock.recv(1 << 16):
            if came := self._decoder.feed(data):
                return came
        return []

    def ends(self) -> bool:
        """Within twenty seconds, by itself."""
        poll = select.poll()
        poll.register(self.process.pidfd, select.POLLIN)
        return bool(poll.poll(20_000))

    def close(self) -> str:
        """How it ended."""
        if self._how is None:
            self._how = self.process.end(0)
            for file in self.process.outputs:
                file.close()
            self.arena.close()
        return self._how


@pytest.fixture(params=["worker_handlers:double", "coroutine_handlers:double"])
def owner(request: pytest.FixtureRequest) -> Iterator[Owner]:
    made = Owner(request.param)
    yield made
    made.close()


def answered(owner: Owner, id: int) -> frames.Frame:
    found: list[frames.Frame] = []
    while not found:
        came = owner.hear()
        assert came, "it has ended"
        found = [frame for frame in came if frame.id == id]
    return found[0]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        frames.HEADER.pack(1 << 30, frames.RUN, 0, 1, 5, 1),
        frames.encode(frames.ANSWER, b"", generation=5),
        frames.encode(frames.RUN, b"", generation=6, id=1, count=1),
    ],
    ids=["rubbish", "length", "direction", "generation"],
)
def test_what_is_no_frame_of_its_owners_ends_a_process(owner: Owner, data: bytes) -> None:
    owner.run(1, 4)
    assert answered(owner, 1).kind == frames.ANSWER
    owner.process.sock.sendall(data)
    assert owner.ends()
    assert owner.close() == "ended by itself with exit status 1"


def test_a_process_whose_owner_leaves_in_the_middle_of_a_frame_ends(owner: Owner) -> None:
    owner.process.sock.sendall(frames.encode(frames.RUN, bytes(100), generation=5, id=1, count=1)[:50])
    owner.process.sock.close()
    assert owner.ends()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0" * 10,
        messages.pack_piece(0, 0) + messages.pack_small(b"no pickle"),
        messages.pack_piece(0, 0) + struct.pack("<IIQQ", 0, 0, 1 << 50, 0),
        messages.pack_piece(0, 0) + struct.pack("<IIQQ", 5000, 0, 4, 0),
        messages.pack_piece(0, 0) + struct.pack("<IIQQ", 0, 1, 4, 1 << 50),
    ],
    ids=["nothing", "short", "pickle", "size", "arrays", "place"],
)
def test_a_request_that_cannot_be_read_is_answered_with_an_error(owner: Owner, payload: bytes) -> None:
    owner.send(frames.RUN, payload, id=1, count=1)
    assert answered(owner, 1).kind == frames.ERROR
    owner.run(2, 4)
    assert answered(owner, 2).kind == frames.ANSWER


def test_what_nobody_asked_for_is_ignored(owner: Owner) -> None:
    owner.send(frames.GRANT, messages.pack_piece(0, 100), id=9)
    owner.send(frames.CANCEL, id=9, flags=frames.OVERDUE)
    owner.run(1, 4)
    assert answered(owner, 1).kind == frames.ANSWER
    owner.send(frames.STOP)
    assert owner.ends()
    assert owner.close() == "ended by itself with exit status 0"


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_cut_and_ruined_a_process_answers_or_ends(owner: Owner, seed: int) -> None:
    rng = random.Random(seed)
    for id in range(1, 200):
        pickled, _ = Encoder().encode([((id,), None)])
        frame = bytearray(
            frames.encode(
                frames.RUN,
                messages.pack_piece(0, 0) + messages.pack_small(pickled),
                id=id,
                count=1,
                generation=5,
            )
        )
        if ruined := rng.random() < 0.05:
            frame[rng.randrange(len(frame) - len(pickled))] ^= 1 << rng.randrange(8)
        try:
            while frame:
                size = rng.randint(1, len(frame))
                owner.process.sock.sendall(frame[:size])
                del frame[:size]
        except OSError:
            break
        if ruined:
            break
        assert answered(owner, id).kind == frames.ANSWER
    owner.process.sock.shutdown(1)
    assert owner.ends()
    assert "SIG" not in owner.close()
