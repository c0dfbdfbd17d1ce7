"""What the server refuses comes back as the error it had, under each `--compat`."""

from __future__ import annotations

from dataclasses import replace

import pytest

import headrace as hr
from headrace.client.refused import Subject, error_of
from headrace.server.compat import Compat, refused
from headrace.server.status import InvalidToken, MethodNotAllowed, NotFound

SUBJECT = Subject("net", "2", "net.mar", 30.0)


def of(error: hr.HeadraceError) -> Subject:
    """At register no name is looked up, and elsewhere there is no url."""
    return replace(SUBJECT, url="") if isinstance(error, hr.ModelNotFound) else SUBJECT


ERRORS = [
    hr.ModelNotFound("net"),
    hr.ModelNotFound("net", "2"),
    hr.SourceNotFound("Model not found at: net.mar (looked in /store)", "net.mar"),
    hr.UrlNotAllowed("net.mar"),
    hr.DownloadFailed("net.mar", "it is 404 there"),
    hr.AlreadyRegistered("net", "2"),
    hr.IsDefaultVersion("net", "2"),
    hr.StillBusy("net", "2", 30.0),
    hr.CannotLoad("net", "2", "no such weights: there are none"),
    hr.CannotLoad("net", "2", "more than there is", out_of_memory=True),
    hr.Overloaded(1256, 1256, "changes of models"),
    hr.ModelNotReady("net", "2", "FAILED", "no file"),
    hr.InvalidModel("the file is no model"),
    hr.Closed("the server is stopping"),
    hr.TooLarge("a request body", limit=10),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{type(error).__name__}-{error}"[:40])
def test_it_is_the_error_the_server_had_with_what_that_knows(error: hr.HeadraceError) -> None:
    status, message = refused(Compat.headrace, error)
    found = error_of(status.code, status.type, message, of(error))
    assert type(found) is type(error)
    assert str(found) == message
    if not isinstance(error, hr.TooLarge):  # a limit is said for people only
        assert vars(found) == vars(error)


@pytest.mark.parametrize("compat", [Compat.torchserve, Compat.mms, Compat.triton])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{type(error).__name__}-{error}"[:40])
def test_it_is_of_that_kind_whatever_words_are_spoken(error: hr.HeadraceError, compat: Compat) -> None:
    status, message = refused(compat, error, url="net.mar")
    found = error_of(status.code, status.type, message, of(error))
    assert type(found) is type(error)
    assert str(found) == message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidToken(), hr.AccessDenied),
        (NotFound("there is no such route"), hr.RequestError),
        (MethodNotAllowed("POST", "/models", "GET"), hr.RequestError),
        (hr.InvalidInput("Parameter url is required."), hr.InvalidOption),
        (hr.NotEnoughCores(4, 2, "why"), hr.InvalidOption),
        (hr.DeadlineExceeded("late"), hr.DeadlineExceeded),
        (hr.BackendError("it broke"), hr.BackendError),
        (hr.Unavailable("not now"), hr.Unavailable),
        (hr.HeadraceError("what"), hr.BackendError),
    ],
)
def test_what_has_no_kind_of_its_own_there_is_the_nearest(error: Exception, kind: type) -> None:
    status, message = refused(Compat.headrace, error)
    assert type(error_of(status.code, status.type, message, SUBJECT)) is kind


@pytest.mark.parametrize(
    ("code", "kind"), [(400, hr.RequestError), (418, hr.RequestError), (503, hr.Unavailable), (502, hr.HeadraceError)]
)
def test_a_type_nobody_knows_goes_by_its_status(code: int, kind: type) -> None:
    found = error_of(code, "SomethingElse", "words", SUBJECT)
    assert (type(found), str(found)) == (kind, "words")


def test_it_can_be_raised_and_caught_as_people_do() -> None:
    status, message = refused(Compat.headrace, hr.StillBusy("net", "2", 30.0))
    with pytest.raises(TimeoutError, match="did not end"):
        raise error_of(status.code, status.type, message, SUBJECT)
