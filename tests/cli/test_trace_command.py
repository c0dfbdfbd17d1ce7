"""`headrace trace`: real runs, real files, and errors for people."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import headrace as hr
from headrace.cli.load import Limit, arrivals, closed_loop, poisson
from headrace.cli.trace import _inputs, _schedulers, _shapes
from headrace.engine.scheduler import Scheduler
from headrace.engine.topology import made_up
from headrace.errors import BackendError, InvalidOption
from headrace.model.drawing import CYCLE

DIGITS = Path(hr.__file__).parent / "bundled/digits/digits.onnx"


def headrace(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "headrace", "trace", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder, check=False)


def runs(path: Path) -> list[dict[str, Any]]:
    return [each for each in json.loads(path.read_text())["traceEvents"] if each.get("cat") == "run"]


def colours(path: Path) -> set[Any]:
    with Image.open(path) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or ()}


# ---- the whole command


def test_every_scheduler_that_has_streams_is_traced_into_a_picture_and_a_trace(tmp_path: Path) -> None:
    done = headrace(str(DIGITS), "--all", "--requests", "60", "--callers", "3", "--out", "new/folder", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    wanted = [str(each) for each in Scheduler if each is not Scheduler.naive]
    lines = done.stdout.splitlines()
    assert lines[0] == "3 callers, each with one request at a time"
    for scheduler in wanted:
        (row,) = (line.split() for line in lines if line.startswith(scheduler))
        assert "60" in row
        picture, trace = (tmp_path / "new/folder" / f"digits-{scheduler}{ending}" for ending in (".png", ".json"))
        assert set(CYCLE) <= colours(picture)
        assert len(runs(trace)) == 60
        assert f"written: new/folder/digits-{scheduler}.png" in lines
    assert len(list((tmp_path / "new/folder").iterdir())) == 2 * len(wanted)


def test_arrivals_at_a_rate_say_their_seed(tmp_path: Path) -> None:
    arguments = ("--rate", "2000", "--requests", "50", "--scheduler", "multi", "--out", "one.json")
    done = headrace(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.match(r"2000 requests/s arrive at random, seed \d+\n", done.stdout)
    assert [each.name for each in tmp_path.iterdir()] == ["one.json"]
    assert len(runs(tmp_path / "one.json")) == 50
    assert "seed 7\n" in headrace(*arguments, "--seed", "7", folder=tmp_path).stdout


def test_a_function_is_traced_with_what_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def add(a, b):\n    return a + b\n\ndef nothing():\n    return 0\n")
    limits = ("--requests", "5", "--scheduler", "naive", "--out", "t.png")
    done = headrace("mine:add", "--input", '{"a": 1, "b": 2}', *limits, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert CYCLE[4] in colours(tmp_path / "t.png")
    assert headrace("mine:nothing", *limits, folder=tmp_path).returncode == 0
    for given, says in (((), "say with --input"), (("--input", "[1, 2, 3]"), "does not run on made-up inputs")):
        done = headrace("mine:add", *given, *limits, folder=tmp_path)
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("headrace: ")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nowhere.onnx"], 1, "nowhere.onnx does not exist"),
        (["folder"], 1, "folder is a folder"),
        (["no.such.module:f"], 1, "no module named 'no'"),
        (["--scheduler", "quick"], 2, "there is no scheduler 'quick'"),
        (["--scheduler", "naive", "--all"], 2, "exclude each other"),
        (["--rate", "5", "--callers", "2"], 2, "two ways to send requests"),
        (["--rate", "0"], 2, "--rate is a number above 0"),
        (["--rate", "nan"], 2, "--rate is a number above 0"),
        (["--seconds", "-1"], 2, "--seconds is a number above 0"),
        (["--window", "0"], 2, "--window is a number above 0"),
        (["--rate", "5", "--scheduler", "naive"], 2, "use --callers"),
        (["--out", "t.gif"], 2, "a file is .png, .json or .json.gz"),
        (["--out", "t.png"], 2, "schedulers are to be traced: give a folder"),
        (["--out", "file/below"], 2, "cannot be made"),
        (["--out", "missing/t.png", "--scheduler", "multi"], 2, "missing, which is no folder"),
        (["--input-shapes", "1,2"], 2, "--input-shapes is [1,3,224,224],[1,5]"),
        (["--input-shapes", "[3]"], 2, "does not fit"),
        (["--input", "{"], 2, "--input is JSON"),
        (["--input", "1"], 2, "--input is for a module:function"),
        (["--num-cores", "100000"], 1, "100,000 cores were asked for"),
        (["--callers", "0"], 2, "--callers"),
    ],
)
def test_what_cannot_be_traced_is_said_in_a_line_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str],
    status: int, says: str,
) -> None:  # fmt: skip
    from headrace.cli import main as cli

    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["headrace", "trace", *arguments, "--requests", "3"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == status, said
    assert says in " ".join(said.split())
    assert "Traceback" not in said
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


# ---- its parts


def test_without_a_scheduler_all_that_have_streams_are_traced() -> None:
    assert _schedulers(None, False) == _schedulers([], True) == [s for s in Scheduler if s is not Scheduler.naive]
    assert _schedulers(["multi", "single", "multi_stream"], False) == [Scheduler.multi_stream, Scheduler.single_stream]


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        (None, None),
        ("[1,3,8,8]", [[1, 3, 8, 8]]),
        (" [1, 3] , [] ", [[1, 3], []]),
        ("x=[2]", {"x": [2]}),
        ("in:0=[2], b.c =[1,1]", {"in:0": [2], "b.c": [1, 1]}),
    ],
)
def test_shapes_are_read_in_order_or_by_name(text: str | None, shapes: object) -> None:
    assert _shapes(text) == shapes


@pytest.mark.parametrize("text", ["", "1,2", "[1,2", "[1],x=[2]", "[a]", "[1] [2]", "x=", "[-1]"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(InvalidOption, match="--input-shapes is"):
        _shapes(text)


def test_made_up_inputs_are_what_the_model_takes() -> None:
    with hr.compile_model(DIGITS, engine=hr.Engine(topology=made_up(1))) as model:
        made = _inputs(model, None)
        assert model.inputs is not None
        assert all(spec.takes(made[spec.name]) for spec in model.inputs)
        assert all(array.shape[0] == 1 for array in made.values())
        assert model.engine is not None
    model.engine.close()


def test_arrivals_are_the_same_for_a_seed_and_come_at_the_rate() -> None:
    first, again, other = (list(islice(arrivals(100, seed), 20_000)) for seed in (1, 1, 2))
    assert first == again != other
    assert all(a < b for a, b in pairwise(first))
    assert first[-1] == pytest.approx(200, rel=0.05)
    gaps = sorted(b - a for a, b in pairwise(first))
    assert gaps[len(gaps) // 2] == pytest.approx(0.00693, rel=0.05)  # ln 2 / rate: they are exponential


@pytest.mark.parametrize("callers", [1, 5])
def test_a_closed_loop_makes_so_many_requests_and_never_more_at_a_time_than_callers(callers: int) -> None:
    import threading

    inside, most, lock = 0, 0, threading.Lock()

    def model(_: int) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        with lock:
            inside -= 1

    seen: list[int] = []
    with hr.Engine(topology=made_up(8)) as engine:
        with hr.compile_model(model, engine=engine, scheduler="multi_stream") as compiled:
            closed_loop(compiled, 0, callers, Limit(requests=100), lambda requests, _: seen.append(requests))
            assert compiled.statistics().completed == 100
    assert most <= callers
    assert seen == sorted(seen)


def test_a_load_ends_by_its_time_too() -> None:
    assert Limit(requests=5).reached(5, 0)
    assert not Limit(requests=5).reached(4, 1e9)
    assert Limit(requests=5, seconds=2).reached(0, 2)
    assert not Limit().reached(10**9, 1e9)


def test_the_first_error_ends_a_load_and_is_raised() -> None:
    calls: list[int] = []

    def model(_: int) -> None:
        calls.append(1)
        if len(calls) == 10:
            raise ValueError("the tenth")

    with hr.Engine(topology=made_up(1)) as engine, hr.compile_model(model, engine=engine) as compiled:
        with pytest.raises(BackendError, match="the tenth"):
            closed_loop(compiled, 0, 3, Limit(requests=10_000), lambda *_: None)
        assert len(calls) < 20
        calls.clear()
        with pytest.raises(BackendError, match="the tenth"):
            poisson(compiled, 0, 1e6, 0, Limit(requests=20), lambda *_: None)
        for future in list(engine._unseen):
            future.exception()
