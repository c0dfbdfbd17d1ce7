"""Where things are in the picture of a timeline, and that its pixels are there."""

from __future__ import annotations

import heapq
import random
from itertools import pairwise

import pytest

from headrace.errors import InvalidOption
from headrace.model.drawing import CYCLE, IDLE, MARGIN, WIDTH, Subject, draw
from headrace.model.picture import paint, picture, text_width
from headrace.model.shapes import Box, Drawing, Words
from headrace.model.shown import Window, check_window
from headrace.model.timeline import Request, Row, Span, Timeline, figures
from headrace.model.units import step_of

SOCKETS = {core: core // 8 for core in range(16)}
ELASTIC = (Row("m-0", tuple(range(8))), Row("m-1", tuple(range(8, 16))))


def simulated(
    rows: tuple[Row, ...], requests: int, *, callers: int = 4, seconds: float = 0.01, batch: int = 1, seed: int = 0
) -> Timeline:
    """Callers in a closed loop; whichever stream is free first takes the next `batch`."""
    rng = random.Random(seed)
    free = [(0.0, row) for row in range(len(rows))]
    arrivals = [0.0] * callers
    made: list[Request] = []
    spans: list[Span] = []
    while len(made) < requests:
        at, row = heapq.heappop(free)
        came = [heapq.heappop(arrivals) for _ in range(min(batch, len(arrivals)))] or [at]
        start = max(at, *came)
        end = start + seconds * rng.uniform(0.5, 1.5)
        spans.append(Span(tuple(range(len(made) + 1, len(made) + 1 + len(came))), row, start, end))
        made += [Request(len(made) + 1 + place, arrived, start, end) for place, arrived in enumerate(came)]
        heapq.heappush(free, (end, row))
        for _ in came:
            heapq.heappush(arrivals, end + 1e-5)
    return Timeline(rows, tuple(sorted(spans, key=lambda s: s.start)), tuple(made), max(span.end for span in spans))


def drawn(timeline: Timeline, window: Window | None = None, **subject: object) -> Drawing:
    about = {"name": "m", "scheduler": "multi_stream", "machine": 16, "node_of": SOCKETS} | subject
    return draw(timeline, Subject(**about), text_width, window)  # type: ignore[arg-type]


def of(drawing: Drawing, role: str) -> list[Box]:
    return [box for box in drawing.boxes if box.role == role]


def said(drawing: Drawing, role: str) -> list[str]:
    return [words.text for words in drawing.words if words.role == role]


def extent(words: Words) -> tuple[float, float, float, float]:
    wide = text_width(words.text, words.size)
    x0 = words.x - {"l": 0, "m": wide / 2, "r": wide}[words.anchor]
    return x0, words.y - words.size / 2, x0 + wide, words.y + words.size / 2


def narrow(streams: int) -> tuple[Row, ...]:
    return tuple(Row(f"m-{core}", (core,)) for core in range(streams))


SHAPES = {
    "single_stream": (Row("m-0", tuple(range(16))),),
    "elastic": ELASTIC,
    "multi_stream": narrow(16),
    "of unequal width": (Row("m-0", (0, 1, 2)), Row("m-1", (3, 4)), Row("m-2", (5,))),
    "with a gap": (Row("m-0", (0, 2)), Row("m-1", (1, 3))),
    "256 cores": narrow(256),
    "the caller's": (Row("caller", ()),),
}


@pytest.mark.parametrize("rows", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("batch", [1, 3])
def test_bars_lie_on_the_cores_of_their_stream_and_never_overlap(rows: tuple[Row, ...], batch: int) -> None:
    timeline = simulated(rows, 400 + 6 * len(rows), callers=20 + 3 * len(rows), batch=batch)
    drawing = drawn(timeline)
    bands: dict[int, set[int]] = {}
    for box in of(drawing, "idle"):
        bands.setdefault(box.of, set()).update(range(box.y0, box.y1))
    bars: dict[int, dict[int, list[Box]]] = {}
    for bar in of(drawing, "bar"):
        bars.setdefault(timeline.spans[bar.of].row, {}).setdefault(bar.y0, []).append(bar)
    assert set(bars) == set(range(len(rows))), "each stream has run"
    for row, pieces in bars.items():
        covered = {y for piece in pieces.values() for bar in piece for y in range(bar.y0, bar.y1)}
        assert covered == bands[row], "a bar spans all the cores of its stream, and no others"
        for piece in pieces.values():
            assert all(before.x1 <= after.x0 for before, after in pairwise(piece))
            assert all(bar.x0 < bar.x1 for bar in piece)
    assert len(set().union(*bands.values())) == sum(map(len, bands.values())), "streams have bands of their own"


@pytest.mark.parametrize("rows", SHAPES.values(), ids=SHAPES)
def test_every_run_of_the_window_is_drawn_once_and_time_goes_to_the_right(rows: tuple[Row, ...]) -> None:
    timeline = simulated(rows, 300, callers=20)
    drawing = drawn(timeline, timeline.seconds if len(rows) > 100 else 0.05)
    until = timeline.seconds if len(rows) > 100 else 0.05
    tops = {row: min(box.y0 for box in of(drawing, "idle") if box.of == row) for row in range(len(rows))}
    firsts = [bar for bar in of(drawing, "bar") if bar.y0 == tops[timeline.spans[bar.of].row]]
    spans = [place for place, span in enumerate(timeline.spans) if span.start < until * 0.999]
    assert [bar.of for bar in firsts][: len(spans)] == spans
    assert [bar.x0 for bar in firsts] == sorted(bar.x0 for bar in firsts)


@pytest.mark.parametrize("rows", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("callers", [1, 4, 40])
def test_nothing_is_written_over_and_all_is_in_the_picture(rows: tuple[Row, ...], callers: int) -> None:
    timeline = simulated(rows, 500, callers=callers)
    late = Request(len(timeline.requests) + 1, 0.001, None, 0.03, "late")
    timeline = Timeline(timeline.rows, timeline.spans, (*timeline.requests, late), timeline.seconds)
    drawing = drawn(timeline, note="a note", name="a model of some name", forgotten=3)
    places = [(extent(words), words) for words in drawing.words]
    for (x0, y0, x1, y1), words in places:
        assert x0 >= MARGIN - 1, words
        assert x1 <= WIDTH - MARGIN + 30, words
        assert y0 >= 0, words
        assert y1 <= drawing.height, words
    for place, ((a0, b0, a1, b1), words) in enumerate(places):
        for (c0, d0, c1, d1), others in places[place + 1 :]:
            assert a1 <= c0 + 1 or c1 <= a0 + 1 or b1 <= d0 + 1 or d1 <= b0 + 1, (words, others)
    for words in drawing.words:
        if words.role == "bar":
            x0, y0, x1, y1 = extent(words)
            assert any(
                bar.of == words.of and bar.x0 < x0 and x1 < bar.x1 and bar.y0 <= y0 and y1 <= bar.y1
                for bar in of(drawing, "bar")
            ), f"{words.text} is not in its bar"


def test_where_streams_take_turns_on_cores_a_bar_leaves_out_those_of_others_between_them() -> None:
    rows = (*narrow(3), Row("m-3", (0, 2)))
    spans = (*(Span((core + 1,), core, 0, 1) for core in range(3)), Span((4,), 3, 1, 2))
    drawing = drawn(Timeline(rows, spans, tuple(Request(n, 0, 0, 1) for n in range(1, 5)), 2))
    bars = of(drawing, "bar")
    assert [(bar.of, bar.y0) for bar in bars[3:]] == [(3, bars[0].y0), (3, bars[2].y0)]
    assert said(drawing, "bar") == ["1", "2", "3", "4"]


@pytest.mark.parametrize("rows", [SHAPES["single_stream"], ELASTIC, narrow(2)])
def test_the_numbers_fit_into_their_bars_unless_a_window_is_asked_for(rows: tuple[Row, ...]) -> None:
    timeline = simulated(rows, 400)
    drawing = drawn(timeline)
    spans = {bar.of for bar in of(drawing, "bar")}
    labelled = {words.of for words in drawing.words if words.role == "bar"}
    assert len(labelled) >= 0.9 * len(spans)
    for words in drawing.words:
        if words.role == "bar":
            assert words.text == str(timeline.spans[words.of].requests[0])


def test_a_batch_is_one_bar_with_the_numbers_of_all_its_requests() -> None:
    spans = (Span((3, 4, 5, 6), 0, 0, 1), Span((1, 2, 8), 0, 1, 2), Span((7, 9, 11), 0, 2, 2.03))
    requests = tuple(Request(number, 0.0, 0.0, 1.0) for number in range(1, 12))
    drawing = drawn(Timeline(narrow(1), spans, requests, 3.0), 2.06)
    assert said(drawing, "bar") == ["3-6", "1-2, 8"]
    drawing = drawn(Timeline(narrow(1), spans, requests, 3.0), (1.0, 2.04))
    assert said(drawing, "bar") == ["1-2, 8", "x3"]


def test_a_wait_goes_from_its_arrival_to_its_start() -> None:
    spans = (Span((1,), 0, 0, 4), Span((2,), 0, 4, 8), Span((3,), 0, 8, 10))
    requests = (Request(1, 0, 0, 4), Request(2, 1, 4, 8), Request(3, 2, 8, 10), Request(4, 3, None, 6, "cancelled"))
    drawing = drawn(Timeline(narrow(1), spans, requests, 10.0))
    axis = of(drawing, "axis")[0]
    second = (axis.x1 - 1 - axis.x0) / 10
    arrivals = {box.of: box.x0 for box in of(drawing, "arrival")}
    assert arrivals == {place: round(axis.x0 + place * second) for place in range(4)}
    ends = {box.of: box.x1 for box in of(drawing, "wait")}
    assert ends == {1: round(axis.x0 + 4 * second), 2: round(axis.x0 + 8 * second), 3: round(axis.x0 + 6 * second)}
    assert said(drawing, "waits") == ["2", "3", "4"]
    assert [(words.text, words.of) for words in drawing.words if words.role == "dropped"] == [("x", 3)]
    assert any("1 cancelled" in text for text in said(drawing, "figures"))
    lines = sorted((box.y0, box.x0, box.x1) for box in of(drawing, "wait"))
    assert all(a[2] <= b[1] for a, b in pairwise(lines) if a[0] == b[0]), "lines of one height follow each other"


def test_where_many_wait_their_number_is_drawn_instead() -> None:
    timeline = simulated(narrow(1), 200, callers=30)
    drawing = drawn(timeline)
    assert of(drawing, "wait") == []
    assert of(drawing, "depth")
    assert max(map(int, said(drawing, "most"))) in (29, 30)
    few = drawn(simulated(narrow(1), 200, callers=5))
    assert of(few, "wait")
    assert of(few, "depth") == []


def test_a_picture_that_shows_a_part_says_which_and_has_the_figures_of_both() -> None:
    timeline = simulated(narrow(2), 3000, seconds=0.01)
    lines = said(drawn(timeline, 0.1), "figures")
    assert lines[0].startswith(f"shown, first 100 ms: {figures(timeline, 0, 0.1).requests} requests, ")
    assert "3,000 requests, " in lines[1]
    assert said(drawn(timeline, (0.05, 0.1)), "figures")[0].startswith("shown, 50.0 ms to 100 ms: ")
    assert said(drawn(timeline), "figures")[0].startswith("shown, first ")
    (whole,) = said(drawn(timeline, 1e9), "figures")[:1]
    assert "recorded: 3,000 requests" in whole


def test_what_is_left_out_is_said() -> None:
    timeline = simulated(narrow(1), 20_000)
    lines = said(drawn(timeline, 1e9, forgotten=12_345), "figures")
    assert "too short to be seen" in lines[-1]
    assert "the oldest 12,345 events were forgotten" in lines[-1]
    assert len(of(drawn(timeline, 1e9), "bar")) < WIDTH


def test_a_window_after_the_end_shows_all() -> None:
    timeline = simulated(narrow(1), 10)
    drawing = drawn(timeline, (1e6, 2e6))
    assert len(of(drawing, "bar")) == 10
    assert "begins after what was recorded" in said(drawing, "figures")[-1]
    assert "begins after" not in said(drawn(timeline, (0.0, 2e6)), "figures")[-1]


@pytest.mark.parametrize(("waiting", "said_so"), [(2, "not run (x): 2 cancelled"), (40, "not run: 40 cancelled")])
def test_a_cross_is_explained_only_where_there_is_one(waiting: int, said_so: str) -> None:
    timeline = simulated(narrow(1), 10, callers=1)
    end = timeline.seconds
    gone = tuple(Request(11 + i, 0.0, None, end, "cancelled") for i in range(waiting))
    timeline = Timeline(timeline.rows, timeline.spans, (*timeline.requests, *gone), end)
    assert said_so in said(drawn(timeline), "figures")[-1]


@pytest.mark.parametrize("window", [0, -1, (1, 1), (2, 1), (-1, 1), float("nan")])
def test_a_window_that_is_none_is_refused(window: Window) -> None:
    with pytest.raises(InvalidOption, match="window is seconds"):
        check_window(window)


@pytest.mark.parametrize("least", [0.0003, 0.01, 0.99, 1, 1.01, 2, 2.5, 5, 7, 80, 99_999])
def test_ticks_are_at_round_numbers(least: float) -> None:
    step = step_of(least)
    assert least <= step <= 5 * least
    assert f"{step:.0e}"[0] in "125"


def test_ticks_are_numbered_in_order_and_the_unit_is_named() -> None:
    drawing = drawn(simulated(narrow(1), 40, seconds=0.01))
    numbers = [float(text.replace(",", "")) for text in said(drawing, "tick")]
    assert numbers[0] == 0
    assert len({round(b - a, 6) for a, b in pairwise(numbers)}) == 1
    assert said(drawing, "unit") == ["time (ms)"]
    assert said(drawn(simulated(narrow(1), 40, seconds=5.0)), "unit") == ["time (s)"]
    assert said(drawn(simulated(narrow(1), 40, seconds=1e-6)), "unit") == ["time (us)"]


def test_the_title_says_model_scheduler_streams_and_cores() -> None:
    title = lambda rows: said(drawn(simulated(rows, 9)), "title")[0]  # noqa: E731
    assert title(ELASTIC) == "m  ·  multi_stream  ·  2 streams x 8 cores"
    assert title(narrow(16)) == "m  ·  multi_stream  ·  16 streams x 1 core"
    assert title(SHAPES["of unequal width"]) == "m  ·  multi_stream  ·  3 streams x 1-3 cores"
    assert said(drawn(simulated(narrow(2), 9)), "subtitle") == ["2 of the engine's 16 cores"]
    assert said(drawn(simulated(ELASTIC, 9), note="n"), "subtitle") == ["all of the engine's 16 cores  ·  n"]
    assert said(drawn(simulated(SHAPES["the caller's"], 9)), "subtitle") == ["in the caller's thread"]


def test_a_long_name_is_cut_where_the_picture_ends() -> None:
    drawing = drawn(simulated(narrow(1), 3), name="m" * 5000)
    (title,) = (words for words in drawing.words if words.role == "title")
    assert title.text.startswith("mmm")
    assert title.text.endswith("m...  ·  multi_stream  ·  1 stream x 1 core")
    assert extent(title)[2] <= WIDTH - MARGIN


def test_nodes_are_named_where_there_are_several() -> None:
    assert [text for text in said(drawn(simulated(ELASTIC, 9)), "name") if "node" in text] == ["node 0", "node 1"]
    assert not [text for text in said(drawn(simulated(narrow(8), 9)), "name") if "node" in text]


def test_nothing_is_a_picture_that_says_so() -> None:
    drawing = drawn(Timeline(narrow(2), (), (), 0.0))
    assert said(drawing, "nothing") == ["Nothing ran while this was recorded."]
    assert picture(Timeline((), (), (), 0.0), Subject("m", "naive", 0)).size == (WIDTH, drawing.height)


# ---- pixels


@pytest.mark.parametrize("rows", [ELASTIC, narrow(16), SHAPES["with a gap"]])
def test_a_bar_has_the_colour_of_its_request_and_idle_cores_have_none(rows: tuple[Row, ...]) -> None:
    timeline = simulated(rows, 100)
    drawing = drawn(timeline)
    image = paint(drawing)
    assert image.size == (drawing.width, drawing.height)
    seen = set()
    for bar in of(drawing, "bar"):
        if bar.x1 - bar.x0 > 8:
            number = timeline.spans[bar.of].requests[0]
            for y in (bar.y0 + 3, bar.y1 - 4):
                assert image.getpixel((bar.x0 + 3, y)) == CYCLE[(number - 1) % len(CYCLE)]
            seen.add(number)
    assert len(seen) > 20
    taken = {(x, bar.y0) for bar in of(drawing, "bar") for x in range(bar.x0, bar.x1)}
    for box in of(drawing, "idle"):
        if box.fill == IDLE:
            free = [x for x in range(box.x0, box.x1) if (x, box.y0) not in taken]
            assert all(image.getpixel((x, box.y0 + 1)) == IDLE for x in free[::50])


def test_words_are_dark_on_white() -> None:
    drawing = drawn(simulated(ELASTIC, 50))
    image = paint(drawing)
    assert image.getpixel((3, 3)) == (255, 255, 255)
    for words in drawing.words:
        x0, y0, x1, y1 = extent(words)
        inside = image.crop((int(x0), int(y0), int(x1) + 1, int(y1) + 1)).convert("L")
        assert inside.getextrema()[0] < 130, words


def test_the_picture_of_a_large_machine_and_many_runs_stays_small() -> None:
    image = picture(simulated(narrow(256), 10_000, callers=300), Subject("m", "multi_stream", 256, SOCKETS))
    assert image.width == WIDTH
    assert image.height < 2000
