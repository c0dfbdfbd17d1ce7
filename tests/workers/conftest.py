import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import headrace as hr
from headrace.workers.answers import Answers


@pytest.fixture
def engine() -> Iterator[hr.Engine]:
    with hr.Engine() as made:
        yield made


Compile = Callable[..., hr.Model]


@pytest.fixture
def heard_by(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that took answers in, one after the other."""
    threads: list[int] = []
    take = Answers.take

    def watched(self: Answers, frame: Any) -> bytes:
        threads.append(threading.get_ident())
        return take(self, frame)

    monkeypatch.setattr(Answers, "take", watched)
    return threads


@pytest.fixture
def compiled(engine: hr.Engine) -> Iterator[Compile]:
    """`compile_model` of a handler by its name, in processes; closed at the end, and nothing of it is left."""
    before = {thread.name for thread in threading.enumerate()}
    models: list[hr.Model] = []

    def make(name: Any, source: Any = None, **options: Any) -> hr.Model:
        source = source or (f"worker_handlers:{name}" if isinstance(name, str) else name)
        model = hr.compile_model(source, isolation="process", engine=engine, **options)
        models.append(model)
        return model

    yield make
    for model in models:
        model.close()
    left = {t.name for t in threading.enumerate() if t.is_alive()} - before
    assert not {name for name in left if "worker" in name}
