"""What recorded events say about runs and requests. Pure: every event here is made up."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from headrace.engine.events import COUNT, DROP, READ, RUN, SUBMIT, Event
from headrace.model.timeline import Request, Row, Span, Timeline, busy, figures, timeline_of

ROWS = (Row("s-0", (0, 1)), Row("s-1", (2, 3)))
BEGIN = 500.0


def submit(at: float, future: int) -> Event:
    return (SUBMIT, BEGIN + at, future, 1, "m")


def run(start: float, end: float, *futures: int, stream: str = "s-0") -> Event:
    return (RUN, BEGIN + start, BEGIN + end, stream, futures, "m", len(futures))


def drop(at: float, future: int, why: str = "cancelled") -> Event:
    return (DROP, BEGIN + at, future, why)


def made(*events: Event, unfinished: tuple[str, ...] = ()) -> Timeline:
    return timeline_of(sorted(events, key=lambda event: event[1]), ROWS, unfinished)


def test_a_request_is_numbered_as_it_arrived_and_known_from_then_to_the_end_of_its_run() -> None:
    timeline = made(submit(0, 70), submit(1, 60), run(1, 3, 60, stream="s-1"), run(2, 6, 70), (READ, BEGIN + 9, 70, 1))
    assert timeline.requests == (Request(1, 0, 2, 6), Request(2, 1, 1, 3))
    assert timeline.spans == (Span((2,), 1, 1, 3), Span((1,), 0, 2, 6))
    assert [request.latency for request in timeline.requests] == [6, 2]
    assert timeline.seconds == 9


def test_the_requests_of_a_batch_are_one_span() -> None:
    timeline = made(*(submit(each, each) for each in range(4)), run(5, 7, 2, 0, 1), run(7, 8, 3))
    assert [span.requests for span in timeline.spans] == [(1, 2, 3), (4,)]
    assert [request.begun for request in timeline.requests] == [5, 5, 5, 7]


def test_what_arrived_before_the_recording_comes_first_and_has_no_latency() -> None:
    timeline = made(submit(1, 9), run(0, 2, 5), run(2, 3, 6, 9))
    assert [(request.number, request.arrived) for request in timeline.requests] == [(1, None), (2, None), (3, 1)]
    assert [span.requests for span in timeline.spans] == [(1,), (2, 3)]
    assert [request.latency for request in timeline.requests] == [None, None, 2]
    assert figures(timeline).requests == 3
    assert figures(timeline).p50 == 2


def test_a_future_id_that_comes_again_is_another_request() -> None:
    timeline = made(submit(0, 7), run(0, 1, 7), submit(1, 7), run(1, 2, 7), submit(2, 7), drop(3, 7), submit(3, 7))
    assert [(r.arrived, r.begun, r.ended, r.dropped) for r in timeline.requests] == [
        (0, 0, 1, ""),
        (1, 1, 2, ""),
        (2, None, 3, "cancelled"),
        (3, None, None, ""),
    ]


def test_what_is_dropped_counts_by_itself_and_what_still_runs_has_not_ended() -> None:
    timeline = made(
        submit(0, 1), submit(0, 2), submit(0, 3), drop(1, 2, "late"), run(0, 2, 1), run(2, 4, 3), unfinished=("s-0",)
    )
    assert [span.finished for span in timeline.spans] == [True, False]
    assert timeline.requests[2].ended is None
    said = figures(timeline)
    assert (said.requests, said.dropped, said.per_second) == (1, 1, 1 / 4)


def test_counters_and_nothing_at_all_are_an_empty_timeline() -> None:
    for events in ((), ((COUNT, BEGIN, 1, 1, 1, 1),)):
        timeline = made(*events)
        assert (timeline.spans, timeline.requests, timeline.seconds) == ((), (), 0)
        assert figures(timeline).p50 is None
        assert figures(timeline).per_second == 0
        assert busy(timeline, 0, 0, 0) == 0


def test_figures_are_of_those_who_ended_in_the_window() -> None:
    events = [each for n in range(100) for each in (submit(n, n), run(n, n + (n + 1) / 100, n))]
    timeline = made(*events)
    assert figures(timeline).p50 == pytest.approx(0.50)
    assert figures(timeline).p99 == pytest.approx(0.99)
    assert figures(timeline).per_second == pytest.approx(1.0)
    part = figures(timeline, 10, 20)
    assert (part.requests, part.per_second) == (10, 1.0)
    assert part.p99 == pytest.approx(0.20)


def test_a_stream_is_busy_for_the_part_of_the_window_it_runs_in() -> None:
    timeline = made(submit(0, 1), run(0, 4, 1), submit(4, 2), run(6, 10, 2), run(0, 10, 3, stream="s-1"))
    assert busy(timeline, 0, 0, 10) == pytest.approx(0.8)
    assert busy(timeline, 0, 2, 8) == pytest.approx(4 / 6)
    assert busy(timeline, 0, 4, 6) == 0
    assert busy(timeline, 1, 0, 10) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(20))
def test_every_request_of_a_random_program_is_there_once(seed: int) -> None:
    rng = random.Random(seed)
    events: list[Event] = []
    at, waiting, fate = 0.0, [], {}
    free = {"s-0": 0.0, "s-1": 0.0}
    for number in range(1, 60):
        at += rng.random()
        future = number % 7 + 100 * number  # no id twice: those who use one again have a test of their own
        events.append(submit(at, future))
        waiting.append((number, future))
        stream = rng.choice(list(free))
        if rng.random() < 0.2:
            gone, future = waiting.pop(rng.randrange(len(waiting)))
            events.append(drop(at, future))
            fate[gone] = "dropped"
        elif free[stream] <= at:
            batch = [waiting.pop(0) for _ in range(min(len(waiting), rng.randint(1, 3)))]
            free[stream] = at + rng.random() * 3
            events.append(run(at, free[stream], *(future for _, future in batch), stream=stream))
            fate.update((number, "ran") for number, _ in batch)
    timeline = made(*events)
    assert [request.number for request in timeline.requests] == list(range(1, 60))
    arrivals = [request.arrived for request in timeline.requests]
    assert arrivals == sorted(arrivals)
    ran = [number for span in timeline.spans for number in span.requests]
    assert sorted(ran) == sorted(number for number, what in fate.items() if what == "ran")
    assert {request.number for request in timeline.requests if request.dropped} == {
        number for number, what in fate.items() if what == "dropped"
    }
    for row in range(2):
        mine = [span for span in timeline.spans if span.row == row]
        assert all(before.end <= after.start for before, after in pairwise(mine))
