import hashlib
import json
import os
import shutil
import tarfile
import zipfile

import pytest

import headrace.archives.archive as archive_module
from headrace.archives.archive import is_archive, open_archive
from headrace.archives.cache import Cache
from headrace.archives.entries import Bounds
from headrace.archives.inspecting import inspect
from headrace.errors import ArchiveTooLarge, InvalidArchive, UnsafeArchive
from headrace.testing import make_archive


def make(folder, *, files=None, **model):
    """An archive folder: a manifest with these model entries, and these files."""
    (folder / "MAR-INF").mkdir(parents=True)
    manifest = {"model": {"modelName": "m", **model}}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    for name, text in (files or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_an_archive_is_opened_with_its_labels_and_settings(tmp_path):
    folder = make(
        tmp_path / "m",
        serializedFile="weights/m.onnx",
        configFile="config.yaml",
        files={
            "weights/m.onnx": "",
            "index_to_name.json": '{"0": "cat", "1": "dog"}',
            "config.yaml": "batchSize: 4\nhandler:\n  mean: [0.5]\n",
        },
    )
    archive = open_archive(str(folder))
    assert archive.folder == folder.resolve()
    assert archive.manifest.name == "m"
    assert archive.labels() == {"0": "cat", "1": "dog"}
    assert archive.config == {"batchSize": 4, "handler": {"mean": [0.5]}}
    assert is_archive(folder)


def test_an_archive_may_have_neither_labels_nor_settings(tmp_path):
    archive = open_archive(make(tmp_path / "m"))
    assert (archive.labels(), archive.config) == (None, {})


def test_an_archive_may_lie_in_the_only_folder_of_a_folder(tmp_path):
    inner = make(tmp_path / "store" / "m")
    (tmp_path / "store" / "__MACOSX").mkdir()
    (tmp_path / "store" / ".DS_Store").touch()
    assert is_archive(tmp_path / "store")
    assert open_archive(tmp_path / "store").folder == inner.resolve()
    make(tmp_path / "store" / "n")
    assert not is_archive(tmp_path / "store")
    with pytest.raises(InvalidArchive, match=r"has no MAR-INF/MANIFEST\.json"):
        open_archive(tmp_path / "store")


def test_an_archive_folder_may_itself_be_reached_by_a_link(tmp_path):
    make(tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")
    assert open_archive(tmp_path / "current").folder == (tmp_path / "v1").resolve()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"0": ["n01440764", "tench"], "1": "goldfish"}, {"0": "tench", "1": "goldfish"}),
        ({"object_type_names": ["background", "person"]}, {"0": "background", "1": "person"}),
        ({}, {}),
    ],
)
def test_labels_come_in_the_forms_torchserve_knows(tmp_path, labels, expected):
    folder = make(tmp_path / "m", files={"index_to_name.json": json.dumps(labels)})
    assert open_archive(folder).labels() == expected


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("[", "not JSON"),
        ('["cat"]', "must be a JSON object"),
        ('{"0": 5}', "name of class '0' must be a string, it is a int"),
        ('{"0": []}', "must be a string"),
        ('{"0": ["a", null]}', "must be a string"),
    ],
)
def test_labels_that_are_none_are_refused_to_who_asks_for_them(tmp_path, labels, said):
    archive = open_archive(make(tmp_path / "m", files={"index_to_name.json": labels}))
    with pytest.raises(InvalidArchive, match=said):
        archive.labels()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("a: [1", "is not YAML.*line 1"),
        ("- a\n- b\n", "must be a YAML mapping"),
        ("1: a\n", "must be a YAML mapping with text for keys"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not YAML"),
        ("a: \x00\n", "is not YAML"),
        ("[" * 1500, "is not YAML.*nested more than 100 deep"),
        ("a: 1\n" * 60_000, "has more than 262,144 bytes"),
        ("a: 2024-99-99\n", "is not YAML"),
    ],
)
def test_settings_that_are_none_are_refused(tmp_path, config, said):
    with pytest.raises(InvalidArchive, match=said):
        open_archive(make(tmp_path / "m", configFile="c.yaml", files={"c.yaml": config}))


def test_empty_settings_are_no_settings(tmp_path):
    assert open_archive(make(tmp_path / "m", configFile="c.yaml", files={"c.yaml": "# none\n"})).config == {}


@pytest.mark.parametrize("key", ["serializedFile", "modelFile", "requirementsFile", "configFile"])
def test_a_file_that_the_manifest_names_must_be_there(tmp_path, key):
    with pytest.raises(InvalidArchive, match=r"names 'gone\.x', but there is no such file"):
        open_archive(make(tmp_path / "m", **{key: "gone.x"}))


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "a/../../secret", "loop"])
def test_a_link_out_of_the_archive_is_refused(tmp_path, target):
    (tmp_path / "secret").write_text("s")
    folder = make(tmp_path / "m", files={"a/b": ""})
    (folder / "a" / "link").symlink_to(folder / "a" / "link" if target == "loop" else os.path.join("..", target))
    if target == "/etc/passwd":
        (folder / "a" / "link").unlink()
        (folder / "a" / "link").symlink_to(target)
    with pytest.raises(InvalidArchive, match="symbolic link that leads out of the archive"):
        open_archive(folder)


@pytest.mark.parametrize("name", ["MAR-INF", "weights", "m.onnx"])
def test_folders_and_named_files_may_not_be_links_out_either(tmp_path, name):
    outside = make(tmp_path / "outside", files={"m.onnx": "", "weights/w": ""})
    folder = tmp_path / "m"
    folder.mkdir()
    for entry in ("MAR-INF", "weights", "m.onnx"):
        if entry == name:
            (folder / entry).symlink_to(outside / entry)
    if name != "MAR-INF":
        make(folder, serializedFile=name)
    with pytest.raises(InvalidArchive, match="symbolic link"):
        open_archive(folder)


def test_a_nested_archive_may_not_be_a_link_out(tmp_path):
    make(tmp_path / "outside")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "m").symlink_to("../outside")
    with pytest.raises(InvalidArchive, match="symbolic link"):
        open_archive(tmp_path / "store")


def test_a_link_inside_the_archive_is_fine(tmp_path):
    folder = make(tmp_path / "m", serializedFile="m.onnx", files={"weights/real.onnx": ""})
    (folder / "m.onnx").symlink_to("weights/real.onnx")
    assert open_archive(folder).manifest.serialized_file == "m.onnx"


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x.onnx").touch()
    (tmp_path / "empty").mkdir()
    for path, said in (
        ("x.onnx", "is no archive"),
        ("empty", "has no MAR-INF.*handler must then be given"),
        ("gone.mar", "no such archive"),
    ):
        assert not is_archive(tmp_path / path)
        with pytest.raises(InvalidArchive, match=said):
            open_archive(tmp_path / path)


def test_a_broken_manifest_is_an_archive_and_says_what_is_wrong(tmp_path):
    folder = make(tmp_path / "m")
    (folder / "MAR-INF" / "MANIFEST.json").write_text("{}")
    assert is_archive(folder)
    with pytest.raises(InvalidArchive, match=r"^Missing Model entry in manifest file\.$"):
        open_archive(folder)


def packed(tmp_path, archive_format="default", **more):
    more.setdefault("files", {"service.py": "def handle(data, context): return data\n", "sub/a.txt": "a"})
    return make_archive(tmp_path / "made", "m", archive_format=archive_format, **more)


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz", "no-archive"])
@pytest.mark.parametrize("mms", [True, False])
def test_every_format_of_both_servers_opens(tmp_path, archive_format, mms):
    path = packed(tmp_path, archive_format, mms=mms)
    cache = Cache(tmp_path / "cache")
    assert is_archive(path)
    with open_archive(path, cache=cache) as archive:
        assert (archive.manifest.name, archive.manifest.handler) == ("m", "service:handle")
        assert archive.manifest.version == ("1" if mms else "1.0")
        assert (archive.folder / "sub" / "a.txt").read_text() == "a"
        assert (archive.folder / "service.py").exists()
        assert (archive.lease is None) == (archive_format == "no-archive")
    assert list(cache.root.iterdir()) == []
    assert path.exists()


def test_its_folder_is_called_after_its_digest_and_shared(tmp_path):
    path, cache = packed(tmp_path), Cache(tmp_path / "cache")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    first = open_archive(path, cache=cache)
    second = open_archive(shutil.copy(path, tmp_path / "copy.mar"), cache=cache)
    assert first.folder == second.folder == tmp_path / "cache" / digest
    first.close()
    assert (second.folder / "service.py").exists()
    second.close()
    assert list(cache.root.iterdir()) == []


def test_an_archive_that_is_refused_leaves_nothing(tmp_path):
    cache = Cache(tmp_path / "cache")
    path = packed(tmp_path, serialized_file="gone.onnx")
    with pytest.raises(InvalidArchive, match=r"names 'gone\.onnx', but there is no such file in \S+m\.mar"):
        open_archive(path, cache=cache)
    with pytest.raises(ArchiveTooLarge):
        open_archive(path, cache=cache, bounds=Bounds(max_files=1))
    assert list(cache.root.iterdir()) == []


def bare(tmp_path, kind):
    """An archive without a manifest."""
    if kind == "folder":
        (tmp_path / "bare").mkdir()
        (tmp_path / "bare" / "service.py").touch()
        return tmp_path / "bare"
    path = tmp_path / ("bare.tar.gz" if kind == "tar" else "bare.mar")
    if kind == "tar":
        with tarfile.open(path, "w:gz") as out:
            out.addfile(tarfile.TarInfo("bare/service.py"))
    else:
        with zipfile.ZipFile(path, "w") as out:
            out.writestr("service.py", "")
    return path


@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_without_a_manifest_name_and_handler_come_from_the_registration(tmp_path, kind):
    path, cache = bare(tmp_path, kind), Cache(tmp_path / "cache")
    with pytest.raises(InvalidArchive, match=r"has no MAR-INF.*handler must then be given when it is registered"):
        open_archive(path, cache=cache)
    with open_archive(path, handler="service:go", cache=cache) as archive:
        assert (archive.manifest.name, archive.manifest.handler) == ("bare", "service:go")
        assert (archive.manifest.version, archive.manifest.runtime, archive.manifest.raw) == ("1", "python", None)
        assert (archive.folder / "service.py").exists()
    with open_archive(path, name="mine", handler="service", cache=cache) as archive:
        assert archive.manifest.name == "mine"
    with pytest.raises(InvalidArchive, match="plain relative name"):
        open_archive(path, handler="..", cache=cache)
    assert list(cache.root.iterdir()) == []


def test_the_registration_goes_before_the_manifest(tmp_path):
    with open_archive(packed(tmp_path), name="n", handler="other", cache=Cache(tmp_path / "cache")) as archive:
        assert (archive.manifest.name, archive.manifest.handler) == ("n", "other")
        assert archive.manifest.raw["model"]["handler"] == "service:handle"


@pytest.mark.parametrize("below", ["", "old/"])
def test_an_archive_of_mms_04_opens(tmp_path, below):
    path = tmp_path / "old.model"
    manifest = {"Model": {"Model-Name": "old", "Service": "service.py"}, "Created-By": {"Author": "a"}}
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(f"{below}MANIFEST.json", json.dumps(manifest))
        out.writestr(f"{below}service.py", "")
    assert is_archive(path)
    with open_archive(path, cache=Cache(tmp_path / "cache")) as archive:
        assert (archive.manifest.name, archive.manifest.version) == ("old", "snapshot")
        assert (archive.manifest.handler, archive.manifest.raw["publisher"]["author"]) == ("service.py", "a")
        assert (archive.folder / "service.py").exists()


def test_a_manifest_without_end_is_not_read_whole(tmp_path):
    folder = make(tmp_path / "m")
    with (folder / "MAR-INF" / "MANIFEST.json").open("ab") as out:
        out.truncate(17 << 20)
    with pytest.raises(InvalidArchive, match="more than 16,777,216 bytes"):
        open_archive(folder)


def test_it_says_what_it_opens_when_given_something_else(tmp_path):
    (tmp_path / "m.onnx").touch()
    with pytest.raises(InvalidArchive, match="it is a model file"):
        open_archive(tmp_path / "m.onnx")
    os.mkfifo(tmp_path / "m.mar")
    with pytest.raises(InvalidArchive, match="neither a file nor a folder"):
        open_archive(tmp_path / "m.mar")


def test_a_file_that_changes_meanwhile_is_refused(tmp_path, monkeypatch):
    path, cache = packed(tmp_path), Cache(tmp_path / "cache")
    unpack = archive_module.unpack

    def meanwhile(*args):
        unpack(*args)
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(archive_module, "unpack", meanwhile)
    with pytest.raises(InvalidArchive, match="written to while it was read"):
        open_archive(path, cache=cache)
    assert list(cache.root.iterdir()) == []


@pytest.mark.parametrize("archive_format", ["default", "tgz", "no-archive"])
def test_an_archive_can_be_looked_into(tmp_path, archive_format):
    path = packed(tmp_path, archive_format)
    found = inspect(path)
    assert found.kind == {"default": "zip", "tgz": "tar.gz", "no-archive": "folder"}[archive_format]
    assert found.manifest.name == "m"
    below = "m/" if archive_format == "tgz" else ""
    assert [name for name, _ in found.files] == [
        f"{below}MAR-INF/MANIFEST.json",
        f"{below}service.py",
        f"{below}sub/a.txt",
    ]
    assert dict(found.files)[f"{below}sub/a.txt"] == 1
    assert found.nbytes == sum(nbytes for _, nbytes in found.files)


def test_looking_into_one_refuses_what_opening_would(tmp_path):
    assert inspect(bare(tmp_path, "zip")).manifest is None
    with zipfile.ZipFile(tmp_path / "sly.mar", "w") as out:
        out.writestr("../x", "")
    with pytest.raises(UnsafeArchive):
        inspect(tmp_path / "sly.mar")
    for gone in ("gone.mar", "."):
        if gone == ".":
            (tmp_path / "loop").symlink_to("/etc")
        with pytest.raises(InvalidArchive):
            inspect(tmp_path / gone)
