"""What a request line asks for. Pure."""

from __future__ import annotations

from urllib.parse import unquote

from headrace.server.status import ConnectionEnds


def query_of(target: bytes) -> bytes:
    """What is asked behind the path of a request target, as it came."""
    return target.partition(b"#")[0].partition(b"?")[2]


def path_of(target: bytes) -> str:
    """The decoded path of a request target, without its query. ConnectionEnds for one that cannot be read.

    `/path?query`, or the same behind `http://host`, which proxies send; anything else has no path of its own (`*`, or
    `host:port` of CONNECT) and is given as it is: no route is called that.
    """
    if not target.isascii():
        raise ConnectionEnds(400, "the target of the request has bytes that are not ASCII: percent-encode them")
    path = target.decode("ascii")
    if not path.startswith("/"):
        scheme, found, rest = path.partition("://")
        if found and scheme.lower() in ("http", "https"):
            cut = min((at for at in (rest.find("/"), rest.find("?"), rest.find("#")) if at >= 0), default=len(rest))
            path = rest[cut:] if rest[cut : cut + 1] == "/" else "/" + rest[cut:]
    path = path.partition("#")[0].partition("?")[0]
    return unquote(path) if "%" in path else path
