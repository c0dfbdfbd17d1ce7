"""What managers say: the old servers' leniency to the letter, JSON with its types."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from headrace.errors import InvalidInput
from headrace.server.parameters import Parameters


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8", 8), ("0", 0), ("-1", -1), ("+3", 3), ("007", 7), ("2147483647", 2147483647), ("-2147483648", -2147483648),
        ("2147483648", None), ("dd", None), ("", None), ("Nan", None), ("1.0", None), ("1e3", None), ("1_000", None),
        (" 4", None), ("4 ", None), ("0x10", None), ("٣", None), ("9" * 5000, None), ("-", None),
    ],
)  # fmt: skip
def test_a_number_that_is_none_is_as_if_it_had_not_been_given(text: str, found: int | None) -> None:
    from urllib.parse import urlencode

    assert Parameters(urlencode({"batch_size": text})).integer("batch_size") == found


@pytest.mark.parametrize(
    ("text", "found"), [("true", True), ("TRUE", True), ("True", True), ("false", False), ("Nan", False), ("1", False),
                        ("yes", False), ("", False), (" true", False)],
)  # fmt: skip
def test_only_true_is_true(text: str, found: bool) -> None:
    for default in (True, False):
        assert Parameters(f"synchronous={text}").is_true("synchronous", default) is found
        assert Parameters("").is_true("synchronous", default) is default


def test_the_first_of_a_name_counts_and_what_is_not_known_is_ignored() -> None:
    given = Parameters("min_worker=2&min_worker=5&colour=green&url=a%20b&flag")
    assert given.integer("min_worker") == 2
    assert given.text("url") == "a b"
    assert given.text("flag") is None


def test_a_parameter_may_have_two_names() -> None:
    assert Parameters("min_workers=4").integer("min_worker", "min_workers") == 4
    assert Parameters("min_worker=3&min_workers=4").integer("min_worker", "min_workers") == 3


def json_of(value: Any, query: str = "", content_type: str = "application/json; charset=utf-8") -> Parameters:
    return Parameters.of(query, orjson.dumps(value), content_type)


def test_a_json_body_counts_more_than_the_query_and_null_is_nothing() -> None:
    given = json_of({"batch_size": 4, "url": "a", "synchronous": True, "handler": None}, "batch_size=2&handler=h")
    assert (given.integer("batch_size"), given.text("url"), given.text("handler")) == (4, "a", "h")
    assert given.is_true("synchronous", False)
    assert json_of({"batch_size": 4.0}).integer("batch_size") == 4


def test_numbers_and_flags_are_no_text_in_json_but_for_who_speaks_as_an_old_server() -> None:
    body = orjson.dumps({"batch_size": "4", "synchronous": "True", "timeout": "5"})
    ours, old = (Parameters.of("", body, "application/json", texts=texts) for texts in (False, True))
    assert (old.integer("batch_size"), old.is_true("synchronous", False)) == (4, True)
    with pytest.raises(InvalidInput, match="batch_size is a whole number, not '4'"):
        ours.integer("batch_size")
    with pytest.raises(InvalidInput, match="synchronous is true or false, not 'True'"):
        ours.is_true("synchronous", False)
    for each in (ours, old):
        with pytest.raises(InvalidInput, match=r"timeout is in seconds, .* not '5'"):
            each.seconds("timeout")  # it is ours


@pytest.mark.parametrize("value", ["4", "dd", 1.5, [], {}, True, 2**31, "", float(2**40)])
def test_in_json_a_number_is_a_number(value: Any) -> None:
    with pytest.raises(InvalidInput, match="batch_size is a whole number"):
        json_of({"batch_size": value}).integer("batch_size")


def test_in_json_text_is_text_and_a_flag_is_a_flag() -> None:
    with pytest.raises(InvalidInput, match="url is text, not 5"):
        json_of({"url": 5}).text("url")
    with pytest.raises(InvalidInput, match="synchronous is true or false, not 1"):
        json_of({"synchronous": 1}).is_true("synchronous", True)


@pytest.mark.parametrize(("body", "says"), [(b"{", "not JSON"), (b"[]", "not list"), (b"3", "not int")])
def test_a_json_body_is_an_object(body: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        Parameters.of("", body, "application/json")


def test_a_body_that_is_not_called_json_is_not_looked_at() -> None:
    assert Parameters.of("url=a", b"{", "text/plain").text("url") == "a"
    assert Parameters.of("url=a", b"{", None).text("url") == "a"


def test_a_query_has_a_bound() -> None:
    with pytest.raises(InvalidInput, match="more than 1,000"):
        Parameters("&".join(["a=1"] * 1001))


@pytest.mark.parametrize("text", ["dd", "0", "-1", "nan", "inf", "1000001", ""])
def test_what_is_ours_is_strict(text: str) -> None:
    with pytest.raises(InvalidInput, match="timeout is in seconds"):
        Parameters(f"timeout={text}").seconds("timeout")
    assert Parameters("timeout=0.5").seconds("timeout") == 0.5
    assert Parameters("").seconds("timeout") is None
