"""The owner's end of a worker's socket: frames out, frames in, and whatever else there is to hear of."""

from __future__ import annotations

import contextlib
import mmap
import os
import select

from headrace.workers import frames
from headrace.workers.process import Process

BUFFER = 256 << 10


class Bell:
    """Wakes one thread that waits, from any other: once for all who ring before it hears."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.rung = False
        """Cleared by who waits, before it looks at what it may have been woken for."""

    def ring(self) -> None:
        if not self.rung:
            self.rung = True
            with contextlib.suppress(OSError):  # it has ended
                os.eventfd_write(self.fd, 1)

    def hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        if poll.poll(max(0.0, seconds) * 1000 + 1):
            self.hear()

    def close(self) -> None:
        self.rung = True  # nobody writes to a number that may be another file's by then
        os.close(self.fd)


class Connection:
    def __init__(self, process: Process, bell: Bell) -> None:
        self._sock, self.bell = process.sock, bell
        # Pages of its own, which go back to the system with it. On the heap it would lie in an arena of the thread that
        # made it, and arenas keep what is freed: each of a server's many came to hold a megabyte of workers long gone.
        self._buffer = memoryview(mmap.mmap(-1, BUFFER, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._decoder = frames.Decoder(frames.FROM_WORKER, process.generation)
        self.rest = b""
        """What waits for room."""
        self.gone = False
        """The process has gone, and all it said was heard."""
        self._left = False
        self._epoll = select.epoll()
        self.fd = process.sock.fileno()
        for fd in (self.fd, bell.fd, process.pidfd):
            self._epoll.register(fd, select.EPOLLIN)

    def send(self, data: bytes) -> None:
        """As much as goes now; the rest when there is room. What it does not take is bounded by what is sent ahead."""
        if self.rest:
            self.rest += data
            return
        try:
            count = self._sock.send(data)
        except BlockingIOError:
            count = 0
        except OSError:  # it has gone: `wait` will say so
            return
        if count < len(data):
            self.rest = data[count:]
            self._watch()

    def leave(self, left: bool) -> None:
        """Whether somebody else hears the frames that come. It holds at once, also for a thread that listens already.
        That the process has gone is heard here all the same."""
        if left != self._left:
            self._left = left
            self._watch()

    def _watch(self) -> None:
        self._epoll.modify(self.fd, (0 if self._left else select.EPOLLIN) | (select.EPOLLOUT if self.rest else 0))

    def wait(self, seconds: float | None) -> tuple[list[frames.Frame], bool]:
        """The frames that have come, once some have, the bell was rung, or `seconds` are over (None: never); and
        whether the process has gone. FrameError for what is no frame."""
        return self.hear(self.listen(seconds))

    def listen(self, seconds: float | None) -> list[tuple[int, int]]:
        """The first half of `wait`: what there is to hear."""
        return self._epoll.poll(seconds)

    def hear(self, events: list[tuple[int, int]]) -> tuple[list[frames.Frame], bool]:
        """The other half."""
        came: list[frames.Frame] = []
        for fd, event in events:
            if fd == self.fd:
                if event & select.EPOLLOUT and self.rest:
                    rest, self.rest = self.rest, b""
                    self.send(rest)
                    if not self.rest:
                        self._watch()
                if event & ~select.EPOLLOUT:
                    came += self.receive()
            elif fd == self.bell.fd:
                self.bell.hear()
            else:
                while more := self.receive():  # its last words
                    came += more
                self.gone = True
        return came, self.gone

    def receive(self) -> list[frames.Frame]:
        """The frames that have come, without a wait. FrameError for what is no frame."""
        try:
            count = self._sock.recv_into(self._buffer)
        except BlockingIOError:
            return []
        except OSError:
            count = 0
        if not count:
            self.gone = True
            return []
        return self._decoder.feed(self._buffer[:count])

    def close(self) -> None:
        self._epoll.close()
