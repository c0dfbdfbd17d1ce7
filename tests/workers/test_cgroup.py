"""A cgroup for each worker, on made-up trees of files; where the kernel allows one, on the kernel's own."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from worker_watching import wait_for

import headrace as hr
from headrace.workers.cgroup import limited, parents

MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    def make(own: str = "/user/app", controllers: str = "cpu memory", parent: str = "memory", mine: str = "") -> Path:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(f"4:memory:/old\n0::{own}\n")
        (tmp_path / "proc/self/mountinfo").write_text("22 1 0:1 / / rw - ext4 /dev/sda rw\n" + MOUNT)
        folder = tmp_path / "sys/fs/cgroup" / own.lstrip("/")
        folder.mkdir(parents=True)
        for each, hands_out in ((folder, mine), (folder.parent, parent)):
            (each / "cgroup.controllers").write_text(controllers + "\n")
            (each / "cgroup.subtree_control").write_text(hands_out + "\n")
        (folder / "cgroup.subtree_control").chmod(0o644)
        return tmp_path

    return make


def test_a_group_is_made_beside_ours_with_the_limit_and_the_process_in_it(tree: Callable[..., Path]) -> None:
    root = tree(controllers="cpu")  # ours hands out nothing
    group = limited(77, 5_000_000, "m-1", root)
    assert group is not None
    folder = root / f"sys/fs/cgroup/user/headrace-{os.getpid()}-m-1"
    assert (folder / "memory.max").read_text() == "5000000"
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "memory.oom.group").read_text() == "1"
    assert (folder / "cgroup.procs").read_text() == "77"
    assert not group.was_over()
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n")
    assert not group.was_over()
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\n")
    assert group.was_over()
    for file in folder.iterdir():  # the kernel's own files go with their folder
        file.unlink()
    group.close()
    assert not folder.exists()


def test_one_inside_ours_is_preferred_where_ours_hands_out_memory(tree: Callable[..., Path]) -> None:
    root = tree(mine="memory")
    assert parents(root) == [root / "sys/fs/cgroup/user/app", root / "sys/fs/cgroup/user"]


@pytest.mark.parametrize("options", [{"controllers": "cpu", "parent": "cpu"}, {"controllers": "", "parent": ""}])
def test_where_nobody_hands_out_memory_there_is_none(tree: Callable[..., Path], options: dict[str, str]) -> None:
    assert limited(77, 5_000_000, "m-1", tree(**options)) is None


def test_without_version_2_or_any_proc_there_is_none(tree: Callable[..., Path], tmp_path: Path) -> None:
    assert parents(tmp_path / "nowhere") == []
    root = tree()
    (root / "proc/self/cgroup").write_text("4:memory:/old\n")
    assert parents(root) == []


def test_a_group_that_cannot_be_set_is_taken_away_again(
    tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(controllers="cpu")

    def refuse(self: Path, text: str) -> int:
        raise PermissionError(self)

    monkeypatch.setattr(Path, "write_text", refuse)
    assert limited(77, 5_000_000, "m-1", root) is None
    assert [each.name for each in (root / "sys/fs/cgroup/user").iterdir() if each.is_dir()] == ["app"]


@pytest.mark.skipif(not parents(), reason="no cgroup with a memory limit may be made here")
def test_the_kernel_ends_a_worker_that_goes_beyond_and_the_error_names_the_limit(
    compiled: Callable[..., hr.Model],
) -> None:
    limit = 300 << 20
    model = compiled("ones", memory_limit=limit, idempotent=False)
    if model.workers[0].limited_by != "cgroup":
        pytest.skip("a process may not be moved here")
    with pytest.raises(hr.WorkerDied, match=r"was over its memory_limit of 314,572,800 bytes"):
        model(1 << 30)
    wait_for(lambda: model.workers[0].state == "READY")
