"""What the server can be told: each option once, checked, and documented from its declaration."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.config import Checked, Declared, declared, option, settings_page
from headrace.errors import InvalidOption
from headrace.server.options import BUNDLED_DIGITS, Address, ServeOptions, page

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Kettle(Checked):
    cups: int = option(1, "how many cups", low=1, high=8)
    warm: float = option(0.0, "seconds it stays warm", low=0)
    tea: str = option("green", "what goes in", choices=("green", "black"))
    limit: int | None = option(None, "grams; none: no limit", low=10)
    names: tuple[str, ...] = option((), "who drinks")


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, "127.0.0.1:8080"),
        ("0.0.0.0:0", "0.0.0.0", 0, "0.0.0.0:0"),
        ("localhost:65535", "localhost", 65535, "localhost:65535"),
        ("[::1]:8080", "::1", 8080, "[::1]:8080"),
        ("[::]:0", "::", 0, "[::]:0"),
        ("a-host.example:1", "a-host.example", 1, "a-host.example:1"),
        ("http://127.0.0.1:8080", "127.0.0.1", 8080, "127.0.0.1:8080"),
        ("HTTP://[::1]:8080/", "::1", 8080, "[::1]:8080"),
    ],
)
def test_an_address_is_host_and_port_also_as_torchserve_writes_it(text: str, host: str, port: int, shown: str) -> None:
    address = Address.parse("--door", text)
    assert address == Address(host, port)
    assert str(address) == shown


def test_off_is_no_address() -> None:
    assert Address.parse("--door", "off") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        ":8080",
        "localhost",
        "localhost:",
        "localhost:x",
        "localhost:-1",
        "localhost:+1",
        "localhost: 80",
        "localhost:65536",
        "localhost:" + "9" * 5000,
        "localhost:٨٠",
        "::1:8080",
        "[]:80",
        "[::1]",
        "OFF",
        "http://localhost",
        "http://localhost:8080/path",
        "http://user@localhost:8080",
        "http://http://localhost:8080",
        "unix:/tmp/socket",
        "ftp://localhost:8080",
        "://localhost:80",
    ],
)
def test_a_bad_address_is_refused_with_its_flag(text: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        Address.parse("--door", text)
    said = str(refused.value)
    assert said.startswith("--door")
    assert ("is written [::1]:8080" if text == "::1:8080" else "is HOST:PORT with a port from 0 to 65535, as") in said
    assert text == "::1:8080" or repr(text) in said


@pytest.mark.parametrize(
    ("scheme", "encrypted", "says"),
    [
        ("https", False, "--door https://localhost:80: https needs a certificate (--tls-cert FILE); without TLS write"),
        ("https", None, "--door https://localhost:80: that API has no TLS; write localhost:80"),
        ("http", True, "--door http://localhost:80: with --tls-cert that API speaks https; write https://localhost:80"),
    ],
)
def test_what_an_address_says_is_spoken_there_is(scheme: str, encrypted: bool | None, says: str) -> None:
    with pytest.raises(InvalidOption, match=re.escape(says)):
        Address.parse("--door", f"{scheme}://localhost:80", encrypted=encrypted)
    other = {"http": "https", "https": "http"}[scheme]
    assert Address.parse("--door", f"{other}://localhost:80/", encrypted=encrypted) == Address("localhost", 80)


def test_an_ipv6_address_without_a_port_is_told_how_it_is_written() -> None:
    with pytest.raises(InvalidOption, match=re.escape("an IPv6 address is written [fe80::1]:PORT")):
        Address.parse("--door", "fe80::1")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cups": 0}, "--cups is at least 1, not 0"),
        ({"cups": 9}, "--cups is at most 8, not 9"),
        ({"warm": -0.1}, "--warm is at least 0, not -0.1"),
        ({"warm": float("nan")}, "--warm is at least 0, not nan"),
        ({"tea": "red"}, "--tea is one of green, black, not 'red'"),
        ({"limit": 9}, "--limit is at least 10, not 9"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_flag(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        Kettle(**given)
    assert str(refused.value) == says


@pytest.mark.parametrize("given", [{}, {"cups": 8}, {"cups": 1}, {"warm": 0}, {"limit": None}, {"limit": 10}])
def test_a_value_on_its_bound_passes(given: dict[str, Any]) -> None:
    Kettle(**given)


def test_the_page_says_flag_variable_default_meaning_and_bounds() -> None:
    assert settings_page("Tea", Kettle).splitlines() == [
        "# Tea",
        "",
        "| flag | environment | default | meaning |",
        "|---|---|---|---|",
        "| `--cups` | `HEADRACE_CUPS` | `1` | how many cups. At least 1. At most 8. |",
        "| `--warm` | `HEADRACE_WARM` | `0.0` | seconds it stays warm. At least 0. |",
        "| `--tea` | `HEADRACE_TEA` | `green` | what goes in. One of: green, black. |",
        "| `--limit` | `HEADRACE_LIMIT` | none | grams; none: no limit. At least 10. |",
        "| `--names` | `HEADRACE_NAMES` | none | who drinks. |",
    ]


@pytest.mark.parametrize("one", list(declared(ServeOptions)), ids=lambda one: one.name)
def test_every_option_has_a_meaning_that_fits_a_table(one: Declared) -> None:
    assert len(one.meaning) > 10
    assert not one.meaning.endswith(".")
    assert "|" not in one.meaning
    assert "\n" not in one.meaning


def test_the_defaults_are_within_their_own_bounds() -> None:
    ServeOptions()


@pytest.mark.parametrize(
    "given",
    [
        {"max_requests": 0},
        {"max_bytes": 0},
        {"max_body_size": 0},
        {"max_batch_size": 0},
        {"max_batch_delay": -1},
        {"max_batch_delay": float("inf")},
        {"drain_timeout": -1},
        {"drain_timeout": float("inf")},
        {"drain_timeout": float("nan")},
        {"num_cores": 0},
        {"num_streams": 0},
        {"log_level": "INFO"},
        {"isolation": "container"},
        {"workers": 0},
        {"response_timeout": 0},
    ],
)
def test_the_server_refuses_what_it_could_not_keep(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        ServeOptions(**given)


def test_every_door_is_on_loopback_by_default() -> None:
    addresses = [one for one in declared(ServeOptions) if one.name.endswith("_address")]
    assert len(addresses) == 4
    for one in addresses:
        address = Address.parse(one.flag, one.default)
        assert address is not None
        assert address.host == "127.0.0.1"


def test_the_bundled_model_is_there() -> None:
    assert (Path(BUNDLED_DIGITS) / "MAR-INF" / "MANIFEST.json").is_file()


def test_the_settings_page_is_what_the_declarations_say() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page("Settings of `headrace serve`", ServeOptions), (
        "run: make settings"
    )


def test_the_module_writes_the_settings_page() -> None:
    command = [sys.executable, "-W", "error", "-m", "headrace.server.options"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == page()


@pytest.mark.parametrize(
    ("said", "meant"),
    [("multi", "multi_stream"), ("ASYNC", "multi_stream"), ("Elastic", "elastic"), ("sync", "single_stream")],
)
def test_a_scheduler_is_called_as_in_the_library(said: str, meant: str) -> None:
    assert ServeOptions(scheduler=said).scheduler == meant


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("elastc", "--scheduler: there is no scheduler 'elastc'; did you mean 'elastic'?"),
        ("naive", "--scheduler is one of single_stream, multi_stream, elastic, not 'naive'"),
    ],
)
def test_one_that_is_none_is_told_as_in_the_library(said: str, answer: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        ServeOptions(scheduler=said)
    assert str(refused.value).startswith(answer)
