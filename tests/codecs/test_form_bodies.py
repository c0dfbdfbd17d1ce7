"""Form fields: one value to a name, bounded, and nothing is guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.codecs.forms import MOST, MULTIPART, URLENCODED, Field, form_kind, parse_form, parse_urlencoded
from headrace.errors import InvalidInput

TYPE = f"{MULTIPART}; boundary=xx"


def multipart(*parts: tuple[str, bytes]) -> bytes:
    return b"".join(b"--xx\r\n%b\r\n\r\n%b\r\n" % (head.encode(), body) for head, body in parts) + b"--xx--\r\n"


def named(name: str, more: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"{more}'


def test_files_and_text_are_told_apart_and_of_equal_names_the_last_counts() -> None:
    body = multipart(
        (named("a"), b"1"),
        (named("f", '; filename="x.png"') + "\r\nContent-Type: image/png", b"\r\n--x\0"),
        (named("a"), "grün".encode()),
        (named("e"), b""),
    )
    assert parse_form(body, TYPE) == {
        "a": Field(None, "grün".encode(), False),
        "f": Field("image/png", b"\r\n--x\0", True),
        "e": Field(None, b"", False),
    }
    assert list(parse_form(body, TYPE)) == ["a", "f", "e"]


def test_urlencoded_fields_and_queries() -> None:
    assert parse_urlencoded(b"a=1&b=x+y%26z&&c&a=2&%C3%BC=%ff") == {
        "a": Field(None, b"2", False),
        "b": Field(None, b"x y&z", False),
        "c": Field(None, b"", False),
        "ü": Field(None, b"\xff", False),
    }
    assert parse_form(b'{"a": 1}', URLENCODED) == {'{"a": 1}': Field(None, b"", False)}
    assert parse_form(b"", URLENCODED) == {}


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (multipart((named("a"), b"1"))[:-6], TYPE, "cut off"),
        (b"", TYPE, "cut off"),
        (b"--yy\r\n", TYPE, "not the form its boundary says"),
        (multipart((named("a"), b"1")), MULTIPART, "boundary="),
        (multipart(("Content-Type: text/plain", b"1")), TYPE, "form-data; name="),
        (multipart(("Content-Disposition: attachment; name=a", b"1")), TYPE, "form-data; name="),
        (multipart((named("a") + "".join(f"\r\nX-{i}: y" for i in range(40)), b"1")), TYPE, "not the form"),
        (multipart((named("a" * 9000), b"1")), TYPE, "not the form"),
        (multipart(*[(named(str(i)), b"") for i in range(MOST + 1)]), TYPE, "at most 1,000 fields"),
        (b"&".join([b"a=1"] * (MOST + 1)), URLENCODED, "at most 1,000 fields"),
    ],
)
def test_what_is_no_form_is_refused_with_the_reason(body: bytes, content_type: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        parse_form(body, content_type)


@given(st.binary(max_size=300), st.sampled_from([TYPE, URLENCODED, f"{MULTIPART}; boundary=\xff"]))
def test_any_bytes_are_a_form_or_are_refused(body: bytes, content_type: str) -> None:
    for each in (body, b"--xx\r\n" + body, multipart((named("a"), body))):
        try:
            fields = parse_form(each, content_type)
        except InvalidInput:
            continue
        assert all(isinstance(field.value, bytes) for field in fields.values())


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        (None, None),
        ("", None),
        ("text/plain", None),
        ("Multipart/Form-Data;boundary=a", MULTIPART),
        (URLENCODED, URLENCODED),
    ],
)
def test_the_content_type_says_whether_it_is_a_form(content_type: str | None, kind: str | None) -> None:
    assert form_kind(content_type) == kind
