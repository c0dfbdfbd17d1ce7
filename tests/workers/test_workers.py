"""A callable in worker processes: the same face as in this one."""

import asyncio
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import worker_handlers
from worker_watching import is_alive, wait_for

import headrace as hr

Compile = Callable[..., hr.Model]


def test_it_answers_as_in_this_process(compiled: Compile) -> None:
    model = compiled("echo")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for value in (1, "text", b"bytes", None, (1, 2), {1, 2}):
        assert model(value) == value
    assert np.array_equal(model(array), array)
    assert compiled("add")([1, 2]) == 3
    assert compiled(worker_handlers.add)({"a": 5}) == 6
    assert compiled("pid")(0) != os.getpid()


def test_many_requests_all_get_their_own_answer(compiled: Compile) -> None:
    model = compiled("double", workers=2)
    assert list(model.map(range(3000), window=500)) == [2 * i for i in range(3000)]
    assert model.statistics().completed == 3000
    assert model.statistics().running == 0


def test_a_process_that_a_callable_has_forked_answers_nothing(compiled: Compile) -> None:
    model = compiled("forks")
    assert [os.waitstatus_to_exitcode(model(how)) for how in ("exits", "raises", "returns", "exits")] == [3, 1, 0, 3]
    assert [(each.starts, each.reason) for each in model.crew.statuses()] == [(1, None)]  # type: ignore[union-attr]


def test_what_a_callable_has_started_ends_with_its_worker(compiled: Compile) -> None:
    model = compiled("starts_others")
    started = model(None)
    assert all(map(is_alive, started))
    model.close()
    wait_for(lambda: not any(map(is_alive, started)))


def test_what_a_callable_has_started_ends_with_a_worker_that_hangs(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("starts_others", cancel_grace=0.01)
    running = model.submit(str(tmp_path / "started"))
    pids = wait_for(lambda: (tmp_path / "started").exists() and (tmp_path / "started").read_text().split())
    running.cancel()
    wait_for(lambda: not any(is_alive(int(pid)) for pid in pids))


def test_arrays_of_all_sizes_go_there_and_back(compiled: Compile) -> None:
    model = compiled("double", workers=1)
    for size in (0, 1, 1000, 5000, 100_000, 3_000_000, 10, 3_000_000):
        array = np.arange(size, dtype=np.int32)
        assert np.array_equal(model(array), array * 2)
    text = "x" * 5_000_000
    assert compiled("echo")(text) == text
    several = [np.full(50_000, i) for i in range(64)]
    assert all(np.array_equal(a * 2, b) for a, b in zip(several, model.map(several, window=64)))


def test_a_callable_may_keep_more_than_it_shares_with_its_owner(compiled: Compile) -> None:
    model = compiled("keeps_all")
    for number in range(300):  # 300 MiB
        count, first = model(np.full(1 << 20, number % 200, np.uint8))
    assert (count, first) == (300, [number % 200 for number in range(300)])


def test_answers_that_are_kept_stay_what_they_were(compiled: Compile) -> None:
    model = compiled("double")
    arrays = [np.full(300_000, i, np.float32) for i in range(60)]  # more than is lent
    kept = [model(array) for array in arrays[:30]]
    model.restart()
    kept += [model(array) for array in arrays[30:]]
    model.close()
    assert all(np.array_equal(each, 2 * array) for each, array in zip(kept, arrays))
    kept[0] += 1  # they are the caller's own
    assert kept[0][0] == 1
    assert kept[1][0] == 2


def test_what_a_callable_keeps_of_its_input_stays_what_it_was(compiled: Compile) -> None:
    model = compiled("keeps")
    sums: list[float] = []
    for i in range(8):
        array = np.full(20_000, float(i))
        sums.append(array.sum())
        assert model(array) == sums


def test_a_handlers_error_is_its_requests_alone_and_says_where(compiled: Compile) -> None:
    model = compiled("fails")
    with pytest.raises(hr.BackendError, match="the model raised ValueError: no 3") as caught:
        model(3)
    cause = caught.value.__cause__
    assert type(cause).__name__ == "ValueError"
    assert "worker_handlers.py" in cause.__notes__[0]
    assert model.crew is not None
    pid = [status.pid for status in model.crew.statuses()]
    with pytest.raises(hr.BackendError):
        model(4)
    assert [status.pid for status in model.crew.statuses()] == pid  # nobody was replaced for that


def test_a_batch_is_a_list_and_a_bad_member_fails_alone(compiled: Compile) -> None:
    model = compiled("batch", max_batch_size=4, max_batch_delay=1.0)
    answers = list(model.map(["a", "b", "c", "d"] * 3))
    assert [name for _, name in answers] == ["a", "b", "c", "d"] * 3
    assert max(size for size, _ in answers) > 1
    futures = [model.submit(name) for name in ("a", "bad", "own", "d")]
    for future, name in zip(futures, ("a", "bad", "own", "d")):
        if name in ("bad", "own"):
            with pytest.raises(hr.BackendError):
                future.result(30)
        else:
            assert future.result(30)[1] == name


def test_what_cannot_be_sent_or_given_is_a_named_error(compiled: Compile) -> None:
    with pytest.raises(hr.BackendError, match="cannot be sent to a worker process"):
        compiled("echo")(lambda: None)
    with pytest.raises(hr.BackendError, match="cannot leave its worker: it has to be data"):
        compiled("strange")(0)
    large = compiled("large")
    with pytest.raises(hr.BackendError, match=r"an answer of 1,000,000,\d+ bytes does not fit"):
        large(1_000_000_000)
    assert large(10).shape == (10,)
    model = compiled("eats", memory_limit=300_000_000)
    with pytest.raises(
        hr.OutOfMemory, match=r"MemoryError: its worker may have 300,000,000 bytes \(memory_limit\)"
    ) as caught:
        model(0)
    assert caught.value.limit == 300_000_000
    assert isinstance(caught.value, hr.BackendError)
    (status,) = model.workers
    assert (status.memory_limit, status.limited_by) == (300_000_000, "address space")


def test_await_and_timeouts_are_as_in_this_process(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("gate")
    first = model.submit(str(tmp_path))
    wait_for(lambda: list(tmp_path.glob("reached-*")))
    late = model.submit(str(tmp_path), timeout=0.01)
    cancelled = model.submit(str(tmp_path))
    cancelled.cancel()
    wait_for(lambda: late._guard.now() > late.deadline)  # type: ignore[attr-defined]
    (tmp_path / "open").touch()
    first.result(30)
    with pytest.raises(hr.DeadlineExceeded):
        late.result(30)
    assert asyncio.run(model.asubmit(str(tmp_path))) == first.result()
    assert model.statistics().cancelled == 1


def test_scaling_and_restarting_lose_no_request(compiled: Compile) -> None:
    model = compiled("pid")
    assert len({model(i) for i in range(20)}) == 1
    futures = [model.submit(i) for i in range(200)]
    model.scale(3)
    assert len(model.crew.statuses()) == 3  # type: ignore[union-attr]
    futures += [model.submit(i) for i in range(200)]
    model.scale(1)
    futures += [model.submit(i) for i in range(200)]
    before = futures[-1].result(30)
    model.restart()
    futures += [model.submit(i) for i in range(200)]
    assert all(future.result(30) for future in futures)
    assert wait_for(lambda: model(0) != before)
    with pytest.raises(hr.InvalidOption):
        model.scale(0)
    with pytest.raises(hr.InvalidOption, match="has streams"):
        hr.compile_model(worker_handlers.echo, engine=model.engine).scale(2)


def test_closing_answers_what_is_inside(compiled: Compile) -> None:
    model = compiled("double")
    futures = [model.submit(i) for i in range(300)]
    model.close()
    assert [future.result(0) for future in futures] == [2 * i for i in range(300)]
    with pytest.raises(hr.Closed):
        model(1)


def test_closing_without_draining_refuses_what_has_not_begun(compiled: Compile, tmp_path: Path) -> None:
    model = compiled("gate")
    futures = [model.submit(str(tmp_path)) for _ in range(3)]
    wait_for(lambda: list(tmp_path.glob("reached-*")))
    (tmp_path / "open").touch()
    model.close(drain=False)
    assert futures[0].result(0)
    for future in futures[1:]:
        with pytest.raises(hr.Closed):
            future.result(0)


def test_threads_and_environment_are_the_workers_share(compiled: Compile) -> None:
    model = compiled("environment", workers=2)
    assert model("OMP_NUM_THREADS") == str(max(1, len(model.engine.cores) // 2))  # type: ignore[union-attr]


# ---- how a callable gets there


class Called:
    def __call__(self, x: Any) -> Any:
        return x

    def method(self, x: Any) -> Any:
        return x


def test_what_no_worker_could_find_says_what_to_do(engine: hr.Engine) -> None:
    def local(x: Any) -> Any:
        return x

    for model, says in (
        (lambda x: x, "define it with `def` at the top of a module"),
        (local, "define it with `def` at the top of a module"),
        (Called(), "has none"),
        (Called().method, "is bound to an object"),
        ("resnet.onnx", "resnet.onnx does not exist"),
        (3, "given as a function or as 'module:function'"),
        ("no_such_module_at_all:f", "no module named 'no_such_module_at_all'"),
        ("worker_handlers:missing", "module worker_handlers has no 'missing'"),
        ("worker_handlers:KEPT", "is a list, not a callable"),
    ):
        with pytest.raises(hr.InvalidModel, match=says):
            hr.compile_model(model, isolation="process", engine=engine)
    assert engine.statistics().ports == 0


@pytest.mark.parametrize(
    "options",
    [
        {"isolation": "container"},
        {"isolation": "process", "workers": 0},
        {"isolation": "process", "response_timeout": 0},
        {"isolation": "process", "scheduler": "naive"},
        {"isolation": "process", "batch_size": 1},
        {"isolation": "process", "precision": "int8"},
        {"isolation": "process", "devices": ["cpu", "cpu"]},
        {"isolation": "process", "num_streams": 2},
        {"isolation": "process", "scheduler": "multi_stream"},
        {"isolation": "process", "backend": "null"},
        {"isolation": "process", "share_weights": True},
        {"share_weights": True},
        {"isolation": "process", "max_batch_size": 0},
        {"isolation": "thread", "workers": 2},
        {"memory_limit": 5},
    ],
)
def test_options_that_do_not_go_together_are_refused(engine: hr.Engine, options: dict[str, Any]) -> None:
    with pytest.raises(hr.InvalidOption):
        hr.compile_model(worker_handlers.echo, engine=engine, **options)


def test_a_scripts_own_function_is_found_in_its_file(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import headrace as hr\n"
        "def triple(x): return 3 * x\n"
        "if __name__ == '__main__':\n"
        "    with hr.compile_model(triple, isolation='process') as model: print(model(2))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(hr.__file__).parent.parent)}
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("6\n", "", 0)
    typed = script.read_text().replace("if __name__ == '__main__':\n", "").replace("    with", "with")
    ran = subprocess.run([sys.executable, "-c", typed], env=environment, capture_output=True, text=True, timeout=60)
    assert "put it into a module" in ran.stderr


# ---- environments


def test_the_worker_needs_neither_headrace_nor_what_it_needs(
    engine: hr.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its environment has NumPy and nothing else."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    bare = tmp_path / "bare"
    venv.create(bare, symlinks=True)
    packages = next((bare / "lib").glob("python3*/site-packages"))
    numpy = Path(np.__file__).parent
    for name in (numpy, numpy.parent / "numpy.libs"):
        if name.exists():
            (packages / name.name).symlink_to(name)
    folder = Path(worker_handlers.__file__).parent
    (packages / "handlers.pth").write_text(f"{folder}\n")
    python = str(bare / "bin" / "python")
    found = subprocess.run([python, "-c", "import headrace"], capture_output=True, text=True, cwd=tmp_path)
    assert "ModuleNotFoundError" in found.stderr
    with hr.compile_model("worker_handlers:modules", isolation="process", engine=engine, python=python) as model:
        assert set(model(0)) <= {"headrace_worker"}
    with hr.compile_model("worker_handlers:double", isolation="process", engine=engine, python=python) as model:
        assert model(np.float32(2)) == 4
        assert np.array_equal(model(np.ones(100_000)), np.full(100_000, 2.0))
        with pytest.raises(hr.BackendError):
            model(None)
