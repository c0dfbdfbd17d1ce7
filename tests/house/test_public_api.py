"""What `import headrace` promises to have. A name that goes is a break; a name that comes is a decision."""

import subprocess
import sys

import pytest

import headrace as hr
from headrace import errors

NAMES = [
    "__version__",
    "AccessDenied",
    "ArchiveTooLarge",
    "BackendError",
    "BackendNotInstalled",
    "Cancelled",
    "CannotLoad",
    "Closed",
    "DeadlineExceeded",
    "DeviceNotFound",
    "DownloadFailed",
    "Engine",
    "Future",
    "HeadraceError",
    "AlreadyRegistered",
    "InvalidArchive",
    "InvalidEnvironment",
    "InvalidInput",
    "InvalidModel",
    "InvalidOption",
    "IsDefaultVersion",
    "Model",
    "ModelNotFound",
    "ModelNotReady",
    "NaiveEngine",
    "NoAnswer",
    "NotEnoughCores",
    "OutOfMemory",
    "Overloaded",
    "PoisonedVar",
    "RequestError",
    "ResponseTimeout",
    "SequenceLost",
    "SequenceRefused",
    "Scheduler",
    "SetupError",
    "SourceNotFound",
    "StillBusy",
    "TensorSpec",
    "TooLarge",
    "TooSlow",
    "Unavailable",
    "Unreachable",
    "UnsafeArchive",
    "UrlNotAllowed",
    "WorkerDied",
    "Var",
    "WouldDeadlock",
    "as_completed",
    "compile_model",
    "default_engine",
    "manage",
    "waitall",
]


def test_the_public_names_are_these() -> None:
    assert sorted(hr.__all__) == sorted(NAMES)
    assert len(set(hr.__all__)) == len(hr.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there_and_is_called_what_it_is(name: str) -> None:
    value = getattr(hr, name)
    if name != "__version__":
        assert value.__name__ == name
        assert value.__module__.startswith("headrace.")


def test_dir_lists_the_public_names() -> None:
    assert dir(hr) == sorted(NAMES)


def test_the_star_brings_them_all() -> None:
    names: dict[str, object] = {}
    exec("from headrace import *", names)
    assert set(NAMES) <= set(names)


@pytest.mark.parametrize("name", ["nothing", "compile", "_Stream", "numpy"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'headrace' has no attribute '{name}'"):
        getattr(hr, name)


def test_a_name_is_looked_up_once() -> None:
    assert hr.Engine is hr.Engine
    assert "Engine" in vars(hr)


def test_every_error_of_ours_is_public() -> None:
    ours = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == "headrace.errors"
    }
    assert ours <= set(NAMES)
    assert all(issubclass(getattr(hr, name), hr.HeadraceError) for name in ours)


def test_the_tree_of_errors_is_as_it_is_drawn() -> None:
    def below(kind: type[BaseException]) -> set[str]:
        return {one.__name__ for one in kind.__subclasses__() if one.__module__ == "headrace.errors"}

    assert below(hr.HeadraceError) == {
        "RequestError", "SetupError", "Unavailable", "BackendError", "PoisonedVar", "WouldDeadlock", "Cancelled",
    }  # fmt: skip
    assert below(hr.RequestError) == {"InvalidInput", "TooLarge", "TooSlow", "ModelNotFound", "AccessDenied"}
    assert below(hr.SetupError) == {
        "InvalidOption", "InvalidModel", "InvalidEnvironment", "BackendNotInstalled", "DeviceNotFound",
        "NotEnoughCores",
    }  # fmt: skip
    assert below(hr.InvalidModel) == {
        "InvalidArchive", "SourceNotFound", "UrlNotAllowed", "DownloadFailed", "CannotLoad",
    }  # fmt: skip
    assert below(hr.InvalidArchive) == {"UnsafeArchive", "ArchiveTooLarge"}
    assert below(hr.InvalidOption) == {"AlreadyRegistered", "IsDefaultVersion"}
    assert below(hr.Unavailable) == {
            "Overloaded", "ModelNotReady", "DeadlineExceeded", "Closed", "WorkerDied", "ResponseTimeout",
            "StillBusy", "SequenceRefused", "SequenceLost", "Unreachable", "NoAnswer",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "standard"),
    [
        (hr.InvalidInput, ValueError),
        (hr.InvalidOption, ValueError),
        (hr.InvalidModel, ValueError),
        (hr.ModelNotFound, LookupError),
        (hr.BackendNotInstalled, ImportError),
        (hr.DeviceNotFound, LookupError),
        (hr.DeadlineExceeded, TimeoutError),
        (hr.StillBusy, TimeoutError),
        (hr.NoAnswer, TimeoutError),
        (hr.Unreachable, ConnectionError),
        (hr.AccessDenied, PermissionError),
        (hr.WouldDeadlock, RuntimeError),
    ],
)
def test_an_error_is_also_what_people_already_catch(error: type, standard: type) -> None:
    assert issubclass(error, standard)


def test_cancelled_is_the_standard_librarys_too() -> None:
    from concurrent.futures import CancelledError

    assert issubclass(hr.Cancelled, CancelledError)


def test_what_an_error_knows_is_in_its_attributes() -> None:
    large = hr.TooLarge("the body", limit=1000, size=2000)
    assert (large.limit, large.size) == (1000, 2000)
    assert str(large) == "the body may have at most 1,000 bytes, 2,000 bytes came"
    assert str(hr.TooLarge("the body", limit=10)) == "the body may have at most 10 bytes, more came"
    missing = hr.ModelNotFound("m", "2")
    assert (missing.name, missing.version, str(missing)) == ("m", "2", "model not found: m:2")
    busy = hr.Overloaded(3, 4)
    assert (busy.inside, busy.limit, busy.unit) == (3, 4, "requests")
    loading = hr.ModelNotReady("m", "1", "FAILED", "no file")
    assert (loading.state, loading.reason) == ("FAILED", "no file")
    assert str(loading) == "model m:1 is FAILED, not READY: no file"
    cores = hr.NotEnoughCores(4, 2, "why")
    assert (cores.wanted, cores.free) == (4, 2)
    device = hr.DeviceNotFound("tpu", ["cpu"], "cpu (4 cores)")
    assert (device.device, device.devices) == ("tpu", ("cpu",))
    assert str(device) == "there is no device 'tpu' here; choose from: cpu (4 cores)"
    assert hr.BackendNotInstalled("torch", "pip install torch").backend == "torch"
    poisoned = hr.PoisonedVar("x", ValueError("v"))
    assert (poisoned.name, str(poisoned.origin)) == ("x", "v")


def test_python_m_headrace_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert hr.__version__ in done.stdout


def test_the_package_says_that_it_is_typed() -> None:
    from importlib.resources import files

    assert files("headrace").joinpath("py.typed").is_file()
