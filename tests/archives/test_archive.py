import json
import os

import pytest

from headrace.archives.archive import is_archive, open_archive
from headrace.errors import InvalidArchive


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
    assert archive.labels == {"0": "cat", "1": "dog"}
    assert archive.config == {"batchSize": 4, "handler": {"mean": [0.5]}}
    assert is_archive(folder)


def test_an_archive_may_have_neither_labels_nor_settings(tmp_path):
    archive = open_archive(make(tmp_path / "m"))
    assert (archive.labels, archive.config) == (None, {})


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
    assert open_archive(folder).labels == expected


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
def test_labels_that_are_none_are_refused(tmp_path, labels, said):
    with pytest.raises(InvalidArchive, match=said):
        open_archive(make(tmp_path / "m", files={"index_to_name.json": labels}))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("a: [1", "is not YAML.*line 1"),
        ("- a\n- b\n", "must be a YAML mapping"),
        ("1: a\n", "must be a YAML mapping with text for keys"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not YAML"),
        ("a: \x00\n", "is not YAML"),
        ("[" * 1500, "is not YAML"),
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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x.mar", r"reads unpacked archive folders.*python -m zipfile -e \S+x\.mar FOLDER"),
        ("x.tar.gz", r"reads unpacked archive folders.*tar -xzf \S+x\.tar\.gz"),
        ("x.tgz", "reads unpacked archive folders"),
    ],
)
def test_packed_archives_say_how_to_unpack_them(tmp_path, name, said):
    (tmp_path / name).write_bytes(b"PK")
    assert is_archive(tmp_path / name)
    with pytest.raises(InvalidArchive, match=said):
        open_archive(tmp_path / name)


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x.onnx").touch()
    (tmp_path / "empty").mkdir()
    for path, said in (("x.onnx", "is no archive"), ("empty", "has no MAR-INF"), ("gone.mar", "no such archive")):
        assert not is_archive(tmp_path / path)
        with pytest.raises(InvalidArchive, match=said):
            open_archive(tmp_path / path)


def test_a_broken_manifest_is_an_archive_and_says_what_is_wrong(tmp_path):
    folder = make(tmp_path / "m")
    (folder / "MAR-INF" / "MANIFEST.json").write_text("{}")
    assert is_archive(folder)
    with pytest.raises(InvalidArchive, match=r"^Missing Model entry in manifest file\.$"):
        open_archive(folder)
