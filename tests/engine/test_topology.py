"""Trees of other machines, written into tmp_path as Linux writes them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from headrace.engine import topology
from headrace.engine.topology import Core, Topology, cpu_list, made_up, memory_limit, read_topology


def write(root: Path, files: Mapping[str, object]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def machine(root: Path, topology: Topology, *, node_files: bool = True) -> Path:
    """The tree that a machine like `topology` has under /sys."""
    files: dict[str, object] = {"sys/devices/system/cpu/online": cpu_list(core.cpu for core in topology.cores)}
    physical = len(topology.physical)
    for core in topology.cores:
        cpu = f"sys/devices/system/cpu/cpu{core.cpu}"
        files[f"{cpu}/topology/core_id"] = core.cpu % physical
        files[f"{cpu}/topology/physical_package_id"] = core.package
        files[f"{cpu}/topology/thread_siblings_list"] = cpu_list(
            other.cpu for other in topology.cores if other.cpu % physical == core.cpu % physical
        )
        files[f"{cpu}/cache/index0/level"] = 1
        files[f"{cpu}/cache/index0/shared_cpu_list"] = core.cpu
        files[f"{cpu}/cache/index3/level"] = 3
        files[f"{cpu}/cache/index3/shared_cpu_list"] = cpu_list(it.cpu for it in topology.cores if it.l3 == core.l3)
        if node_files:
            files[f"sys/devices/system/node/node{core.node}/cpulist"] = cpu_list(
                it.cpu for it in topology.cores if it.node == core.node
            )
    return write(root, files)


def cpus(cores: tuple[Core, ...]) -> list[int]:
    return [core.cpu for core in cores]


# --- CPUs -------------------------------------------------------------------------------------------------------------


def test_one_core(tmp_path: Path) -> None:
    topology = read_topology(machine(tmp_path, made_up(1)), affinity=[0])
    assert topology == Topology(cores=(Core(cpu=0, node=0, l3=0, package=0, smt=0),), quota=None, gpus=())
    assert cpus(topology.usable) == [0]


def test_two_sockets_of_eight_with_hyperthreads(tmp_path: Path) -> None:
    expected = made_up(16, nodes=2, smt=2)
    topology = read_topology(machine(tmp_path, expected), affinity=range(32))
    assert set(topology.cores) == set(expected.cores)
    assert cpus(topology.usable) == list(range(16))
    assert [cpus(node) for node in topology.nodes] == [list(range(8)), list(range(8, 16))]
    assert [core.smt for core in sorted(topology.cores, key=lambda core: core.cpu)] == [0] * 16 + [1] * 16


def test_two_hundred_and_fifty_six_cores(tmp_path: Path) -> None:
    expected = made_up(256, nodes=8, l3_per_node=4)
    topology = read_topology(machine(tmp_path, expected), affinity=range(256))
    assert topology == expected
    assert [len(group) for group in topology.l3_groups] == [8] * 32


def test_cores_are_ordered_by_node_even_where_numbers_alternate(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {"sys/devices/system/node/node0/cpulist": "0,2,4,6", "sys/devices/system/node/node1/cpulist": "1,3,5,7"},
    )
    assert cpus(read_topology(root, affinity=range(8)).usable) == [0, 2, 4, 6, 1, 3, 5, 7]


def test_hyperthreads_numbered_side_by_side_are_told_apart_too(tmp_path: Path) -> None:
    siblings = {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}"
        for cpu in range(8)
    }
    assert cpus(read_topology(write(tmp_path, siblings), affinity=range(8)).usable) == [0, 2, 4, 6]


def test_core_ids_tell_hyperthreads_where_no_list_does(tmp_path: Path) -> None:
    files: dict[str, object] = {}
    for cpu in range(4):
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/core_id"] = 0
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id"] = cpu % 2
    assert cpus(read_topology(write(tmp_path, files), affinity=range(4)).usable) == [0, 1]


def test_only_the_affinity_is_there(tmp_path: Path) -> None:
    root = machine(tmp_path, made_up(16, nodes=2, smt=2))
    topology = read_topology(root, affinity=[2, 3, 9, 19])
    assert sorted(cpus(topology.cores)) == [2, 3, 9, 19]
    assert cpus(topology.usable) == [2, 3, 9]  # 19 is the other hyperthread of 3


def test_a_core_of_which_only_the_second_hyperthread_is_allowed_is_used(tmp_path: Path) -> None:
    root = machine(tmp_path, made_up(4, smt=2))
    assert cpus(read_topology(root, affinity=[1, 4]).usable) == [1, 4]


def test_an_affinity_with_holes_on_two_sockets(tmp_path: Path) -> None:
    topology = read_topology(machine(tmp_path, made_up(16, nodes=2, smt=2)), affinity={1, 3, 9})
    assert cpus(topology.usable) == [1, 3, 9]
    assert [cpus(node) for node in topology.nodes] == [[1, 3], [9]]


def test_a_cpu_that_is_offline_is_not_there(tmp_path: Path) -> None:
    root = write(machine(tmp_path, made_up(8)), {"sys/devices/system/cpu/online": "0-2,5-7"})
    assert cpus(read_topology(root, affinity=range(8)).usable) == [0, 1, 2, 5, 6, 7]
    assert cpus(read_topology(root, affinity=[3, 4]).usable) == [3, 4]  # the process runs on something


def test_the_fast_cores_of_a_hybrid_machine_come_first(tmp_path: Path) -> None:
    """Two fast cores with hyperthreads, between two groups of slow ones without."""
    files: dict[str, object] = {"sys/devices/cpu_core/cpus": "2-5", "sys/devices/cpu_atom/cpus": "0-1,6-7"}
    for cpu in range(8):
        siblings = f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}" if 2 <= cpu <= 5 else str(cpu)
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"] = siblings
    topology = read_topology(write(tmp_path, files), affinity=range(8))
    assert [(core.cpu, core.slow) for core in topology.usable] == [
        (2, False), (4, False), (0, True), (1, True), (6, True), (7, True),
    ]  # fmt: skip
    assert not any(core.slow for core in read_topology(tmp_path, affinity=[0, 1]).cores)  # all alike: none is slow


def test_capacities_tell_slow_cores_where_nothing_lists_them(tmp_path: Path) -> None:
    capacities = [400, 1024, 960, 400]
    files = {f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": capacity for cpu, capacity in enumerate(capacities)}
    assert cpus(read_topology(write(tmp_path, files), affinity=range(4)).usable) == [1, 2, 0, 3]


def test_an_l3_that_spans_nodes_counts_as_one_in_each(tmp_path: Path) -> None:
    files: dict[str, object] = {
        "sys/devices/system/node/node0/cpulist": "0-1",
        "sys/devices/system/node/node1/cpulist": "2-3",
    }
    for cpu in range(4):
        files[f"sys/devices/system/cpu/cpu{cpu}/cache/index3/level"] = 3
        files[f"sys/devices/system/cpu/cpu{cpu}/cache/index3/shared_cpu_list"] = "0-3"
    topology = read_topology(write(tmp_path, files), affinity=range(4))
    assert [cpus(group) for group in topology.l3_groups] == [[0, 1], [2, 3]]


# --- what is missing or odd -------------------------------------------------------------------------------------------


def test_without_node_files_there_is_one_node(tmp_path: Path) -> None:
    topology = read_topology(machine(tmp_path, made_up(16, nodes=2), node_files=False), affinity=range(16))
    assert {core.node for core in topology.cores} == {0}
    assert [cpus(group) for group in topology.l3_groups] == [list(range(8)), list(range(8, 16))]


def test_without_any_file_there_is_one_of_everything(tmp_path: Path) -> None:
    topology = read_topology(tmp_path, affinity=[5, 3, 3])
    assert topology == Topology(cores=(Core(3, 0, 0, 0, 0), Core(5, 0, 0, 0, 0)), quota=None, gpus=())


@pytest.mark.parametrize(
    "garbage", ["", "x", "-1", "3-1", "0-99999999999", "0-99999999", "0,,1", "1.5", "\0\0", "0x3", "٣"]
)
def test_garbage_in_every_file_is_as_if_there_were_none(tmp_path: Path, garbage: str) -> None:
    files: dict[str, object] = dict.fromkeys(
        [
            *(
                f"sys/devices/system/cpu/cpu{cpu}/{name}"
                for cpu in range(4)
                for name in (
                    "topology/core_id",
                    "topology/physical_package_id",
                    "topology/thread_siblings_list",
                    "cache/index3/level",
                    "cache/index3/shared_cpu_list",
                    "cache/indexes/level",
                )
            ),
            "sys/devices/system/node/node0/cpulist",
            "sys/devices/system/node/nodeX/cpulist",
            "proc/self/cgroup",
            "sys/fs/cgroup/cpu.max",
            "sys/fs/cgroup/memory.max",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us",
            "proc/driver/nvidia/gpus/0000:01:00.0/information",
            "sys/devices/system/cpu/online",
            "sys/devices/system/cpu/cpu1/cpu_capacity",
            "sys/devices/cpu_atom/cpus",
        ],
        garbage,
    )
    topology = read_topology(write(tmp_path, files), affinity=range(4))
    assert topology == Topology(cores=tuple(Core(cpu, 0, 0, 0, 0) for cpu in range(4)), quota=None, gpus=())
    assert memory_limit(tmp_path) is None


def test_bytes_that_are_no_text_and_folders_in_place_of_files_do_not_raise(tmp_path: Path) -> None:
    root = machine(tmp_path, made_up(2))
    (root / "sys/devices/system/cpu/cpu0/topology/thread_siblings_list").write_bytes(b"\xff\xfe0-1")
    (root / "sys/devices/system/node/node0/cpulist").unlink()
    (root / "sys/devices/system/node/node0/cpulist").mkdir()
    assert cpus(read_topology(root, affinity=range(2)).usable) == [0, 1]


def test_an_empty_affinity_still_has_a_core(tmp_path: Path) -> None:
    assert cpus(read_topology(tmp_path, affinity=[]).usable) == [0]


# --- quotas -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu_max", "quota", "usable"),
    [
        ("max 100000", None, 8),
        ("250000 100000", 2.5, 2),
        ("290000 100000", 2.9, 2),
        ("300000 100000", 3.0, 3),
        ("50000 100000", 0.5, 1),
        ("5000 10000", 0.5, 1),
        ("1600000 100000", 16.0, 8),
        ("0 100000", None, 8),
        ("100000 0", None, 8),
        ("100000", None, 8),
    ],
)
def test_a_quota_of_v2_cuts_down_to_whole_cores(tmp_path: Path, cpu_max: str, quota: float | None, usable: int) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/cpu.max": cpu_max})
    topology = read_topology(tmp_path, affinity=range(8))
    assert topology.quota == quota
    assert cpus(topology.usable) == list(range(usable))


@pytest.mark.parametrize(("microseconds", "quota"), [(-1, None), (150000, 1.5), (400000, 4.0)])
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_v1(tmp_path: Path, mount: str, microseconds: int, quota: float | None) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/elsewhere\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/",
            f"sys/fs/cgroup/{mount}/docker/abc/cpu.cfs_quota_us": microseconds,
            f"sys/fs/cgroup/{mount}/docker/abc/cpu.cfs_period_us": 100000,
        },
    )
    assert read_topology(tmp_path, affinity=range(8)).quota == quota


def test_the_smallest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kubepods/pod1/container",
            "sys/fs/cgroup/kubepods/cpu.max": "800000 100000",
            "sys/fs/cgroup/kubepods/pod1/cpu.max": "200000 100000",
            "sys/fs/cgroup/kubepods/pod1/container/cpu.max": "400000 100000",
            "sys/fs/cgroup/kubepods/pod2/cpu.max": "100000 100000",  # a neighbour's is none of ours
        },
    )
    assert read_topology(tmp_path, affinity=range(8)).quota == 2.0


@pytest.mark.parametrize("path", ["/docker/not-mounted-here", "/../../outside", "/"])
def test_inside_a_container_the_mount_itself_is_looked_at(tmp_path: Path, path: str) -> None:
    write(tmp_path, {"proc/self/cgroup": f"0::{path}", "sys/fs/cgroup/cpu.max": "200000 100000"})
    assert read_topology(tmp_path, affinity=range(8)).quota == 2.0


def test_a_cgroup_outside_the_mount_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/../../outside", "sys/outside/cpu.max": "100000 100000"})
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    assert read_topology(tmp_path, affinity=range(8)).quota is None


def test_a_mount_is_looked_at_without_a_word_from_proc(tmp_path: Path) -> None:
    write(tmp_path, {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": 200000, "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000})
    assert read_topology(tmp_path, affinity=range(8)).quota == 2.0


def test_a_quota_is_met_from_the_first_node_and_one_hyperthread_each() -> None:
    topology = made_up(16, nodes=2, smt=2, quota=6.9)
    assert cpus(topology.usable) == [0, 1, 2, 3, 4, 5]
    assert len(topology.nodes) == 1


def test_the_smallest_quota_on_the_way_up_counts_in_v1_too(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct"
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n4:cpu,cpuacct:/pods/pod1",
            f"{folder}/cpu.cfs_quota_us": -1,
            f"{folder}/cpu.cfs_period_us": 100000,
            f"{folder}/pods/cpu.cfs_quota_us": 150000,
            f"{folder}/pods/cpu.cfs_period_us": 100000,
            f"{folder}/pods/pod1/cpu.cfs_quota_us": 200000,
            f"{folder}/pods/pod1/cpu.cfs_period_us": 50000,
        },
    )
    assert read_topology(tmp_path, affinity=range(8)).quota == 1.5


@pytest.mark.parametrize(("quota", "is_cut"), [(None, False), (0.5, True), (3.9, True), (4.0, False), (64.0, False)])
def test_a_quota_that_leaves_all_cores_cuts_nothing(quota: float | None, is_cut: bool) -> None:
    assert made_up(4, smt=2, quota=quota).is_cut == is_cut


def test_one_core_is_used_under_a_quota_of_half_a_one() -> None:
    assert made_up(1, quota=0.5).usable == made_up(1).usable
    assert not made_up(1, quota=0.5).is_cut


def test_the_memory_limit_is_the_smallest_on_the_way_up(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/container",
            "sys/fs/cgroup/pod/memory.max": 1 << 30,
            "sys/fs/cgroup/pod/container/memory.max": "max",
        },
    )
    assert memory_limit(tmp_path) == 1 << 30


def test_a_memory_limit_of_v1_that_is_none(tmp_path: Path) -> None:
    write(tmp_path, {"sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712})
    assert memory_limit(tmp_path) is None


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_gpus_are_named_by_their_driver(tmp_path: Path) -> None:
    information = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 16\nGPU UUID: \t GPU-0"
    write(tmp_path, {f"proc/driver/nvidia/gpus/0000:0{n}:00.0/information": information for n in range(2)})
    assert read_topology(tmp_path, affinity=[0]).gpus == ("NVIDIA H200", "NVIDIA H200")


def test_gpus_whose_driver_says_nothing_are_counted(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm"], ""))
    assert read_topology(tmp_path, affinity=[0]).gpus == ("NVIDIA GPU", "NVIDIA GPU")


def test_without_a_gpu_there_is_none_and_nothing_is_imported_to_look() -> None:
    script = "import sys; from headrace.engine.topology import read_topology; read_topology(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert not {"torch", "onnxruntime", "openvino", "psutil"} & set(done.stdout.split())


def test_this_machine() -> None:
    topology = read_topology()
    if hasattr(os, "sched_getaffinity"):
        assert {core.cpu for core in topology.cores} == os.sched_getaffinity(0)
    assert 1 <= len(topology.usable) <= len(topology.physical) <= len(topology.cores)


def test_a_made_up_machine_is_shared_out_evenly() -> None:
    topology = made_up(12, nodes=2, l3_per_node=3)
    assert [cpus(group) for group in topology.l3_groups] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert [len(node) for node in topology.nodes] == [6, 6]


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([4], "4"), ([3, 1, 2, 8], "1-3,8"), ([0, 2, 4], "0,2,4"), (range(16), "0-15")]
)
def test_cpu_lists_are_written_as_linux_does(numbers: list[int], text: str) -> None:
    assert cpu_list(numbers) == text


def test_what_is_read_is_the_affinity_of_the_process_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1} if pid == os.getpid() else {1}, raising=False)
    assert set(topology._own_affinity()) == {0, 1}
