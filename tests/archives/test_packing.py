"""Archives that we write."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headrace.archives.archive import open_archive
from headrace.archives.cache import Cache
from headrace.archives.declaration import handler_file, is_left_out, mms_manifest, torchserve_manifest
from headrace.archives.inspecting import inspect
from headrace.archives.packing import Contents, created_now, target_of, write_archive
from headrace.errors import InvalidArchive, InvalidOption

FORMATS = ["default", "zip-store", "tgz", "no-archive"]
MANIFEST = mms_manifest(name="m", handler="service")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with what belongs into an archive, and what does not."""
    source = tmp_path / "source"
    for name in (
        *("service.py", "w.onnx", "sub/deep/a.txt"),
        *(".hidden", ".git/config", "__pycache__/service.pyc", "old.pyc", "__MACOSX/x", ".DS_Store", "sub/.b"),
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    return source


def contents_of(folder: Path, **more: object) -> Contents:
    contents = Contents()
    contents.add_folder(folder, **more)  # type: ignore[arg-type]
    return contents


def written(tmp_path: Path, contents: Contents, archive_format: str, *, force: bool = False) -> Path:
    (tmp_path / "out").mkdir(exist_ok=True)
    target = target_of("m", archive_format, tmp_path / "out", force=force)
    write_archive(target, "m", contents, MANIFEST, archive_format, force=force)
    return target


@pytest.mark.parametrize("archive_format", FORMATS)
def test_what_is_written_opens_and_has_what_was_given(tmp_path: Path, source: Path, archive_format: str) -> None:
    path = written(tmp_path, contents_of(source), archive_format)
    assert path.name == {"tgz": "m.tar.gz", "no-archive": "m"}.get(archive_format, "m.mar")
    with open_archive(path, cache=Cache(tmp_path / "cache")) as archive:
        found = {p.relative_to(archive.folder).as_posix() for p in archive.folder.rglob("*") if p.is_file()}
        assert found == {"service.py", "w.onnx", "sub/deep/a.txt", "MAR-INF/MANIFEST.json"}
        assert (archive.folder / "sub/deep/a.txt").read_text() == "sub/deep/a.txt"
        assert archive.manifest.raw == MANIFEST
    assert [p.name for p in (tmp_path / "out").iterdir()] == [path.name]


def test_a_stored_one_is_stored_and_a_default_one_deflated(tmp_path: Path, source: Path) -> None:
    for archive_format, method in (("zip-store", zipfile.ZIP_STORED), ("default", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(written(tmp_path, contents_of(source), archive_format, force=True)) as packed:
            assert {info.compress_type for info in packed.infolist()} == {method}


def test_a_tar_lies_below_one_folder(tmp_path: Path, source: Path) -> None:
    with tarfile.open(written(tmp_path, contents_of(source), "tgz")) as packed:
        assert {name.partition("/")[0] for name in packed.getnames()} == {"m"}


@pytest.mark.parametrize("archive_format", FORMATS)
def test_nothing_is_overwritten_unless_asked(tmp_path: Path, source: Path, archive_format: str) -> None:
    path = written(tmp_path, contents_of(source), archive_format)
    with pytest.raises(InvalidOption, match=f"{path.name} already exists.*--force/-f"):
        written(tmp_path, contents_of(source), archive_format)
    (source / "more.txt").touch()
    written(tmp_path, contents_of(source), archive_format, force=True)
    assert any(name.endswith("more.txt") for name, _ in inspect(path).files)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [path.name]


@pytest.mark.parametrize("archive_format", FORMATS)
def test_what_comes_meanwhile_is_not_overwritten_either(tmp_path: Path, source: Path, archive_format: str) -> None:
    (tmp_path / "out").mkdir()
    target = target_of("m", archive_format, tmp_path / "out", force=False)
    theirs = target
    if archive_format == "no-archive":
        target.mkdir()
        theirs = target / "theirs"
    theirs.write_text("theirs")
    with pytest.raises(InvalidArchive, match="cannot be written"):
        write_archive(target, "m", contents_of(source), MANIFEST, archive_format)
    assert theirs.read_text() == "theirs"
    assert [p.name for p in (tmp_path / "out").iterdir()] == [target.name]


@pytest.mark.parametrize("archive_format", FORMATS)
def test_a_failure_leaves_the_old_one_and_nothing_else(tmp_path: Path, source: Path, archive_format: str) -> None:
    path = written(tmp_path, contents_of(source), archive_format)
    before = inspect(path)
    contents = contents_of(source)
    contents.files["gone"] = source / "gone"
    with pytest.raises(InvalidArchive, match="cannot be written: No such file"):
        written(tmp_path, contents, archive_format, force=True)
    assert inspect(path) == before
    assert [p.name for p in (tmp_path / "out").iterdir()] == [path.name]


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz"])
def test_with_source_date_epoch_the_same_files_give_the_same_bytes(
    tmp_path: Path, source: Path, archive_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first = written(tmp_path, contents_of(source), archive_format).read_bytes()
    for path in source.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    again = Contents(dict(reversed(contents_of(source).files.items())))
    assert written(tmp_path, again, archive_format, force=True).read_bytes() == first
    assert created_now() == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    written(tmp_path, again, archive_format, force=True)  # before zip's time begins


@pytest.mark.parametrize("said", ["yesterday", "-1", "9" * 30, "1.5"])
def test_a_source_date_epoch_that_is_none_says_so(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", said)
    with pytest.raises(InvalidOption, match="seconds since 1970"):
        created_now()


def test_the_folder_of_a_model_may_be_the_archive(tmp_path: Path, source: Path) -> None:
    target = target_of("source", "no-archive", tmp_path, force=True)
    write_archive(target, "source", contents_of(source), MANIFEST, "no-archive", force=True)
    assert json.loads((source / "MAR-INF" / "MANIFEST.json").read_text()) == MANIFEST
    assert (source / ".hidden").exists()
    assert (source / "service.py").read_text() == "service.py"


def test_what_is_packed_is_never_what_is_replaced(tmp_path: Path, source: Path) -> None:
    with pytest.raises(InvalidOption, match="would be replaced"):
        write_archive(source, "source", contents_of(source / "sub"), MANIFEST, "no-archive", force=True)
    assert (source / "sub" / "deep" / "a.txt").exists()


def test_two_files_of_one_name_are_refused(source: Path) -> None:
    contents = Contents()
    contents.add(source / "service.py")
    contents.add(source / "service.py")
    (source / "other").mkdir()
    (source / "other" / "service.py").touch()
    with pytest.raises(InvalidArchive, match=r"would both be service\.py"):
        contents.add(source / "other" / "service.py")


def test_extra_files_are_files_folders_and_patterns(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source)
    contents = Contents()
    contents.add_extra(f"sub, ./service.py,*.onnx,{source}/.hidden")
    assert set(contents.files) == {"deep/a.txt", "service.py", "w.onnx", ".hidden"}
    for word in ("gone.txt", "*.nothing", "service.py,gone"):
        with pytest.raises(InvalidOption, match=r"gone|nothing"):
            Contents().add_extra(word)
    stars = Contents()
    stars.add_extra("*")
    assert set(stars.files) == {"service.py", "w.onnx", "deep/a.txt"}


def test_a_link_to_a_folder_is_not_packed_unseen(source: Path, tmp_path: Path) -> None:
    (source / "link").symlink_to(tmp_path)
    with pytest.raises(InvalidArchive, match="link to a folder"):
        contents_of(source)
    (source / "link").unlink()
    (source / "link.txt").symlink_to("service.py")
    assert contents_of(source).files["link.txt"].read_text() == "service.py"


def test_mar_inf_is_ours(tmp_path: Path, source: Path) -> None:
    (source / "mar-inf").mkdir()
    (source / "mar-inf" / "x").touch()
    with pytest.raises(InvalidArchive, match="MAR-INF is the archive's own folder"):
        written(tmp_path, contents_of(source), "default")


@pytest.mark.parametrize(
    ("handler", "runtime", "file"),
    [
        ("image_classifier", "python", None),
        ("service", "python", "service.py"),
        ("service.py", "python3", "service.py"),
        ("service:handle", "python", "service.py"),
        ("src/service.py:handle", "python", "src/service.py"),
        ("BaseHandler", "LSP", None),
        ("lib/mine:f", "LSP", "lib/mine.so"),
    ],
)
def test_the_file_of_a_handler_is_found(handler: str, runtime: str, file: str | None) -> None:
    assert handler_file(handler, runtime) == file


@pytest.mark.parametrize("name", [".a", "a/.b", ".a/b", "__pycache__/b", "a/__MACOSX/b", "a.pyc", "a/.DS_Store"])
def test_what_tools_leave_behind_is_left_out(name: str) -> None:
    assert is_left_out(name.split("/"))
    assert not is_left_out(name.replace(".", "x").replace("__", "x").split("/"))


@pytest.mark.parametrize("name", ["", "a/b", "../m", "-m", "m\n", "ü"])
def test_a_model_has_a_name_both_servers_take(name: str) -> None:
    with pytest.raises(InvalidOption, match="--model-name"):
        mms_manifest(name=name, handler="h")
    with pytest.raises(InvalidOption, match="--model-name"):
        torchserve_manifest(name=name, version="1", handler="h", created=datetime.now())
