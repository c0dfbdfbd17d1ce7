"""The short one, for before and after a change: what a request costs with a model that does nothing.

    python benchmarks/overhead.py [--rounds 1] [--secs 3] [--levels 1,100,1000] [--out FILE.jsonl] [NAME[:VARIANT] ...]

Headrace beside the bare HTTP stacks, and beside whoever else is named. Closed loop with wrk, keep-alive connections;
the servers take turns in every round. Prints, and appends every row to --out if that is said. `make bench-server` is
the whole comparison.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from load import open_files  # noqa: E402
from measure import Plan  # noqa: E402
from run import levels, measure  # noqa: E402
from table import markdown, measured_on  # noqa: E402

OURS = "headrace:default"
NAMES = ["headrace", "proto-raw", "uvicorn-raw"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, help="%(default)s")
    parser.add_argument("--levels", type=levels, default="1,100,1000")
    parser.add_argument("--secs", type=int, default=3)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl")
    options = parser.parse_args()
    open_files()
    plan = Plan(levels=options.levels, secs=options.secs, warm_secs=options.warm, tries=2)
    rows, failures = measure(options.names, plan, rounds=options.rounds, out=options.out)
    if not rows:
        return 1
    print(f"\n{markdown(rows)}\n\n{ratios(rows)}\n\n{measured_on(rows)}")
    return 1 if failures else 0


def ratios(rows: list[dict[str, Any]]) -> str:
    """Headrace's rate and CPU beside each other server's, of the same run."""
    lines = [
        "| connections | against | requests/s | p50 | p99 | CPU a request |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for connections in dict.fromkeys(row["connections"] for row in rows):
        ours = middle(rows, OURS, connections)
        if ours is None:
            continue
        for server in dict.fromkeys(row["server"] for row in rows):
            other = middle(rows, server, connections)
            if server == OURS or other is None:
                continue
            cells = " | ".join(f"{mine / theirs:.2f}x" if theirs else "-" for mine, theirs in zip(ours, other))
            lines.append(f"| {connections:,} | {server} | {cells} |")
    return "\n".join(lines)


def middle(rows: list[dict[str, Any]], server: str, connections: int) -> list[float] | None:
    same = [row for row in rows if row["server"] == server and row["connections"] == connections and row["answers"]]
    if not same:
        return None
    keys = ("requests_per_s", "p50_ms", "p99_ms", "cpu_us_per_request")
    return [median(row[key] or 0.0 for row in same) for key in keys]


if __name__ == "__main__":
    sys.exit(main())
