import copy
import io
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from headrace.cli import doctor
from headrace.cli.findings import problems
from headrace.cli.placements import streams_of, tree_of
from headrace.engine.topology import made_up
from headrace.version import __version__

HEALTHY: dict[str, Any] = {
    "headrace": "0.1.0",
    "python": {"version": "3.12.1", "implementation": "CPython", "executable": "/usr/bin/python3", "gil": True},
    "system": {"os": "Linux", "kernel": "6.8.0", "machine": "x86_64"},
    "cpu": "Some CPU @ 2.5 GHz",
    "memory": {"total": 64 << 30, "available": 50 << 30, "limit": None, "shm": 32 << 30},
    "cores": {
        "total": 4,
        "affinity": [0, 1, 2, 3],
        "physical": 4,
        "quota": None,
        "usable": [0, 1, 2, 3],
        "l3_groups": [[0, 1, 2, 3]],
        "nodes": [[0, 1, 2, 3]],
    },
    "topology": tree_of(made_up(4)),
    "schedulers": streams_of(made_up(4)),
    "gpus": [],
    "backends": {
        "onnxruntime": {
            "version": "1.20.0",
            "packages": ["onnxruntime"],
            "providers": ["CPUExecutionProvider"],
            "error": None,
        },
        "python": {"version": "3.12.1"},
        "null": {"version": "0.1.0"},
        "torch": {"version": None},
        "openvino": {"version": None},
    },
    "event_loop": {"uvloop": "0.21.0", "httptools": "0.6.4"},
    "ports": {
        "inference": {"port": 8080, "state": "free"},
        "management": {"port": 8081, "state": "free"},
        "metrics": {"port": 8082, "state": "free"},
        "grpc": {"port": 8001, "state": "free"},
    },
    "environment": {},
}


def with_changes(**changes: Any) -> dict[str, Any]:
    """The healthy report with some of its parts changed; `cores__quota=2.0` reaches into a part."""
    report = copy.deepcopy(HEALTHY)
    for path, value in changes.items():
        *folders, name = path.split("__")
        part = report
        for folder in folders:
            part = part[folder]
        part[name] = value
    return report


def rendered(report: dict[str, Any], width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    doctor.render(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


# --- collect ----------------------------------------------------------------------------------------------------------


def test_the_report_is_json_and_has_every_part() -> None:
    report = doctor.collect()
    again = json.loads(json.dumps(report))
    assert again == report
    assert set(again) == {*HEALTHY, "problems"}
    for part, healthy in HEALTHY.items():
        if isinstance(healthy, dict) and part != "environment":
            assert set(again[part]) == set(healthy), part
    assert again["headrace"] == __version__
    assert set(again["schedulers"]) == {"single_stream", "multi_stream", "elastic", "naive"}
    assert sorted(cpu for cores in again["schedulers"]["multi_stream"] for cpu in cores) == sorted(
        again["cores"]["usable"]
    )
    assert again["problems"] == problems(again)


def test_a_report_of_this_machine_can_be_shown() -> None:
    assert "Headrace" in rendered(json.loads(json.dumps(doctor.collect())))


def test_a_port_someone_listens_on_is_taken_and_free_again_when_they_stop() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert doctor._port_state(port) == "taken"
    assert doctor._port_state(port) == "free"


def test_a_port_is_taken_by_who_listens_on_all_addresses_too() -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        assert doctor._port_state(listener.getsockname()[1]) == "taken"


@pytest.mark.parametrize("kind", [ImportError, ModuleNotFoundError, RuntimeError])
def test_an_onnxruntime_that_cannot_be_loaded_is_reported_not_raised(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def broken() -> None:
        raise kind("libonnxruntime.so: cannot open shared object file")

    monkeypatch.setattr("headrace.cli.doctor.import_runtime", broken)
    report = json.loads(json.dumps(doctor.collect()))
    assert report["backends"]["onnxruntime"]["providers"] == []
    assert any("libonnxruntime.so" in problem and "--force-reinstall" in problem for problem in report["problems"])


def test_an_onnxruntime_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr("headrace.cli.doctor.import_runtime", missing)
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    found = doctor.collect()["problems"]
    assert isinstance(found, list)
    assert any("`pip install onnxruntime`" in problem for problem in found)


def test_the_quota_and_the_sockets_of_another_machine_reach_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "read_topology", lambda: made_up(16, nodes=2, smt=2, quota=12.5))
    monkeypatch.setattr("headrace.cli.doctor.psutil.cpu_count", lambda: 32)
    report: dict[str, Any] = doctor.collect()
    assert report["cores"] == {
        "total": 32,
        "affinity": list(range(32)),
        "physical": 16,
        "quota": 12.5,
        "usable": list(range(12)),
        "l3_groups": [list(range(8)), list(range(8, 12))],
        "nodes": [list(range(8)), list(range(8, 12))],
    }
    assert report["schedulers"]["single_stream"] == [list(range(12))]


# --- problems ---------------------------------------------------------------------------------------------------------


def test_nothing_is_wrong_with_a_healthy_machine() -> None:
    assert problems(HEALTHY) == []


@pytest.mark.parametrize(
    ("changes", "says", "remedy"),
    [
        ({"cores__quota": 2.5, "cores__usable": [0, 1]}, "2.5 CPUs, less than the 4 cores", "--cpus"),
        ({"cores__quota": 0.5, "cores__usable": [0]}, "stopped for a part of every period", "--cpus"),
        ({"cores__affinity": [0, 1], "cores__physical": 2}, "2 of 4 CPUs (affinity 0-1)", "taskset"),
        ({"cores__usable": [0]}, "only one core", "more cores"),
        ({"environment": {"OMP_NUM_THREADS": "4"}}, "OMP_NUM_THREADS=4", "`unset OMP_NUM_THREADS`"),
        ({"environment": {"MKL_NUM_THREADS": "1"}}, "MKL_NUM_THREADS=1", "`unset MKL_NUM_THREADS`"),
        ({"python__gil": False}, "without the GIL", "PYTHON_GIL=1"),
        ({"memory__available": 300 << 20}, "300 MiB of memory are available", "smaller model"),
        ({"memory__limit": 512 << 20}, "cgroup allows 512 MiB", "--memory"),
        ({"memory__shm": 64 << 20}, "/dev/shm has 64 MiB", "--shm-size"),
        ({"ports__inference__state": "taken"}, "port 8080 (inference) is taken", "--inference-address"),
        ({"ports__metrics__state": "taken"}, "port 8082 (metrics) is taken", "--metrics-address"),
        ({"event_loop__uvloop": None}, "uvloop is not installed", "`pip install uvloop`"),
        ({"backends__onnxruntime__providers": []}, "onnxruntime is not installed", "`pip install onnxruntime`"),
        (
            {"backends__onnxruntime__packages": ["onnxruntime", "onnxruntime-gpu"]},
            "onnxruntime and onnxruntime-gpu are installed together",
            "uninstall",
        ),
    ],
)
def test_each_problem_is_named_with_what_to_do(changes: dict[str, Any], says: str, remedy: str) -> None:
    found = problems(with_changes(**changes))
    matching = [problem for problem in found if says in problem]
    assert len(matching) == 1, found
    assert remedy in matching[0].split(says)[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"cores__quota": 4.0},
        {"cores__quota": 64.0},
        {"environment": {"CUDA_VISIBLE_DEVICES": "0"}},
        {"memory__limit": 8 << 30},
        {"memory__shm": None},
        {"ports__grpc__state": "taken"},  # a door that this version does not open
        {"ports__inference__state": "unknown (Permission denied)"},
        {"gpus": ["NVIDIA H200"]},
        {"cpu": None},
    ],
)
def test_what_is_not_a_problem(changes: dict[str, Any]) -> None:
    assert problems(with_changes(**changes)) == []


# --- render -----------------------------------------------------------------------------------------------------------


def everything_wrong() -> dict[str, Any]:
    return with_changes(
        cores__quota=0.5,
        cores__usable=[0],
        cores__total=256,
        python__gil=False,
        memory__limit=100 << 20,
        memory__shm=1 << 20,
        ports__inference__state="taken",
        ports__grpc__state="unknown (Permission denied)",
        environment={"OMP_NUM_THREADS": "[red]4[/nonsense]"},
        event_loop__httptools=None,
        backends__onnxruntime__error="ImportError: [Errno 2] " + "libsomething.so.1 " * 20,
        gpus=["NVIDIA H200"] * 4,
        cpu=None,
    )


def many_cores() -> dict[str, Any]:
    return with_changes(
        cores__usable=list(range(256)),
        cores__nodes=[list(range(n, n + 32)) for n in range(0, 256, 32)],
        cores__l3_groups=[list(range(n, n + 8)) for n in range(0, 256, 8)],
        topology=tree_of(made_up(256, nodes=8, l3_per_node=4)),
        schedulers=streams_of(made_up(256, nodes=8, l3_per_node=4)),
    )


@pytest.mark.parametrize("report", [HEALTHY, everything_wrong(), many_cores()], ids=["healthy", "wrong", "many cores"])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_the_width(report: dict[str, Any], width: int) -> None:
    assert max(len(line) for line in rendered(report, width).splitlines()) <= width


def test_it_ends_with_the_good_news() -> None:
    assert rendered(HEALTHY).rstrip().endswith("nothing looks wrong")


def test_it_ends_with_the_list() -> None:
    report = everything_wrong()
    end = " ".join(rendered(report, 2000).split("what looks wrong")[1].split())
    for number, problem in enumerate(problems(report), start=1):
        assert f"{number}. {' '.join(problem.split())}" in end


def test_brackets_in_a_value_are_shown_as_they_are() -> None:
    assert "OMP_NUM_THREADS=[red]4[/nonsense]" in rendered(everything_wrong(), 200)


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (lambda: HEALTHY, "4 usable (0-3), 1 L3, 1 NUMA node"),
        (lambda: HEALTHY, "of 4 CPUs, 4 in the affinity, 4 physical, no quota"),
        (lambda: HEALTHY, "└─ node 0, L3 0 0-3 ■ 0 ■■■■ 0-3 ■ 0"),
        (lambda: HEALTHY, "torch not installed"),
        (many_cores, "32 L3s, 8 NUMA nodes (0-31 | 32-63 | "),
        (many_cores, "└─ node 7, 4 L3s of 8 224-255 ■ 0 ■■■■… 224-255 ■ 7"),
        (everything_wrong, "4 x NVIDIA H200"),
        (everything_wrong, "taken: 8080 inference; free: 8081 management, 8082 metrics"),
    ],
)
def test_what_it_says(report: Callable[[], dict[str, Any]], text: str) -> None:
    assert text in " ".join(rendered(report(), 300).split())
