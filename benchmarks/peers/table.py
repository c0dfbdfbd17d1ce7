"""Rows of measurements as Markdown: the median of the rounds for each server at each number of connections."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

Row = dict[str, Any]

HEADINGS = (
    "connections",
    "server",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "failed",
    "CPU us/request",
    "RSS MiB",
    "cold start s",
    "idle CPU %",
)


def markdown(rows: list[Row]) -> str:
    """Grouped by connections, servers in the order they came. `~`: strangers were busy in some round."""
    places = dict.fromkeys((row["connections"], row["server"]) for row in rows)
    lines = [_line(HEADINGS), _line("---" if title == "server" else "---:" for title in HEADINGS)]
    for connections in dict.fromkeys(connections for connections, _ in places):
        for server in (server for at, server in places if at == connections):
            same = [row for row in rows if (row["connections"], row["server"]) == (connections, server)]
            lines.append(_line([f"{connections:,}", server, *cells(same)]))
    return "\n".join(lines)


def cells(same: list[Row]) -> list[str]:
    """The numbers of one line, from the rounds of one server at one number of connections."""

    def middle(key: str, form: str) -> str:
        values = [row[key] for row in same if row[key] is not None]
        return format(median(values), form) if values else "-"

    answered = any(row["answers"] for row in same)
    noisy = "~" if any(row["noisy"] for row in same) else ""
    failed = 1 - median(row["success"] for row in same)
    return [
        noisy + middle("requests_per_s", ",.0f"),
        middle("p50_ms", ",.2f") if answered else "-",
        middle("p99_ms", ",.2f") if answered else "-",
        f"**{failed:.2%}**" if failed else "0",
        middle("cpu_us_per_request", ",.1f"),
        middle("rss_mib", ",.0f"),
        middle("cold_s", ".2f"),
        middle("idle_cpu_percent", ".1f"),
    ]


def measured_on(rows: list[Row]) -> str:
    """What belongs under the table."""
    first, at = rows[0], rows[0]["machine"]
    lines = [
        f"Measured {first['date']} on {at['cores']} cores {at['cpu']}, {at['memory_gib']} GiB, {at['kernel']}; "
        f"commit {first['commit'] or 'unknown'}; wrk {first['wrk']}. Medians of {max(row['round'] for row in rows)} "
        f"round(s) of {first['secs']} s. Requests/s and CPU are of good answers.",
    ]
    for server, found in {row["server"].partition(":")[0]: row["versions"] for row in rows}.items():
        lines.append(f"- {server}: " + ", ".join(f"{package} {version}" for package, version in found.items()))
    return "\n".join(lines)


def _line(values: Iterable[str]) -> str:
    return f"| {' | '.join(values)} |"
