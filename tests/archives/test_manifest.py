import json

import pytest

from headrace.archives.manifest import EMPTY, parse_manifest
from headrace.errors import InvalidArchive

TORCHSERVE = {
    "createdOn": "20/11/2025 10:00:00",
    "runtime": "python",
    "model": {
        "modelName": "resnet-18",
        "serializedFile": "weights/resnet18.onnx",
        "handler": "image_classifier",
        "modelFile": "model.py",
        "modelVersion": "2.0",
        "requirementsFile": "requirements.txt",
        "configFile": "model-config.yaml",
    },
    "archiverVersion": "0.12.0",
}
MMS = {
    "runtime": "python",
    "model": {"modelName": "noop", "handler": "noop_service:handle", "description": "does nothing"},
    "modelServerVersion": "1.0",
    "implementationVersion": "1.0",
    "specificationVersion": "1.0",
    "engine": {"engineName": "MXNet"},
}


def test_a_torchserve_manifest_is_read_whole():
    manifest = parse_manifest(json.dumps(TORCHSERVE))
    assert manifest.name == "resnet-18"
    assert manifest.version == "2.0"
    assert manifest.handler == "image_classifier"
    assert manifest.serialized_file == "weights/resnet18.onnx"
    assert manifest.model_file == "model.py"
    assert manifest.requirements_file == "requirements.txt"
    assert manifest.config_file == "model-config.yaml"
    assert manifest.runtime == "python"
    assert manifest.raw == TORCHSERVE


def test_a_multi_model_server_manifest_is_version_1_unless_it_says_otherwise():
    manifest = parse_manifest(json.dumps(MMS).encode())
    assert (manifest.name, manifest.version, manifest.handler) == ("noop", "1", "noop_service:handle")
    assert (manifest.serialized_file, manifest.config_file) == (None, None)
    versioned = {**MMS, "model": {**MMS["model"], "modelVersion": "3"}}
    assert parse_manifest(json.dumps(versioned)).version == "3"


def test_what_need_not_be_there_is_none():
    manifest = parse_manifest('{"model": {"modelName": "m", "handler": "", "modelFile": null}}')
    assert (manifest.handler, manifest.model_file, manifest.runtime) == (None, None, "python")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON.*char 1"),
        (b"\xff", "not JSON"),
        ("[" * 5000, "not JSON"),
        ("[]", "must be a JSON object, it is a list"),
        ("{}", r"^Missing Model entry in manifest file\.$"),
        ('{"model": null}', r"^Missing Model entry in manifest file\.$"),
        ('{"model": "m"}', "must be an object, it is a str"),
        ('{"model": {}}', r"^Model name is not defined\.$"),
        ('{"model": {"modelName": ""}}', r"^Model name is not defined\.$"),
        ('{"model": {"modelName": 5}}', "'modelName' in MANIFEST.json must be a string, it is a int"),
        ('{"model": {"modelName": "a/b"}}', "cannot be called 'a/b'"),
        ('{"model": {"modelName": ".."}}', "cannot be called"),
        ('{"model": {"modelName": "m\\n"}}', "cannot be called"),
        ('{"model": {"modelName": "m", "modelVersion": true}}', "'modelVersion' in MANIFEST.json must be a string"),
        ('{"model": {"modelName": "m", "modelVersion": "1/2"}}', "cannot be '1/2'"),
        ('{"model": {"modelName": "m", "modelVersion": "1 "}}', "cannot be '1 '"),
        ('{"model": {"modelName": "m", "handler": ["h"]}}', "'handler' in MANIFEST.json must be a string"),
        ('{"runtime": "ruby", "model": {"modelName": "m"}}', r"^Runtime is not defined or invalid\.$"),
        ('{"engine": {}, "model": {"modelName": "m"}}', r"^engineName is required in <engine>\.$"),
        ('{"engine": "MXNet", "model": {"modelName": "m"}}', r"^engineName is required in <engine>\.$"),
        ('{"runtime": 3, "model": {"modelName": "m"}}', "'runtime' in MANIFEST.json must be a string"),
    ],
)
def test_a_manifest_that_is_none_is_refused(text, said):
    with pytest.raises(InvalidArchive, match=said):
        parse_manifest(text)


@pytest.mark.parametrize("key", ["serializedFile", "modelFile", "requirementsFile", "configFile"])
@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/../../x", "a/..", "..", ".", "./x", "a//b", "a/", "x\0.onnx", "..\\x", "a\\b"],
)
def test_no_file_leads_out_of_the_archive(key, name):
    with pytest.raises(InvalidArchive, match=f"{key!r} in MANIFEST.json names .* plain relative name"):
        parse_manifest(json.dumps({"model": {"modelName": "m", key: name}}))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("service", "service"),
        ("src/service.py:handle", "src/service.py:handle"),
        ("./service:handle", "service:handle"),
        ("/home/me/service.py:handle", "service.py:handle"),
        ("../model/service.py", "service.py"),
        ("a/./service", "service"),
    ],
)
def test_of_a_handler_that_lies_elsewhere_the_last_part_counts(said, meant):
    assert parse_manifest(json.dumps({"model": {"modelName": "m", "handler": said}})).handler == meant
    assert EMPTY.registered("m", said).handler == meant


@pytest.mark.parametrize("name", ["..", ".", "a/", "a/..:f", "x\0.py", "..\\x", "a\\b"])
def test_a_handler_is_a_file(name):
    with pytest.raises(InvalidArchive, match=r"'handler' in MANIFEST\.json names .* plain relative name"):
        parse_manifest(json.dumps({"model": {"modelName": "m", "handler": name}}))


@pytest.mark.parametrize(
    ("number", "version"), [("1", "1"), ("1.0", "1.0"), ("1.10", "1.10"), ("2e3", "2e3"), ('"1 beta 2"', "1 beta 2")]
)
def test_a_version_may_be_a_number_and_have_blanks(number, version):
    assert parse_manifest(f'{{"model": {{"modelName": "m", "modelVersion": {number}}}}}').version == version


@pytest.mark.parametrize("name", ["C:x", "C:/x"])
def test_no_file_leads_to_another_drive(name):
    with pytest.raises(InvalidArchive, match="plain relative name"):
        parse_manifest(json.dumps({"model": {"modelName": "m", "serializedFile": name}}))


@pytest.mark.parametrize("name", ["a.onnx", "a/b.onnx", "..a", "a..b", ".hidden", "ü b.onnx"])
def test_plain_names_are_taken(name):
    assert parse_manifest(json.dumps({"model": {"modelName": "m", "serializedFile": name}})).serialized_file == name


OLD = {
    "Engine": {"MXNet": 0.12},
    "Model-Archive-Description": "does nothing",
    "License": "Apache 2.0",
    "Model-Archive-Version": 0.1,
    "Model-Server": 0.4,
    "Created-By": {"Author": "A", "Author-Email": "a@b"},
    "Model": {
        "Description": "of the model",
        "Service": "noop_service.py",
        "Symbol": "noop-symbol.json",
        "Parameters": "noop-0000.params",
        "Signature": "signature.json",
        "Model-Name": "noop_v0.1",
        "Model-Format": "MXNet-Symbolic",
    },
}


def test_a_manifest_of_04_becomes_one_of_10():
    manifest = parse_manifest(json.dumps(OLD), legacy=True)
    assert (manifest.name, manifest.version, manifest.handler) == ("noop_v0.1", "snapshot", "noop_service.py")
    assert manifest.raw == {
        "runtime": "python",
        "description": "does nothing",
        "license": "Apache 2.0",
        "publisher": {"author": "A", "email": "a@b"},
        "model": {
            "modelName": "noop_v0.1",
            "description": "of the model",
            "handler": "noop_service.py",
            "modelFormat": "MXNet-Symbolic",
            "parametersFile": "noop-0000.params",
            "symbolFile": "noop-symbol.json",
            "modelVersion": "snapshot",
        },
        "specificationVersion": "1.0",
    }


@pytest.mark.parametrize(
    ("old", "said"),
    [
        ({}, "Missing Model entry"),
        ({"Model": "m"}, "Missing Model entry"),
        ({"Model": {}}, "Model name is not defined"),
        ({"Model": {"Model-Name": "m", "Service": ".."}}, "plain relative name"),
        ({"Model": {"Model-Name": 4}}, "must be a string"),
    ],
)
def test_a_manifest_of_04_that_is_none_is_refused(old, said):
    with pytest.raises(InvalidArchive, match=said):
        parse_manifest(json.dumps(old), legacy=True)


def test_what_is_of_10_may_also_lie_where_04_had_it():
    assert parse_manifest(json.dumps(MMS), legacy=True).name == "noop"


def test_names_of_04_count_only_where_04_had_them():
    with pytest.raises(InvalidArchive, match="Missing Model entry"):
        parse_manifest(json.dumps(OLD))


@pytest.mark.parametrize("runtime", ["python", "python2", "python3", "LSP", "lsp", "PYTHON"])
def test_the_runtimes_of_both_servers_are_known(runtime):
    assert parse_manifest(json.dumps({**MMS, "runtime": runtime})).runtime == runtime


def test_the_registration_fills_in_what_is_not_said():
    manifest = EMPTY.registered("m", "service:handle")
    assert (manifest.name, manifest.handler, manifest.version, manifest.raw) == ("m", "service:handle", "1", None)
    assert EMPTY.registered() == EMPTY
    for name, handler in (("a/b", None), (None, ".."), (None, "/:f")):
        with pytest.raises(InvalidArchive):
            EMPTY.registered(name, handler)
