"""Folders that live as long as somebody uses them, in this process and in others."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.archives.cache import Cache
from headrace.errors import InvalidArchive, InvalidOption
from headrace.testing import Gate


def build(content: str = "x") -> Callable[[Path], None]:
    return lambda folder: (folder / "file").write_text(content) and None


def left_in(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.root.iterdir())


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_a_folder_is_there_until_the_last_one_lets_go(cache: Cache) -> None:
    first = cache.hold("k", build("first"))
    second = cache.hold("k", build("never built"))
    assert (first.folder, (first.folder / "file").read_text()) == (second.folder, "first")
    first.close()
    first.close()  # once is enough, and twice is no other's
    assert (second.folder / "file").exists()
    second.close()
    assert left_in(cache) == []


def test_another_key_is_another_folder(cache: Cache) -> None:
    with_a, with_b = cache.hold("a", build("a")), cache.hold("b", build("b"))
    with_a.close()
    assert (with_b.folder / "file").read_text() == "b"
    with_b.close()


def test_what_cannot_be_built_leaves_nothing(cache: Cache) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").touch()
        raise InvalidArchive("no")

    with pytest.raises(InvalidArchive):
        cache.hold("k", fails)
    assert left_in(cache) == []
    lease = cache.hold("k", build())
    assert os.listdir(lease.folder) == ["file"]
    lease.close()


def test_nobody_sees_half_of_it(cache: Cache) -> None:
    gate = Gate()
    seen: list[str] = []

    def slow(folder: Path) -> None:
        (folder / "file").write_text("half")
        gate()
        (folder / "file").write_text("whole")

    def other() -> None:
        lease = cache.hold("k", build("other"))
        seen.append((lease.folder / "file").read_text())
        lease.close()

    leases = []
    builder = threading.Thread(target=lambda: leases.append(cache.hold("k", slow)))
    builder.start()
    gate.wait()
    waiting = threading.Thread(target=other)
    waiting.start()
    assert not (cache.root / "k").exists()
    gate.open()
    builder.join()
    waiting.join()
    assert seen == ["whole"]
    leases[0].close()
    assert left_in(cache) == []


def test_building_one_does_not_keep_others_waiting(cache: Cache) -> None:
    gate = Gate()
    builder = threading.Thread(target=lambda: cache.hold("slow", lambda folder: gate()).close())
    builder.start()
    gate.wait()
    cache.hold("quick", build()).close()
    gate.open()
    builder.join()


def test_who_forgets_it_lets_go_of_it(cache: Cache) -> None:
    lease = cache.hold("k", build())
    del lease
    gc.collect()
    assert left_in(cache) == []


def test_two_of_one_process_are_as_two_processes(tmp_path: Path) -> None:
    """Locks are of open files, so another Cache is as good as another process."""
    one, other = Cache(tmp_path / "cache"), Cache(tmp_path / "cache")
    first, second = one.hold("k", build("one")), other.hold("k", build("other"))
    assert (second.folder / "file").read_text() == "one"
    first.close()
    assert (second.folder / "file").exists()
    assert Cache(tmp_path / "cache").root.exists()  # sweeps, and leaves what is in use
    assert (second.folder / "file").exists()
    second.close()
    assert left_in(one) == []


def test_many_at_once_take_and_leave_it_and_nothing_is_left(tmp_path: Path) -> None:
    caches = [Cache(tmp_path / "cache") for _ in range(4)]
    wrong: list[str] = []

    def use(cache: Cache) -> None:
        for _ in range(50):
            lease = cache.hold("k", build("whole"))
            try:
                found = (lease.folder / "file").read_text()
            except OSError as error:
                found = str(error)
            if found != "whole":
                wrong.append(found)
            lease.close()

    threads = [threading.Thread(target=use, args=(cache,)) for cache in caches * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert left_in(caches[0]) == []


HOLDER = """
import sys
from pathlib import Path
from headrace.archives.cache import Cache
how = sys.argv[2]
def build(folder):
    (folder / "file").write_text("theirs")
    if how == "building":
        print("there", flush=True)
        sys.stdin.read()
lease = Cache(sys.argv[1]).hold("k", build)
print("there", flush=True)
sys.stdin.read()
"""


def another_process(root: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def ended(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


def test_a_process_that_ends_leaves_nothing_and_takes_nothing_from_others(tmp_path: Path) -> None:
    process = another_process(tmp_path / "cache", "holding")
    cache = Cache(tmp_path / "cache")
    lease = cache.hold("k", build("ours"))
    assert (lease.folder / "file").read_text() == "theirs"
    ended(process)
    assert (lease.folder / "file").exists()
    lease.close()
    assert left_in(cache) == []


def test_the_process_that_is_left_removes_it(tmp_path: Path) -> None:
    process = another_process(tmp_path / "cache", "holding")
    cache = Cache(tmp_path / "cache")
    cache.hold("k", build()).close()
    assert "k" in left_in(cache)
    ended(process)
    assert left_in(cache) == []


@pytest.mark.parametrize("how", ["holding", "building"])
def test_what_a_killed_process_left_is_swept_at_the_next_start(tmp_path: Path, how: str) -> None:
    process = another_process(tmp_path / "cache", how)
    process.send_signal(signal.SIGKILL)
    ended(process)
    assert list((tmp_path / "cache").iterdir())
    assert left_in(Cache(tmp_path / "cache")) == []


def test_what_a_killed_builder_left_is_built_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert left_in(cache) == []  # it has swept
    process = another_process(tmp_path / "cache", "building")
    process.send_signal(signal.SIGKILL)
    ended(process)
    lease = cache.hold("k", build("ours"))
    assert (lease.folder / "file").read_text() == "ours"
    lease.close()
    assert left_in(cache) == []


def test_a_fork_does_not_take_the_folder_from_its_parent(cache: Cache) -> None:
    lease = cache.hold("k", build())
    child = os.fork()
    if not child:
        lease.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert (lease.folder / "file").exists()
    lease.close()
    assert left_in(cache) == []


def test_a_folder_that_somebody_has_made_is_not_taken_for_ours(cache: Cache) -> None:
    (cache.root / "k").mkdir()
    (cache.root / "k" / "theirs").touch()
    lease = cache.hold("k", build("ours"))
    assert os.listdir(lease.folder) == ["file"]
    lease.close()
    assert left_in(cache) == []


def test_what_is_written_to_a_folder_that_goes_is_not_taken_for_it_later(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, remove = cache.hold("k", build()), shutil.rmtree

    def written_to(folder: Path, *rest: object, **named: object) -> None:
        remove(folder)
        (cache.root / "k").mkdir(exist_ok=True)
        (cache.root / "k" / "log").touch()

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", written_to)
        lease.close()
    assert left_in(cache) == ["k"]
    lease = cache.hold("k", build("anew"))
    assert [(lease.folder / "file").read_text(), *os.listdir(lease.folder)] == ["anew", "file"]
    lease.close()
    assert left_in(cache) == []


def test_what_has_no_lock_is_nobodys_and_is_swept_if_it_is_called_as_ours_are(tmp_path: Path) -> None:
    digest = "0123456789abcdef" * 4
    (tmp_path / "cache").mkdir(0o700)
    for name in (digest, digest.replace("0", "f") + ".leaving", "theirs", "f" * 63):
        (tmp_path / "cache" / name).mkdir()
    assert left_in(Cache(tmp_path / "cache")) == ["f" * 63, "theirs"]


def test_a_folder_that_was_made_unreadable_is_removed(cache: Cache) -> None:
    lease = cache.hold("k", build())
    (lease.folder / "sub").mkdir()
    (lease.folder / "sub" / "file").touch()
    (lease.folder / "sub").chmod(0)
    lease.close()
    assert left_in(cache) == []


def test_links_in_it_are_not_followed_when_it_is_removed(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    lease = cache.hold("k", build())
    (lease.folder / "link").symlink_to(tmp_path / "outside")
    lease.close()
    assert (tmp_path / "outside" / "file").exists()
    assert left_in(cache) == []


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_cache_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(InvalidOption, match=r"--cache-dir .* nobody else may write to"):
        Cache(tmp_path / "cache").hold("k", build())


def test_a_cache_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(InvalidOption, match="--cache-dir"):
            Cache(path).hold("k", build())


def test_nobody_can_put_a_link_where_the_default_one_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "mine").mkdir(0o700)
    (tmp_path / f"headrace-{os.getuid()}").symlink_to(tmp_path / "mine")
    with pytest.raises(InvalidOption, match="folder of your own"):
        Cache().hold("k", build())
