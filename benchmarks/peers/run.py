"""Measure model servers side by side, with a model that does nothing.

    python benchmarks/peers/run.py mms:tuned mosec:batch headrace --levels 1,100 --secs 5 --rounds 3 --out peers.jsonl

The servers take turns, round after round, so that an hour in which the machine is slow is slow for all of them.
A server that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from load import open_files
from measure import Plan, Row, turn
from servers import PEERS, missing, split
from table import markdown, measured_on

LOCK = Path(tempfile.gettempdir()) / "headrace-peers.lock"


def main() -> int:
    options = arguments()
    if options.list:
        for name, peer in PEERS.items():
            print(f"{name:12s} {' '.join(peer.variants):28s} {missing(name) or 'ready'}")
        return 0
    open_files()
    plan = Plan(levels=options.levels, secs=options.secs, warm_secs=options.warm, tries=options.tries)
    rows, failures = measure(options.names, plan, rounds=options.rounds, out=options.out)
    if rows:
        print(f"\n{markdown(rows)}\n\n{measured_on(rows)}")
    return 1 if failures else 0


def measure(names: list[str], plan: Plan, *, rounds: int, out: Path | None) -> tuple[list[Row], int]:
    """The rows of all rounds, each also appended to `out`; and how many turns failed."""
    present, _ = there(names)
    rows: list[Row] = []
    failures = 0
    with contextlib.suppress(KeyboardInterrupt):  # what was measured until then is shown
        for number in range(1, rounds + 1):
            for name in present:
                try:
                    for row in one_turn(name, number, plan, rounds=rounds):
                        rows.append(row)
                        if out:
                            with out.open("a") as file:
                                file.write(json.dumps(row) + "\n")
                except RuntimeError as error:
                    failures += 1
                    print(f"{name}: FAILED, {error}", flush=True)
    return rows, failures


def there(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """(those that can be measured here, NAME:VARIANT each; why the others cannot). The others are named."""
    present, absent = [], {}
    for name in names:
        reason = missing(name)
        if reason is None:
            present.append(":".join(split(name)))
        else:
            absent[name] = reason
            print(f"{name}: skipped, {reason}", flush=True)
    return present, absent


def one_turn(name: str, number: int, plan: Plan, *, rounds: int) -> Iterator[Row]:
    def say(what: str) -> None:
        print(f"[{number}/{rounds}] {name:18s} {what}", flush=True)

    with measuring_alone(), contextlib.closing(turn(name, plan, say)) as levels:
        for row in levels:
            say(summary(row))
            yield {"round": number, "secs": plan.secs, **row}


def summary(row: dict[str, Any]) -> str:
    return (
        f"c={row['connections']:<5d}{row['requests_per_s']:>9,.0f}/s  ok {row['success']:.2%}  "
        f"p50 {row['p50_ms']:.2f}  p99 {row['p99_ms']:.2f} ms  "
        f"{row['cpu_us_per_request']} us/req  rss {row['rss_mib']:.0f} MiB  "
        f"cores {row['server_cores']} + wrk {row['client_cores']} + others {row['strangers_cores']}"
        + (" (noisy)" if row["noisy"] else "")
    )


@contextlib.contextmanager
def measuring_alone() -> Iterator[None]:
    """Two runs on one machine take turns instead of measuring each other."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", type=spec_name, metavar="NAME[:VARIANT]")
    parser.add_argument("--list", action="store_true", help="what can be measured, and what is missing here")
    parser.add_argument("--levels", type=levels, default="1,10,100,200,1000", help="connections (%(default)s)")
    parser.add_argument("--secs", type=int, default=5, help="seconds of load at each level (%(default)s)")
    parser.add_argument("--warm", type=int, default=4, help="seconds of load before the first level (%(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="turns for each server (%(default)s)")
    parser.add_argument("--tries", type=int, default=3, help="at most, for a level with strangers busy (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", help="append every row, with what it was measured on")
    options = parser.parse_args()
    if not options.names and not options.list:
        parser.error("name a server, or --list")
    return options


def spec_name(text: str) -> str:
    try:
        split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def levels(text: str) -> tuple[int, ...]:
    return tuple(int(level) for level in text.split(","))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server's turn ends as by Ctrl-C
    sys.exit(main())
