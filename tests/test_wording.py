import pytest

import headrace as hr
from headrace.engine.placement import plan, warning
from headrace.engine.scheduler import Scheduler
from headrace.engine.topology import Core, made_up
from headrace.errors import NotEnoughCores
from headrace.wording import are, count_of, up_to, were


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 cores are"), (1, "1 core is"), (2, "2 cores are"), (1234, "1,234 cores are")]
)
def test_one_is_not_many(number: int, said: str) -> None:
    assert f"{count_of(number, 'core')} {are(number)}" == said
    assert were(number) == ("was" if number == 1 else "were")


def test_how_many_there_can_be() -> None:
    assert [up_to(number) for number in (1, 2, 4)] == ["1", "1 to 2", "1 to 4"]


# --- what people are told where there is one of something -------------------------------------------------------------


def test_more_streams_than_the_one_core() -> None:
    with pytest.raises(hr.InvalidOption) as refused:
        plan(Scheduler.multi_stream, made_up(1).usable, None, 2)
    assert str(refused.value) == (
        "num_streams is 2, but there is 1 core and each stream needs one of its own; choose 1, or leave it out for one "
        "stream per core"
    )


def test_more_elastic_streams_than_the_one_l3() -> None:
    with pytest.raises(hr.InvalidOption, match="there is 1 L3 cache here, but num_streams is 2; choose 1, or"):
        plan(Scheduler.elastic, made_up(1).usable, None, 2)


@pytest.mark.parametrize(
    ("wanted", "free", "said"),
    [
        (1, 0, "1 core was asked for, 0 are free: why"),
        (2, 1, "2 cores were asked for, 1 is free: why"),
        (20_000, 2, "20,000 cores were asked for, 2 are free: why"),
    ],
)
def test_cores_that_are_not_there(wanted: int, free: int, said: str) -> None:
    assert str(NotEnoughCores(wanted, free, "why")) == said


def test_one_more_stream_that_straddles() -> None:
    # Each L3 has one core of two streams: with as many L3s as this, five of six streams straddle.
    cores = tuple(Core(cpu, 0, (cpu + 1) // 2, 0, 0) for cpu in range(10))
    said = warning(Scheduler.multi_stream, plan(Scheduler.multi_stream, cores, None, 5), cores)
    assert said is not None
    assert "; and 1 more stream does so. A stream" in said


def test_a_model_of_one_stream_and_an_engine_of_one_core() -> None:
    with hr.Engine(topology=made_up(1)) as engine, hr.compile_model(lambda x: x, engine=engine, name="m") as model:
        assert repr(model) == "<Model m on python, single_stream, 1 stream: anything>"
        assert model(1) == 1
        assert "open: 1 core, " in engine.dump_state()
        assert "m: 0 ready, 1 run ended" in engine.dump_state()
