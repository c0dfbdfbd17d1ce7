"""What a model's YAML says of its queue and of its start, and what goes over it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.errors import InvalidModel, Overloaded
from headrace.server.options import BUNDLED_DIGITS
from headrace.serving.compile_options import CompileOptions
from headrace.serving.keeping import Keeping
from headrace.serving.lifecycle import Lifecycle
from headrace.serving.looking import look
from headrace.serving.service import Service
from headrace.serving.settings import Settings
from headrace.serving.wanted import Wanted


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
    manager.lifecycle.scale("m", min_workers=0)
    (folder / "model-config.yaml").write_text("startupTimeout: 55\n")
    manager.lifecycle.scale("m", min_workers=1)
    assert manager.seen(entry)[::2] == (None, 55), "what it said before is said no more"
