"""A timeline as boxes and words with places: time to the right, cores downwards, a bar for each run. Pure.

Rule 1: a lane for each core, in the order of the streams; a bar spans the lanes of its stream's cores.
Rule 2: bars of one stream never overlap. One that would have no pixel of its own is left out, and counted.
Rule 3: nothing is written over: what does not fit is not written, and of many labels every n-th is.
Rule 4: what the picture leaves out, it says: later runs, forgotten events, runs too short to be seen.

`measure(text, size)` says how wide a text will be; the rest is arithmetic. Lengths are in pixels.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import ceil, floor, log10

from headrace.engine.topology import cpu_list
from headrace.model.shapes import INK, Box, Colour, Drawing, Words
from headrace.model.shown import Window, check_window, shown, who_waits
from headrace.model.timeline import Figures, Request, Timeline, busy, figures
from headrace.model.units import as_time, step_of, unit_of
from headrace.wording import count_of

Measure = Callable[[str, int], float]

# Eight light colours that stay apart for the colour-blind, and dark words on them stay readable: the scheme "light" of
# Paul Tol's colour schemes. Ordered so that neighbours differ much.
CYCLE: tuple[Colour, ...] = (
    (119, 170, 221), (238, 136, 102), (238, 221, 136), (255, 170, 187), (153, 221, 255), (68, 187, 153),
    (187, 204, 51), (170, 170, 0),
)  # fmt: skip
PALE_INK: Colour = (92, 99, 108)
GRID: Colour = (222, 226, 231)
IDLE: Colour = (243, 245, 247)
DEPTH: Colour = (176, 190, 205)
GONE: Colour = (179, 38, 30)

WIDTH, MARGIN, TICK, THIN = 1800, 44, 3, 2
TITLE, TEXT, SMALL = 32, 20, 18
LANES = 600  # what all lanes together would like to be high
QUEUE_ROW, QUEUE_ROWS, QUEUE_AREA = 26, 10, 120


@dataclass(frozen=True, slots=True)
class Subject:
    """What was recorded. `machine`: how many cores the engine has; `node_of`: the NUMA node of each; `note`: what else
    the reader should know, say how the requests came."""

    name: str
    scheduler: str
    machine: int
    node_of: Mapping[int, int] = field(default_factory=dict)
    note: str = ""
    forgotten: int = 0


LONGEST_NAME = 40
"""Characters of a model's name in the title: what it ran by must have room beside it."""


def draw(timeline: Timeline, subject: Subject, measure: Measure, window: Window | None = None) -> Drawing:
    return _Figure(timeline, subject, measure, window).drawing


class _Figure:
    def __init__(self, timeline: Timeline, subject: Subject, measure: Measure, window: Window | None) -> None:
        check_window(window)
        self.timeline, self.subject, self.measure = timeline, subject, measure
        self.start, self.end = shown(timeline, window)
        self.drawing = Drawing(WIDTH, 0)
        self.above = ""  # what is drawn above the lanes
        self.crosses = False  # whether what was not run is marked
        self.beyond = isinstance(window, tuple) and window[0] >= (timeline.seconds or 1e-6)
        self.hidden = 0  # bars that had no pixel left
        lanes = list(dict.fromkeys(core for row in timeline.rows for core in row.cores or (None,)))
        self.lanes: list[int | None] = lanes
        self.lane_of = {core: place for place, core in enumerate(lanes)}
        self.rows_lanes = [[self.lane_of[core] for core in row.cores or (None,)] for row in timeline.rows]
        shared = [lane for places in self.rows_lanes for lane in places]
        self.exchanged = None not in lanes and len(set(shared)) < len(shared)
        """Its streams were others for a part of the time: on one core there were several, one after the other."""
        self.height = max(3, min(64, LANES // max(1, len(lanes))))
        self._columns()
        y = self._title(MARGIN)
        something = timeline.spans or timeline.requests
        y = self._plot(y + 26) if something else self._nothing(y + 26)
        self.drawing.height = self._footer(y) + MARGIN

    # ---- where things are

    def _columns(self) -> None:
        """The plot's left and right edge: beside it there is room for what the lanes are called."""
        self.core_names = [("caller" if core is None else f"core {core}") for core in self.lanes]
        self.stream_names = [f"stream {place}" for place in range(len(self.timeline.rows))]
        nodes = [self.subject.node_of.get(core, 0) for core in self.lanes if core is not None]
        self.has_nodes = len(set(nodes)) > 1
        widest = max((self.measure(name, SMALL) for name in (*self.core_names, "waiting")), default=0)
        wide = max((self.measure(name, TEXT) for name in self.stream_names), default=0)
        self.node_right = MARGIN + (self.measure("node 000", TEXT) if self.has_nodes else 0)
        self.stream_right = self.node_right + (24 if self.has_nodes else 0) + wide
        self.core_right = self.stream_right + 22 + widest
        self.left = int(self.core_right + 16)
        self.right = WIDTH - MARGIN - int(self.measure("100 %", SMALL)) - 18

    def _x(self, seconds: float) -> int:
        part = (seconds - self.start) / (self.end - self.start)
        return round(self.left + min(1.0, max(0.0, part)) * (self.right - self.left))

    def _lane_tops(self, y: int) -> list[int]:
        tops = []
        owners = [[place for place, lanes in enumerate(self.rows_lanes) if lane in lanes] for lane in range(self.count)]
        for lane in range(self.count):
            if lane and owners[lane] != owners[lane - 1]:
                y += 6 if self.height >= 12 else 2 if self.height >= 5 else 1
                if self.has_nodes and self._node(lane) != self._node(lane - 1):
                    y += 10
            tops.append(y)
            y += self.height
        return tops

    @property
    def count(self) -> int:
        return len(self.lanes)

    def _node(self, lane: int) -> int:
        core = self.lanes[lane]
        return self.subject.node_of.get(core, 0) if core is not None else 0

    # ---- parts

    def _title(self, y: int) -> int:
        subject, rows = self.subject, self.timeline.rows
        used = len([core for core in self.lanes if core is not None])
        name = subject.name if len(subject.name) <= LONGEST_NAME else f"{subject.name[: LONGEST_NAME - 3]}..."
        title = [name, subject.scheduler]
        if used:
            widths = sorted({len(row.cores) for row in rows})
            width = "-".join(map(str, dict.fromkeys((widths[0], widths[-1]))))
            if not self.exchanged:
                title.append(f"{count_of(len(rows), 'stream')} x {width} {'core' if width == '1' else 'cores'}")
            said = f"{'all' if used == subject.machine else used} of the engine's {count_of(subject.machine, 'core')}"
            if subject.machine == 1:
                said = "the engine's only core"
        else:
            said = "in the caller's thread"
        if self.exchanged:
            said += "  ·  its streams were exchanged meanwhile"
        if subject.note:
            said += f"  ·  {subject.note}"
        self._word("title", MARGIN, y + TITLE / 2, self._cut("  ·  ".join(title), TITLE), TITLE)
        y += TITLE + 14
        self._word("subtitle", MARGIN, y + TEXT / 2, self._cut(said, TEXT), TEXT, colour=PALE_INK)
        return y + TEXT

    def _plot(self, y: int) -> int:
        top = y
        waits = who_waits(self.timeline, self.start, self.end)
        queue: list[Box] = []
        if waits:
            queue, y = self._queue(waits, y)
            y += 20
        tops = self._lane_tops(y)
        bottom = tops[-1] + self.height + 10
        self._grid(top, bottom)
        for place, lanes in enumerate(self.rows_lanes):
            for first, last in _pieces(lanes):
                self._box("idle", self.left, tops[first], self.right, tops[last] + self.height, IDLE, of=place)
                for lane in range(first + 1, last + 1):
                    if self.height >= 8:
                        self._box("idle", self.left, tops[lane], self.right, tops[lane] + 1, GRID, of=place)
        self.drawing.boxes.extend(queue)
        self._bars(tops)
        self._names(tops)
        self._busy(tops)
        return self._axis(bottom)

    def _nothing(self, y: int) -> int:
        self._box("idle", MARGIN, y, WIDTH - MARGIN, y + 160, IDLE)
        self._word("nothing", WIDTH / 2, y + 80, "Nothing ran while this was recorded.", TITLE, "m", PALE_INK)
        return y + 180

    def _queue(self, waits: list[tuple[Request, float]], y: int) -> tuple[list[Box], int]:
        """A thin line for each request from its arrival to its start; where they are many, how many wait at a time."""
        packed, levels = self._packed(waits)
        if levels > QUEUE_ROWS:
            return self._queue_area(waits, y)
        self.above = "Above: each request from its arrival to its start."
        boxes: list[Box] = []
        for request, level, x0, x1 in packed:
            middle = y + level * QUEUE_ROW + QUEUE_ROW // 2
            colour = _darker(CYCLE[(request.number - 1) % len(CYCLE)])
            place, text = request.number - 1, str(request.number)
            if request.arrived is not None and request.arrived >= self.start:
                boxes.append(Box("arrival", x0, middle - 9, x0 + TICK, middle + 9, colour, of=place))
            if request.dropped:
                self.crosses = True
                x1 -= 12
                self._word("dropped", x1 + 5, middle, "x", TEXT, "m", GONE, place)
            begin = x0
            wide = self.measure(text, SMALL)
            if x1 - x0 - TICK > wide + 13:
                self._word("waits", x0 + 8, middle, text, SMALL, of=place)
                begin = round(x0 + 8 + wide + 5)
            if x1 > begin:
                boxes.append(Box("wait", begin, middle - 1, x1, middle + 2, colour, of=place))
        name = "waiting" if any(x1 - x0 > TICK for _, _, x0, x1 in packed) else "arrivals"
        self._word("name", self.core_right, y + levels * QUEUE_ROW / 2, name, SMALL, "r")
        return boxes, y + levels * QUEUE_ROW

    def _packed(self, waits: list[tuple[Request, float]]) -> tuple[list[tuple[Request, int, int, int]], int]:
        """Each with its level, the first that is free, and from where to where it goes. Who began at once needs none of
        its own: of those that came in one moment the ticks may lie on each other."""
        free: list[int] = [0]  # of each level, from where on
        packed = []
        for request, until in waits:
            x0, x1 = self._x(request.arrived or 0.0), self._x(until)
            x1 += 12 if request.dropped else 0  # for the cross
            level = next((level for level, x in enumerate(free) if x <= x0), len(free))
            if level == len(free) and x1 - x0 <= TICK:
                level = 0
            else:
                free[level : level + 1] = [max(x1, x0 + TICK)]
            if level >= QUEUE_ROWS:
                return [], level + 1
            packed.append((request, level, x0, x1))
        return packed, len(free)

    def _queue_area(self, waits: list[tuple[Request, float]], y: int) -> tuple[list[Box], int]:
        self.above = "Above: how many requests wait at a time."
        arrivals = sorted(request.arrived or 0.0 for request, _ in waits)
        ends = sorted(until for _, until in waits)
        seconds = (self.end - self.start) / (self.right - self.left)
        depths = []
        for x in range(self.right - self.left):
            at = self.start + (x + 0.5) * seconds
            depths.append(bisect_right(arrivals, at) - bisect_right(ends, at))
        most = max(1, *depths)
        boxes, x, foot = [], self.left, y + QUEUE_AREA
        for depth, run in groupby(depths):
            wide = len(list(run))
            if depth:
                boxes.append(Box("depth", x, foot - max(1, round(depth / most * QUEUE_AREA)), x + wide, foot, DEPTH))
            x += wide
        boxes.append(Box("depth", self.left, foot, self.right, foot + 1, PALE_INK))
        self._word("name", self.core_right, y + QUEUE_AREA / 2, "waiting", SMALL, "r")
        self._word("most", self.core_right, y + SMALL / 2, f"{most:,}", SMALL, "r", PALE_INK)
        self._word("most", self.core_right, foot - SMALL / 2, "0", SMALL, "r", PALE_INK)
        return boxes, foot + 1

    def _bars(self, tops: Sequence[int]) -> None:
        taken: dict[int, int] = {}  # by row: up to where
        for place, span in enumerate(self.timeline.spans):
            if span.end < self.start or span.start >= self.end:
                continue
            x0 = max(self._x(span.start), taken.get(span.row, 0))
            x1 = min(self.right, max(self._x(span.end), x0 + THIN))
            if x1 <= x0 or self._x(span.end) < x0:
                self.hidden += x0 < self.right
                continue
            taken[span.row] = x1
            fill = CYCLE[(span.requests[0] - 1) % len(CYCLE)] if span.requests else DEPTH
            pieces = _pieces(self.rows_lanes[span.row])
            for first, last in pieces:
                high = tops[last] + self.height - tops[first]
                outline = _darker(fill) if high >= 8 and x1 - x0 >= 4 else None
                self._box("bar", x0, tops[first], x1, tops[last] + self.height, fill, outline, place)
            first, last = max(pieces, key=lambda piece: piece[1] - piece[0])
            high = tops[last] + self.height - tops[first]
            label = self._label(span.requests, x1 - x0 - 8, high - 4)
            if label is not None:
                self._word("bar", (x0 + x1) / 2, tops[first] + high / 2, *label, "m", of=place)

    def _label(self, requests: Sequence[int], wide: int, high: int) -> tuple[str, int] | None:
        """What can be written in a bar that has so much room, and how large."""
        for text in _labels(requests):
            for size in (22, SMALL, 15):
                if size <= high and self.measure(text, size) <= wide:
                    return text, size
        return None

    def _names(self, tops: Sequence[int]) -> None:
        middles = [top + self.height / 2 for top in tops]
        for place in _apart(middles, SMALL + 4):
            self._word("name", self.core_right, middles[place], self.core_names[place], SMALL, "r", PALE_INK)
        self._stream_names(tops)
        if self.has_nodes:
            for node, run in groupby(range(self.count), self._node):
                lanes = list(run)
                top, foot = tops[lanes[0]], tops[lanes[-1]] + self.height
                self._box("node", int(self.node_right) + 8, top, int(self.node_right) + 10, foot, PALE_INK)
                if foot - top >= TEXT:
                    self._word("name", self.node_right, (top + foot) / 2, f"node {node}", TEXT, "r")

    def _stream_names(self, tops: Sequence[int]) -> None:
        if all(row.cores for row in self.timeline.rows) and not self.exchanged:
            middles = self._row_middles(tops)
            for place in _apart(middles, TEXT + 4):
                self._word("name", self.stream_right, middles[place], self.stream_names[place], TEXT, "r")

    def _row_middles(self, tops: Sequence[int]) -> list[float]:
        return [(tops[min(lanes)] + tops[max(lanes)] + self.height) / 2 for lanes in self.rows_lanes]

    def _busy(self, tops: Sequence[int]) -> None:
        if self.exchanged:
            return
        middles, x = self._row_middles(tops), WIDTH - MARGIN
        self._word("busy", x, min(tops[0], middles[0] - SMALL / 2) - SMALL / 2 - 4, "busy", SMALL, "r", PALE_INK)
        for place in _apart(middles, SMALL + 4):
            part = busy(self.timeline, place, self.start, self.end)
            self._word("busy", x, middles[place], f"{part:.0%}".replace("%", " %"), SMALL, "r", PALE_INK)

    def _grid(self, top: int, bottom: int) -> None:
        for at, _ in self._ticks():
            x = self._x(at)
            self._box("grid", x, top, x + 1, bottom, GRID)

    def _axis(self, y: int) -> int:
        self._box("axis", self.left, y, self.right + 1, y + 2, INK)
        for at, text in self._ticks():
            x = self._x(at)
            self._box("tick", x, y, x + 2, y + 9, INK)
            self._word("tick", x, y + 11 + SMALL / 2, text, SMALL, "m")
        unit, _ = unit_of(self.end)
        y += 11 + SMALL + 8
        self._word("unit", (self.left + self.right) / 2, y + SMALL / 2, f"time ({unit})", SMALL, "m")
        return y + SMALL

    def _ticks(self) -> Iterator[tuple[float, str]]:
        _, scale = unit_of(self.end)
        step = step_of((self.end - self.start) * scale / ((self.right - self.left) / 120))
        number = -floor(-self.start * scale / step + 1e-9)
        while (at := number * step) <= self.end * scale * (1 + 1e-9):
            yield at / scale, f"{at:,.{max(0, -floor(log10(step)))}f}"
            number += 1

    def _footer(self, y: int) -> int:
        timeline, forgotten = self.timeline, self.subject.forgotten
        lines = []
        if timeline.requests:
            whole = (self.start, self.end) == (0.0, timeline.seconds)
            recorded = _said(figures(timeline))
            if whole:
                lines.append(f"{as_time(timeline.seconds)} recorded: {recorded}")
            else:
                seen = (
                    f"first {as_time(self.end)}" if not self.start else f"{as_time(self.start)} to {as_time(self.end)}"
                )
                lines.append(f"shown, {seen}: {_said(figures(timeline, self.start, self.end))}")
                lines.append(f"recorded, {as_time(timeline.seconds)}: {recorded}")
        more = []
        dropped = Counter(request.dropped for request in timeline.requests if request.dropped)
        if dropped:
            marked = " (x)" if self.crosses else ""
            more.append(f"not run{marked}: {', '.join(f'{n:,} {why}' for why, n in dropped.items())}")
        if self.beyond:
            more.append("the window asked for begins after what was recorded, so all of it is shown")
        if self.hidden:
            more.append(f"{self.hidden:,} runs are too short to be seen at this scale")
        if forgotten:
            more.append(f"the oldest {forgotten:,} events were forgotten")
        if more:
            lines.append("; ".join(more))
        y += 30
        for line in lines:
            self._word("figures", MARGIN, y + TEXT / 2, self._cut(line, TEXT), TEXT)
            y += TEXT + 10
        if timeline.requests:
            said = "A bar is a run on the cores of its stream; its number says which request, in order of arrival."
            said = self._cut(f"{said} {self.above}", SMALL)
            self._word("caption", MARGIN, y + 4 + SMALL / 2, said, SMALL, colour=PALE_INK)
            y += SMALL + 4
        return y

    # ---- small

    def _box(
        self, role: str, x0: int, y0: int, x1: int, y1: int, fill: Colour, outline: Colour | None = None, of: int = -1
    ) -> None:
        self.drawing.boxes.append(Box(role, x0, y0, x1, y1, fill, outline, of))

    def _word(
        self, role: str, x: float, y: float, text: str, size: int, anchor: str = "l", colour: Colour = INK, of: int = -1
    ) -> None:
        self.drawing.words.append(Words(role, x, y, text, size, anchor, colour, of))

    def _cut(self, text: str, size: int) -> str:
        """As much of it as the picture is wide."""
        wide = WIDTH - 2 * MARGIN
        if len(text) < wide and self.measure(text, size) <= wide:
            return text
        fits = bisect_right(range(wide), wide, key=lambda length: ceil(self.measure(f"{text[:length]}...", size)))
        return f"{text[: fits - 1]}..."


def _labels(requests: Sequence[int]) -> Iterator[str]:
    """How a bar may be labelled, the best first."""
    if requests:
        yield cpu_list(requests).replace(",", ", ")
        if len(requests) > 1:
            yield f"x{len(requests)}"


def _pieces(lanes: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of neighbours."""
    found: list[tuple[int, int]] = []
    for lane in sorted(lanes):
        if found and found[-1][1] == lane - 1:
            found[-1] = found[-1][0], lane
        else:
            found.append((lane, lane))
    return found


def _apart(middles: Sequence[float], room: float) -> range:
    """Which of them to label, so that the labels do not touch: every one, or every 2nd, 4th, 8th, …"""
    step = 1
    while any(abs(b - a) < room for a, b in zip(middles[::step], middles[step::step])):
        step *= 2
    return range(0, len(middles), step)


def _said(one: Figures) -> str:
    said = f"{count_of(one.requests, 'request')}, {one.per_second:,.{1 if one.per_second < 1000 else 0}f} requests/s"
    if one.p50 is not None and one.p99 is not None:
        said += f", latency p50 {as_time(one.p50)}, p99 {as_time(one.p99)}"
    return said


def _darker(colour: Colour) -> Colour:
    red, green, blue = (round(part * 0.62) for part in colour)
    return red, green, blue
