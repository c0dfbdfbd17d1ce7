"""The limit of open files is raised for the connections that are allowed, or somebody says what to do."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.server.descriptors import SPARE, make_room, needed, too_few
from headrace.testing import run_command

CHILD = """
import resource, sys
from headrace.server.descriptors import make_room
soft, hard, connections = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(make_room(connections, 10))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def limited(soft: int, hard: int, connections: int) -> tuple[str, int, int]:
    """What `make_room` says in a process with these limits, and the limits after it."""
    argv = [sys.executable, "-c", CHILD, str(soft), str(hard), str(connections)]
    said, after = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    left, right = after.split()
    return said, int(left), int(right)


def test_the_soft_limit_is_raised_as_far_as_the_connections_need() -> None:
    said, soft, hard = limited(256, 4096, 1000)
    assert said == "None"
    assert 1010 + SPARE < soft < 1010 + SPARE + 64
    assert hard == 4096


def test_a_limit_that_is_high_enough_stays() -> None:
    assert limited(3000, 4096, 1000) == ("None", 3000, 4096)


def test_a_hard_limit_that_is_too_low_is_used_up_and_told_with_what_to_do() -> None:
    said, soft, hard = limited(256, 600, 1000)
    assert (soft, hard) == (600, 600)
    assert "--max-connections 1,000" in said
    assert "the hard limit is 600" in said
    advised = re.search(r"start with --max-connections (\d+)$", said)
    assert advised is not None
    # And the advice is good: so many fit.
    said, _, _ = limited(256, 600, int(advised[1]))
    assert said == "None"


def test_the_advice_is_pure_and_never_none_at_all() -> None:
    assert needed(1000, 10, 20) == 1030 + SPARE
    assert too_few(100, 5000, 1000).endswith("--max-connections 1")


def test_an_unlimited_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    infinite = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (infinite, infinite))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: pytest.fail("nothing was to be changed"))
    assert make_room(10**6, 0) is None


def test_a_system_with_a_bound_of_its_own_is_told_like_a_low_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    said = make_room(1000, 0)
    assert said is not None
    assert "the hard limit is 256" in said


@contextmanager
def served(soft: int, hard: int, *arguments: str) -> Iterator[tuple[str, str]]:
    """A server started by a shell with these limits: (its log, the limits of its process)."""
    serve = [sys.executable, "-m", "headrace", "serve", "--inference-address=127.0.0.1:0"]
    closed = [f"--{door}-address=off" for door in ("management", "metrics", "grpc")]
    limits = ["sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh"]
    with run_command([*limits, *serve, *closed, *arguments]) as server:
        yield server.log(), Path(f"/proc/{server.process.pid}/limits").read_text()


def test_a_server_raises_its_limit() -> None:
    with served(256, 4096, "--max-connections=2000") as (log, limits):
        found = re.search(r"Max open files +(\d+) +(\d+)", limits)
        assert found is not None
        assert int(found[1]) > 2000
        assert "open files" not in log


def test_a_server_that_cannot_says_so_and_serves() -> None:
    with served(256, 512, "--max-connections=2000") as (log, _):
        assert "--max-connections 2,000 may need" in log
        assert "ulimit -Hn" in log
