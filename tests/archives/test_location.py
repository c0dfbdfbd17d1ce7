"""Where a model is, and whether it may be fetched; judged without looking anywhere."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.archives.location import AllowList, locate, name_in_store, redirected, shown
from headrace.errors import InvalidOption, SourceNotFound, UrlNotAllowed

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("text", "name", "scheme", "sha256"),
    [
        ("squeezenet.mar", "squeezenet.mar", None, None),
        (f"squeezenet.mar#sha256={DIGEST}", "squeezenet.mar", None, DIGEST),
        ("a#b.mar", "a#b.mar", None, None),
        ("https://h/a/m.mar", "m.mar", "https", None),
        (f"HTTPS://h/a/m.mar?x=1#sha256={DIGEST.upper()}", "m.mar", "https", DIGEST),
        ("http://h:80/a%20b.mar", "a b.mar", "http", None),
        ("s3://bucket/m.mar", "m.mar", "s3", None),
        ("file:///a/m.mar", "m.mar", "file", None),
    ],
)
def test_a_source_is_a_name_or_a_url(text: str, name: str, scheme: str | None, sha256: str | None) -> None:
    found = locate(text)
    assert (found.name, found.scheme, found.sha256) == (name, scheme, sha256)
    assert "#sha256=" not in found.url


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "^empty url$"),
        ("  ", "^empty url$"),
        ("https://h/../m.mar", r"^Relative path is not allowed in url: https://h/\.\./m\.mar$"),
        ("https://h/%2e%2e/m.mar", "^Relative path is not allowed"),
        ("https://h/%252e%252e/m.mar", "^Relative path is not allowed"),
        ("https://h/..%5cm.mar", "^Relative path is not allowed"),
        ("file:///a/../etc/passwd", "^Relative path is not allowed"),
        ("https://h/", "^Invalid model url: .*names no file"),
        ("https://h/.hidden", "^Invalid model url: .*names no file"),
        ("https:///m.mar", "^Invalid model url: .*names no host"),
        ("https://[h/m.mar", "^Invalid model url: "),
        ("simplecache::s3://b/m.mar", "not a chain"),
        ("zip://x::file:///etc/passwd", "not a chain"),
        ("https://h/m\n.mar", "control characters"),
        ("m.mar#sha256=abc", "64 hexadecimal digits"),
        ("m.mar#sha256=", "64 hexadecimal digits"),
    ],
)
def test_what_is_no_source_is_not_found(text: str, said: str) -> None:
    with pytest.raises(SourceNotFound, match=said) as raised:
        locate(text)
    assert raised.value.source == text


@pytest.mark.parametrize("name", ["/", "../m.mar", "a/m.mar", "..", "a\\m.mar", "/etc/passwd", "a/..", "."])
def test_a_name_is_directly_inside_the_store(name: str) -> None:
    with pytest.raises(SourceNotFound, match=rf"^Relative path is not allowed in url: {re.escape(name)}$"):
        name_in_store(locate(name))


def test_a_folder_may_be_written_with_a_slash_and_hidden_ones_are_not_there() -> None:
    assert name_in_store(locate("m/")) == "m"
    with pytest.raises(SourceNotFound, match=r"^Model not found in model store: \.m$"):
        name_in_store(locate(".m"))


@given(
    st.text(max_size=30) | st.lists(st.sampled_from(["..", "/", "\\", "a", "%2e", ":", "."]), max_size=8).map("".join)
)
def test_whatever_is_asked_for_the_name_stays_in_the_store(text: str) -> None:
    try:
        name = name_in_store(locate(text))
    except SourceNotFound:
        return
    assert name not in ("", ".", "..")
    assert not set(name) & set("/\\")


def test_nothing_is_allowed_unless_a_pattern_matches_all_of_it() -> None:
    url = locate("https://models.example/a/m.mar")
    with pytest.raises(
        UrlNotAllowed, match=r"^Given URL https://models\.example/a/m\.mar does not match any allowed URL\(s\)$"
    ) as raised:
        AllowList().check(url)
    assert raised.value.url == url.url
    AllowList([r"https://models\.example/.*"]).check(url)
    AllowList(["no", r"HTTPS://models\.example/a/m\.mar"]).check(url)
    for pattern in ("https://", r"models\.example", r"https://models\.example/", ""):
        with pytest.raises(UrlNotAllowed):
            AllowList([pattern]).check(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://models.example@evil/m.mar",
        "https://models.example:443@evil/m.mar",
        "https://models.example\\@evil/m.mar",
        "https://evil/https://models.example/m.mar",
        "https://models.example.evil/m.mar",
        "http://models.example/m.mar",
    ],
)
def test_a_url_that_only_looks_like_it_is_not_allowed(url: str) -> None:
    with pytest.raises(UrlNotAllowed):
        AllowList([r"https://models\.example/.*"]).check(locate(url))


def test_passwords_are_not_shown() -> None:
    assert shown("https://user:secret@h/m.mar") == "https://***@h/m.mar"
    assert shown("https://h/a@b") == "https://h/a@b"
    for allowed in ([], ["x"]):
        with pytest.raises(UrlNotAllowed) as raised:
            AllowList(allowed).check(locate("https://user:secret@h/m.mar"))
        assert "secret" not in str(raised.value) + raised.value.url
    AllowList([r"https://h/m\.mar"]).check(locate("https://user:secret@h/m.mar"))


def test_a_pattern_that_is_none_is_an_invalid_option() -> None:
    with pytest.raises(InvalidOption, match="--allowed-urls '\\('"):
        AllowList(["("])


@pytest.mark.parametrize(
    ("to", "url"),
    [
        ("https://other/x", "https://other/x"),
        ("/b/x.mar?y", "https://h/b/x.mar?y"),
        ("x.mar#part", "https://h/a/x.mar"),
    ],
)
def test_a_redirect_keeps_name_and_checksum(to: str, url: str) -> None:
    target = redirected(locate(f"https://h/a/m.mar#sha256={DIGEST}"), to)
    assert (target.url, target.name, target.sha256) == (url, "m.mar", DIGEST)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "s3://b/x", "https://h/%2e%2e/x"])
def test_a_redirect_out_of_the_web_is_refused(to: str) -> None:
    with pytest.raises((UrlNotAllowed, SourceNotFound)):
        redirected(locate("https://h/a/m.mar"), to)
