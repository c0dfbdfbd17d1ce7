"""A worker process at work: it is sent runs, runs them, and answers. Loaded by its path there (`child`).

Rule 1: one thread. What it is sent is run in order; which run has begun is written to the arena before it begins.
Rule 2: an answer leaves before the next run, unless runs are short and it was not told to be CAREFUL: then several
        leave together, at the latest HOLD seconds after the first of them, and before anything waits. A thread sees to
        it that a run that turns out long keeps none of them.
Rule 3: where its owner has gone it ends, and says nothing.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import pickle
import socket
import struct
import sys
import threading
import time
from typing import Any

HOLD = 100e-6
"""Seconds."""
SHORT = 50e-6
"""Seconds: the runs whose answers are held."""
LOOK = 0.002
"""Seconds between two looks at whether a run keeps answers of others."""
IDLE = 0.05
"""The same, where nothing is going on."""
BUFFER = 256 << 10
WORD, MARKS = struct.Struct("<I"), 256


class Child:
    def __init__(self, neighbour: Any, sock: socket.socket, arena: mmap.mmap, generation: int) -> None:
        """`neighbour`: loads a file beside this one. What it runs is loaded later (`loaded`)."""
        self.neighbour, self.is_ending = neighbour, False
        self.frames, self.messages = neighbour("frames"), neighbour("messages")
        self.values: Any = None  # with NumPy: after its threads have been told how many they may be
        self.sock, self.page, self.generation = sock, arena, generation
        self.shared = neighbour("child_arena").Shared(self, arena)
        self.asked = neighbour("child_asked").Asked(self)
        self.decoder = self.frames.Decoder(self.frames.TO_WORKER, generation)
        self.waiting: list[Any] = []  # frames that have come, the next one last
        self.out: list[bytes] = []  # answers that have not left
        self.out_since = 0.0
        self.times: list[float] = []  # of the last of them, which are small: one frame
        self.pickles: list[bytes] = []
        self.grouped = 0  # bytes they take in it
        self.first = 0
        self.sending = threading.Lock()
        self.buffer = bytearray(BUFFER)
        self.current = 0
        self.gone = False
        self.typical = 1.0
        self.running = False
        self.function: Any = None
        self.in_lists = self.awaits = False
        self.batch = 0  # requests of the run that goes on

    # ---- its way in and out

    def receive(self) -> bool:
        """Wait for frames. False: its owner has gone."""
        count = self.sock.recv_into(self.buffer)
        if not count:
            return False
        frames = self.decoder.feed(memoryview(self.buffer)[:count])
        frames.reverse()
        self.waiting[:0] = frames
        return True

    def send(self, kind: int, payload: bytes, **about: int) -> None:
        frame = self.frames.encode(kind, payload, generation=self.generation, **about)
        with self.sending:
            if self.times:
                self.close_group()
            self.out.append(frame)

    def answer_small(self, id: int, seconds: float, pickled: bytes) -> None:
        """Answers that leave together are one frame, as far as they fit into one."""
        nbytes = len(pickled) + 8
        with self.sending:
            if self.times and (id != self.first + len(self.times) or self.grouped + nbytes > self.frames.MAX_PAYLOAD):
                self.close_group()
            if not self.times:
                self.first = id
                if not self.out:
                    self.out_since = time.perf_counter()
            self.times.append(seconds)
            self.pickles.append(pickled)
            self.grouped += nbytes

    def close_group(self) -> None:
        """With `sending` held."""
        times, self.times, pickles, self.pickles = self.times, [], self.pickles, []
        self.grouped = 0
        payload = struct.pack(f"<{len(times)}d", *times)
        payload += self.messages.pack_small(pickles[0]) if len(times) == 1 else b"".join(pickles)
        self.out.append(
            self.frames.encode(self.frames.ANSWER, payload, id=self.first, count=len(times), generation=self.generation)
        )

    def flush(self) -> None:
        with self.sending:
            if self.times:
                self.close_group()
            out, self.out = self.out, []
            if out:
                self.sock.sendall(out[0] if len(out) == 1 else b"".join(out))

    # ---- its life

    def forked(self) -> None:
        """In a process that what runs has forked: it is no worker, though it has the socket. When it comes back from
        the callable, or raises (`sys.exit()`), it ends as any process does, and tells nothing."""

        def ends(*_: Any, **__: Any) -> None:
            raise SystemExit

        self.gone, self.answer, self.answer_small = True, ends, ends  # type: ignore[method-assign]
        self.out, self.times, self.pickles, self.grouped = [], [], [], 0
        self.sending = threading.Lock()  # whoever held it is not here

    def loaded(self, loaded: Any, values: Any, in_lists: bool) -> None:
        """What it is to run from now on. `values`: that file."""
        self.values, self.encoder = values, values.Encoder()
        self.function, self.in_lists = loaded.function, in_lists
        self.awaits = loaded.about.get("awaits", False)

    def serve(self) -> None:
        waiting, run, kept = self.waiting, self.frames.RUN, self.shared.kept
        threading.Thread(target=self.let_go, daemon=True, name="headrace-flush").start()
        while True:
            if not waiting:
                self.flush()
                if kept:
                    self.shared.look_at_kept()
                if not self.receive():
                    return
                continue
            frame = waiting.pop()
            if frame.kind == run:
                self.run(frame)
            elif frame.kind == self.frames.STOP:
                self.flush()
                return

    def ends(self) -> None:
        """It was told to: what it waits for from now on is not ours."""
        if not self.is_ending:
            self.is_ending = True
            with contextlib.suppress(Exception):  # it may be nobody by now, who may read and start nothing
                self.neighbour("child_end").watch()

    def let_go(self) -> None:
        """On a thread of its own: what a long run would keep."""
        can_stop = hasattr(self.function, "stop")
        while True:
            time.sleep(LOOK if self.running or self.times or self.out else IDLE)
            if can_stop and self.running:
                stop = self.function.stop  # first: so it is no later run's than `current` says
                if self.is_unwanted(self.current):
                    stop()
            if (self.out or self.times) and self.running and time.perf_counter() - self.out_since > HOLD:
                try:
                    self.flush()
                except OSError:
                    return

    def is_unwanted(self, id: int) -> bool:
        """Whether its owner has marked this run: nobody waits for it any more."""
        return WORD.unpack_from(self.page, 64 + 4 * (id % MARKS))[0] == id  # type: ignore[no-any-return]

    def cancelled(self) -> bool:
        """Whether that is so of the run that asks."""
        return bool(self.current) and self.is_unwanted(self.current)

    def run(self, frame: Any) -> None:
        """All the runs of a frame, one after the other."""
        messages = self.messages
        root = None
        try:
            data = messages.unpack_small(frame.payload, messages.PIECE_SIZE)
            if data is None:
                parcel, at = messages.unpack_parcel(frame.payload, messages.PIECE_SIZE, len(self.page))
                root, values = self.shared.unpack(frame, parcel, at)
            else:
                try:
                    values = pickle.loads(data)  # the owner's, whom it may trust
                    if type(values) is tuple:  # a pickle for each: what one changes in place is in no other
                        values = [*map(pickle.loads, values)]
                except ImportError:  # it speaks of what only we know by that name, or of what is not here
                    values = self.read(data)
                    if type(values) is tuple:
                        values = [*map(self.read, values)]
        except BaseException as raised:
            error = self.packed(self.values.cannot_arrive(raised))
            for id in range(frame.id, frame.id + frame.runs):
                self.answer(id, 0.0, error, True, 0)
            return
        values.reverse()
        for id in range(frame.id, frame.id + frame.runs):
            if self.is_unwanted(id):
                values.pop()
                self.answer(id, 0.0, self.packed(("", "Withdrawn", "nobody waited for it any more", "")), True, 0)
                continue
            self.run_one(id, frame, values, None if root is None else (parcel.offset, root))

    def read(self, pickled: bytes) -> Any:
        return self.values.decode(pickled, (), trusting=True, own=False)

    def run_one(self, id: int, frame: Any, values: list[Any], owner: Any) -> None:
        """The last of `values`, which is its alone from then on."""
        WORD.pack_into(self.page, 0, id)
        self.current = id
        clock = time.perf_counter
        failed, kept, small = False, 0, False
        seconds: Any = None  # until the callable has returned
        self.running = True
        began = clock()
        try:
            if self.in_lists:
                answer = self.in_list(values.pop())
            else:
                inputs, names = values.pop()
                answer = self.function(*inputs) if names is None else self.function(**dict(zip(names, inputs)))
            seconds = clock() - began
            inputs = None
            pickled, arrays = self.encoder.encode(answer)
            answer = None
            if arrays or len(pickled) > self.messages.INLINE:
                pickled, arrays = self.shared.pack(id, frame, pickled, arrays), None
            else:
                small = True
        except BaseException as raised:
            if self.gone:
                raise
            error = self.values.shown(raised) if seconds is None else self.values.cannot_leave(raised, answer)
            failed, small, pickled = True, False, self.packed(error)
            seconds = clock() - began
            inputs = answer = arrays = None
        self.running = False
        self.typical = seconds if seconds < self.typical else self.typical + 0.05 * (seconds - self.typical)
        if owner is not None and sys.getrefcount(owner[1]) > 3:
            self.shared.kept.append(owner)
            kept = 1
        if small and not kept:
            self.answer_small(id, seconds, pickled)
        else:
            self.answer(id, seconds, self.messages.pack_small(pickled) if small else pickled, failed, kept)
        if frame.flags or seconds > SHORT or clock() - self.out_since > HOLD:
            self.flush()

    @staticmethod
    def packed(error: Any) -> bytes:
        return json.dumps(error).encode()

    def answer(self, id: int, seconds: float, payload: bytes, failed: bool, kept: int) -> None:
        if not self.out:
            self.out_since = time.perf_counter()
        kind = self.frames.ERROR if failed else self.frames.ANSWER
        self.send(kind, self.messages.pack_seconds(seconds) + payload, id=id, count=1, flags=kept)

    def in_list(self, arguments: Any) -> Any:
        self.batch = len(arguments)
        return self.as_many(self.function(arguments), len(arguments))

    @staticmethod
    def as_many(answers: Any, count: int) -> Any:
        if type(answers).__name__ == "coroutine":
            return answers  # which cannot leave, and that is said
        if not isinstance(answers, (list, tuple)):
            raise TypeError(
                "with max_batch_size above 1 a callable is given a list of requests and returns a list of as many "
                f"answers; it was given {count} and returned a {type(answers).__name__}"
            )
        if len(answers) != count:
            raise ValueError(f"a batch of {count} requests came back as {len(answers)} answers")
        return list(answers)
