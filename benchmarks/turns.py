"""How the benchmarks measure: in turns, round after round, so that a slow minute is slow for all of them.

A benchmark is a table of figures by name; a figure is a function from a `Plan` to what its page says. Every turn is
printed and appended to results/NAME.jsonl as it ends; at the end results/NAME.md is written, with medians, gates,
machine and commit. A missed gate is printed, and is no failure of the run.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from machine import surroundings, versions  # noqa: E402
from measure import NOISE  # noqa: E402
from processes import TICK, machine_cpu_seconds  # noqa: E402
from run import measuring_alone  # noqa: E402

Values = dict[str, float]
Turn = Callable[[], Values]

TRIES = 3
"""At most, of a turn that others disturb."""
helpers: set[int] = set()
"""Processes that live for more than one turn and are part of what is measured, not strangers."""


@dataclass(frozen=True)
class Gate:
    """What was to be reached, and whether it was."""

    what: str
    gate: str
    measured: str
    holds: bool
    aim: str = ""
    reached: bool | None = None


@dataclass(frozen=True)
class Figure:
    """What the page says of one figure."""

    title: str
    table: str
    gates: list[Gate]
    notes: str = ""


@dataclass(frozen=True)
class Plan:
    name: str
    packages: tuple[str, ...]
    rounds: int
    quick: bool
    out: Path
    asked_secs: float | None = None

    @property
    def secs(self) -> float:
        """Of one closed loop."""
        return self.asked_secs or (0.2 if self.quick else 1.0)

    def take_turns(self, figure: str, turns: Mapping[str, Turn], *, rounds: int | None = None) -> Rounds:
        """Measure all of them, round after round. Every turn is printed and appended to NAME.jsonl as it ends."""
        rounds = rounds or self.rounds
        found = Rounds({name: [] for name in turns}, set())
        at = {key: value for key, value in surroundings().items() if key != "wrk"}
        used = versions(None, self.packages)
        for number in range(1, rounds + 1):
            for name, turn in turns.items():
                values, strangers = quietest(turn, 1 if self.quick else TRIES)
                found.values[name].append(values)
                if strangers > NOISE:
                    found.noisy.add(name)
                noisy = f"  (others used {strangers:.2f} cores)" if strangers > NOISE else ""
                said = "  ".join(f"{key} {value:,.4g}" for key, value in values.items())
                print(f"[{number}/{rounds}] {figure:8s} {name:46s} {said}{noisy}", flush=True)
                row = {"figure": figure, "name": name, "round": number, "quick": self.quick}
                row |= {key: float(f"{value:.6g}") for key, value in values.items()}
                row |= {"strangers_cores": round(strangers, 2), **at, "versions": used}
                with (self.out / f"{self.name}.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")
        return found


@dataclass(frozen=True)
class Rounds:
    """What was measured: for each name the values of every round."""

    values: dict[str, list[Values]]
    noisy: set[str]

    def middle(self, name: str, key: str) -> float:
        return median(values[key] for values in self.values[name])

    def quotients(self, name: str, key: str, other: str, other_key: str | None = None) -> list[float]:
        """Of one to the other in each round: what slowed a whole round is in neither."""
        pairs = zip(self.values[name], self.values[other], strict=True)
        return [values[key] / others[other_key or key] for values, others in pairs]

    def worst(self, name: str, key: str) -> float:
        return max(values[key] for values in self.values[name])

    def table(
        self,
        columns: Mapping[str, tuple[str, str]],
        more: Mapping[str, Mapping[str, str]] | None = None,
        of: Iterable[str] | None = None,
    ) -> str:
        """Medians. `columns`: heading and format by key; `more`: further cells, by heading and name; `of`: which."""
        more = more or {}
        headings = ["", *(heading for heading, _ in columns.values()), *more]
        lines = [line(headings), line(["---", *["---:"] * (len(headings) - 1)])]
        for name in of or self.values:
            values = self.values[name]
            cells = [
                format(self.middle(name, key), form) if key in values[0] else "" for key, (_, form) in columns.items()
            ]
            cells += [cell.get(name, "") for cell in more.values()]
            lines.append(line([("~" if name in self.noisy else "") + name, *cells]))
        return "\n".join(lines)


def run(
    name: str,
    title: str,
    figures: Mapping[str, Callable[[Plan], Figure]],
    packages: tuple[str, ...],
    about: str | None,
    rounds: int = 5,
) -> int:
    """The command line of a benchmark: measure the figures asked for, and write its page. `about`: what --help says."""

    def chosen(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in figures]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(figures)}")
        return names

    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help=f"{rounds}; with --quick {min(2, rounds - 1)}")
    parser.add_argument("--secs", type=float, help="of one closed loop; each benchmark has its own")
    parser.add_argument("--only", type=chosen, default=",".join(figures), metavar="NAME,...", help="%(default)s")
    parser.add_argument("--quick", action="store_true", help="small and short, to see that it works")
    parser.add_argument(
        "--out", type=Path, default=HERE / "results", help=f"the folder of {name}.jsonl and {name}.md (%(default)s)"
    )
    options = parser.parse_args()
    rounds = options.rounds or (min(2, rounds - 1) if options.quick else rounds)
    plan = Plan(name, packages, rounds, options.quick, options.out, options.secs)
    plan.out.mkdir(parents=True, exist_ok=True)
    done = []
    for asked in options.only:
        done.append(figures[asked](plan))
        print(f"\n{section(done[-1])}\n", flush=True)
    gates = gates_table([gate for figure in done for gate in figure.gates])
    print(f"{gates}\n\n{measured_on(plan)}")
    text = "\n\n".join(part for part in (gates, *map(section, done), measured_on(plan)) if part)
    command = f"python benchmarks/{name}.py " + " ".join(sys.argv[1:])
    (plan.out / f"{name}.md").write_text(f"# {title}\n\n`{command.strip()}`\n\n{text}\n")
    return 0


def quietest(turn: Turn, tries: int) -> tuple[Values, float]:
    """A turn during which others were busy is taken again, and the quietest counts; not the one with the best value."""
    found = [counting_strangers(turn)]
    while found[-1][1] > NOISE and len(found) < tries:
        found.append(counting_strangers(turn))
    return min(found, key=lambda each: each[1])


def counting_strangers(turn: Turn) -> tuple[Values, float]:
    """What the turn found, and how many cores other processes used meanwhile."""
    with measuring_alone():
        gc.collect()
        busy, own, begun = machine_cpu_seconds()[0], own_cpu(), time.perf_counter()
        values = turn()
        wall = time.perf_counter() - begun
        return values, (machine_cpu_seconds()[0] - busy - (own_cpu() - own)) / wall


def own_cpu() -> float:
    """Seconds of this process, of the children it has waited for, and of `helpers`."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = sum(each.ru_utime + each.ru_stime for each in used)
    for pid in helpers:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / TICK
    return seconds


def percentiles(seconds: list[float], times: float, unit: str) -> Values:
    ordered = sorted(seconds)
    return {f"p{share}_{unit}": ordered[len(ordered) * share // 100] * times for share in (50, 99)}


def section(figure: Figure) -> str:
    parts = [f"## {figure.title}", figure.table, gates_table(figure.gates), figure.notes]
    return "\n\n".join(part for part in parts if part)


def measured_on(plan: Plan) -> str:
    at, used = surroundings(), versions(None, tuple(package for package in plan.packages if package != "headrace"))
    quick = " Quick: these figures say little." if plan.quick else ""
    return (
        f"Measured {at['date']} on {at['machine']['cores']} cores {at['machine']['cpu']}, "
        f"{at['machine']['kernel']}; commit {at['commit']}; {', '.join(f'{name} {v}' for name, v in used.items())}. "
        f"Medians of {plan.rounds} round(s), fewer where it says so, taking turns. `~`: other processes were busy "
        f"in some round, however often it was taken.{quick}"
    )


def gates_table(gates: list[Gate]) -> str:
    if not gates:
        return ""
    lines = [line(("", "gate", "measured", "holds", "aim", "reached")), line(["---", *["---:"] * 5])]
    for gate in gates:
        reached = "" if gate.reached is None else yes(gate.reached)
        lines.append(line((gate.what, gate.gate, gate.measured, yes(gate.holds), gate.aim, reached)))
    return "\n".join(lines)


def yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
