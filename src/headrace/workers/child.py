"""The worker's side: a process that loads one thing, and runs it for its owner until its owner goes.

It is started by executing this file with its environment's Python (3.8 or later), and imports the standard library and
NumPy (1.22 or later) alone: it lives in somebody else's environment, and Headrace need not be there. So it loads the
files it shares with its owner (`frames`, `messages`, `values`), and the one that loads what it runs, by their paths.

Rule 1: one thread. What it is sent is run in order; which run has begun is written to the arena before it begins.
Rule 2: an answer leaves before the next run, unless runs are short and it was not told to be CAREFUL: then several
        leave together, at the latest HOLD seconds after the first of them, and before anything waits. A thread sees to
        it that a run that turns out long keeps none of them.
Rule 3: its owner's end is its own: the socket is closed then, and the kernel kills it, whatever it does (PDEATHSIG).
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.path and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # this file's folder: its neighbours are no modules of the environment's

import contextlib
import ctypes
import faulthandler
import importlib
import importlib.util
import json
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import threading
import time
import traceback
import types
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
METRICS = 500
"""In one frame."""
KEPT = 32 << 20
"""Bytes of inputs that a callable may keep where they lie, in what the worker shares with its owner; it gets copies of
the others."""
WORD, MARKS = struct.Struct("<I"), 256
PR_SET_PDEATHSIG = 1
LOADERS = {"callable": "callables", "onnx": "onnx_loader", "handler": "../archives/handler"}
"""By what a worker is told it is to load: the file that does. Each has `load(setup)`, which answers with something that
has `function` and `about`, and raises something called Refused where the message is all there is to say. A function
that has `stop` can be told to end its run: what `stop` is while a run goes on is called, from another thread."""


def _neighbour(name: str) -> Any:
    """A file beside this one, or at a path from here: a module that nothing of the environment's is taken for."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
    full = "_headrace_" + os.path.basename(name)
    spec = importlib.util.spec_from_file_location(full, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module


class Withdrawn(Exception):
    """Nobody waits for what is being computed any more."""


class NoRoom(ValueError):
    """For an answer, in what a worker shares with its owner."""


class Child:
    def __init__(self, sock: socket.socket, arena: mmap.mmap, generation: int, parent: int = 0) -> None:
        """`parent`: its owner's process; 0: it is in this one."""
        self.parent = parent
        self.frames, self.messages = _neighbour("frames"), _neighbour("messages")
        self.values: Any = None  # with NumPy: after its threads have been told how many they may be
        self.sock, self.arena, self.generation = sock, arena, generation
        self.decoder = self.frames.Decoder(self.frames.TO_WORKER, generation)
        self.waiting: list[Any] = []  # frames that have come, the next one last
        self.out: list[bytes] = []  # answers that have not left
        self.out_since = 0.0
        self.times: list[float] = []  # of the last of them, which are small: one frame
        self.pickles: list[bytes] = []
        self.first = 0
        self.sending = threading.Lock()
        self.buffer = bytearray(BUFFER)
        self.current = 0
        self.gone = False
        self.kept: list[tuple[int, Any]] = []  # inputs the callable has kept, and where they lie
        self.typical = 1.0
        self.running = False
        self.function: Any = None
        self.in_lists = self.awaits = False
        self.page: Any = None
        self.batch = 0  # requests of the run that goes on
        self.parting = threading.Lock()
        self.unread = 0  # bytes of its parts that were sent, and that nobody is known to have read

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
        """Answers that leave together are one frame."""
        with self.sending:
            if self.times and id != self.first + len(self.times):
                self.close_group()
            if not self.times:
                self.first = id
                if not self.out:
                    self.out_since = time.perf_counter()
            self.times.append(seconds)
            self.pickles.append(pickled)

    def close_group(self) -> None:
        """With `sending` held."""
        times, self.times, pickles, self.pickles = self.times, [], self.pickles, []
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
        self.out, self.times, self.pickles = [], [], []
        self.sending = threading.Lock()  # whoever held it is not here

    def set_up(self) -> bool:
        while not self.waiting:
            if not self.receive():
                return False
        frame = self.waiting.pop()
        setup: dict[str, Any] = json.loads(frame.payload)
        try:
            self.prepare(setup)
            self.values = _neighbour("values")
            self.encoder = self.values.Encoder()
            about = self.load(setup)
            end_with(self.parent)  # what it loads may have become another user, and that would have been forgotten
        except BaseException as error:
            said = {
                "type": type(error).__name__,
                "message": str(error)[:10_000],
                "traceback": traceback.format_exc()[-30_000:],
            }
            self.send(self.frames.FAILED, json.dumps(said).encode())
            self.flush()
            return False
        about["python"] = sys.version.split()[0]
        self.send(self.frames.READY, json.dumps(about).encode())
        self.flush()
        return True

    def prepare(self, setup: dict[str, Any]) -> None:
        if setup.get("address_space"):
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (setup["address_space"], setup["address_space"]))
        if setup.get("cpus"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, setup["cpus"])
        here = None
        with contextlib.suppress(OSError):  # it has gone
            here = os.getcwd()
        if here != setup["folder"]:  # else its owner may be where nobody may enter any more, or never might
            os.chdir(setup["folder"])
        if setup.get("path") is not None:
            sys.path[:] = setup["path"]
        if setup["folder"] not in sys.path:
            sys.path.insert(0, setup["folder"])
        sys.argv = setup.get("argv", [""])

    def load(self, setup: dict[str, Any]) -> Any:
        """What READY says of what was loaded."""
        loaded = _neighbour(LOADERS[setup["loader"]]).load(setup)
        self.function, self.in_lists = loaded.function, setup["in_lists"]
        self.awaits = loaded.about.get("awaits", False)
        return loaded.about

    def serve(self) -> None:
        waiting, run = self.waiting, self.frames.RUN
        threading.Thread(target=self.let_go, daemon=True, name="headrace-flush").start()
        while True:
            if not waiting:
                self.flush()
                if self.kept:
                    self.look_at_kept()
                if not self.receive():
                    return
                continue
            frame = waiting.pop()
            if frame.kind == run:
                self.run(frame)
            elif frame.kind == self.frames.STOP:
                self.flush()
                return

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
            parcel, at = messages.unpack_parcel(frame.payload, messages.PIECE_SIZE, len(self.arena))
            if parcel.arrays or parcel.in_arena:
                root, values = self.unpack(frame, parcel, at)
            else:
                data = frame.payload[at : at + parcel.pickled]
                try:
                    values = pickle.loads(data)  # the owner's, whom it may trust
                except ImportError:  # it speaks of what only we know by that name, or of what is not here
                    values = self.values.decode(data, (), trusting=True, own=False)
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

    def run_one(self, id: int, frame: Any, values: list[Any], owner: Any) -> None:
        """The last of `values`, which is its alone from then on."""
        WORD.pack_into(self.page, 0, id)
        self.current = id
        clock = time.perf_counter
        failed, kept, small = False, 0, False
        seconds: Any = None  # until the callable has returned
        self.unread = 0
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
                pickled, arrays = self.pack(id, frame, pickled, arrays), None
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
            self.kept.append(owner)
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

    def unpack(self, frame: Any, parcel: Any, at: int) -> Any:
        """(what owns its memory, where that is the arena's; its value)."""
        import numpy as np

        is_shared = parcel.in_arena
        if is_shared:
            root = np.frombuffer(self.arena, np.uint8, parcel.nbytes, parcel.offset)
            if self.kept and sum(kept.nbytes for _, kept in self.kept) + parcel.nbytes > KEPT:
                root, is_shared = root.copy(), False  # else what it keeps would take all the room there is
        else:
            root = np.frombuffer(bytearray(frame.payload[at : at + parcel.nbytes]), np.uint8)
        places = self.messages.places_of(parcel.pickled, parcel.arrays)
        buffers = [root[place : place + nbytes] for place, nbytes in zip(places, parcel.arrays)]
        value = self.values.decode(bytes(root[: parcel.pickled]), buffers, trusting=True, own=False)
        return (root if is_shared else None), value

    def pack(self, id: int, frame: Any, pickled: bytes, arrays: list[Any]) -> bytes:
        messages = self.messages
        sizes = tuple(array.nbytes for array in arrays)
        if len(sizes) > messages.MAX_ARRAYS:
            raise ValueError(f"an answer has at most {messages.MAX_ARRAYS:,} arrays, not {len(sizes):,}")
        total = messages.size_of(len(pickled), sizes)
        places = messages.places_of(len(pickled), sizes)
        if total <= messages.INLINE:
            parcel = messages.Parcel(False, 0, len(pickled), sizes)
            data = bytearray(total)
            self.write(data, 0, pickled, arrays, places)
            return messages.pack_parcel(parcel) + bytes(data)  # type: ignore[no-any-return]
        offset, room = messages.unpack_piece(frame.payload)
        if room < total or frame.runs > 1:
            offset = self.ask_for_room(id, total)
        parcel = messages.Parcel(True, offset, len(pickled), sizes)
        self.write(self.arena, offset, pickled, arrays, places)
        return messages.pack_parcel(parcel)  # type: ignore[no-any-return]

    def write(self, target: Any, offset: int, pickled: bytes, arrays: list[Any], places: list[int]) -> None:
        import numpy as np

        memory = np.frombuffer(target, np.uint8)
        memory[offset : offset + len(pickled)] = np.frombuffer(pickled, np.uint8)
        for array, place in zip(arrays, places):
            if array.nbytes:
                room = memory[offset + place : offset + place + array.nbytes]
                np.copyto(room.view(array.dtype).reshape(array.shape), array)

    def ask_for_room(self, id: int, total: int) -> int:
        """Where in the arena `total` bytes may be written. What else comes meanwhile waits."""
        self.send(self.frames.NEED, self.messages.pack_piece(0, total), id=id)
        self.flush()
        while True:
            for i, other in enumerate(self.waiting):
                if other.kind == self.frames.GRANT and other.id == id:
                    del self.waiting[i]
                    offset, room = self.messages.unpack_piece(other.payload)
                    if room < total:
                        raise NoRoom(
                            f"an answer of {total:,} bytes does not fit: {room:,} bytes are the most a worker may give"
                        )
                    return int(offset)
            if not self.receive():
                self.gone = True
                raise EOFError("the owner has gone")

    # ---- what it runs may ask for

    def send_part(self, index: int, answer: Any) -> None:
        """One more part of the answer of request `index` of the batch that runs; what it returns for that is the last.

        Waits while too much is unread. Withdrawn: nobody waits for any answer of this batch any more.
        """
        with self.parting:
            if not self.running:
                raise RuntimeError("send_part is for what runs: no run goes on")
            if not self.in_lists or not 0 <= index < self.batch:
                raise IndexError(f"there is no request {index} in the batch that runs: it has {self.batch}")
            rest: tuple[Any, ...] = ()
            if isinstance(answer, tuple) and len(answer) == 5:
                answer, *others = answer
                rest = tuple(others)
            if not isinstance(answer, (bytes, bytearray)):
                raise TypeError(f"a part of an answer is bytes, or a tuple of five; it is a {type(answer).__name__}")
            encoder = self.values.Encoder()
            for at in range(0, max(1, len(answer)), self.messages.PART_SIZE):
                piece: Any = bytes(answer[at : at + self.messages.PART_SIZE])
                if rest:
                    piece, rest = (piece, *rest), ()
                self.send_piece(index, encoder.encode(piece)[0])

    def send_piece(self, index: int, pickled: bytes) -> None:
        if self.is_unwanted(self.current):
            raise Withdrawn("nobody waits for this answer any more")
        self.wait_until_read(len(pickled))
        self.unread += len(pickled)
        self.send(self.frames.PART, pickled, id=self.current, count=index)
        self.flush()

    def wait_until_read(self, nbytes: int) -> None:
        """Until there is room for so many bytes more."""
        while self.unread and self.unread + nbytes > self.messages.WINDOW:
            came = [each for each in self.waiting if each.kind == self.frames.MORE and each.id == self.current]
            if came:
                self.waiting[:] = [each for each in self.waiting if each not in came]
                self.unread = max(0, self.unread - sum(self.messages.unpack_piece(each.payload)[1] for each in came))
                continue
            if self.is_unwanted(self.current):
                raise Withdrawn("nobody waits for this answer any more")
            if select.select([self.sock], (), (), IDLE)[0] and not self.receive():
                self.gone = True
                raise EOFError("the owner has gone")

    def tell_metrics(self, metrics: Any) -> None:
        """(name, kind, unit, value, dimensions) of each: kind is counter, gauge or histogram. They leave with the next
        answer."""
        told = [
            (str(name), str(kind), str(unit), float(value), {str(key): str(said) for key, said in dimensions.items()})
            for name, kind, unit, value, dimensions in metrics
        ]
        for at in range(0, len(told), METRICS):
            payload = json.dumps(told[at : at + METRICS]).encode()
            if len(payload) <= self.frames.MAX_PAYLOAD:  # else names and dimensions are no names and dimensions
                self.send(self.frames.METRICS, payload)

    def look_at_kept(self) -> None:
        """Inputs the callable has let go of meanwhile: their memory may be used again."""
        still = []
        for offset, root in self.kept:
            if sys.getrefcount(root) > 3:  # the tuple's, this loop's, and the call's
                still.append((offset, root))
            else:
                self.send(self.frames.FREED, self.messages.pack_piece(offset, 0))
        self.kept = still
        self.flush()


def _offer(child: Child) -> None:
    """`import headrace_worker`: `cancelled()` is for what can leave a long run early, `send_part` for answers that come
    in parts, `tell_metrics` for what it counts."""
    module = types.ModuleType("headrace_worker", "What the process it runs in tells a callable.")
    offered = {
        "cancelled": lambda: child.cancelled(),
        "send_part": child.send_part,
        "tell_metrics": child.tell_metrics,
        "Withdrawn": Withdrawn,
    }
    module.__dict__.update(offered)
    sys.modules["headrace_worker"] = module


def end_with(parent: int) -> None:
    """Have the kernel kill this process when that thread of its owner ends which has started it: one that lives as long
    as this process."""
    if not parent:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before that
        os._exit(0)


def leave_terminal() -> None:
    """Whoever reads from it in the background is stopped, and so is the whole worker with what it has started. Where
    there is none, opening it is an error, which is told."""
    with contextlib.suppress(OSError, ImportError):
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            import fcntl
            import termios

            fcntl.ioctl(terminal, termios.TIOCNOTTY)  # ours alone: only who leads a session takes it from the others
        finally:
            os.close(terminal)


def main() -> None:
    sock_fd, arena_fd, size, generation, parent = map(int, sys.argv[1:6])
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's: it drains
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # and it does not end the owner
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what its owner does not want to hear of is not its business
    leave_terminal()
    os.set_inheritable(sock_fd, False)
    os.set_inheritable(arena_fd, False)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    sock = socket.socket(fileno=sock_fd)
    arena = mmap.mmap(arena_fd, size)
    os.close(arena_fd)
    child = Child(sock, arena, generation, parent)
    child.page = arena
    os.register_at_fork(after_in_child=child.forked)
    _offer(child)
    try:
        if child.set_up():
            if child.awaits:
                _neighbour("coroutines").serve(child)
            else:
                child.serve()
    except (ConnectionError, EOFError):
        pass  # the owner has gone
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


if __name__ == "__main__":
    main()
