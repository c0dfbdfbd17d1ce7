"""From our errors to what a client is told: the one table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace import errors
from headrace.errors import (
    AccessDenied,
    AlreadyRegistered,
    ArchiveTooLarge,
    BackendError,
    BackendNotInstalled,
    Cancelled,
    CannotLoad,
    Closed,
    DeadlineExceeded,
    DeviceNotFound,
    DownloadFailed,
    HeadraceError,
    InvalidArchive,
    InvalidEnvironment,
    InvalidInput,
    InvalidModel,
    InvalidOption,
    IsDefaultVersion,
    ModelNotFound,
    ModelNotReady,
    NoAnswer,
    NotEnoughCores,
    OutOfMemory,
    Overloaded,
    PoisonedVar,
    RequestError,
    ResponseTimeout,
    SequenceLost,
    SequenceRefused,
    SetupError,
    SourceNotFound,
    StillBusy,
    TooLarge,
    TooSlow,
    Unavailable,
    Unreachable,
    UnsafeArchive,
    UrlNotAllowed,
    WorkerDied,
    WouldDeadlock,
)
from headrace.server.status import (
    TABLE,
    InvalidToken,
    MethodNotAllowed,
    NotFound,
    Status,
    codes_of_managing,
    message_of,
    status_of,
    status_of_managing,
)

EXAMPLES: dict[BaseException, tuple[int, str]] = {
    RequestError("x"): (400, "BadRequestException"),
    InvalidInput("x"): (400, "BadRequestException"),
    TooSlow(60): (408, "RequestTimeoutException"),
    TooLarge("a body", limit=5): (413, "RequestEntityTooLargeException"),
    ModelNotFound("cat"): (404, "ModelNotFoundException"),
    Unavailable("x"): (503, "ServiceUnavailableException"),
    Overloaded(5, 5): (429, "ServiceUnavailableException"),
    ModelNotReady("cat", "1", "LOADING"): (503, "ServiceUnavailableException"),
    DeadlineExceeded("x"): (504, "RequestTimeoutException"),
    ResponseTimeout("cat", 1.0): (504, "RequestTimeoutException"),
    WorkerDied("cat", "was killed"): (503, "ServiceUnavailableException"),
    SequenceRefused("cat", "s", "it was ended"): (503, "ServiceUnavailableException"),
    SequenceLost("cat", "s"): (503, "ServiceUnavailableException"),
    Closed("x"): (503, "ServiceUnavailableException"),
    StillBusy("cat", "1", 5.0): (503, "ServiceUnavailableException"),
    AlreadyRegistered("cat", "1"): (500, "InternalServerException"),
    IsDefaultVersion("cat", "1"): (500, "InternalServerException"),
    InvalidToken(): (400, "InvalidKeyException"),
    AccessDenied("x"): (400, "BadRequestException"),
    Unreachable("http://x", "y"): (503, "ServiceUnavailableException"),
    NoAnswer("x", 5.0): (503, "ServiceUnavailableException"),
    BackendError("x"): (500, "InternalServerException"),
    PoisonedVar("x", ValueError()): (500, "InternalServerException"),
    WouldDeadlock("x"): (500, "InternalServerException"),
    Cancelled("x"): (500, "InternalServerException"),
    SetupError("x"): (500, "InternalServerException"),
    InvalidOption("x"): (500, "InternalServerException"),
    InvalidModel("x"): (500, "InternalServerException"),
    InvalidArchive("x"): (500, "InternalServerException"),
    InvalidEnvironment("x", "y"): (500, "InternalServerException"),
    BackendNotInstalled("x", "y"): (500, "InternalServerException"),
    DeviceNotFound("x", ["cpu"], "cpu"): (500, "InternalServerException"),
    NotEnoughCores(2, 1, "x"): (500, "InternalServerException"),
    SourceNotFound("x", "y"): (500, "InternalServerException"),
    CannotLoad("x", "1", "y"): (500, "InternalServerException"),
    OutOfMemory("x", 5): (507, "InternalServerException"),
    UrlNotAllowed("x"): (500, "InternalServerException"),
    DownloadFailed("x", "y"): (500, "InternalServerException"),
    UnsafeArchive("x"): (500, "InternalServerException"),
    ArchiveTooLarge("x", limit=1, unit="files", mend="y"): (500, "InternalServerException"),
    HeadraceError("x"): (500, "InternalServerException"),
    NotFound("x"): (404, "ResourceNotFoundException"),
    MethodNotAllowed("PUT", "/ping", "GET"): (405, "MethodNotAllowedException"),
    ValueError("x"): (500, "InternalServerException"),
    MemoryError(): (500, "InternalServerException"),
}


MANAGERS: dict[BaseException, tuple[int, str]] = {
    StillBusy("cat", "1", 5.0): (408, "RequestTimeoutException"),
    AlreadyRegistered("cat", "1"): (409, "ConflictStatusException"),
    IsDefaultVersion("cat", "1"): (403, "InvalidModelVersionException"),
    InvalidOption("x"): (400, "BadRequestException"),
    NotEnoughCores(2, 1, "x"): (400, "BadRequestException"),
    BackendNotInstalled("x", "y"): (400, "InvalidModelException"),
    InvalidModel("x"): (400, "InvalidModelException"),
    InvalidEnvironment("x", "y"): (400, "InvalidModelException"),
    InvalidArchive("x"): (400, "InvalidModelException"),
    UnsafeArchive("x"): (400, "InvalidModelException"),
    ArchiveTooLarge("x", limit=1, unit="files", mend="y"): (400, "InvalidModelException"),
    OutOfMemory("x", 5): (507, "InternalServerException"),
    SourceNotFound("x", "y"): (404, "ModelNotFoundException"),
    UrlNotAllowed("x"): (404, "ModelNotFoundException"),
    DownloadFailed("x", "y"): (400, "DownloadArchiveException"),
    CannotLoad("x", "1", "y"): (500, "InternalServerException"),
    InvalidToken(): (400, "InvalidKeyException"),
    ModelNotFound("cat"): (404, "ModelNotFoundException"),
    Overloaded(5, 5): (429, "ServiceUnavailableException"),
    ValueError("x"): (500, "InternalServerException"),
}
"""Where they differ for managers, and some where they do not."""


def ours() -> Iterator[type[BaseException]]:
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, HeadraceError):
            yield value


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_each_error_has_its_status_and_its_old_name(error: BaseException) -> None:
    status = status_of(error)
    assert (status.code, status.type) == EXAMPLES[error]


@pytest.mark.parametrize("error", MANAGERS, ids=lambda error: type(error).__name__)
def test_managers_are_told_what_they_can_mend(error: BaseException) -> None:
    status = status_of_managing(error)
    assert (status.code, status.type) == MANAGERS[error]
    assert status.code in codes_of_managing(change=True)


def test_no_error_of_ours_is_left_out_here() -> None:
    assert {type(error) for error in EXAMPLES} >= set(ours())


def test_what_may_pass_says_when_to_come_again_and_nothing_else_does() -> None:
    for error in EXAMPLES:
        status = status_of(error)
        assert (status.retry_after is not None) == (status.code in (429, 503)), error
        assert status.retry_after is None or status.retry_after >= 1


def test_too_busy_absent_and_not_ready_are_three_answers() -> None:
    codes = {status_of(error).code for error in (Overloaded(1, 1), ModelNotFound("a"), ModelNotReady("a", "1", "x"))}
    assert len(codes) == 3


def test_an_error_made_later_is_told_as_what_it_is_a_kind_of() -> None:
    class TooManyPixels(InvalidInput):
        pass

    class Odd(ModelNotFound, Overloaded):
        def __init__(self) -> None:
            Exception.__init__(self)

    assert status_of(TooManyPixels("x")).code == 400
    assert status_of(Odd()).code == 404


@pytest.mark.parametrize("status", [*TABLE.values()], ids=lambda status: str(status.code))
def test_types_are_simple_names_as_the_old_servers_wrote_them(status: Status) -> None:
    assert status.type.endswith("Exception")
    assert status.type.isidentifier()


def failed(cause: BaseException) -> BackendError:
    error = BackendError(f"the model raised {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        failed(ValueError("/secret/place")),
        ValueError("/secret/place"),
        InvalidModel("/secret/place does not exist"),
        PoisonedVar("x", ValueError("/secret/place")),
        ModelNotReady("cat", "1", "FAILED", "/secret/place does not exist"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_for_the_operator_is_not_told_to_the_client(error: BaseException) -> None:
    message = message_of(error, "id-7")
    assert "secret" not in message
    assert "id-7" in message or "not READY" in message


def test_a_failure_of_the_model_names_its_kind() -> None:
    assert "KeyError" in message_of(failed(KeyError("x")), "id-7")


@pytest.mark.parametrize("error", [InvalidInput("3 rows came"), BackendError("2 answers came"), Overloaded(7, 7)])
def test_what_we_say_ourselves_is_told(error: HeadraceError) -> None:
    assert message_of(error, "id-7") == str(error)


def test_who_is_refused_for_a_model_that_is_not_ready_hears_when_to_come_back() -> None:
    refused = ModelNotReady("m", "2", "FAILED", "/a/file is broken", 14.2)
    assert status_of(refused).retry_after == 15
    assert message_of(refused, "id") == "model m:2 is FAILED, not READY"
    assert status_of(ModelNotReady("m", None, "FAILED")).retry_after == 1
