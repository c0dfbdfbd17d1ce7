import pytest

from headrace.engine.scheduler import Scheduler
from headrace.errors import InvalidOption


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        (None, Scheduler.single_stream),
        ("default", Scheduler.single_stream),
        ("sync", Scheduler.single_stream),
        ("single", Scheduler.single_stream),
        ("single_stream", Scheduler.single_stream),
        ("async", Scheduler.multi_stream),
        ("multi", Scheduler.multi_stream),
        ("multi_stream", Scheduler.multi_stream),
        ("naive", Scheduler.naive),
        (Scheduler.multi_stream, Scheduler.multi_stream),
    ],
)
def test_names_and_synonyms(name: str | Scheduler | None, scheduler: Scheduler) -> None:
    assert Scheduler.of(name) is scheduler


def test_every_member_is_known_by_its_own_name() -> None:
    assert [Scheduler.of(str(member)) for member in Scheduler] == list(Scheduler)


# DeepSparse compares by substring, and takes "e" for elastic.
@pytest.mark.parametrize("name", ["", "s", "e", "stream", "SINGLE", "Multi_Stream", " sync", "none", 1, True, ["sync"]])
def test_anything_else_is_refused_with_the_choices(name: object) -> None:
    with pytest.raises(InvalidOption, match=r"choose single_stream .*multi_stream .*naive"):
        Scheduler.of(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("multistream", "multi_stream"),
        ("Multi_Stream", "multi_stream"),
        ("multi-stream", "multi_stream"),
        ("single_steam", "single_stream"),
        ("naïve", "naive"),
        ("ASYNC", "async"),
    ],
)
def test_a_near_miss_is_told_what_it_may_have_meant(name: str, meant: str) -> None:
    with pytest.raises(InvalidOption, match=f"did you mean '{meant}'\\?"):
        Scheduler.of(name)


def test_nothing_is_guessed_at_from_afar() -> None:
    with pytest.raises(InvalidOption) as refused:
        Scheduler.of("fastest")
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize("name", ["elastic", "auto"])
def test_schedulers_to_come_are_not_called_unknown(name: str) -> None:
    with pytest.raises(InvalidOption, match=f"'{name}' is not available in this version"):
        Scheduler.of(name)
