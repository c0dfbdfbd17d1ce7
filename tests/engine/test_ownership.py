import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import pytest

import headrace as hr
from headrace.engine import ownership
from headrace.engine.engine import Engine
from headrace.engine.topology import made_up
from headrace.errors import NotEnoughCores
from headrace.testing import Gate

PATIENCE = 30.0
InThreads = Callable[..., Any]


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of four cores, on which nobody holds any yet."""
    monkeypatch.setattr(ownership, "_topology", made_up(cores=4))
    monkeypatch.setattr(ownership, "_default", None)
    monkeypatch.setattr(ownership, "_held", WeakKeyDictionary())
    monkeypatch.setattr(ownership, "_open", WeakSet())
    yield
    for engine in list(ownership._held):
        engine.close()


def cpus(engine: Engine) -> set[int]:
    return {core.cpu for core in engine.cores}


def test_the_default_engine_is_one_and_has_all_cores() -> None:
    engine = hr.default_engine()
    assert hr.default_engine() is engine
    assert cpus(engine) == {0, 1, 2, 3}
    engine.close()
    assert hr.default_engine() is not engine


def test_engines_never_hold_the_same_core() -> None:
    a, b = Engine(num_cores=1), Engine(num_cores=2)
    rest = Engine()
    assert [len(engine.cores) for engine in (a, b, rest)] == [1, 2, 1]
    assert cpus(a) | cpus(b) | cpus(rest) == {0, 1, 2, 3}
    with pytest.raises(NotEnoughCores) as refused:
        Engine()
    assert (refused.value.wanted, refused.value.free) == (1, 0)
    b.close()
    with pytest.raises(NotEnoughCores) as refused:
        Engine(num_cores=3)
    assert (refused.value.wanted, refused.value.free) == (3, 2)
    assert cpus(Engine(num_cores=2)) == cpus(b)


def test_more_than_the_machine_has_is_refused() -> None:
    with pytest.raises(NotEnoughCores, match="may use no more"):
        Engine(num_cores=5)
    with pytest.raises(NotEnoughCores):
        Engine(num_cores=3, topology=made_up(cores=2))
    assert cpus(Engine()) == {0, 1, 2, 3}


def test_the_default_engine_gives_way_while_it_is_idle_and_gets_the_cores_back() -> None:
    default = hr.default_engine()
    other = Engine(num_cores=3)
    assert cpus(default) | cpus(other) == {0, 1, 2, 3}
    assert not cpus(default) & cpus(other)
    other.close()
    assert cpus(default) == {0, 1, 2, 3}
    assert hr.default_engine() is default


def test_whoever_kept_the_default_engine_runs_on_the_cores_it_has_now() -> None:
    default = hr.default_engine()
    other = Engine(num_cores=3)
    assert default.push(int).result(PATIENCE) == 0
    assert default.statistics().cores == default.statistics().streams == 1
    assert not cpus(default) & cpus(other)


def test_a_default_engine_without_a_core_says_so_instead_of_waiting_for_ever() -> None:
    default = hr.default_engine()
    other = Engine(num_cores=4)
    with pytest.raises(NotEnoughCores):
        hr.default_engine()
    with pytest.raises(NotEnoughCores):
        default.push(int)
    assert default.statistics().budget.inside == 0
    other.close()
    assert default.push(int).result(PATIENCE) == 0


def test_a_default_engine_in_use_keeps_its_cores() -> None:
    hr.default_engine().push(int).result(PATIENCE)
    with pytest.raises(NotEnoughCores):
        Engine(num_cores=1)


def test_a_default_engine_whose_last_run_goes_on_keeps_its_cores(in_threads: InThreads) -> None:
    default, gate = hr.default_engine(), Gate()
    default.push(gate)
    gate.wait()
    assert default._operations is not None
    detaching = in_threads(lambda: default.detach(default._operations))
    # Detached or not yet: its stream is in a run, and so its cores are taken.
    with pytest.raises(NotEnoughCores):
        Engine(num_cores=1)
    gate.open()
    detaching.join()
    assert len(Engine(num_cores=1).cores) == 1


def test_an_engine_with_a_topology_of_its_own_takes_nothing() -> None:
    with Engine(topology=made_up(cores=2)):
        assert cpus(hr.default_engine()) == {0, 1, 2, 3}


def test_an_engine_that_is_forgotten_unused_holds_nothing() -> None:
    Engine(num_cores=4)
    gc.collect()
    assert cpus(Engine()) == {0, 1, 2, 3}


@pytest.mark.usefixtures("restless")
def test_engines_made_and_the_default_used_at_once_share_no_core(in_threads: InThreads) -> None:
    for _ in range(20):
        start = threading.Barrier(3)
        made: list[Engine] = []

        def make(start: threading.Barrier, made: list[Engine]) -> None:
            start.wait(PATIENCE)
            try:
                made.append(Engine(num_cores=1))
                assert made[-1].push(int).result(PATIENCE) == 0
            except NotEnoughCores:
                pass

        def use(start: threading.Barrier) -> None:
            start.wait(PATIENCE)
            assert hr.default_engine().push(int).result(PATIENCE) == 0

        in_threads(*[lambda s=start, m=made: make(s, m)] * 2, lambda s=start: use(s)).join()
        made.append(hr.default_engine())
        assert sorted(core.cpu for engine in made for core in engine.cores) == [0, 1, 2, 3]
        for engine in made:
            masks = [stream.lane.mask for port in engine._ports for stream in port.streams]
            assert sorted(masks) == sorted(1 << core.cpu for core in engine.cores)
            engine.close()


def test_waitall_of_the_default_engine() -> None:
    hr.waitall()  # nobody has made one: there is nothing to wait for
    assert ownership._default is None
    hr.default_engine().push(lambda: 1 / 0)
    with pytest.raises(ExceptionGroup):
        hr.waitall(PATIENCE)
    hr.waitall(PATIENCE)


def test_who_wants_more_than_others_leave_is_told_what_to_do() -> None:
    with hr.Engine(num_cores=1) as engine:
        assert engine.cores
        with pytest.raises(NotEnoughCores, match="close one, or compile on it with engine="):
            hr.Engine(num_cores=999)
