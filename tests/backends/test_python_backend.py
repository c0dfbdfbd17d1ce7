import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from headrace.backends import backend_for
from headrace.backends._null import backend as null
from headrace.backends._python import backend
from headrace.backends.base import Loaded, LoadOptions
from headrace.errors import InvalidModel, InvalidOption


def load(model: Any, **options: Any) -> Loaded:
    return backend.load(model, LoadOptions((1, 1), **options))


def plain(a: int, b: int = 2, *, c: int = 3) -> tuple[int, int, int]:
    return a, b, c


class Adder:
    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, x: int) -> int:
        return x + self.n

    def method(self, x: int) -> int:
        return x - self.n


@pytest.mark.parametrize("model", [plain, len, Adder, Adder(1), Adder(1).method, functools.partial(plain, 1), np.sin])
def test_anything_callable_is_a_model_by_itself(model: Callable[..., Any]) -> None:
    assert backend_for(model, None) is backend
    loaded = load(model)
    assert (loaded.backend, loaded.platform, loaded.inputs, loaded.outputs) == ("python", "python", None, None)
    assert len(loaded.sessions) == 2


@pytest.mark.parametrize("model", [None, 3, "module:function", b"x", [plain]])
def test_what_cannot_be_called_is_not(model: Any) -> None:
    with pytest.raises(InvalidModel, match=f"the python backend runs callables, not {type(model).__name__}"):
        load(model)


def test_it_is_called_by_position_or_by_name() -> None:
    session = load(plain).sessions[0]
    assert session.run((1,)) == [(1, 2, 3)]
    assert session.run((1, 5)) == [(1, 5, 3)]
    assert session.run((7, 1), ("c", "a")) == [(1, 2, 7)]
    assert load(dict).sessions[0].run((), ()) == [{}]
    session.close()


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (plain, ("a", "b", "c")),
        (lambda **anything: anything, None),
        (lambda x, **anything: x, None),
        (lambda *xs: xs, ()),
        (lambda a, /, b: a, ("b",)),
        (Adder(1), ("x",)),
        (Adder(1).method, ("x",)),
        (functools.partial(plain, c=1), ("a", "b", "c")),
        (functools.partial(plain, 1), ("b", "c")),
        (dict.fromkeys, ()),
        (max, None),
        (int, None),
    ],
)
def test_it_knows_the_names_a_callable_can_be_called_by(model: Any, parameters: tuple[str, ...] | None) -> None:
    assert load(model).parameters == parameters


@pytest.mark.parametrize(
    ("model", "name"),
    [(plain, "plain"), (len, "len"), (Adder, "Adder"), (Adder(1), "Adder"), (Adder(1).method, "method"),
     (functools.partial(plain, 1), "partial"), (np.sin, "sin")],
)  # fmt: skip
def test_it_is_named_after_the_callable(model: Any, name: str) -> None:
    assert load(model).name == name


async def coroutine(x: int) -> int:
    return x


def generator(x: int) -> Iterator[int]:
    yield x


async def async_generator(x: int) -> AsyncIterator[int]:
    yield x


class CoroutineCall:
    async def __call__(self, x: int) -> int:
        return x


class GeneratorCall:
    def __call__(self, x: int) -> Iterator[int]:
        yield x


@pytest.mark.parametrize("model", [coroutine, CoroutineCall(), functools.partial(coroutine, 1)])
def test_a_coroutine_function_is_refused(model: Any) -> None:
    with pytest.raises(InvalidModel, match=r"is a coroutine function; .*isolation=.process.*pass a plain function"):
        load(model)


@pytest.mark.parametrize("model", [generator, async_generator, GeneratorCall(), functools.partial(generator, 1)])
def test_a_generator_function_is_refused(model: Any) -> None:
    with pytest.raises(InvalidModel, match="is a generator function; pass a function that returns its answer"):
        load(model)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"input_shapes": {"x": [1]}}, {"input_shapes": {}}])
def test_a_callable_has_no_shapes_to_fix(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="a callable has none"):
        load(plain, **options)


def test_the_null_backend_gives_back_what_it_gets() -> None:
    loaded = null.load(None, LoadOptions((1, 2)))
    assert len(loaded.sessions) == 2
    array = np.zeros(2)
    assert loaded.sessions[0].run((array,))[0] is array
    assert loaded.inputs is None
    loaded.sessions[0].close()
