"""A memfd that processes are given to read: it has no name that could be left behind."""

from __future__ import annotations

import fcntl
import os


class Memory:
    def __init__(self, name: str) -> None:
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)

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
