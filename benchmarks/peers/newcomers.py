"""How long a new connection waits for its first answer while others saturate the server.

The time of each counts from its `connect`. One thread with epoll, so that what is measured is not the client.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from urllib.parse import urlsplit

PATIENCE = 15.0


def storm(url: str, body: bytes, newcomers: int, content_type: str = "application/json") -> list[float | None]:
    """So many connect at once and ask once each. Seconds until each had its answer; None: it got no good one."""
    where = urlsplit(url)
    head = f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: {content_type}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    begun: dict[int, float] = {}
    took: dict[int, float | None] = {}
    sockets: dict[int, socket.socket] = {}
    poll = select.epoll()
    try:
        for _ in range(newcomers):
            sock = socket.socket()
            sock.setblocking(False)
            sockets[sock.fileno()] = sock
            begun[sock.fileno()] = time.perf_counter()
            if (error := sock.connect_ex((where.hostname, where.port))) not in (0, errno.EINPROGRESS):
                raise OSError(error, "a connection could not be begun")
            poll.register(sock, select.EPOLLOUT)
        until = time.perf_counter() + PATIENCE
        while len(took) < newcomers and time.perf_counter() < until:
            for number, event in poll.poll(0.1):
                try:
                    if event & select.EPOLLOUT:
                        sockets[number].send(request)  # small: it goes at once
                        poll.modify(number, select.EPOLLIN)
                        continue
                    answer = sockets[number].recv(65536)
                except OSError:
                    answer = b""
                good = answer.startswith(b"HTTP/1.1 200")
                took[number] = time.perf_counter() - begun[number] if good else None
                poll.unregister(number)
    finally:
        poll.close()
        for sock in sockets.values():
            sock.close()
    return [took.get(number) for number in sockets]
