"""What the YAML of an archive says costs what it is long: not what it is deep, nor what its aliases make of it."""

from __future__ import annotations

import datetime

import pytest

from headrace.archives.yaml_file import DEEPEST, MAX_VALUES, parse_yaml

TWICE = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 30))
ONE_IN_THE_OTHER = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 2000))


def test_it_says_what_yaml_says() -> None:
    text = b"a: &a {x: 1, y: [1.5, text, null, 2024-02-03]}\nb: *a\nc: {<<: *a, x: 2}\n"
    a = {"x": 1, "y": [1.5, "text", None, datetime.date(2024, 2, 3)]}
    assert parse_yaml(text) == {"a": a, "b": a, "c": {**a, "x": 2}}
    assert parse_yaml(b"") is None
    assert parse_yaml(b"# nothing\n") is None


@pytest.mark.parametrize(
    "text",
    [
        "[" * 20_000,
        "a: " + "[" * 20_000 + "]" * 20_000,
        "a: " + "{a: " * 20_000 + "}" * 20_000,
        "".join(" " * depth + "a:\n" for depth in range(300)),
        "- " * 20_000,
        ONE_IN_THE_OTHER,
    ],
)
def test_what_is_nested_too_deep_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"nested more than {DEEPEST} deep"):
        parse_yaml(text.encode())


def test_what_is_not_too_deep_is_read() -> None:
    deep = "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    assert str(parse_yaml(f"a: {deep}".encode())) == f"{{'a': {deep}}}"
    assert parse_yaml(b"[[[[1]]], &a [[2]], *a, *a]") == [[[[1]]], [[2]], [[2]], [[2]]]


@pytest.mark.parametrize("text", [TWICE, MERGED])
def test_what_aliases_multiply_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"aliases make more than {MAX_VALUES:,} values"):
        parse_yaml(text.encode())


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: {c: *a}}", "&a [1, *a]"])
def test_what_is_in_itself_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an alias of what it is part of"):
        parse_yaml(text.encode())


@pytest.mark.parametrize("text", ["a: [1", "a: *nothing", "a: !!python/object/apply:os.system ['true']", "a: \0"])
def test_what_is_none_says_why_on_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        parse_yaml(text.encode())
