"""Archives through the lifecycle: where they run, in what environment, and what their YAML says of it."""

import json
import logging
import shutil
import sys
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from yaml import safe_load

from headrace.archives.environments import EnvironmentOptions
from headrace.errors import InvalidArchive, InvalidEnvironment, InvalidModel
from headrace.model.sequences import SequenceOptions
from headrace.server.options import BUNDLED_DIGITS
from headrace.serving.compile_options import CompileOptions
from headrace.serving.interpreters import Interpreters
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.sequencing import sequencing_of
from headrace.serving.service import Service
from headrace.serving.wanted import Wanted
from headrace.workers.sequenced import SequenceHeaders

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "test-environments"
"""Environments that tests have built of requirements; they are built once."""


@pytest.fixture
def load():
    made = []

    def load(folder, *pythons, **options):
        interpreters = Interpreters.parse(pythons)
        made.append(Service(100, 1 << 30))
        more = {"isolation": "process", "interpreters": interpreters, **options}
        return Lifecycle(made[-1], CompileOptions(**more)).load(Wanted.parse(str(folder))).served

    yield load
    for service in made:
        service.stop(timeout=10)


def told(served):
    return json.loads(served.model(("id", (), b"")))


def ours(folder):
    """An environment that has what this one has, at a path of its own."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return folder


def test_an_archive_with_code_runs_in_a_worker_of_the_servers_environment(archive, load):
    about = told(load(archive()))
    assert about["prefix"] == sys.prefix
    assert about["batch_size"] == 1


def test_requirements_are_an_environment_of_its_own(archive, load, caplog):
    """The real six and another NumPy, from wherever pip gets them."""
    caplog.set_level(logging.INFO, "headrace")
    folder = archive(requirements="six==1.16.0\nnumpy==1.26.4\n")
    options = EnvironmentOptions(install_requirements=True, built=CACHE)
    try:
        about = told(load(folder, environments=options))
    except InvalidEnvironment as error:
        if "numpy" in str(error) and "No matching distribution" in str(error):
            pytest.skip(f"pip reaches no index here, or none that has NumPy 1.26.4 for this Python: {error}")
        raise
    assert about["six"] == "1.16.0"
    assert about["numpy"] == "1.26.4" != np.__version__
    assert Path(about["prefix"]).parent == CACHE


def test_what_an_archive_names_and_what_the_operator_names(archive, load, tmp_path):
    allowed, other = ours(tmp_path / "allowed" / "one"), ours(tmp_path / "other")
    folder = archive(yaml="headrace: {python: one}\nbatchSize: 3\nmaxBatchDelay: 20\n")
    environments = EnvironmentOptions(allowed=tmp_path / "allowed")
    about = told(load(folder, environments=environments))
    assert about == {**about, "prefix": str(allowed), "batch_size": 3}
    assert told(load(folder, f"m={other}", environments=environments))["prefix"] == str(other)
    assert told(load(folder, f"m={other}", max_batch_size=2))["batch_size"] == 2
    with pytest.raises(InvalidEnvironment, match="--allowed-environments"):
        load(folder)


def test_numbers_of_the_yaml_that_cannot_be_are_ignored_and_logged(archive, load, caplog):
    about = told(load(archive(yaml="batchSize: many\nmaxBatchDelay: -1\nresponseTimeout: 0\n")))
    assert about["batch_size"] == 1
    assert caplog.text.count("is ignored") == 3


def test_each_number_that_cannot_be_is_named_also_where_the_server_was_told(archive, load, caplog):
    yaml = "minWorkers: -5\nmaxWorkers: abc\nbatchSize: .inf\nresponseTimeout: -1\nmaxBatchDelay: true\n"
    asked = frozenset(("response_timeout", "max_batch_delay"))
    about = told(load(archive(yaml=yaml), max_batch_size=2, asked=asked))
    assert about["batch_size"] == 2
    for said in ("minWorkers: -5", "maxWorkers: 'abc'", "batchSize: inf", "responseTimeout: -1", "maxBatchDelay: True"):
        assert f"{said} in its YAML is ignored" in caplog.text
    assert caplog.text.count("is ignored") == 5


def test_numbers_larger_than_anything_are_ignored_and_the_model_can_be_looked_at(archive, load, caplog):
    large = ("maxBatchDelay: 1.0e+300", "responseTimeout: 1.0e+300", "sequenceMaxIdleMSec: 1.0e+300")
    counts = (f"batchSize: {10**20}", f"maxNumSequence: {10**20}", f"minWorkers: 0x{'f' * 1500}")
    served = load(archive(yaml="\n".join((*large, *counts, "sequenceBatching: true", ""))))
    assert caplog.text.count("is ignored") == 6
    assert (
        "minWorkers: a number of 6,000 bits in its YAML is ignored: a whole number from 0 to 2147483647" in caplog.text
    )
    assert served.model.max_batch_size == 1
    assert (served.model.crew.options.response_timeout, served.model.batcher.sequences.options) == (
        120.0,
        SequenceOptions(),
    )


@pytest.mark.parametrize("said", ["asyncCommunication: true", "continuousBatching: true", "parallelType: tp"])
def test_kinds_of_handlers_that_are_not_served_are_refused_by_name(archive, load, said):
    with pytest.raises(InvalidArchive, match=f"model m: {said} in its YAML is not served yet"):
        load(archive(yaml=said))


def test_a_handler_in_another_language_is_refused_by_name(archive, load):
    folder = archive()
    manifest = folder / "MAR-INF" / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace('"python"', '"LSP"'))
    with pytest.raises(InvalidArchive, match=r"model m: its runtime is LSP: handlers written in C\+\+ are not served"):
        load(folder)


def test_what_the_yaml_says_in_vain_is_named(archive, load, caplog):
    load(archive(yaml="jobTTL: 10\nclientTimeoutInMills: 5\nmine: 1\n"))
    assert "model m: what its YAML says of jobTTL, clientTimeoutInMills is not listened to" in caplog.text


def test_the_yaml_says_how_requests_come_in_sequences(archive, load, caplog):
    yaml = "sequenceBatching: true\nsequenceMaxIdleMSec: 1500\nsequenceTimeoutMSec: 250\nmaxNumSequence: 7\n"
    served = load(archive(yaml=yaml + "maxSequenceJobQueueSize: many\nresponseTimeout: 33\n"))
    options = served.model.batcher.sequences.options
    assert options == SequenceOptions(max_idle=1.5, timeout=0.25, max_sequences=7, max_queue=1)
    assert served.sequence_headers == SequenceHeaders()
    workers = served.model.crew.options  # nothing is done twice, nor cut off for a client that has left
    assert (workers.idempotent, workers.cancel_grace) == (False, 33)
    assert "maxSequenceJobQueueSize: 'many' in its YAML is ignored" in caplog.text


@pytest.mark.parametrize(
    ("yaml", "has"),
    [
        ("sequenceMaxIdleMSec: 10\n", True),
        ("sequenceBatching: false\nsequenceMaxIdleMSec: 10\n", False),
        ("sequenceBatching: maybe\n", False),
        ("maxNumSequence: 10\n", False),
    ],
)
def test_sequences_are_asked_for(yaml, has):
    found = sequencing_of(safe_load(yaml), "m", SequenceHeaders(), lambda key, usual: safe_load(yaml).get(key, usual))
    assert (found is not None) == has


def test_pictures_for_an_onnx_model_stay_in_the_servers_process_unless_it_is_told_otherwise(load):
    served = load(BUNDLED_DIGITS, isolation="auto")
    assert served.handler is not None
    assert served.model.crew is None
    (picture,) = (Path(__file__).parents[2] / "examples" / "digits" / "held_out").glob("0034-*.png")
    inside = served.handler.postprocess(served.model(*served.handler.preprocess(picture.read_bytes()).values()))
    served = load(BUNDLED_DIGITS, f"digits={sys.executable}", isolation="auto")
    assert served.handler is None
    assert served.model.crew is not None
    answer = json.loads(served.model(("id", (), picture.read_bytes())))
    assert list(answer) == list(inside)
    assert answer["six"] == pytest.approx(inside["six"], rel=1e-5)


@pytest.mark.parametrize("yaml", ["handler:\n", "handler: {profile: true}\n", "minWorkers: 1\n", ""])
def test_what_torchserve_says_to_its_classifier_is_no_mistake(archive, load, yaml):
    folder = archive(yaml=yaml, handler="image_classifier", serializedFile="digits.onnx")
    shutil.copy(Path(BUNDLED_DIGITS, "digits.onnx"), folder)
    assert load(folder, isolation="auto").handler is not None


def test_tensors_need_no_code(archive, load):
    folder = archive(handler="tensor", serializedFile="plus.onnx")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "xy")
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "g", [x], [y], [one])
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), folder / "plus.onnx")
    model = load(folder).model
    as_json = (("content-type", "application/json"),)
    assert json.loads(model(("id", as_json, b"[[1, 2], [3, 4]]"))) == [[2, 3], [4, 5]]
    assert json.loads(model(("id", (), np.array([[5, 6]], np.float32).tobytes()))) == [[6, 7]]
    body, content_type, status, *_ = model(("id", as_json, b"[[1, 2, 3]]"))
    assert (status, content_type) == (400, "application/json")
    assert "float32 [-1, 2]: the shape [1, 3] came" in json.loads(body)["message"]


def test_a_runtime_that_is_missing_is_said_at_load(archive, load):
    folder = archive(handler="tensor", serializedFile="net-symbol.json")
    (folder / "net-symbol.json").write_text("{}")
    with pytest.raises(InvalidModel, match="needs mxnet, which is not in the environment of"):
        load(folder)
