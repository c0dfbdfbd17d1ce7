"""What is served, on disk: whole at every moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import InvalidOption
from headrace.serving.snapshot import Kept, read, sweep, text_of, write

CAT = Kept("cat", "1.0", "cat.mar", True, 1, 3, {"max_batch_size": 8})
DOG = Kept("dog", "2", "pets:dog", True, 0, 0)


def test_what_is_written_is_read() -> None:
    text = text_of([CAT, DOG], "2026-11-28T00:00:00Z")
    assert read(text, "here") == [CAT, DOG]
    assert '\n      "name": "cat",\n' in text, "a person can read it"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found.clear(), "no snapshot"),
        (lambda found: found.update(format=2), "format 2; this version reads 1"),
        (lambda found: found.update(models={}), "a list `models`"),
        (lambda found: found["models"].append(3), r"models\[2\] is a int"),
        (lambda found: found["models"][1].pop("source"), r"models\[1\]: 'source' must be a str, it is None"),
        (lambda found: found["models"][0].update(min_workers=True), r"'min_workers' must be a int, it is True"),
        (lambda found: found["models"][0].update(colour="red"), r"models\[0\] has 'colour'"),
        (
            lambda found: found["models"][0].update(min_workers=-1),
            r"models\[0\]: 'min_workers' is from 0 up.* -1 and 3",
        ),
        (lambda found: found["models"][0].update(min_workers=4), r"'max_workers' no less; they are 4 and 3"),
    ],
)
def test_what_is_wrong_with_one_is_said_with_its_place(change: Any, says: str) -> None:
    found = json.loads(text_of([CAT, DOG], "now"))
    change(found)
    with pytest.raises(InvalidOption, match=says) as raised:
        read(json.dumps(found), "state.json")
    assert "state.json" in str(raised.value)


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_half_of_one_is_none(cut: int) -> None:
    with pytest.raises(InvalidOption, match="not JSON"):
        read(text_of([CAT], "now")[:cut], "here")


def test_where_it_cannot_be_written_the_old_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["state.json"]


WRITER = """
import sys
from pathlib import Path
from headrace.serving.snapshot import write
path, i = Path(sys.argv[1]), 0
while True:
    i += 1
    write(path, f"{i} " * 50_000)
    print(i, flush=True)
"""


def test_whoever_is_killed_while_it_writes_leaves_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for round in range(10):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        said = 0
        for _ in range(1 + round):
            said = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        child.wait(30)
        said = max([said, *(int(line) for line in child.stdout.read().split())])
        child.stdout.close()
        words = path.read_text().split()
        assert len(words) == 50_000
        assert len(set(words)) == 1
        assert int(words[0]) in (said, said + 1), "what was said to be written is there"
        sweep(path)
        assert [each.name for each in tmp_path.iterdir()] == ["state.json"]
