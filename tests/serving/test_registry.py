"""Which models are known, in which versions and states. Pure: no model is loaded here."""

import random

import pytest

from headrace.errors import InvalidOption, IsDefaultVersion, ModelNotFound, ModelNotReady
from headrace.serving.registry import NEXT, Entry, Registry, State


def ready(registry: Registry[str], name: str, version: str, served: str) -> Entry[str]:
    entry = registry.add(name, version)
    entry.state, entry.served = State.READY, served
    return entry


def test_a_new_version_is_registered_and_takes_no_requests() -> None:
    registry: Registry[str] = Registry()
    entry = registry.add("cat", "1")
    assert (entry.state, entry.served, entry.reason) == (State.REGISTERED, None, None)
    with pytest.raises(ModelNotReady):
        registry.ready("cat")


def test_the_first_version_stays_the_default() -> None:
    registry: Registry[str] = Registry()
    ready(registry, "cat", "2.0", "old")
    ready(registry, "cat", "1.0", "new")
    assert registry.ready("cat") == "old"
    assert registry.ready("cat", "1.0") == "new"
    assert registry.versions("cat") == ["2.0", "1.0"]


def test_an_unknown_name_and_an_unknown_version_are_told_apart() -> None:
    registry: Registry[str] = Registry()
    ready(registry, "cat", "1", "cat")
    with pytest.raises(ModelNotFound) as no_name:
        registry.ready("dog")
    with pytest.raises(ModelNotFound) as no_version:
        registry.ready("cat", "2")
    assert (no_name.value.name, no_name.value.version) == ("dog", None)
    assert (no_version.value.name, no_version.value.version) == ("cat", "2")
    with pytest.raises(ModelNotFound):
        registry.versions("dog")


@pytest.mark.parametrize("version", ["", "1 ", "01"])
def test_versions_are_text_and_compared_as_they_are(version: str) -> None:
    registry: Registry[str] = Registry()
    ready(registry, "cat", "1", "cat")
    with pytest.raises(ModelNotFound):
        registry.find("cat", version)


@pytest.mark.parametrize("state", [state for state in State if state is not State.READY])
def test_only_ready_takes_requests_and_the_state_is_told(state: State) -> None:
    registry: Registry[str] = Registry()
    entry = ready(registry, "cat", "1", "cat")
    entry.state, entry.reason = state, "the file is gone"
    with pytest.raises(ModelNotReady) as refused:
        registry.ready("cat")
    error = refused.value
    assert (error.name, error.version, error.state, error.reason) == ("cat", "1", state, "the file is gone")
    assert registry.find("cat") is entry
    assert registry.is_healthy() == (state is not State.FAILED)


def test_the_default_that_is_not_ready_is_not_replaced_by_another_version() -> None:
    registry: Registry[str] = Registry()
    registry.add("cat", "1")
    ready(registry, "cat", "2", "two")
    with pytest.raises(ModelNotReady):
        registry.ready("cat")
    assert registry.ready("cat", "2") == "two"


def test_a_name_and_version_are_registered_once_and_the_first_is_left_alone() -> None:
    registry: Registry[str] = Registry()
    first = ready(registry, "cat", "1", "first")
    with pytest.raises(InvalidOption, match="already registered"):
        registry.add("cat", "1")
    assert registry.find("cat") is first
    assert registry.versions("cat") == ["1"]


def test_a_registry_without_models_is_healthy() -> None:
    assert Registry[str]().is_healthy()


def test_the_default_goes_last_and_with_it_the_name() -> None:
    registry: Registry[str] = Registry()
    one, two = ready(registry, "cat", "1", "one"), ready(registry, "cat", "2", "two")
    with pytest.raises(IsDefaultVersion, match="Cannot remove default version for model cat") as refused:
        registry.remove(one)
    assert (refused.value.name, refused.value.version) == ("cat", "1")
    registry.set_default(two)
    registry.remove(one)
    assert (registry.ready("cat"), registry.versions("cat"), registry.is_default(two)) == ("two", ["2"], True)
    registry.remove(two)
    with pytest.raises(ModelNotFound):
        registry.find("cat")
    assert len(registry) == 0


def test_who_looks_while_it_changes_sees_one_state_of_it() -> None:
    registry: Registry[str] = Registry()
    ready(registry, "cat", "1", "one")
    seen = iter(registry)
    next(seen)
    ready(registry, "dog", "1", "dog")
    registry.remove(ready(registry, "cat", "2", "two"))
    assert list(seen) == []


@pytest.mark.parametrize("seed", range(20))
def test_states_change_as_they_may_and_no_other_way(seed: int) -> None:
    random_ = random.Random(seed)
    for _ in range(200):
        entry: Entry[str] = Entry("cat", "1")
        for _ in range(20):
            wanted = random_.choice(list(State))
            before = entry.state
            if wanted in NEXT[before]:
                entry.become(wanted, "why")
                assert (entry.state, entry.reason) == (wanted, "why")
            else:
                with pytest.raises(AssertionError, match=f"cannot become {wanted}: it is {before}"):
                    entry.become(wanted)
                assert entry.state is before


@pytest.mark.parametrize("seed", range(20))
def test_it_agrees_with_a_list(seed: int) -> None:
    rng = random.Random(seed)
    registry: Registry[int] = Registry()
    twin: list[tuple[str, str, int]] = []
    for number in range(60):
        name, version = rng.choice("abcd"), rng.choice("123")
        known = {(n, v): served for n, v, served in twin}
        if (name, version) in known:
            with pytest.raises(InvalidOption):
                registry.add(name, version)
        elif rng.random() < 0.3:
            entry = registry.add(name, version)
            entry.state, entry.served = State.READY, number
            twin.append((name, version, number))
        versions = [(v, served) for n, v, served in twin if n == name]
        if versions:
            assert registry.ready(name) == versions[0][1]
            assert registry.versions(name) == [v for v, _ in versions]
        else:
            with pytest.raises(ModelNotFound):
                registry.find(name)
    assert sorted((e.name, e.version, e.served) for e in registry) == sorted(twin)
