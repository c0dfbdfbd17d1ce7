"""The old servers' words, to the letter."""

from __future__ import annotations

import pytest

from headrace.errors import (
    AlreadyRegistered,
    BackendError,
    CannotLoad,
    DownloadFailed,
    HeadraceError,
    InvalidArchive,
    InvalidInput,
    InvalidOption,
    IsDefaultVersion,
    ModelNotFound,
    ModelNotReady,
    OutOfMemory,
    Overloaded,
    ResponseTimeout,
    SourceNotFound,
    StillBusy,
    UrlNotAllowed,
    WorkerDied,
)
from headrace.server.compat import (
    Compat,
    default_set,
    partly_up,
    refused,
    registered,
    scaled,
    unanswered,
    unregistered,
    without_folders,
)
from headrace.server.health import HEALTHY, PARTIAL, UNHEALTHY, of_all
from headrace.server.status import MethodNotAllowed, NotFound, status_of

ZERO = 'Model "m" Version: 1 registered with 0 initial workers. Use scale workers API to add workers for the model.'
TS, MMS = Compat.torchserve, Compat.mms
BUSY, INTERNAL = "ServiceUnavailableException", "InternalServerException"


@pytest.mark.parametrize(
    ("compat", "none", "two", "to_two"),
    [
        (TS, ZERO, 'Model "m" Version: 1 registered with 2 initial workers', "Workers scaled to 2 for model: m"),
        (MMS, 'Model "m" registered', "Workers scaled", "Workers scaled"),
    ],
)
def test_what_became_so_is_said_as_they_said_it(compat: Compat, none: str, two: str, to_two: str) -> None:
    assert registered(compat, "m", "1", 0) == none
    assert registered(compat, "m", "1", 2) == two
    assert scaled(compat, "m", None, 2) == to_two


def test_the_version_is_said_where_it_was_asked_for() -> None:
    assert scaled(TS, "m", "3", 2) == "Workers scaled to 2 for model: m, version: 3"
    assert unregistered("m") == 'Model "m" unregistered'
    assert default_set("m", "3") == 'Default version successfully updated for model "m" to "3"'


@pytest.mark.parametrize(
    ("compat", "error", "code", "kind", "message"),
    [
        (TS, ModelNotFound("m"), 404, "ModelNotFoundException", "Model not found: m"),
        (MMS, ModelNotFound("m"), 404, "ModelNotFoundException", "Model not found: m"),
        (TS, ModelNotFound("m", "2"), 404, "ModelVersionNotFoundException",
         "Model version: 2 does not exist for model: m"),
        (TS, AlreadyRegistered("m", "1"), 409, "ConflictStatusException",
         "Model version 1 is already registered for model m"),
        (MMS, AlreadyRegistered("m", "1"), 409, "ConflictStatusException", "Model m is already registered."),
        (TS, SourceNotFound("Model not found at: x.mar (looked in store)", "x.mar"), 404, "ModelNotFoundException",
         "Model not found at: x.mar"),
        (MMS, SourceNotFound("Model not found at: x.mar (looked in store)", "x.mar"), 404, "ModelNotFoundException",
         "Model not found in model store: x.mar"),
        (TS, SourceNotFound("empty url", ""), 404, "ModelNotFoundException", "empty url"),
        (TS, DownloadFailed("http://a/b", "404"), 400, "DownloadArchiveException",
         "Failed to download archive from: http://a/b"),
        (MMS, DownloadFailed("http://a/b", "it was cut short"), 400, "DownloadModelException",
         "Failed to download model from: http://a/b"),
        (TS, DownloadFailed("http://a/b", "code: 404"), 400, "DownloadArchiveException",
         "Failed to download archive from: http://a/b"),
        (MMS, DownloadFailed("http://a/b", "code: 404"), 400, "DownloadModelException",
         "Failed to download model from: http://a/b, code: 404"),
        (TS, UrlNotAllowed("http://a/b"), 404, "ModelNotFoundException",
         "Given URL http://a/b does not match any allowed URL(s)"),
        (TS, CannotLoad("m", "1", "why"), 500, "InternalServerException",
         "Failed to start workers for model m version: 1"),
        (MMS, CannotLoad("m", "1", "why"), 500, "InternalServerException", "Failed to start workers"),
        (TS, CannotLoad("m", "1", "why", out_of_memory=True), 507, "InternalServerException", "System out of memory"),
        (Compat.triton, CannotLoad("m", "1", "why"), 400, "InternalServerException", "failed to load 'm': why"),
        (TS, IsDefaultVersion("m", "1"), 403, "InvalidModelVersionException",
         "Cannot remove default version for model m"),
        (TS, StillBusy("m", "1", 5.0), 408, "RequestTimeoutException", "Timed out while cleaning resources: m"),
        (TS, NotFound("x"), 404, "ResourceNotFoundException",
         "Requested resource is not found, please refer to API document."),
        (TS, MethodNotAllowed("GET", "/", "OPTIONS"), 405, "MethodNotAllowedException",
         "Requested method is not allowed, please refer to API document."),
        (TS, InvalidOption("max_worker cannot be less than min_worker."), 400, "BadRequestException",
         "max_worker cannot be less than min_worker."),
    ],
)  # fmt: skip
def test_refusals_are_theirs(compat: Compat, error: HeadraceError, code: int, kind: str, message: str) -> None:
    status, said = refused(compat, error)
    assert (status.code, status.type, said) == (code, kind, message)


def test_setting_a_default_that_does_not_exist_has_other_words() -> None:
    status, said = refused(TS, ModelNotFound("m", "2"), setting_default=True)
    assert (status.code, status.type) == (404, "ModelVersionNotFoundException")
    assert said == "Model version 2 does not exist for model m"


def test_the_url_is_said_as_it_was_asked_for() -> None:
    assert (
        refused(TS, SourceNotFound("Model not found in model store: x", "x"), url="x.mar")[1]
        == "Model not found at: x.mar"
    )


@pytest.mark.parametrize(
    ("said", "url", "told"),
    [
        ("/a/b c.json is not JSON", "", "b c.json is not JSON"),
        ("no such file in /a/b.d/c: x", "", "no such file in c: x"),
        ("'/a/b' and (/c/d), \"/e/f/\"", "", "'b' and (d), \"f/\""),
        ("/a/m.mar is no archive, /b/c is", "/a/m.mar", "/a/m.mar is no archive, c is"),
        ("from http://h/a/b or s3://h/a, 3/4/5, a/b.py:3", "", "from http://h/a/b or s3://h/a, 3/4/5, a/b.py:3"),
        ("/top", "", "top"),
    ],
)
def test_where_things_lie_is_not_told_but_of_what_was_asked_for(said: str, url: str, told: str) -> None:
    assert without_folders(said, url) == told
    error = InvalidArchive(said)
    assert refused(TS, error, url=url)[1] == told
    assert refused(Compat.headrace, error, url=url)[1] == said


@pytest.mark.parametrize(("compat", "busy", "negative"), [(Compat.headrace, 429, 400), (Compat.triton, 429, 400),
                                                          (TS, 503, 500), (MMS, 503, 500)])  # fmt: skip
def test_headrace_says_whose_fault_it_is_and_the_old_servers_what_they_said(
    compat: Compat, busy: int, negative: int
) -> None:
    assert refused(compat, Overloaded(1, 1))[0].code == busy
    assert refused(compat, InvalidOption("min_worker is counted from 0 up, not -1"))[0].code == negative


def test_headrace_adds_why() -> None:
    said = refused(Compat.headrace, CannotLoad("m", "1", "no such weights"))[1]
    assert said == "Failed to start workers for model m version: 1: no such weights"
    assert (
        "looked in store"
        in refused(Compat.headrace, SourceNotFound("Model not found at: x.mar (looked in store)", "x.mar"))[1]
    )


# ---- the inference API

NO_WORKER = "has no worker to serve inference request. Please use scale workers API to add workers. If this is a"
ANSWERS: list[tuple[BaseException, tuple[int, str, str], tuple[int, str, str]]] = [
    (Overloaded(1, 1), (503, BUSY, f'Model "m" {NO_WORKER}'), (503, BUSY, "No worker is available to serve request")),
    (ModelNotReady("m", "1", "REGISTERED"), (503, BUSY, f'Model "m" {NO_WORKER}'), (503, BUSY, "No worker is avail")),
    (BackendError("x"), (503, INTERNAL, "Prediction failed"), (503, INTERNAL, "Prediction failed")),
    (OutOfMemory("x", 1), (507, INTERNAL, "Out of resources"), (507, INTERNAL, "Out of resources")),
    (WorkerDied("m", "ended by SIGSEGV"), (500, INTERNAL, "Worker died."), (500, INTERNAL, "Worker died.")),
    (WorkerDied("m", "ended by SIGKILL"), (507, INTERNAL, "Worker died."), (507, INTERNAL, "Worker died.")),
    (ResponseTimeout("m", 1.0), (500, INTERNAL, "Worker died."), (500, INTERNAL, "Worker died.")),
    (ModelNotFound("m"), (404, "ModelNotFoundException", "Model not found: m"), (404, "ModelNotFoundException", "Mod")),
    (InvalidInput("a list was expected"), (400, "BadRequestException", "a list"), (400, "BadRequestException", "a")),
]  # fmt: skip


@pytest.mark.parametrize(("error", "torchserve", "mms"), ANSWERS, ids=lambda each: type(each).__name__)
def test_what_models_are_asked_is_refused_as_they_refused_it(
    error: BaseException, torchserve: tuple[int, str, str], mms: tuple[int, str, str]
) -> None:
    for compat, (code, kind, begins) in ((TS, torchserve), (MMS, mms)):
        status, message = unanswered(compat, error, status_of(error), str(error), "m", None)
        assert (status.code, status.type) == (code, kind)
        assert message.startswith(begins)
    ours = status_of(error), str(error)
    assert unanswered(Compat.headrace, error, *ours, "m", None) == ours


def test_triton_is_unavailable_where_it_is_too_busy() -> None:
    error = Overloaded(1, 1)
    status, message = unanswered(Compat.triton, error, status_of(error), str(error), "m", None)
    assert (status.code, message) == (503, "Exceeds maximum queue size")


def test_partly_up_has_a_status_of_its_own() -> None:
    assert [partly_up(each)[0] for each in (Compat.headrace, TS, MMS)] == [206, 206, 210]


@pytest.mark.parametrize(
    ("working", "wanted", "said"),
    [(0, 0, HEALTHY), (2, 2, HEALTHY), (3, 2, HEALTHY), (1, 2, PARTIAL), (0, 2, UNHEALTHY)],
)
def test_the_health_of_all_models_together(working: int, wanted: int, said: bytes) -> None:
    assert of_all(working, wanted) == said
