"""What is told of models, in the old servers' forms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.model.sequences import SequenceOptions
from headrace.serving.describe import Facts, WorkerFacts, index, mms, moment, page, torchserve

WORKER = WorkerFacts("0", 1_700_000_000.25, True, 77, 1024)
FACTS = Facts(
    name="m", version="1", url="m.mar", state="READY", reason=None, runtime="python", min_workers=1, max_workers=2,
    max_batch_size=8, max_batch_delay=0.05, at_startup=False, response_timeout=120.0, startup_timeout=60.0,
    workers=(WORKER,), pending=3, room=97,
)  # fmt: skip
SHARED = {
    "modelName": "m", "modelVersion": "1", "modelUrl": "m.mar", "runtime": "python", "minWorkers": 1, "maxWorkers": 2,
    "batchSize": 8, "maxBatchDelay": 50, "loadedAtStartup": False,
}  # fmt: skip
OF_WORKER = {"id": "0", "startTime": "2023-11-14T22:13:20.250Z", "status": "READY", "memoryUsage": 1024, "gpu": False}


def test_torchserves_fields_are_all_there() -> None:
    told = torchserve(FACTS)
    assert {name: told[name] for name in SHARED} == SHARED
    assert set(told) - set(SHARED) == {
        "responseTimeout", "startupTimeout", "maxRetryTimeoutInSec", "clientTimeoutInMills", "parallelType",
        "parallelLevel", "deviceType", "continuousBatching", "useJobTicket", "useVenv", "stateful",
        "sequenceMaxIdleMSec", "sequenceTimeoutMSec", "maxNumSequence", "maxSequenceJobQueueSize", "workers",
        "jobQueueStatus", "state", "settings",
    }  # fmt: skip
    assert (told["responseTimeout"], told["startupTimeout"]) == (120, 60)
    assert told["workers"] == [{**OF_WORKER, "pid": 77, "gpuUsage": "N/A"}]
    assert told["jobQueueStatus"] == {"remainingCapacity": 97, "pendingRequests": 3}


def test_of_sequences_it_is_said_how_many_and_how_long() -> None:
    told = torchserve(replace(FACTS, sequences=SequenceOptions(1.5, None, 20, 3)))
    assert told["stateful"] is True
    assert [told[key] for key in ("sequenceMaxIdleMSec", "sequenceTimeoutMSec")] == [1500, 0]
    assert [told[key] for key in ("maxNumSequence", "maxSequenceJobQueueSize")] == [20, 3]
    assert torchserve(FACTS)["stateful"] is False


def test_mms_has_fewer() -> None:
    assert mms(FACTS) == {**SHARED, "workers": [OF_WORKER]}


def test_what_is_ours_is_left_out_where_torchserve_is_spoken_to_the_letter() -> None:
    failed = replace(FACTS, state="FAILED", reason="no weights")
    assert (torchserve(failed)["state"], torchserve(failed)["reason"]) == ("FAILED", "no weights")
    assert {"state", "reason"}.isdisjoint(torchserve(failed, ours=False))


def test_a_handler_is_quoted_and_a_worker_that_cannot_take_requests_is_unloading() -> None:
    assert torchserve(FACTS, {"a": 1})["customizedMetadata"] == {"a": 1}
    assert "customizedMetadata" not in torchserve(FACTS)
    going = replace(FACTS, workers=(replace(WORKER, ready=False),))
    assert torchserve(going)["workers"][0]["status"] == "UNLOADING"


def test_a_moment_has_milliseconds_and_a_z() -> None:
    assert moment(0) == "1970-01-01T00:00:00.000Z"


MODELS = [(f"m{i}", f"m{i}.mar") for i in range(250)]


@pytest.mark.parametrize(
    ("limit", "token", "first", "count", "following"),
    [
        (100, 0, 0, 100, "100"), (100, 200, 200, 50, None), (2, 0, 0, 2, "2"), (2, 248, 248, 2, None),
        (101, 0, 0, 100, "100"), (-1, 0, 0, 100, "100"), (2, -5, 0, 2, "2"), (100, 250, None, 0, None),
        (100, 9999, None, 0, None), (0, 0, None, 0, None), (100, 150, 150, 100, None),
    ],
)  # fmt: skip
def test_a_page(limit: int, token: int, first: int | None, count: int, following: str | None) -> None:
    told = page(MODELS, limit, token)
    assert len(told["models"]) == count
    assert told.get("nextPageToken") == following
    if first is not None:
        assert told["models"][0] == {"modelName": f"m{first}", "modelUrl": f"m{first}.mar"}


def test_the_index_says_what_there_is_what_failed_and_what_could_be() -> None:
    known = [
        ("a", "1", "READY", None), ("a", "2", "LOADING", None), ("b", "1", "REGISTERED", None),
        ("c", "1", "FAILED", "no worker starts"), ("d", "1", "DRAINING", None),
    ]  # fmt: skip
    failed = [("e", "1", "no such weights"), ("a", "1", "failed once, is there now"), ("f", "", "no manifest")]
    assert index(known, failed, ["a", "z"]) == [
        {"name": "a", "version": "1", "state": "READY", "reason": ""},
        {"name": "a", "version": "2", "state": "LOADING", "reason": ""},
        {"name": "b", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "c", "version": "1", "state": "UNAVAILABLE", "reason": "no worker starts"},
        {"name": "d", "version": "1", "state": "UNLOADING", "reason": ""},
        {"name": "e", "version": "1", "state": "UNAVAILABLE", "reason": "no such weights"},
        {"name": "f", "state": "UNAVAILABLE", "reason": "no manifest"},
        {"name": "z"},
    ]
    assert index(known, failed, ["z"], only_ready=True) == [
        {"name": "a", "version": "1", "state": "READY", "reason": ""}
    ]
