"""What could not be written is written later, by itself. The folder that is away is a real one; the waits are gates."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.serving.kept_file import LONGEST, KeptFile, pause_after

PATIENCE = 30
Until = Callable[[Callable[[], object]], None]


class Waits:
    """In the place of seconds: the test ends each wait itself."""

    def __init__(self) -> None:
        self.asked: queue.Queue[float] = queue.Queue()
        self._ends: queue.Queue[bool] = queue.Queue()

    def __call__(self, seconds: float) -> bool:
        self.asked.put(seconds)
        return self._ends.get(timeout=PATIENCE)

    def begun(self) -> float:
        """How long is waited now."""
        return self.asked.get(timeout=PATIENCE)

    def end(self, *, closed: bool = False) -> None:
        self._ends.put(closed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "there"
    folder.mkdir()
    return folder


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "headrace.serving")
    return lambda: [record.levelname for record in caplog.records if "snapshot" in record.getMessage()]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "headrace-snapshot"]


def test_it_is_tried_again_later_and_later_and_said_once(
    folder: Path, waits: Waits, said: Callable[[], list[str]]
) -> None:
    so = ["one"]
    file = KeptFile(folder / "state", lambda: so[0], waits)
    file.write()
    away = folder.rename(folder.with_name("away"))
    so[0] = "two"
    file.write()
    pauses = [waits.begun()]
    file.write()  # another change meanwhile
    for _ in range(8):
        waits.end()
        pauses.append(waits.begun())
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert said() == ["ERROR"]
    away.rename(folder)
    so[0] = "three"  # nobody wrote that: what is written is what is so then
    thread = file._thread
    assert thread is not None
    waits.end()
    thread.join(PATIENCE)
    assert (folder / "state").read_text() == "three"
    assert said() == ["ERROR", "WARNING"]
    file.write()
    assert said() == ["ERROR", "WARNING"]
    file.close()
    assert waits.asked.empty()


def test_a_change_that_can_be_written_ends_it(folder: Path, waits: Waits, said: Callable[[], list[str]]) -> None:
    file = KeptFile(folder / "state", lambda: "so", waits)
    away = folder.rename(folder.with_name("away"))
    file.write()
    waits.begun()
    away.rename(folder)
    file.write()
    assert said() == ["ERROR", "WARNING"]
    thread = file._thread
    assert thread is not None
    waits.end()
    thread.join(PATIENCE)
    assert waits.asked.empty()
    folder.rename(away)  # and once more
    file.write()
    assert said() == ["ERROR", "WARNING", "ERROR"]
    assert waits.begun() == 1
    waits.end(closed=True)
    file.close()


@pytest.mark.parametrize("back", [True, False])
def test_at_the_end_it_is_tried_once_more(folder: Path, said: Callable[[], list[str]], back: bool) -> None:
    file = KeptFile(folder / "state", lambda: "so")
    away = folder.rename(folder.with_name("away"))
    file.write()
    if back:
        away.rename(folder)
    file.close()
    assert (folder / "state").exists() is back
    assert said() == ["ERROR", "WARNING" if back else "ERROR"]


def test_pauses_are_bounded() -> None:
    assert pause_after(10**9) == LONGEST
