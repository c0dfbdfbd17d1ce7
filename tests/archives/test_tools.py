"""Our archives beside those of both real archivers: theirs open here, ours have the same files and the same manifest.

The tools are the same package by name, so each lies in a folder of its own: `make test` installs them there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.archives.archive import open_archive
from headrace.archives.cache import Cache
from headrace.archives.inspecting import inspect

TOOLS = {"torch": "torch-model-archiver", "mms": "model-archiver"}
TORCH_FORMATS = ["default", "zip-store", "tgz", "no-archive"]
MMS_FORMATS = ["default", "tgz", "no-archive"]

Files = dict[str, bytes]


def tool(which: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """One of the real archivers, with nothing else on its path."""
    home = Path(sys.prefix, "archivers", which)
    if not home.is_dir():
        pytest.skip(f"{TOOLS[which]} is not in {home}; `make test` installs it")
    environment = {**os.environ, "PYTHONPATH": str(home), "TMPDIR": str(cwd)}
    command = [sys.executable, str(home / "bin" / TOOLS[which]), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def ours(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace", "archive", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A current folder with a model's files, and a folder for each maker's archives."""
    for name, text in {
        "service.py": "def handle(data, context): return data\n",
        "net.py": "class Net: pass\n",
        "w.pt": "weights" * 1000,
        "requirements.txt": "",
        "config.yaml": "minWorkers: 1\n",
        "index_to_name.json": '{"0": "cat"}',
        "extra/a.txt": "a",
        "extra/sub/b.txt": "b",
        "extra/sub/deep/c.txt": "c",
        "one.json": "{}",
        "two.json": "{}",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    return tmp_path


def made(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def read(path: Path) -> tuple[Files, Files]:
    """(the manifest as it is, the other files), as a server before us would see them: zip, tar or folder."""
    if path.is_dir():
        found = {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    elif path.suffix == ".mar":
        with zipfile.ZipFile(path) as packed:
            found = {name: packed.read(name) for name in packed.namelist()}
    else:
        found = {}
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    manifest = {name: found.pop(name) for name in list(found) if name.endswith("MAR-INF/MANIFEST.json")}
    return manifest, found


def same(theirs: Path, ours: Path) -> None:
    """Same name, same files, same manifest: its text byte by byte but for the times and the tools' versions."""
    assert theirs.name == ours.name
    (their_manifest, their_files), (our_manifest, our_files) = read(theirs), read(ours)
    assert our_files == their_files
    (where, theirs_text), (here, ours_text) = *their_manifest.items(), *our_manifest.items()
    assert where == here
    theirs_read, ours_read = json.loads(theirs_text), json.loads(ours_text)
    for key in ("createdOn", "archiverVersion"):
        assert isinstance(theirs_read.get(key), str) == isinstance(ours_read.get(key), str)
        if key in theirs_read:
            ours_text = ours_text.replace(ours_read[key].encode(), theirs_read[key].encode())
    assert ours_text == theirs_text


TORCH = {
    "all": [
        *("--model-name", "m", "--version", "1.0", "--handler", "service:handle", "--serialized-file", "w.pt"),
        *("--model-file", "net.py", "--extra-files", "extra,./index_to_name.json,*.json"),
        *("-r", "requirements.txt", "-c", "config.yaml"),
    ],
    "built-in": ["--model-name", "m-1.x_2", "-v", "2", "--handler", "image_classifier", "--serialized-file", "w.pt"],
    "with .py": ["--model-name", "m", "--version", "1.0", "--handler", "service.py", "--runtime", "python3"],
    "no weights": ["--model-name", "m", "--version", "1.0", "--handler", "./service"],
}


@pytest.mark.parametrize("archive_format", TORCH_FORMATS)
@pytest.mark.parametrize("which", TORCH)
def test_torch_model_archivers_are_as_ours(work: Path, archive_format: str, which: str) -> None:
    arguments = [*TORCH[which], "--archive-format", archive_format, "--export-path"]
    done = tool("torch", *arguments, "theirs", cwd=work)
    assert done.returncode == 0, done.stderr
    done = ours(*arguments, "ours", cwd=work)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(made(work / "ours"))
    same(made(work / "theirs"), made(work / "ours"))


@pytest.mark.parametrize("archive_format", TORCH_FORMATS)
def test_what_torch_model_archiver_makes_opens(work: Path, archive_format: str) -> None:
    arguments = [*TORCH["all"], "--archive-format", archive_format, "--export-path", "theirs"]
    assert tool("torch", *arguments, cwd=work).returncode == 0
    with open_archive(made(work / "theirs"), cache=Cache(work / "cache")) as archive:
        manifest = archive.manifest
        assert (manifest.name, manifest.version, manifest.handler) == ("m", "1.0", "service:handle")
        assert (manifest.serialized_file, manifest.model_file) == ("w.pt", "net.py")
        assert (manifest.requirements_file, manifest.config_file) == ("requirements.txt", "config.yaml")
        assert (archive.labels(), archive.config) == ({"0": "cat"}, {"minWorkers": 1})
        assert (archive.folder / "sub" / "deep" / "c.txt").read_text() == "c"
    assert not list((work / "cache").iterdir()) if (work / "cache").exists() else archive_format == "no-archive"


@pytest.fixture
def folder(work: Path) -> Path:
    """What model-archiver packs: a folder, with what it leaves out in it."""
    model = work / "model"
    for name in ("service.py", "w-0000.params", "w-symbol.json", "signature.json", "sub/y.txt", "sub/MANIFEST.json",
                 "old.mar", "x.pyc", "__pycache__/x.py", "__MACOSX/x", ".git/x", ".DS_Store"):  # fmt: skip
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(name)
    return model


@pytest.mark.parametrize("archive_format", MMS_FORMATS)
@pytest.mark.parametrize("runtime", ["python", "python2", "python3"])
def test_model_archivers_are_as_ours(work: Path, folder: Path, archive_format: str, runtime: str) -> None:
    arguments = ["--model-name", "m", "--model-path", "model", "--handler", "service:handle", "--runtime", runtime]
    arguments += ["--archive-format", archive_format, "--export-path"]
    done = tool("mms", *arguments, str(work / "theirs"), cwd=work)
    assert done.returncode == 0, done.stderr
    done = ours(*arguments, str(work / "ours"), cwd=work)
    assert done.returncode == 0, done.stderr
    same(made(work / "theirs"), made(work / "ours"))
    with open_archive(made(work / "theirs"), cache=Cache(work / "cache")) as archive:
        assert (archive.manifest.name, archive.manifest.handler) == ("m", "service:handle")
        assert (archive.folder / "sub" / "y.txt").exists()


@pytest.mark.parametrize(
    "handler", ["./service:handle", "{cwd}/model/service.py:handle", "../work/model/service:handle"]
)
def test_a_handler_may_be_named_by_any_path_as_with_model_archiver(work: Path, folder: Path, handler: str) -> None:
    """`../work/model/service` from within the folder: what is looked for is there, and its last part is what counts."""
    handler = handler.format(cwd=work).replace("../work", f"../../{work.name}")
    arguments = ["--model-name", "m", "--model-path", "model", "--handler", handler, "--export-path"]
    done = tool("mms", *arguments, "theirs", cwd=work)
    assert done.returncode == 0, done.stderr
    done = ours(*arguments, "ours", cwd=work)
    assert done.returncode == 0, done.stderr
    same(made(work / "theirs"), made(work / "ours"))
    with open_archive(made(work / "theirs"), cache=Cache(work / "cache")) as archive:
        assert (archive.manifest.handler or "").partition(":")[0].removesuffix(".py") == "service"


@pytest.mark.parametrize("how", [("-v", "1"), ("--model-path", "model")])
def test_our_own_handler_needs_no_file_and_a_file_of_its_name_is_packed(
    work: Path, folder: Path, how: tuple[str, ...]
) -> None:
    arguments = ["--model-name", "m", "--handler", "tensor", *how, "--force", "--export-path", "ours"]
    done = ours(*arguments, cwd=work)
    assert done.returncode == 0, done.stderr
    assert "tensor.py" not in dict(inspect(made(work / "ours")).files)
    for place in (work, folder):
        (place / "tensor.py").write_text("def handle(data, context): return data")
    done = ours(*arguments, cwd=work)
    assert done.returncode == 0, done.stderr
    assert "tensor.py" in dict(inspect(made(work / "ours")).files)


def test_hidden_files_are_left_out_where_model_archiver_keeps_them(work: Path, folder: Path) -> None:
    (folder / ".secret").touch()
    arguments = ["--model-name", "m", "--model-path", "model", "--handler", "service", "--export-path"]
    assert tool("mms", *arguments, "theirs", cwd=work).returncode == 0
    assert ours(*arguments, "ours", cwd=work).returncode == 0
    theirs, own = (dict(inspect(made(work / name)).files) for name in ("theirs", "ours"))
    assert set(theirs) - set(own) == {".secret"}


@pytest.mark.parametrize(
    "make",
    [
        lambda cwd: ours(*TORCH["all"], "--export-path", "ours", cwd=cwd),
        lambda cwd: tool("torch", *TORCH["all"], "--export-path", "ours", cwd=cwd),
    ],
    ids=["ours", "theirs"],
)
def test_both_refuse_to_overwrite_unless_forced(
    work: Path, make: Callable[[Path], subprocess.CompletedProcess[str]]
) -> None:
    assert make(work).returncode == 0
    again = make(work)
    assert again.returncode != 0
    assert "already exists" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--model-name and --handler are needed"),
        (["--model-name", "m", "--handler", "service"], "--version is needed (or --model-path"),
        (["--model-name", "m/n", "--handler", "service", "-v", "1"], "--model-name 'm/n'"),
        (["--model-name", "m", "--handler", "service", "-v", "1/0"], "--version '1/0'"),
        (["--model-name", "m", "--handler", "gone", "-v", "1"], "--handler gone: there is no gone.py"),
        (["--model-name", "m", "--handler", "service", "-v", "1", "--serialized-file", "gone"], "gone is no file"),
        (["--model-name", "m", "--handler", "service", "-v", "1", "--export-path", "gone"], "gone is not a folder"),
        (
            ["--model-name", "m", "--handler", "service", "-v", "1", "--archive-format", "rar"],
            "--archive-format is one",
        ),
        (["--model-name", "m", "--handler", "service", "-v", "1", "--runtime", "ruby"], "--runtime is one of"),
        (["--model-name", "m", "--handler", "service", "-v", "1", "--runtime", "python2"], "--runtime is one of"),
        (["--model-name", "m", "--handler", "service", "--model-path", "gone"], "gone is not a folder"),
        (["--model-name", "m", "--handler", "gone", "--model-path", "model"], "there is no gone.py in model"),
        (
            ["--model-name", "m", "--handler", "service", "--model-path", "model", "-v", "1"],
            "--version cannot be given",
        ),
        (["--model-name", "m", "--handler", "service", "--model-path", "model", "--convert"], "served as they are"),
        (["--model-name", "m", "--handler", "service", "--model-path", "model", "-c", "--force"], "served as they are"),
        (["--inspect", "gone.mar"], "no such archive"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(work: Path, folder: Path, arguments: list[str], said: str) -> None:
    done = ours(*arguments, cwd=work)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(work.glob("m*.mar"))


def test_the_manifest_and_the_files_are_shown(work: Path) -> None:
    assert ours(*TORCH["all"], "--export-path", "ours", cwd=work).returncode == 0
    done = ours("--inspect", "ours/m.mar", cwd=work)
    assert done.returncode == 0, done.stderr
    for word in (
        "ours/m.mar: zip",
        "model.handler",
        "service:handle",
        "sub/deep/c.txt",
        "7,000",
        "MAR-INF/MANIFEST.json",
    ):
        assert word in done.stdout


def test_what_is_shown_of_a_strangers_archive_is_plain_text(work: Path) -> None:
    manifest = {"runtime": "python", "model": {"modelName": "m", "description": "\x1b[2J[red]x[/red]"}}
    with zipfile.ZipFile(work / "m.mar", "w") as packed:
        packed.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        packed.writestr("[bold]a[/nothing].txt", "")
    done = ours("--inspect", "m.mar", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    for word in ("[2J[red]x[/red]", "[bold]a[/nothing].txt"):
        assert word in done.stdout
