"""How many files the process may have open: a connection is one.

Rule 1: the soft limit is raised as far as the connections allowed need and the hard limit lets it. It is never lowered.
Rule 2: where that is not enough the server starts all the same, and says what to do: connections over the limit wait in
        the backlog until others end, nobody is cut off.
"""

from __future__ import annotations

import os

SPARE = 256
"""For everything but the clients of the inference API: listeners, logs, scrapes, what a model or a handler opens."""


def needed(max_connections: int, turned_away: int, opened: int) -> int:
    """Descriptors for so many connections, for those over the bound that are being told so, and for what is open."""
    return max_connections + turned_away + opened + SPARE


def too_few(allowed: int, wanted: int, max_connections: int) -> str:
    """What to do about a hard limit of `allowed` where `wanted` are needed."""
    enough = max(1, max_connections - (wanted - allowed))
    return (
        f"--max-connections {max_connections:,} may need {wanted:,} open files, but the hard limit is {allowed:,}: "
        f"connections beyond it will wait. Raise it (`ulimit -Hn {wanted}`, systemd LimitNOFILE={wanted}, docker run "
        f"--ulimit nofile={wanted}), or start with --max-connections {enough}"
    )


def make_room(max_connections: int, turned_away: int) -> str | None:
    """Raise the soft limit. None, or what to do where the hard limit is too low."""
    try:
        import resource
    except ImportError:  # not a Unix: there is no such limit
        return None
    wanted = needed(max_connections, turned_away, _opened())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unbounded = resource.RLIM_INFINITY
    if soft == unbounded or soft >= wanted:
        return None
    allowed = wanted if hard == unbounded else min(wanted, hard)
    if allowed > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        except (OSError, ValueError):  # the system has a bound of its own below the hard limit
            allowed = soft
    return None if allowed >= wanted else too_few(allowed, wanted, max_connections)


def _opened() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 64
