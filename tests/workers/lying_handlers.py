"""Callables that ruin what their own process says to its owner."""

import gc
import os
import struct

HEADER = struct.Struct("<IBBHII")
ANSWER = 18


def _child():
    return next(each for each in gc.get_objects() if type(each).__name__ == "Child")


class Half:
    """A socket that sends half of what it is to send, and ends its process."""

    def __init__(self, sock):
        self._sock = sock

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def sendall(self, data):
        self._sock.sendall(data[: len(data) // 2])
        os._exit(7)


def dies_while_answering(x):
    if x == "now":
        child = _child()
        child.sock = Half(child.sock)
    return x


def lies(what):
    """Says something before its answer. What is no lie is answered."""
    child = _child()
    generation, id, sock = child.generation, child.current, child.sock
    answer = struct.pack("<d", 1e-6) + struct.pack("<IIQQ", 0, 0, 4, 0) + b"\x80\x05N."
    says = {
        "a length": HEADER.pack(0xFFFFFFFF, ANSWER, 0, 1, generation, id),
        "a kind": HEADER.pack(0, 99, 0, 1, generation, id),
        "the owner's kind": HEADER.pack(0, 2, 0, 1, generation, id),
        "a generation": HEADER.pack(len(answer), ANSWER, 0, 1, generation + 1, id) + answer,
        "an id": HEADER.pack(len(answer), ANSWER, 0, 1, generation, id + 7) + answer,
        "twice": (HEADER.pack(len(answer), ANSWER, 0, 1, generation, id) + answer) * 2,
        "a count": HEADER.pack(len(answer), ANSWER, 0, 500, generation, id) + answer,
        "a pickle": HEADER.pack(24 + 8 + 4, ANSWER, 0, 1, generation, id) + answer[:32] + b"\xff" * 4,
        "a place": HEADER.pack(32, ANSWER, 0, 1, generation, id)
        + struct.pack("<d", 1e-6)
        + struct.pack("<IIQQ", 0, 1, 1 << 40, 1 << 40),
        "room": HEADER.pack(16, 20, 0, 0, generation, id + 7) + struct.pack("<QQ", 0, 10),
        "memory": HEADER.pack(16, 21, 0, 0, generation, 0) + struct.pack("<QQ", 4096, 0),
    }
    if what in says:
        sock.sendall(says[what])
    elif what == "half and stay":
        sock.sendall(HEADER.pack(1000, ANSWER, 0, 1, generation, id) + b"half")
    return "ok"
