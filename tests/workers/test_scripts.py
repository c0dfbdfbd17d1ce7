"""A function of what was run, a file or `python -m`, in worker processes."""

import subprocess
import sys
from pathlib import Path

import pytest

import headrace as hr

HEAD = "import sys\nimport headrace as hr\n"
MAIN = """
def f(x):
    return x + 1

if __name__ == "__main__":
    with hr.compile_model(f, isolation="process") as model:
        print(model(1))
"""


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    source = str(Path(hr.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={"PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", [("main.py",), ("-m", "package.main"), ("-m", "package"), ("folder",)])
def test_a_function_of_what_was_run_is_found_by_its_worker(tmp_path: Path, command: tuple[str, ...]) -> None:
    for name in ("package", "folder"):
        (tmp_path / name).mkdir()
    (tmp_path / "main.py").write_text(HEAD + MAIN)
    (tmp_path / "folder" / "__main__.py").write_text(HEAD + MAIN)
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "beside.py").touch()
    for name in ("main", "__main__"):
        (tmp_path / "package" / f"{name}.py").write_text(HEAD + "from . import beside\n" + MAIN)
    done = run(*command, folder=tmp_path)
    assert (done.stdout, done.returncode) == ("2\n", 0), done.stderr


@pytest.mark.parametrize("command", [("main.py",), ("-m", "main")])
def test_a_script_without_a_guard_is_told_what_to_do(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "main.py").write_text(HEAD + MAIN.replace('if __name__ == "__main__":', "if True:"))
    done = run(*command, folder=tmp_path)
    last = done.stderr.rstrip().rpartition("\n")[2]
    assert last.startswith("headrace.errors.InvalidModel: ")
    assert last.endswith('under `if __name__ == "__main__":`')
    (tmp_path / "main.py").write_text(HEAD + MAIN.replace("def f", "if __name__ != '__main__': sys.exit(3)\ndef f"))
    if command == ("main.py",):
        last = run(*command, folder=tmp_path).stderr.rstrip().rpartition("\n")[2]
        assert "main.py failed: SystemExit: 3; put what" in last


REQUESTS = (
    HEAD
    + """
import dataclasses, enum, multiprocessing

@dataclasses.dataclass
class Request:
    number: int

class Kind(enum.Enum):
    ONE = 1

def double(number):
    return 2 * number

def f(how, kind, request):
    with multiprocessing.get_context(how).Pool(1) as others:
        return kind is Kind.ONE, others.map(double, [request.number])

if __name__ == "__main__":
    with hr.compile_model(f, isolation="process", response_timeout=30) as model:
        print(model(["fork", Kind.ONE, Request(2)]), model(["spawn", Kind.ONE, Request(3)]))
"""
)


@pytest.mark.parametrize("command", [("main.py",), ("-m", "main")])
def test_requests_may_be_of_classes_of_what_was_run_and_others_may_be_started_with_its_functions(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "main.py").write_text(REQUESTS)
    done = run(*command, folder=tmp_path)
    assert (done.stdout, done.returncode) == ("(True, [4]) (True, [6])\n", 0), done.stderr
