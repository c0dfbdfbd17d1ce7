"""Packed archives behind a real server: served, unpacked once, and nothing of it left."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path

import pytest

from headrace.server.options import BUNDLED_DIGITS
from headrace.testing import RunningServer, make_archive, run_server

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PICTURE = sorted(Path(__file__).resolve().parents[2].joinpath("examples/digits/held_out").glob("*.png"))[0]
WHAT_IT_SHOWS = DIGITS[int(PICTURE.stem[-1])]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A model store with the digits model in it, packed by each archiver's default."""
    files = {path.name: path for path in Path(BUNDLED_DIGITS).iterdir() if path.is_file()}
    for name, archive_format in (("squeezenet", "default"), ("other", "tgz")):
        make_archive(
            tmp_path / "store",
            name,
            files=files,
            handler="image_classifier",
            serialized_file="digits.onnx",
            config_file="model-config.yaml",
            archive_format=archive_format,
        )
    return tmp_path / "store"


def likeliest(server: RunningServer, model: str) -> str:
    request = urllib.request.Request(f"{server.url}/predictions/{model}", PICTURE.read_bytes())
    with urllib.request.urlopen(request, timeout=30) as answer:
        scores: dict[str, float] = json.load(answer)
    return max(scores, key=lambda label: scores[label])


def test_a_packed_archive_of_the_store_is_served_by_its_name(store: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with run_server(
        f"--model-store={store}", "--models", "squeezenet=squeezenet.mar", f"--cache-dir={cache}"
    ) as server:
        assert likeliest(server, "squeezenet") == WHAT_IT_SHOWS
        assert len([path for path in cache.iterdir() if path.is_dir()]) == 1
        assert server.stop() == 0, server.log()
    assert list(cache.iterdir()) == []


def test_all_of_the_store_is_served_and_a_killed_server_leaves_nothing_to_the_next(store: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for last in (False, True):
        with run_server(f"--model-store={store}", "--models", "all", f"--cache-dir={cache}") as server:
            for name in ("squeezenet", "other"):
                assert likeliest(server, name) == WHAT_IT_SHOWS
            assert len([path for path in cache.iterdir() if path.is_dir()]) == 2
            if last:
                assert server.stop() == 0, server.log()
            else:
                server.signal(signal.SIGKILL)
                server.process.wait(30)
                left = cache / "left-behind"  # as if it had unpacked one that nobody serves any more
                left.mkdir()
                left.with_name("left-behind.lock").touch()
    assert list(cache.iterdir()) == []


def test_what_may_not_be_fetched_keeps_it_from_starting(store: Path, tmp_path: Path) -> None:
    url = f"file://{store}/squeezenet.mar"
    with (
        pytest.raises(RuntimeError, match=r"Given URL file://\S+ does not match any allowed URL\(s\)"),
        run_server("--models", f"m={url}", f"--cache-dir={tmp_path / 'cache'}"),
    ):
        pass
    with run_server(
        "--models", f"m={url}", "--allowed-urls", "file:///.*", f"--cache-dir={tmp_path / 'cache'}"
    ) as server:
        assert likeliest(server, "m") == WHAT_IT_SHOWS
