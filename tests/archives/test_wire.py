"""From a request to what a handler is given, and from what it returns to an answer."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.archives import wire
from headrace.archives.context import RequestProcessor
from headrace.codecs import torchserve


def row(headers: Any, body: Any, decode: bool = True) -> Any:
    return wire.read(headers, body, decode)[0]


@pytest.mark.parametrize(
    ("content_type", "body", "given"),
    [
        ("application/json", b'{"a": [1]}', {"a": [1]}),
        ("application/json", b"not json", bytearray(b"not json")),
        ("application/json", b"", bytearray()),
        ("application/json; charset=utf-8", b"[1]", bytearray(b"[1]")),  # exactly application/json, in both servers
        ("text/plain", "é".encode(), "é"),
        ("text/csv; charset=utf-8", b"1,2", "1,2"),
        ("text/plain", b"\xff", bytearray(b"\xff")),
        ("text/plain; charset=iso-8859-1", b"caf\xe9", "café"),
        ('text/plain;charset="Windows-1252"', b"\x80", "€"),
        ("text/plain; format=flowed", "é".encode(), "é"),
        ("text/plain; charset=us-ascii", "é".encode(), bytearray("é".encode())),
        ("text/plain; charset=rot13", b"abc", bytearray(b"abc")),
        ("image/jpeg", b"\xff\xd8", bytearray(b"\xff\xd8")),
        ("", b"x", bytearray(b"x")),
    ],
)
def test_the_content_type_of_a_body_decides_what_it_is(content_type: str, body: bytes, given: Any) -> None:
    for name in ("Content-Type", "content-type", "CONTENT-TYPE"):
        value = row(((name, content_type),), body)["body"]
        assert value == given
        assert type(value) is type(given)


def test_text_is_read_in_the_charsets_of_functions() -> None:
    assert wire.CHARSETS == torchserve._CHARSETS


def test_a_body_without_a_content_type_is_bytes() -> None:
    value = row((("accept", "*/*"),), b"{}")["body"]
    assert value == b"{}"
    assert type(value) is bytearray


def test_nothing_is_decoded_where_that_was_asked_for() -> None:
    value = row((("Content-Type", "application/json"),), b"{}", decode=False)["body"]
    assert type(value) is bytearray
    fields = (("a", "application/json", b"1"), ("b", "text/plain", b"x"))
    assert row((), fields, decode=False) == {"a": bytearray(b"1"), "b": bytearray(b"x")}


def test_a_field_has_a_key_of_its_own_and_the_last_of_a_name_stays() -> None:
    fields = (
        ("img", "image/png", b"first"),
        ("img", "image/png", b"last"),
        ("meta", "application/json", b'{"k": 1}'),
        ("note", "text/plain", b"hello"),
        ("file", "", b"raw"),
        ("model_name", None, b"m"),  # of the query, or a part of a form that does not say what it is
    )
    given, about = wire.read((("X-Trace", "7"),), fields, True)
    assert given == {
        "img": bytearray(b"last"),
        "meta": {"k": 1},
        "note": "hello",
        "file": bytearray(b"raw"),
        "model_name": bytearray(b"m"),
    }
    assert about["img"] == {"content-type": "image/png"}
    assert about["model_name"] == {"content-type": ""}
    assert about["X-Trace"] == "7"


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (b"\x00", b"\x00"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        ("é", "é".encode()),
        ({"a": [1, 2]}, b'{\n  "a": [\n    1,\n    2\n  ]\n}'),
        (None, b"null"),
        (3, b"3"),
        ("", b""),
    ],
)
def test_bytes_and_text_go_as_they_are_and_the_rest_as_json(value: Any, sent: bytes) -> None:
    assert wire.answer_of(value) == sent


def test_numpy_inside_is_what_it_says() -> None:
    value = {"p": np.float32(0.5), "n": np.int64(3), "xs": np.arange(3), 1: (np.bool_(True),), "s": {1}}
    assert json.loads(wire.answer_of(value)) == {"p": 0.5, "n": 3, "xs": [0, 1, 2], "1": [True], "s": [1]}
    assert json.loads(wire.answer_of({np.int64(4): [{np.int32(5): 1}]})) == {"4": [{"5": 1}]}
    assert json.loads(wire.answer_of(np.eye(2))) == [[1, 0], [0, 1]]


@pytest.mark.parametrize("value", [object(), {"a": object()}, {"a": b"bytes"}, "\ud800", {(1, 2): 3}])
def test_what_has_no_form_is_refused(value: Any) -> None:
    with pytest.raises(wire.Unsupported):
        wire.answer_of(value)


def test_a_bad_answer_costs_its_own_request_alone() -> None:
    answers = wire.answers(["a", object(), b"c"], [RequestProcessor({}) for _ in range(3)])
    assert answers[0] == b"a"
    assert answers[1][:2] == (503, "InternalServerException")
    assert answers[1][2].startswith("Unsupported model output data type.")
    assert answers[2] == b"c"


def test_what_the_context_was_told_goes_beside_the_body() -> None:
    processor = RequestProcessor({})
    processor.add_response_property("Content-Type", "image/png")
    processor.add_response_property("x-a", 5)
    processor.report_status(207, "Some")
    assert wire.answers([b"b"], [processor]) == [(b"b", "image/png", 207, "Some", (("x-a", "5"),))]
    processor = RequestProcessor({})
    processor.report_status(404)
    assert wire.answers([b"b"], [processor]) == [(b"b", None, 404, None, ())]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@given(JSON_VALUES)
def test_answers_are_json_as_the_servers_wrote_it_byte_for_byte(value: Any) -> None:
    if not isinstance(value, str):
        assert wire.answer_of(value) == json.dumps(value, indent=2).encode()


@given(JSON_VALUES, st.sampled_from(["", " ", "\n\t"]), st.sampled_from(["", " ", "x", "\0", "]"]))
def test_bodies_are_read_as_json_is(value: Any, before: str, behind: str) -> None:
    text = before + json.dumps(value) + behind
    try:
        expected = json.loads(text)
    except ValueError:
        expected = bytearray(text.encode())
    given = row((("Content-Type", "application/json"),), text.encode())["body"]
    assert repr(given) == repr(expected)  # NaN is not itself


def test_what_json_cannot_say_is_told_as_before() -> None:
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in (endless, deep, {(1, 2): 3}, {"a": object()}):
        with pytest.raises(wire.Unsupported):
            wire.answer_of(value)

    class Text(str):
        pass

    assert wire.answer_of({"a": Text("b"), "c": np.float32(0.5)}) == b'{\n  "a": "b",\n  "c": 0.5\n}'
