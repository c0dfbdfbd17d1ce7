"""Traces: what the events become, and how the recording ends."""

from __future__ import annotations

import gzip
import json
import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from headrace.engine.events import COUNT, DROP, READ, RUN, SUBMIT, Event
from headrace.engine.perfetto import chrome_trace
from headrace.engine.trace import Trace
from headrace.errors import InvalidOption
from headrace.testing import Gate

US = 1e-6
START = 1000.0
HERE, THERE = 140_001, 140_002  # thread idents


def at(microseconds: float) -> float:
    return START + microseconds * US


def drawn(*events: Event, streams: tuple[str, ...] = ("stream 0",)) -> list[dict[str, Any]]:
    return list(chrome_trace(events, process_name="engine", streams=streams)["traceEvents"])


def of(trace: list[dict[str, Any]], *phases: str) -> list[dict[str, Any]]:
    return [event for event in trace if event["ph"] in phases]


def tracks(trace: list[dict[str, Any]]) -> dict[int, str]:
    return {event["tid"]: event["args"]["name"] for event in of(trace, "M") if event["name"] == "thread_name"}


def arrows(trace: list[dict[str, Any]]) -> list[list[tuple[str, float]]]:
    """Of each arrow its points in the order of the file."""
    found: dict[str, list[tuple[str, float]]] = {}
    for event in of(trace, "s", "t", "f"):
        found.setdefault(event["id"], []).append((event["ph"], event["ts"]))
    return list(found.values())


# What the events become


def test_one_request_is_two_short_slices_a_run_a_wait_and_an_arrow_through_them() -> None:
    trace = drawn(
        (SUBMIT, at(0), 7, HERE),
        (RUN, at(500), at(1500), "stream 0", (7,), "digits", 3),
        (READ, at(2000), 7, THERE),
    )
    stream, queue, here, there = 2, 3, 4, 5
    assert tracks(trace) == {stream: "stream 0", queue: "queue", here: "caller 1", there: "caller 2"}
    request: dict[str, Any] = {"pid": 1, "cat": "request", "name": "request", "id": "0x0"}
    waiting: dict[str, Any] = {"pid": 1, "tid": queue, "cat": "waiting", "name": "waiting", "id": "0x0"}
    args = {"rows": 3, "requests": 1, "oldest waited (ms)": 0.5}
    assert [event for event in trace if event["ph"] != "M"] == [
        {"ph": "X", "pid": 1, "tid": here, "ts": 0, "dur": 1, "cat": "caller", "name": "submit"},
        {"ph": "s", "tid": here, "ts": 0, **request},
        {"ph": "b", "ts": 0, **waiting},
        {"ph": "X", "pid": 1, "tid": stream, "ts": 500, "dur": 1000, "cat": "run", "name": "digits", "args": args},
        {"ph": "e", "ts": 500, **waiting},
        {"ph": "t", "tid": stream, "ts": 500, **request},
        {"ph": "X", "pid": 1, "tid": there, "ts": 2000, "dur": 1, "cat": "caller", "name": "read"},
        {"ph": "f", "tid": there, "ts": 2000, "bp": "e", **request},
    ]


def test_the_requests_of_a_batch_share_a_slice_and_have_an_arrow_each() -> None:
    trace = drawn(
        (SUBMIT, at(0), 1, HERE),
        (SUBMIT, at(100), 2, HERE),
        (RUN, at(500), at(900), "stream 0", (1, 2), "digits", 8),
        (READ, at(1000), 2, HERE),
        (READ, at(1100), 1, HERE),
    )
    (run,) = [event for event in of(trace, "X") if event["cat"] == "run"]
    assert run["args"] == {"rows": 8, "requests": 2, "oldest waited (ms)": 0.5}
    assert arrows(trace) == [[("s", 0), ("t", 500), ("f", 1100)], [("s", 100), ("t", 500), ("f", 1000)]]


def test_tracks_are_the_streams_then_the_queue_then_the_callers_as_they_came() -> None:
    trace = drawn(
        (SUBMIT, at(0), 1, THERE),
        (RUN, at(1), at(2), "b-10", (1,), "f", 1),
        (RUN, at(1), at(2), "b-9", (), "f", 1),
        (RUN, at(1), at(2), "z", (), "f", 1),
        (READ, at(3), 1, HERE),
        streams=("z", "a"),
    )
    assert list(tracks(trace).values()) == ["z", "a", "b-9", "b-10", "queue", "caller 1", "caller 2"]
    order = [e["args"]["sort_index"] for e in of(trace, "M") if e["name"] == "thread_sort_index"]
    assert order == sorted(set(order))
    idents = [e["args"]["ident"] for e in of(trace, "M") if "ident" in e.get("args", {})]
    assert idents == [THERE, HERE]


def test_a_dropped_request_waits_until_then_and_has_an_instant_and_no_arrow() -> None:
    reasons = ["cancelled", "late", "shed", "closed", "poisoned"]
    submits = [(SUBMIT, at(10 * i), i, HERE) for i in range(5)]
    drops = [(DROP, at(100 + 10 * i), i, why) for i, why in enumerate(reasons)]
    trace = drawn(*submits, *drops, (READ, at(200), 1, HERE))
    assert [(e["name"], e["ts"], e["s"], tracks(trace)[e["tid"]]) for e in of(trace, "i")] == [
        (why, 100 + 10 * i, "t", "queue") for i, why in enumerate(reasons)
    ]
    assert [e["ts"] for e in of(trace, "e")] == [100, 110, 120, 130, 140]
    assert not arrows(trace)


def test_counters_are_written_when_they_change_and_each_has_its_own_scale() -> None:
    trace = drawn(
        (COUNT, at(0), 1, 2, 100, 0),
        (COUNT, at(5), 1, 2, 100, 1),
        (COUNT, at(9), 0, 2, 0, 1),
    )
    assert [(e["name"], e["ts"], e["args"]) for e in of(trace, "C")] == [
        ("waiting", 0, {"requests": 1}),
        ("inside", 0, {"requests": 2}),
        ("held", 0, {"bytes": 100}),
        ("running", 0, {"streams": 0}),
        ("running", 5, {"streams": 1}),
        ("waiting", 9, {"requests": 0}),
        ("held", 9, {"bytes": 0}),
    ]


def test_a_future_id_that_comes_again_has_an_arrow_of_its_own() -> None:
    lives = [
        event
        for start in (0, 1000)
        for event in (
            (SUBMIT, at(start), 7, HERE),
            (RUN, at(start + 100), at(start + 200), "stream 0", (7,), "f", 1),
            (READ, at(start + 300), 7, HERE),
        )
    ]
    assert arrows(drawn(*lives)) == [
        [("s", 0), ("t", 100), ("f", 300)],
        [("s", 1000), ("t", 1100), ("f", 1300)],
    ]


def test_an_outcome_nobody_read_ends_its_arrow_at_its_run() -> None:
    run = (RUN, at(100), at(200), "stream 0", (7,), "f", 1)
    trace = drawn((SUBMIT, at(0), 7, HERE), run, (SUBMIT, at(300), 7, HERE))
    assert arrows(trace) == [[("s", 0), ("f", 100)]]


def test_a_request_that_is_run_again_by_itself_has_both_runs_on_its_arrow() -> None:
    batch = (RUN, at(100), at(200), "stream 0", (1, 2), "f", 2)
    alone = [(RUN, at(200 + 50 * i), at(250 + 50 * i), "stream 0", (i,), "f", 1) for i in (1, 2)]
    trace = drawn((SUBMIT, at(0), 1, HERE), (SUBMIT, at(2), 2, HERE), batch, *alone, (READ, at(400), 1, HERE))
    assert arrows(trace) == [
        [("s", 0), ("t", 100), ("t", 250), ("f", 400)],
        [("s", 2), ("t", 100), ("f", 300)],
    ]
    assert [e["ts"] for e in of(trace, "e")] == [100, 100]  # it waited for the first


def test_what_was_forgotten_or_never_came_leaves_no_arrow_and_no_open_wait() -> None:
    trace = drawn(
        (RUN, at(0), at(10), "stream 0", (1,), "f", 1),  # its submit was forgotten
        (READ, at(20), 1, HERE),
        (READ, at(30), 2, HERE),  # all before it was forgotten
        (DROP, at(35), 2, "late"),
        (SUBMIT, at(40), 3, HERE),  # waits on
        (SUBMIT, at(50), 4, HERE),  # read, and not seen to run
        (READ, at(60), 4, HERE),
    )
    assert not arrows(trace)
    assert [(e["ph"], e["ts"]) for e in of(trace, "b", "e")] == [("b", 40), ("e", 60)]
    assert [e["name"] for e in of(trace, "X")] == ["f", "read", "read", "submit", "submit", "read"]
    (run,) = [e for e in of(trace, "X") if e["cat"] == "run"]
    assert run["args"] == {"rows": 1, "requests": 1}  # who knows how long it waited


def test_who_still_waits_in_the_end_waits_until_the_last_thing_that_was_seen() -> None:
    trace = drawn((SUBMIT, at(0), 1, HERE), (RUN, at(10), at(500), "stream 0", (), "f", 1), (COUNT, at(20), 1, 1, 1, 1))
    assert [(e["ph"], e["ts"]) for e in of(trace, "b", "e")] == [("b", 0), ("e", 500)]


def test_a_drop_after_a_run_changes_neither_the_wait_nor_the_arrow() -> None:
    run = (RUN, at(100), at(200), "stream 0", (7,), "f", 1)
    trace = drawn((SUBMIT, at(0), 7, HERE), run, (DROP, at(250), 7, "cancelled"), (READ, at(300), 7, HERE))
    assert arrows(trace) == [[("s", 0), ("t", 100), ("f", 300)]]
    assert [(e["ph"], e["ts"]) for e in of(trace, "b", "e", "i")] == [("b", 0), ("e", 100), ("i", 250)]


def test_a_run_whose_clock_went_back_is_drawn_as_nothing() -> None:
    assert of(drawn((RUN, at(0), at(-5), "stream 0", (), "f", 1)), "X")[0]["dur"] == 0


def test_events_are_put_in_the_order_of_time() -> None:
    events: list[Event] = [
        (SUBMIT, at(0), 7, HERE),
        (RUN, at(100), at(200), "stream 0", (7,), "f", 1),
        (READ, at(300), 7, THERE),
        (SUBMIT, at(400), 7, HERE),
    ]
    assert drawn(*reversed(events)) == drawn(*events)


def test_slices_of_one_caller_never_reach_into_each_other() -> None:
    begins = [0, 0.25, 0.25, 0.75, 5, 5, 5.5]
    trace = drawn(*((SUBMIT, at(when), number, HERE) for number, when in enumerate(begins)))
    assert [(e["ts"], e["dur"]) for e in of(trace, "X")] == [
        *((0, 0.25), (0.25, 0.5), (0.25, 0.5), (0.75, 1)),
        *((5, 0.5), (5, 0.5), (5.5, 1)),
    ]


def test_a_run_that_begins_when_the_one_before_ends_does_not_overlap_it_by_a_rounding() -> None:
    rng = random.Random(5)
    times = [START]
    while len(times) < 500:
        times.append(times[-1] + rng.uniform(0, 1e-3))
    trace = drawn(*((RUN, begun, ended, "stream 0", (), "f", 1) for begun, ended in pairwise(times)))
    runs = [(e["ts"] * 1000, e["dur"] * 1000) for e in of(trace, "X")]
    assert all(ts.is_integer() and duration.is_integer() for ts, duration in runs)  # nanoseconds, as the viewer counts
    assert all(ts + duration == following for (ts, duration), (following, _) in pairwise(runs))


def test_a_trace_of_nothing_is_a_trace() -> None:
    trace = chrome_trace([], process_name="engine", streams=["s"])
    assert list(tracks(trace["traceEvents"]).values()) == ["s", "queue"]


def test_a_trace_says_in_its_process_name_what_was_forgotten() -> None:
    trace = chrome_trace([], process_name="engine", streams=[], dropped=12_345)
    (name,) = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"]
    assert name == "engine (its oldest 12,345 events were forgotten)"
    assert trace["otherData"]["events_forgotten_at_least"] == 12_345


# A random program


class Program:
    """A made-up engine with few ids, so that they come again soon. Keeps the truth of each life beside its events."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.now = rng, START
        self.arrived: list[tuple[float, Event]] = []
        self.lives: list[list[Event]] = []
        self.free = {f"stream {i}": START for i in range(3)}
        self.ids = list(range(12))
        self.waiting: list[list[Event]] = []
        for _ in range(150):
            self.now += rng.uniform(2, 50) * US
            rng.choice((self.submit, self.submit, self.run, self.drop, self.count))()

    def tell(self, known: float, event: Event) -> Event:
        self.arrived.append((known + self.rng.uniform(0, 20) * US, event))
        return event

    def submit(self) -> None:
        if self.ids:
            future_id = self.ids.pop(self.rng.randrange(len(self.ids)))
            life = [self.tell(self.now, (SUBMIT, self.now, future_id, self.rng.choice((HERE, THERE))))]
            self.waiting.append(life)
            self.lives.append(life)

    def run(self) -> None:
        batch = self.waiting[: self.rng.randint(1, 4)]
        if not batch:
            return
        del self.waiting[: len(batch)]
        stream = min(self.free, key=self.free.__getitem__)
        begun = max(self.now, self.free[stream])
        ended = self.free[stream] = begun + self.rng.uniform(0, 100) * US
        ids = tuple(life[0][2] for life in batch)
        event = self.tell(ended, (RUN, begun, ended, stream, ids, "f", len(ids)))
        self.now = ended  # an id is free when its life is over
        for life in batch:
            life.append(event)
            if self.rng.random() < 0.8:
                self.now += self.rng.uniform(2, 9) * US
                life.append(self.tell(self.now, (READ, self.now, life[0][2], self.rng.choice((HERE, THERE)))))
            self.ids.append(life[0][2])

    def drop(self) -> None:
        if self.waiting:
            life = self.waiting.pop(self.rng.randrange(len(self.waiting)))
            life.append(self.tell(self.now, (DROP, self.now, life[0][2], "late")))
            self.ids.append(life[0][2])

    def count(self) -> None:
        self.tell(self.now, (COUNT, self.now, *(self.rng.randint(0, 3) for _ in range(4))))

    def events(self, forgotten: int) -> list[Event]:
        self.arrived.sort(key=lambda one: one[0])
        return [event for _, event in self.arrived][forgotten:]


@pytest.mark.parametrize("seed", range(60))
def test_any_program_keeps_the_rules_of_the_format(seed: int) -> None:
    rng = random.Random(seed)
    program = Program(rng)
    forgotten = rng.choice((0, 0, 20, 60))
    events = program.events(forgotten)
    whole = chrome_trace(events, process_name="engine", streams=["stream 0"], dropped=forgotten)
    trace = whole["traceEvents"]

    assert json.loads(json.dumps(whole)) == whole
    assert all(event["ts"] >= 0 for event in trace if event["ph"] != "M")
    assert all(event["dur"] >= 0 for event in of(trace, "X"))
    assert {event["tid"] for event in trace if "tid" in event} <= set(tracks(trace))

    for track in tracks(trace):
        slices = [(e["ts"], e["ts"] + e["dur"]) for e in of(trace, "X") if e["tid"] == track]
        assert all(end <= begin for (_, end), (begin, _) in pairwise(sorted(slices))), track

    # An arrow's points each lie on a slice that is open then; one beginning, one end, in the order of time.
    starts = {(e["tid"], e["ts"]) for e in of(trace, "X")}
    assert all((e["tid"], e["ts"]) in starts for e in of(trace, "s", "t", "f"))
    assert all("bp" in e for e in of(trace, "f"))
    for arrow in arrows(trace):
        assert "".join(phase for phase, _ in arrow) in ("stf", "sf")
        assert [ts for _, ts in arrow] == sorted(ts for _, ts in arrow)

    # They are the arrows of the lives whose submit and run are in the trace, and no others.
    kept = {id(event) for event in events}
    first = min(event[1] for event in events)
    expected = []
    for life in program.lives:
        seen = [event for event in life if id(event) in kept]
        if [event[0] for event in seen[:2]] == [SUBMIT, RUN]:
            expected.append([round((event[1] - first) * 8e6) / 8 for event in seen])
    assert sorted([ts for _, ts in arrow] for arrow in arrows(trace)) == sorted(expected)

    # A wait has two ends, the later one second.
    ends: dict[str, list[tuple[str, float]]] = {}
    for event in of(trace, "b", "e"):
        ends.setdefault(event["id"], []).append((event["ph"], event["ts"]))
    assert all([phase for phase, _ in pair] == ["b", "e"] for pair in ends.values())
    assert all(pair[0][1] <= pair[1][1] for pair in ends.values())
    if not forgotten:
        assert len(ends) == len(program.lives)


# The recording


REQUEST: tuple[Event, ...] = (
    (SUBMIT, at(0), 7, HERE),
    (RUN, at(100), at(200), "stream 0", (7,), "digits “ä”", 1),
    (READ, at(300), 7, HERE),
)


def read(path: Path) -> Any:
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("name", ["out.json", "out.json.gz"])
def test_the_file_is_the_trace_of_what_was_recorded(tmp_path: Path, name: str) -> None:
    with Trace(tmp_path / name, process_name="mine") as trace:
        for event in REQUEST * 700:
            trace.record(event)
        assert trace.running
        assert not os.listdir(tmp_path)
    assert not trace.running
    assert trace.path == tmp_path / name
    assert trace.events == list(REQUEST * 700)
    assert read(trace.path) == chrome_trace(REQUEST * 700, process_name="mine", streams=[])
    assert os.listdir(tmp_path) == [name]


def test_a_trace_may_be_given_by_the_name_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Trace("out.json"):
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert read(tmp_path / "out.json")["traceEvents"]


def test_others_may_read_the_file_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with Trace(tmp_path / "out.json"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "out.json").stat().st_mode & 0o777 == 0o640


def test_the_first_stop_tells_the_engine_which_may_still_record(tmp_path: Path) -> None:
    told: list[Trace] = []

    def on_stop(trace: Trace) -> None:
        told.append(trace)
        assert not trace.running
        trace.record(REQUEST[1])
        trace.streams = ["idle", "stream 0"]
        trace.stop()  # of its own: it neither waits for itself nor writes twice

    with Trace(tmp_path / "out.json", on_stop=on_stop) as trace:
        trace.record(REQUEST[0])
        trace.stop()
        written = (tmp_path / "out.json").stat()
        trace.stop()
    assert told == [trace]
    assert (tmp_path / "out.json").stat() == written
    assert (
        read(trace.path)["traceEvents"]
        == chrome_trace(REQUEST[:2], process_name="headrace engine", streams=["idle", "stream 0"])["traceEvents"]
    )


def test_a_second_stop_returns_when_the_file_is_there(tmp_path: Path, in_threads: Callable[..., Any]) -> None:
    gate, seen = Gate(), []

    def second() -> None:
        trace.stop()
        seen.append(trace.path.exists())

    trace = Trace(tmp_path / "out.json", on_stop=lambda _: gate())
    stops = in_threads(trace.stop)
    gate.wait()
    waits = in_threads(second)
    for _ in range(1000):
        time.sleep(0)  # its turn, to return too early
    gate.open()
    stops.join()
    waits.join()
    assert seen == [True]


def test_what_was_recorded_is_written_though_the_program_or_the_engine_failed(tmp_path: Path) -> None:
    def fails(_: Trace) -> None:
        raise LookupError

    def program() -> None:
        with trace:
            trace.record(REQUEST[0])
            raise ZeroDivisionError

    trace = Trace(tmp_path / "out.json", on_stop=fails)
    with pytest.raises(LookupError):
        program()
    assert len(of(read(trace.path)["traceEvents"], "X")) == 1


@pytest.mark.parametrize("name", ["out.json", "out.json.gz"])
def test_a_trace_that_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, name: str, in_threads: Callable[..., Any]
) -> None:
    (tmp_path / name).write_text("before")
    trace = Trace(tmp_path / name)
    for event in REQUEST * 2000:
        trace.record(event)
    trace.record((RUN, at(400), at(500), "stream 0", (), object(), 1))  # its name is nothing that JSON has
    with pytest.raises(TypeError):
        trace.stop()
    in_threads(trace.stop).join()
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "before"


def test_the_file_takes_its_name_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, seen = os.replace, []

    def looks(part: Path, path: Path) -> None:
        seen.append((path.exists(), path.parent == part.parent, read(part)))
        replace(part, path)

    monkeypatch.setattr(os, "replace", looks)
    with Trace(tmp_path / "out.json") as trace:
        trace.record(REQUEST[0])
    assert seen == [(False, True, read(trace.path))]


@pytest.mark.parametrize("capacity", [1, 2, 3, 10])
def test_the_newest_events_are_kept_and_the_forgotten_are_counted(tmp_path: Path, capacity: int) -> None:
    trace = Trace(tmp_path / "out.json", capacity=capacity)
    events = [(COUNT, at(i), i, i, i, i) for i in range(45)]
    for number in range(45):
        assert trace.events == events[max(0, number - capacity) : number]
        assert trace.dropped == max(0, number - capacity)
        trace.record(events[number])
    trace.stop()
    assert trace.dropped == 45 - capacity
    assert read(trace.path)["otherData"]["events_forgotten_at_least"] == 45 - capacity


def test_recording_is_an_append_and_nothing_more(tmp_path: Path) -> None:
    record = Trace(tmp_path / "out.json").record
    assert type(record) is type([].append), "something written in Python"
    assert record.__name__ == "append"


def test_a_trace_that_is_given_up_leaves_no_memory_behind(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "out.json", capacity=2)
    for event in REQUEST * 3:
        trace.record(event)
    ring = weakref.ref(trace._ring)
    del trace
    assert ring() is None, "it waits for the garbage collector"
    assert not os.listdir(tmp_path)


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("capacity", [50, 1_000_000])
def test_threads_may_record_while_it_stops(
    tmp_path: Path, capacity: int, in_threads: Callable[..., Any], until: Callable[..., None]
) -> None:
    trace = Trace(tmp_path / "out.json", capacity=capacity)
    trace.streams = ["stream 0", "stream 1"]
    recorded, over = [0, 0], threading.Event()

    def records(me: int) -> Callable[[], None]:
        def record() -> None:
            while not over.is_set():
                trace.record((RUN, at(recorded[me]), at(recorded[me]), f"stream {me}", (), str(recorded[me]), 1))
                recorded[me] += 1

        return record

    crowd = in_threads(records(0), records(1))
    until(lambda: min(recorded) > 100)
    trace.stop()
    over.set()
    crowd.join()
    runs = of(read(trace.path)["traceEvents"], "X")
    assert len(runs) <= capacity + 1  # one may have come in the moment between two markers
    for stream in range(2):
        numbers = [int(run["name"]) for run in runs if run["tid"] == 2 + stream]
        assert all(after == before + 1 for before, after in pairwise(numbers)), "there is a hole"
    assert trace.dropped <= sum(recorded) - len(trace.events)
    assert bool(trace.dropped) == (capacity == 50)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing/out.json", "missing, which is no folder; make it first"),
        ("file/out.json", "file, which is no folder; make it first"),
        ("folder", "folder, which is no file; give the name of a file"),
        ("pipe", "pipe, which is no file"),
        ("link", "pipe, which is no file"),
        ("", "which is no file"),
        ("o" * 300, "give a file in a folder that you may write in"),
        ("\0", "give a file in a folder that you may write in"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InvalidOption, match=says):
        Trace(f"{tmp_path}/{name}")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_trace_that_keeps_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="from 1 to"):
        Trace(tmp_path / "out.json", capacity=0)
