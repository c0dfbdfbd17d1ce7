"""What a request costs with a model that does nothing: Headrace, the bare HTTP stack under it, and the peers.

    python benchmarks/overhead.py [--rounds 3] [--secs 5] [--levels 1,10,100,200,1000] [NAME[:VARIANT] ...]

Closed loop with wrk, keep-alive connections. The servers take turns in every round. Appends every row to
benchmarks/results/overhead.jsonl, and writes benchmarks/results/overhead.md. Peers that are not installed are named and
left out (benchmarks/peers/install.sh).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from measure import Plan  # noqa: E402
from run import levels, measure  # noqa: E402
from table import markdown, measured_on  # noqa: E402

RESULTS = HERE / "results"
OURS, BARE, FLOOR = "headrace:default", "uvicorn-raw:default", "proto-raw:default"
NAMES = ["uvicorn-raw", "headrace", "mms:tuned", "mosec:tuned", "mms:batch", "mosec:batch"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, help="%(default)s")
    parser.add_argument("--levels", type=levels, default="1,10,100,200,1000")
    parser.add_argument("--secs", type=int, default=5)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    plan = Plan(levels=options.levels, secs=options.secs, warm_secs=options.warm, tries=2)
    rows, failures = measure(options.names, plan, rounds=options.rounds, out=RESULTS / "overhead.jsonl")
    if not rows:
        return 1
    text = f"{markdown(rows)}\n\n{ratios(rows)}\n\n{measured_on(rows)}\n"
    print(f"\n{text}")
    command = "python benchmarks/overhead.py " + " ".join(sys.argv[1:])
    (RESULTS / "overhead.md").write_text(f"# No-op over HTTP\n\n`{command.strip()}`\n\n{text}")
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
