"""Closed-loop HTTP load with wrk: each connection sends its next request when the last was answered.

wrk leaves connect time out of its latencies, and its percentiles are of all answers, refusals included: read them
next to the success rate.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
BODY = HERE / "body.json"
SCRIPT = HERE / "report.lua"
TIMEOUT = 10  # seconds after which wrk counts a request as lost
JSON = "application/json"


def wrk(
    url: str, *, connections: int, seconds: int, body: Path = BODY, content_type: str = JSON, timeout: int = TIMEOUT
) -> dict[str, Any]:
    """Load `url` for `seconds`. `good` is what was answered with a status below 400, `success` its share of all."""
    ran = subprocess.run(
        command(url, connections=connections, seconds=seconds, timeout=timeout),
        env=environment(body, content_type),
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    return counted(ran.stdout, ran.stderr)


def command(url: str, *, connections: int, seconds: int, timeout: int = TIMEOUT) -> list[str]:
    return [
        *("wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"),
        *("--timeout", f"{timeout}s", "--script", str(SCRIPT), url),
    ]


def environment(body: Path, content_type: str = JSON) -> dict[str, str]:
    """What the script reads."""
    return {**os.environ, "BODY_FILE": str(body), "CONTENT_TYPE": content_type}


def counted(stdout: str, stderr: str = "") -> dict[str, Any]:
    """What wrk has written at its end."""
    for line in stdout.splitlines():
        if line.startswith("RESULT "):
            return _with_rates(json.loads(line.removeprefix("RESULT ")))
    raise RuntimeError(f"wrk said nothing of what it counted: {(stdout + stderr)[-400:]}")


def open_files() -> None:
    """As many as the hard limit allows, here and in what is started from here: a connection is one, on both sides."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def post(url: str, body: bytes, *, content_type: str = JSON, timeout: float = 2.0) -> tuple[int, bytes]:
    """One request. (0, why) while nobody listens. No proxy is asked, whatever the environment says."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=timeout)
    try:
        connection.request("POST", url[url.index(where.path) :], body, {"Content-Type": content_type})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error).encode()
    finally:
        connection.close()


def _with_rates(found: dict[str, Any]) -> dict[str, Any]:
    broken = sum(found[kind] for kind in ("connect_errors", "read_errors", "write_errors", "timeouts"))
    good = found["answers"] - found["refused"]
    tried = found["answers"] + broken
    return {
        "good": good,
        "failed": tried - good,
        "success": round(good / tried, 5) if tried else 0.0,
        "requests_per_s": round(good / found["seconds"], 1),
        **found,
    }
