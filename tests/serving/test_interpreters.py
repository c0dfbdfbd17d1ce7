import pytest

from headrace.errors import InvalidOption
from headrace.serving.interpreters import Interpreters


def test_what_names_a_model_counts_for_that_one_and_the_other_for_the_rest() -> None:
    both = Interpreters.parse(["/envs/all", "mx=/envs/mx"])
    assert (both.of("mx"), both.of("other")) == ("/envs/mx", "/envs/all")
    assert Interpreters.parse(["mx=/envs/mx"]).of("other") is None


def test_a_path_may_have_an_equals_sign() -> None:
    assert Interpreters.parse(["/envs/a=b"]).of("m") == "/envs/a=b"
    assert Interpreters.parse(["m=./a=b"]).of("m") == "./a=b"


@pytest.mark.parametrize("texts", [[""], ["m=/a", "m=/b"], ["/a", "/b"]])
def test_what_says_nothing_or_two_things_is_refused(texts: list[str]) -> None:
    with pytest.raises(InvalidOption, match="--python"):
        Interpreters.parse(texts)


def test_what_is_said_of_nobody_is_known() -> None:
    said = Interpreters.parse(["/envs/all", "mx=/envs/mx"])
    said.of("other")
    assert said.unused == ["mx"]
    said.of("mx")
    assert said.unused == []
