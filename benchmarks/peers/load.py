"""Closed-loop HTTP load with wrk: each connection sends its next request when the last was answered.

wrk leaves connect time out of its latencies, and its percentiles are of all answers, refusals included: read them
next to the success rate.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
BODY = HERE / "body.json"
SCRIPT = HERE / "report.lua"
TIMEOUT = 10.0  # seconds after which wrk counts a request as lost


def wrk(url: str, *, connections: int, seconds: int, body: Path = BODY) -> dict[str, Any]:
    """Load `url` for `seconds`. `good` is what was answered with a status below 400, `success` its share of all."""
    ran = subprocess.run(
        [
            *("wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"),
            *("--timeout", f"{TIMEOUT:.0f}s", "--script", str(SCRIPT), url),
        ],
        env={**os.environ, "BODY_FILE": str(body), "CONTENT_TYPE": "application/json"},
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    for line in ran.stdout.splitlines():
        if line.startswith("RESULT "):
            return _with_rates(json.loads(line.removeprefix("RESULT ")))
    raise RuntimeError(f"wrk ended with {ran.returncode}: {(ran.stdout + ran.stderr)[-400:]}")


def post(url: str, body: bytes, *, content_type: str = "application/json", timeout: float = 2.0) -> tuple[int, bytes]:
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


def _with_rates(counted: dict[str, Any]) -> dict[str, Any]:
    broken = sum(counted[kind] for kind in ("connect_errors", "read_errors", "write_errors", "timeouts"))
    good = counted["answers"] - counted["refused"]
    tried = counted["answers"] + broken
    return {
        "good": good,
        "failed": tried - good,
        "success": round(good / tried, 5) if tried else 0.0,
        "requests_per_s": round(good / counted["seconds"], 1),
        **counted,
    }
