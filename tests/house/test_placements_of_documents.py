"""The tables of placements in the documents are what the code computes."""

import re
from pathlib import Path

import pytest

from headrace.engine.placement import plan, straddles
from headrace.engine.scheduler import Scheduler
from headrace.engine.topology import Core, made_up

DOCS = Path(__file__).resolve().parents[2] / "docs"
TABLE = re.compile(r"<!-- machine: (.*?) -->\n\| asked for .*\n\|---.*\n((?:\|.*\n)+)")


def machine(described: str) -> tuple[Core, ...]:
    sizes = {name: float(value) for name, _, value in (part.partition("=") for part in described.split())}
    quota = sizes.pop("quota", None)
    return made_up(**{name: int(size) for name, size in sizes.items()}, quota=quota).usable


def row(asked: str, cores: tuple[Core, ...]) -> str:
    name, _, streams = asked.partition(", ")
    placements = plan(Scheduler.of(name.strip("`")), cores, num_streams=int(streams) if streams else None)
    is_multi = name == "`multi_stream`"
    straddling = [f"{it}: {what}" for it in placements if is_multi and (what := straddles(it, cores))]
    streams_on = " \\| ".join(map(str, placements))
    return f"| {asked} | {streams_on} | {'; '.join(straddling)}".rstrip() + " |"


@pytest.mark.parametrize(("document", "tables"), [("schedulers.md", 3), ("decisions/0011-placements.md", 3)])
def test_every_row_is_what_is_placed(document: str, tables: int) -> None:
    found = TABLE.findall((DOCS / document).read_text())
    assert len(found) == tables
    for described, rows in found:
        cores = machine(described)
        for line in rows.splitlines():
            assert line == row(line.split(" | ")[0].removeprefix("| "), cores), described
