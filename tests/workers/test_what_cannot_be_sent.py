"""Arrays keep what they are on their way, or are refused by name; and an answer that cannot leave is told as such."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_files
import pytest
from worker_watching import wait_for

import headrace as hr

Compile = Callable[..., hr.Model]


class Metres(np.ndarray[Any, Any]):
    """An array with something of its own."""


def test_a_masked_array_is_refused_in_both_directions(compiled: Compile) -> None:
    masked = np.ma.masked_array([1.0, 2.0], [True, False])
    model = compiled("echo")
    for value in (masked, [masked], {"x": masked}):
        with pytest.raises(hr.InvalidInput, match=r"would lose its mask: send x.filled\(VALUE\)"):
            model(value)
    with pytest.raises(hr.BackendError, match="the answer of the model cannot leave its worker: a masked array would"):
        compiled("masked")(1)
    assert model(masked.filled(0)).tolist() == [0, 2]


def test_a_masked_input_of_an_onnx_model_is_refused_wherever_it_runs(compiled: Compile, engine: hr.Engine) -> None:
    here = hr.compile_model(onnx_files.large(2), engine=engine)
    for model in (here, compiled("there", onnx_files.large(2))):
        (spec,) = model.inputs or ()
        plain = np.zeros([size or 1 for size in spec.shape], spec.dtype)
        model(plain)
        for value in (np.ma.masked_array(plain), [np.ma.masked_array(plain)], {spec.name: np.ma.masked_array(plain)}):
            with pytest.raises(hr.InvalidInput, match="masked array, and would lose its mask"):
                model(value)
    here.close()


def test_matrices_and_records_stay_what_they_are(compiled: Compile) -> None:
    model, kind = compiled("echo"), compiled("kind")
    matrix = np.array([[1, 2], [3, 4]]).view(np.matrix)
    records = np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]).view(np.recarray)
    for value, name in ((matrix, "matrix"), (records, "recarray")):
        assert kind(value) == name
        assert type(model(value)) is type(value)
    assert model(matrix).tolist() == matrix.tolist()
    assert model(records).b.tolist() == [2.0]
    large = np.ones((300, 300)).view(np.matrix)
    answer = model(large)
    assert type(answer) is np.matrix
    assert np.asarray(answer).sum() == 90_000


def test_other_arrays_that_are_more_than_arrays_are_refused(compiled: Compile) -> None:
    model = compiled("echo")
    with pytest.raises(hr.InvalidInput, match=r"Metres would become a plain array: np.asarray\(x\)"):
        model(np.zeros(3).view(Metres))
    with pytest.raises(hr.InvalidInput, match="would lose its form"):
        model(np.zeros(3, [("a", object)]))


@pytest.mark.parametrize(
    ("name", "options"),
    [("plain", {}), ("twice", {}), *((n, {"max_batch_size": 4}) for n in ("plain_batch", "plain_of_batch"))],
)
def test_a_coroutine_that_a_plain_function_returns_is_named(
    compiled: Compile, name: str, options: dict[str, Any]
) -> None:
    with pytest.raises(hr.BackendError, match=r"it returned a coroutine: declare it with `async def`"):
        compiled(name, **options)(1)


def test_what_cannot_leave_is_not_told_as_what_the_model_raised(compiled: Compile) -> None:
    with pytest.raises(
        hr.BackendError, match=r"^the answer of the model cannot leave its worker: TypeError: "
    ) as caught:
        compiled("object_")(1)
    assert "in the worker:" in caught.value.__cause__.__notes__[0]  # type: ignore[union-attr]
    with pytest.raises(hr.BackendError, match=r"^the answer of the model cannot leave its worker: an answer of 1,000"):
        compiled("large")(1_000_000_000)


def test_where_a_run_hung_is_logged_once(compiled: Compile, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "headrace.workers")
    model = compiled("hangs", response_timeout=0.5)
    with pytest.raises(hr.ResponseTimeout) as caught:
        model(1)
    assert "in hangs" in caught.value.stack
    assert caplog.text.count(" in hangs") == 1
    crew: Any = model.crew
    wait_for(lambda: crew.restarts()["hung"] == 1 and crew.states()["READY"] == 1)
    model.restart()
    wait_for(lambda: crew.restarts()["replaced"] == 1)
    assert crew.restarts() == {"died": 0, "hung": 1, "not loaded": 0, "replaced": 1}
    assert sum(crew.states().values()) == 1


def test_an_exception_in_a_request_stays_one(compiled: Compile) -> None:
    model = compiled("kind")
    assert model(ValueError("text")) == "ValueError"


class Unreadable:
    """It can be sent, and read nowhere."""

    def __reduce__(self) -> Any:
        return int, ("none",)


class Unknown:
    """Its module is imported here under another name than anywhere else."""


@pytest.mark.parametrize("name", ["gate_or_echo", "gate_or_echo_at_once"])
def test_a_request_that_its_worker_cannot_read_fails_alone(compiled: Compile, tmp_path: Path, name: str) -> None:
    model = compiled(name, f"worker_handlers:{name}", idempotent=False)
    first = model.submit(str(tmp_path))
    wait_for(lambda: list(tmp_path.glob("reached-*")))
    futures = [model.submit(value) for value in (1, Unreadable(), 3, 4)]
    (tmp_path / "open").touch()
    first.wait_to_read()
    assert [futures[i].result() for i in (0, 2, 3)] == [1, 3, 4]
    with pytest.raises(hr.BackendError, match="the request cannot be read by its worker: ValueError: invalid literal"):
        futures[1].result()


def test_who_sends_what_a_worker_cannot_import_hears_why(compiled: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unknown, "__module__", "__main__")
    monkeypatch.setattr("__main__.Unknown", Unknown, raising=False)
    with pytest.raises(
        hr.BackendError, match=r"cannot be read by its worker: AttributeError.*a module that workers can"
    ):
        compiled("echo")(Unknown())
