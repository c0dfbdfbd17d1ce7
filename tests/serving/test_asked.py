"""Where managers may have models from."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.archives.store import Store
from headrace.errors import InvalidModel, SourceNotFound
from headrace.serving.asked import source_of


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    (store / "inner").mkdir(parents=True)
    for name in ("a.onnx", "inner/b.onnx"):
        (store / name).touch()
    (tmp_path / "secret.onnx").touch()
    return store


def test_a_name_is_of_the_store_and_a_path_is_a_path(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert source_of("a.onnx", Store(store)) == str(store / "a.onnx")
    assert source_of("inner/b.onnx", Store(store)) == str(store / "inner" / "b.onnx")
    assert source_of("inner", Store(store), has_handler=True) == str(store / "inner")
    with pytest.raises(InvalidModel, match="inner is a folder without a manifest"):
        source_of("inner", Store(store))
    with pytest.raises(InvalidModel, match="a file of no kind that is loaded"):
        source_of("/etc/passwd", Store(store))
    (store / "out").symlink_to("/etc")
    with pytest.raises(SourceNotFound, match="leads out of the model store"):
        source_of("out", Store(store), has_handler=True)
    assert source_of(str(tmp_path / "secret.onnx"), Store(store)) == str(tmp_path / "secret.onnx")
    with pytest.raises(SourceNotFound):
        source_of("secret.onnx", Store(store))  # the current folder is not looked in
    assert source_of("secret.onnx", Store()) == str(tmp_path / "secret.onnx")


def test_a_checksum_stays_behind_the_path(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert source_of("a.onnx#sha256=00", Store(store)) == f"{store / 'a.onnx'}#sha256=00"
    assert source_of("secret.onnx#sha256=00", Store()) == f"{tmp_path / 'secret.onnx'}#sha256=00"
    for url in ("secret.onnx#sha256=00", "#sha256=00"):
        with pytest.raises(SourceNotFound):
            source_of(url, Store(store))


@pytest.mark.parametrize("url", ["../secret.onnx", "inner/../../secret.onnx", "..", "/tmp/../etc", "a..onnx", "%2e/.."])
def test_no_url_leads_out_of_the_store(store: Path, url: str) -> None:
    with pytest.raises(match=r"^Relative path is not allowed in url: "):
        source_of(url, Store(store))


@pytest.mark.parametrize("url", ["", "nowhere", "a\0b", "x" * 5000, "//", "a.onnx/x"])
def test_what_is_not_there_is_not_found(store: Path, url: str) -> None:
    if url == "//":
        with pytest.raises(InvalidModel, match="a folder without a manifest"):
            source_of(url, Store(store))
        return
    with pytest.raises(SourceNotFound):
        source_of(url, Store(store))


def test_code_to_import_is_for_whoever_started_the_server(store: Path) -> None:
    with pytest.raises(match="--manage-callables yes"):
        source_of("os:system", Store(store))
    assert source_of("os:system", Store(store), callables=True) == "os:system"
    with pytest.raises(SourceNotFound):
        source_of("os:system()", Store(store), callables=True)
