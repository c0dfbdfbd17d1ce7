"""Bearer tokens: who has none, a wrong or an old one hears the same; the file is its owner's."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import pytest

from headrace.errors import InvalidInput, InvalidOption
from headrace.server.status import InvalidToken
from headrace.server.tokens import API, INFERENCE, MANAGEMENT, Tokens
from headrace.testing import FakeClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "key_file.json"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tokens(path: Path, clock: FakeClock) -> Tokens:
    return Tokens(path, 60.0, clock.now)


def key(path: Path, kind: str) -> bytes:
    return b"Bearer " + json.loads(path.read_text())[kind]["key"].encode()


def test_the_file_is_for_its_owner_alone_and_says_what_torchserves_says(path: Path, tokens: Tokens) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    told = json.loads(path.read_text())
    assert set(told) == {"management", "inference", "API"}
    assert set(told["management"]) == set(told["inference"]) == {"key", "expiration time"}
    assert set(told["API"]) == {"key"}
    assert len({each["key"] for each in told.values()}) == 3
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_file_that_others_may_read_is_not_kept(path: Path, clock: FakeClock) -> None:
    path.write_text("{}")
    path.chmod(0o644)
    Tokens(path, 60.0, clock.now)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_api_has_a_key_of_its_own(path: Path, tokens: Tokens) -> None:
    for kind in (MANAGEMENT, INFERENCE, API):
        tokens.check(kind, key(path, kind))
        tokens.check(kind, b"  bearer   " + key(path, kind).partition(b" ")[2] + b" ")
    with pytest.raises(InvalidToken):
        tokens.check(MANAGEMENT, key(path, INFERENCE))


@pytest.mark.parametrize("header", [None, b"", b"Bearer", b"Bearer ", b"Bearer x", b"Basic x", b"\xff\xfe \xff"])
def test_what_is_no_key_is_refused_in_torchserves_words(tokens: Tokens, header: bytes | None) -> None:
    said = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
    with pytest.raises(InvalidToken, match=said):
        tokens.check(MANAGEMENT, header)


def test_the_scheme_is_looked_at(path: Path, tokens: Tokens) -> None:
    with pytest.raises(InvalidToken):
        tokens.check(MANAGEMENT, key(path, MANAGEMENT).replace(b"Bearer", b"Basic"))


def test_a_key_expires_and_the_one_that_renews_does_not(path: Path, tokens: Tokens, clock: FakeClock) -> None:
    clock.advance(59.9)
    tokens.check(MANAGEMENT, key(path, MANAGEMENT))
    clock.advance(0.1)
    with pytest.raises(InvalidToken):
        tokens.check(MANAGEMENT, key(path, MANAGEMENT))
    tokens.check(API, key(path, API))


def test_a_new_key_takes_the_place_of_the_old_one_and_of_no_other(path: Path, tokens: Tokens, clock: FakeClock) -> None:
    before = {kind: key(path, kind) for kind in (MANAGEMENT, INFERENCE, API)}
    clock.advance(100)
    tokens.renew(MANAGEMENT)
    with pytest.raises(InvalidToken):
        tokens.check(MANAGEMENT, before[MANAGEMENT])
    tokens.check(MANAGEMENT, key(path, MANAGEMENT))
    assert key(path, INFERENCE) == before[INFERENCE]
    assert key(path, API) == before[API]


@pytest.mark.parametrize("kind", [None, "", "API", "metrics"])
def test_only_the_keys_of_the_apis_are_renewed(tokens: Tokens, kind: str | None) -> None:
    with pytest.raises(InvalidInput, match="type is management or inference"):
        tokens.renew(kind)


def test_a_file_that_cannot_be_written_leaves_the_key_as_it_was(path: Path, tokens: Tokens) -> None:
    before = key(path, MANAGEMENT)
    path.unlink()
    path.mkdir()
    with pytest.raises(InvalidOption, match="--key-file"):
        tokens.renew(MANAGEMENT)
    tokens.check(MANAGEMENT, before)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_folder_that_is_not_there_is_told_at_the_start(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(InvalidOption, match=r"--key-file .*No such file"):
        Tokens(tmp_path / "nowhere" / "keys", 60.0, clock.now)


def test_keys_are_in_no_log_and_gone_at_the_end(path: Path, tokens: Tokens, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tokens.renew(MANAGEMENT)
    assert json.loads(path.read_text())["management"]["key"] not in caplog.text
    tokens.remove()
    assert not path.exists()
