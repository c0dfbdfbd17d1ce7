"""Archives through the lifecycle: where they run, in what environment, and what their YAML says of it."""

import json
import logging
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrace.archives.environments import EnvironmentOptions
from headrace.errors import InvalidArchive, InvalidEnvironment, InvalidModel, Overloaded
from headrace.model.sequences import SequenceOptions
from headrace.serving.compile_options import CompileOptions
from headrace.serving.interpreters import Interpreters
from headrace.serving.keeping import Keeping
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.looking import look
from headrace.serving.service import Service
from headrace.serving.settings import Settings
from headrace.serving.wanted import Wanted

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "test-environments"
"""Environments that tests have built of requirements; they are built once."""
TELLS = """
import json, sys
import numpy
def handle(data, context):
    if data is None:
        return
    try:
        import six
    except ImportError:
        six = None
    about = {"prefix": sys.prefix, "numpy": numpy.__version__, "six": six and six.__version__,
             "batch_size": context.system_properties["batch_size"]}
    return [json.dumps(about)] * len(data)
"""


@pytest.fixture
def archive(tmp_path):
    def make(source=TELLS, requirements=None, yaml=None, **model):
        folder = tmp_path / "m"
        (folder / "MAR-INF").mkdir(parents=True)
        model = {"modelName": "m", "modelVersion": "1.0", "handler": "service.py", **model}
        (folder / "service.py").write_text(source)
        for key, name, text in (
            ("requirementsFile", "requirements.txt", requirements),
            ("configFile", "model-config.yaml", yaml),
        ):
            if text is not None:
                (folder / name).write_text(text)
                model[key] = name
        (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": model}))
        return folder

    return make


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


# What its YAML says of the queue and of the start


class Managed:
    """A lifecycle with what the manager's doors do."""

    def __init__(self, **options):
        self.service = Service(100, 1 << 30)
        self.options = CompileOptions(isolation="process", **options)
        self.lifecycle = Lifecycle(self.service, self.options)

    def registered(self, folder, **options):
        made = replace(self.options, **options)
        return self.lifecycle.register(Wanted.parse(str(folder)), options=made, min_workers=1)

    def seen(self, entry):
        facts = look(entry, self.service)
        return facts.queue, facts.room, facts.startup_timeout


@pytest.fixture
def managed():
    made = []

    def make(**options):
        made.append(Managed(**options))
        return made[-1]

    yield make
    for each in made:
        each.service.stop(timeout=10)


def test_the_yaml_says_how_many_requests_there_is_room_for_unless_a_manager_does(archive, managed):
    manager = managed()
    entry = manager.registered(archive(yaml="jobQueueSize: 2\n"))
    served = entry.served
    assert manager.seen(entry)[:2] == (2, 2)
    inside = [manager.service.budget.admit_to(served.group, 1) for _ in range(2)]
    with pytest.raises(Overloaded):
        manager.service.budget.admit_to(served.group, 1)
    for permit in inside:
        permit.release()
    changed = manager.lifecycle.change("m", settings=Settings(queue=5)).settings
    assert (changed["queue"], served.group.limit, manager.seen(entry)[0]) == ((2, 5), 5, 5)
    manager.lifecycle.scale("m", min_workers=0)
    manager.lifecycle.scale("m", min_workers=1)
    assert entry.served.group.limit == 5, "also when it comes back"
    changed = manager.lifecycle.change("m", settings=Settings(reset=frozenset({"queue"}))).settings
    assert (changed["queue"], entry.served.group.limit) == ((5, 2), 2), "as if it had never been set"


def test_an_archive_in_the_servers_process_has_its_queue_and_its_time_too(archive, managed):
    folder = archive(
        yaml="jobQueueSize: 3\nstartupTimeout: 44\n", handler="image_classifier", serializedFile="digits.onnx"
    )
    shutil.copy(Path(BUNDLED_DIGITS) / "digits.onnx", folder)
    manager = managed()
    entry = manager.registered(folder, isolation="thread")
    assert entry.served.model.crew is None
    assert manager.seen(entry) == (3, 3, 44)


SLOW = """
import os, time
while not os.path.exists({gate!r}):
    time.sleep(0.005)
def handle(data, context):
    return data and ["loaded"] * len(data)
"""


def test_the_yaml_says_how_long_a_load_may_take(archive, managed, tmp_path):
    folder = archive(SLOW.format(gate=str(tmp_path / "gate")), yaml="startupTimeout: 0.5\n")
    manager = managed(start_timeout=30.0)
    with pytest.raises(InvalidModel, match=r"within 0\.5 s"):
        manager.registered(folder, startup_timeout=30.0)


def test_what_a_manager_asks_for_goes_over_the_yamls_time_and_that_over_the_servers(archive, managed, tmp_path):
    folder = archive(SLOW.format(gate=str(tmp_path / "gate")), yaml="startupTimeout: 30\n")
    manager = managed(start_timeout=0.5)
    with pytest.raises(InvalidModel, match=r"within 0\.5 s"):
        manager.registered(folder, startup_timeout=0.5, asked=("startup_timeout",))
    (tmp_path / "gate").touch()
    entry = manager.registered(folder, startup_timeout=0.001)
    assert manager.seen(entry)[2] == 30
    assert entry.served.model.crew.options.start_timeout == 30


def test_a_queue_and_a_time_that_cannot_be_are_ignored_and_logged(archive, managed, caplog):
    manager = managed()
    entry = manager.registered(archive(yaml="jobQueueSize: 0\nstartupTimeout: soon\n"))
    assert manager.seen(entry)[::2] == (None, 120.0)
    assert "model m: jobQueueSize: 0 in its YAML is ignored: a whole number from 1" in caplog.text
    assert "model m: startupTimeout: 'soon' in its YAML is ignored" in caplog.text


def test_a_snapshot_keeps_what_a_manager_asked_for_and_leaves_the_yaml_the_rest(archive, managed, tmp_path):
    folder = archive(yaml="jobQueueSize: 2\nstartupTimeout: 77\n")

    def again():
        manager = managed()
        keeping = Keeping(manager.lifecycle, tmp_path / "state.json")
        keeping.restore()
        keeping.begin()
        return manager

    manager = again()
    manager.registered(folder, startup_timeout=120.0)  # what the door says where nobody asked
    manager = again()
    entry = manager.service.registry.find("m", None)
    assert manager.seen(entry)[::2] == (2, 77)
    manager.lifecycle.change("m", settings=Settings(queue=9))
    manager.lifecycle.unload("m")
    manager.registered(folder, startup_timeout=50.0, asked=("startup_timeout",), queue=9)
    manager = again()
    assert manager.seen(manager.service.registry.find("m", None))[::2] == (9, 50)


def test_a_model_that_is_looked_for_again_has_what_its_yaml_says(archive, managed):
    folder = archive(yaml="jobQueueSize: 2\nstartupTimeout: 77\n")
    manager = managed()
    manager.lifecycle.remember(Wanted("m", str(folder), "1.0"), manager.options, 1, 1, None, "gone")
    entry = manager.lifecycle.scale("m", min_workers=1)
    assert manager.seen(entry)[::2] == (2, 77)
    assert entry.served.model.crew.options.start_timeout == 77
