"""A memfd that processes are given to read: it has no name that could be left behind."""

from __future__ import annotations

import fcntl
import os


class Memory:
    def __init__(self, name: str) -> None:
        self.fd = passable(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))

    def write(self, data: bytes) -> None:
        """At its beginning. Nobody can change it from then on."""
        view, at = memoryview(data), 0
        while at < len(view):
            at += os.pwrite(self.fd, view[at:], at)
        self.seal()

    def seal(self) -> None:
        """Nobody can write to it from now on, whoever has its descriptor."""
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def passable(fd: int) -> int:
    """`fd`, or what takes its place: in a process without stdin, stdout or stderr it may have their number, which is
    what it would be to a process that is given it."""
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)
