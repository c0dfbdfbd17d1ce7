import enum

import pytest

import headrace as hr
from headrace.engine.scheduler import Scheduler
from headrace.errors import InvalidOption

NAMES = [
    ("default", Scheduler.single_stream),
    ("sync", Scheduler.single_stream),
    ("single", Scheduler.single_stream),
    ("single_stream", Scheduler.single_stream),
    ("async", Scheduler.multi_stream),
    ("multi", Scheduler.multi_stream),
    ("multi_stream", Scheduler.multi_stream),
    ("elastic", Scheduler.elastic),
    ("naive", Scheduler.naive),
]


@pytest.mark.parametrize(("name", "scheduler"), NAMES)
def test_names_and_synonyms(name: str, scheduler: Scheduler) -> None:
    for spelling in (name, name.upper(), name.title()):
        assert Scheduler.of(spelling) is scheduler
        assert Scheduler.from_str(spelling) is scheduler


def test_every_member_is_known_by_itself_its_name_and_its_value() -> None:
    assert [str(member) for member in Scheduler] == ["single_stream", "multi_stream", "elastic", "naive"]
    for member in Scheduler:
        assert Scheduler.of(member) is Scheduler.of(member.name) is Scheduler.of(member.value) is member


def test_it_is_the_string_it_is_called() -> None:
    assert issubclass(hr.Scheduler, enum.StrEnum)
    assert hr.Scheduler.multi_stream == "multi_stream"
    assert f"{hr.Scheduler.elastic}" == "elastic"


def test_the_default_has_deepsparses_name_too() -> None:
    assert Scheduler.default is Scheduler.single_stream
    assert Scheduler.of(None) is Scheduler.default


# DeepSparse compares by substring, and takes "e" for elastic.
@pytest.mark.parametrize(
    "name", ["", "s", "e", "las", "stream", " sync", "elastic ", "none", "sync|single", 1, True, ["sync"], b"sync"]
)
def test_anything_else_is_refused_with_the_choices(name: object) -> None:
    with pytest.raises(InvalidOption) as refused:
        Scheduler.of(name)  # type: ignore[arg-type]
    assert f"there is no scheduler {name!r}; " in str(refused.value)
    for known, _ in NAMES:
        assert known in str(refused.value)


def test_none_is_no_name() -> None:
    with pytest.raises(InvalidOption):
        Scheduler.from_str(None)  # type: ignore[arg-type]


def test_a_refusal_is_what_deepsparse_raised() -> None:
    with pytest.raises(ValueError, match="there is no scheduler 'numa'"):
        Scheduler.from_str("numa")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("multistream", "multi_stream"),
        ("MULTISTREAM", "multi_stream"),
        ("multi-stream", "multi_stream"),
        ("single_steam", "single_stream"),
        ("elastik", "elastic"),
        ("naïve", "naive"),
        ("asinc", "async"),
    ],
)
def test_a_near_miss_is_told_what_it_may_have_meant(name: str, meant: str) -> None:
    with pytest.raises(InvalidOption, match=f"did you mean '{meant}'\\? choose"):
        Scheduler.of(name)


def test_nothing_is_guessed_at_from_afar() -> None:
    with pytest.raises(InvalidOption) as refused:
        Scheduler.of("fastest")
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize("name", ["auto", "AUTO"])
def test_a_scheduler_to_come_is_not_called_unknown(name: str) -> None:
    with pytest.raises(InvalidOption, match=f"'{name}' is not available in this version yet; choose single_stream"):
        Scheduler.of(name)


@pytest.mark.parametrize(("said", "meant"), [("elastic_stream", "elastic"), ("Naive_Stream", "naive")])
def test_a_stream_too_many_is_not_taken_for_another_scheduler(said: str, meant: str) -> None:
    with pytest.raises(InvalidOption, match=f"did you mean '{meant}'"):
        Scheduler.of(said)


def test_what_is_not_there_yet_is_not_suggested() -> None:
    with pytest.raises(InvalidOption) as refused:
        Scheduler.of("autoo")
    assert "'auto'?" not in str(refused.value)
