"""The data plane without HTTP: opened, started, answered once, and the permit always back."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import headrace as hr
from headrace.errors import BackendError, Closed, InvalidInput, ModelNotFound, ModelNotReady, Overloaded
from headrace.serving.inflight import InFlight
from headrace.serving.registry import Entry, State
from headrace.serving.served import Served
from headrace.serving.service import Service
from headrace.testing import Gate

PATIENCE = 30

Offer = Callable[..., Entry[Served]]


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service(max_requests=4, max_bytes=1000)
    yield service
    assert service.stop(PATIENCE), f"still inside: {service.statistics()}"
    assert (service.statistics().inside, service.statistics().nbytes) == (0, 0)


@pytest.fixture
def offer(service: Service) -> Offer:
    """Serve a callable."""

    def offer(function: Callable[..., Any], name: str = "m", state: State = State.READY, **options: Any) -> Any:
        entry = service.registry.add(name, "1")
        entry.served = Served(name, "1", hr.compile_model(function, name=name, **options))
        entry.state = state
        return entry

    return offer


class Answers:
    """What was delivered, and to wait for it."""

    def __init__(self) -> None:
        self.delivered: list[InFlight] = []
        self._arrived = threading.Semaphore(0)

    def __call__(self, request: InFlight) -> None:
        self.delivered.append(request)
        self._arrived.release()

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._arrived.acquire(timeout=PATIENCE), "nothing was delivered"


def same(x: Any) -> Any:
    return x


def inside(service: Service) -> tuple[int, int]:
    found = service.statistics()
    return found.inside, found.nbytes


# ---- open


def test_a_request_is_answered_and_its_permit_is_back_before_the_answer(service: Service, offer: Offer) -> None:
    offer(same)
    seen = []
    arrived = threading.Event()

    def deliver(request: InFlight) -> None:
        seen.append((request.result(), inside(service)))
        arrived.set()

    request = service.open("m", None, 100)
    assert inside(service) == (1, 100)
    service.start(request, ("hello",), deliver)
    assert arrived.wait(PATIENCE)
    assert seen == [(["hello"], (0, 0))]


def test_absence_is_not_told_as_business(service: Service, offer: Offer) -> None:
    offer(same)
    offer(same, "late", State.LOADING)
    held = [service.open("m", None, 0) for _ in range(4)]
    with pytest.raises(Overloaded):
        service.open("m", None, 0)
    with pytest.raises(ModelNotFound):
        service.open("nobody", None, 0)
    with pytest.raises(ModelNotFound):
        service.open("m", "2", 0)
    with pytest.raises(ModelNotReady):
        service.open("late", None, 0)
    for request in held:
        service.refuse(request)


def test_bytes_are_bounded_as_well_as_requests(service: Service, offer: Offer) -> None:
    offer(same)
    large = service.open("m", None, 900)
    with pytest.raises(Overloaded) as refused:
        service.open("m", None, 101)
    assert (refused.value.limit, refused.value.unit) == (1000, "bytes")
    small = service.open("m", None, 100)
    with pytest.raises(Overloaded):
        small.permit.grow(1)
    service.refuse(large)
    small.permit.grow(900)
    service.refuse(small)


def test_what_is_refused_may_be_refused_again_and_gives_one_permit_back(service: Service, offer: Offer) -> None:
    offer(same)
    first, second = service.open("m", None, 10), service.open("m", None, 10)
    for _ in range(3):
        service.refuse(first)
    assert inside(service) == (1, 10)
    service.refuse(second)


def test_what_was_opened_is_answered_by_the_model_it_was_opened_with(service: Service, offer: Offer) -> None:
    entry = offer(lambda x: "old")
    answers = Answers()
    request = service.open("m", None, 0)
    entry.state = State.DRAINING
    service.start(request, (1,), answers)
    answers.wait()
    assert request.result() == ["old"]


# ---- an outcome of every kind


def test_a_model_that_fails_is_an_answer(service: Service, offer: Offer) -> None:
    def fail(x: Any) -> Any:
        raise ValueError("no")

    offer(fail)
    answers = Answers()
    request = service.open("m", None, 5)
    service.start(request, (1,), answers)
    answers.wait()
    error = request.exception()
    assert isinstance(error, BackendError)
    assert isinstance(error.__cause__, ValueError)
    assert inside(service) == (0, 0)


@pytest.mark.parametrize("error", [InvalidInput("mine"), Overloaded(1, 1), SystemExit(3), KeyboardInterrupt()])
def test_whatever_a_model_raises_is_an_answer(service: Service, offer: Offer, error: BaseException) -> None:
    def fail(x: Any) -> Any:
        raise error

    offer(fail)
    answers = Answers()
    for _ in range(3):
        service.start(service.open("m", None, 5), (1,), answers)
        answers.wait()
    assert all(request.exception() is not None for request in answers.delivered)
    assert len(answers.delivered) == 3


def test_a_closed_model_is_an_answer(service: Service, offer: Offer) -> None:
    entry = offer(same)
    request = service.open("m", None, 5)
    assert entry.served is not None
    entry.served.model.close()
    answers = Answers()
    service.start(request, (1,), answers)
    assert isinstance(request.exception(0), Closed)
    assert answers.delivered == [request]
    assert inside(service) == (0, 0)


def test_failed_requests_are_not_remembered(service: Service, offer: Offer) -> None:
    """Else a model that fails on large bodies would fill the memory with them."""

    class Body:
        pass

    def fail(x: Any) -> Any:
        raise ValueError("no")

    offer(fail)
    answers = Answers()
    bodies = []
    for _ in range(20):
        body = Body()
        bodies.append(weakref.ref(body))
        service.start(service.open("m", None, 5), (body,), answers)
        del body
        answers.wait()
    answers.delivered.clear()
    service.stop(PATIENCE)  # the stream's last batch goes with it
    gc.collect()
    assert [ref for ref in bodies if ref() is not None] == []
    hr.waitall()  # and it raises nothing of theirs


def test_a_delivery_that_raises_costs_the_others_nothing(
    service: Service, offer: Offer, caplog: pytest.LogCaptureFixture
) -> None:
    offer(same)
    answers = Answers()

    def broken(request: InFlight) -> None:
        raise RuntimeError("the door broke")

    service.start(service.open("m", None, 5), (1,), broken)
    service.start(service.open("m", None, 5), (2,), answers)
    answers.wait()
    assert answers.delivered[0].result() == [2]
    assert "the door broke" in caplog.text


# ---- departing, at each moment


def test_departing_while_the_body_comes_in(service: Service, offer: Offer) -> None:
    offer(same)
    request = service.open("m", None, 50)
    request.depart()
    request.depart()
    assert inside(service) == (0, 0)


def test_starting_what_has_departed_runs_nothing(service: Service, offer: Offer) -> None:
    ran: list[int] = []
    offer(ran.append)
    answers, others = Answers(), Answers()
    request = service.open("m", None, 50)
    request.depart()
    service.start(request, (1,), answers)
    service.start(service.open("m", None, 0), (2,), others)
    others.wait()
    assert (ran, answers.delivered) == ([2], [])


def test_departing_from_the_queue_means_it_is_never_run(service: Service, offer: Offer) -> None:
    gate = Gate()
    ran: list[int] = []

    def model(x: int) -> None:
        ran.append(x)
        if x == 0:
            gate()

    offer(model)
    answers = Answers()
    requests = [service.open("m", None, 10) for _ in range(3)]
    service.start(requests[0], (0,), answers)
    gate.wait()
    service.start(requests[1], (1,), answers)
    service.start(requests[2], (2,), answers)
    requests[1].depart()
    assert inside(service) == (2, 20)
    gate.open()
    answers.wait(2)
    assert ran == [0, 2]
    assert answers.delivered == [requests[0], requests[2]]


def test_departing_while_it_runs_keeps_the_permit_until_the_run_has_ended(service: Service, offer: Offer) -> None:
    gate = Gate()
    offer(lambda x: gate())
    answers = Answers()
    request = service.open("m", None, 10)
    service.start(request, (0,), answers)
    gate.wait()
    request.depart()
    assert inside(service) == (1, 10)  # the run still reads its bytes
    gate.open()
    assert service.stop(PATIENCE)
    assert inside(service) == (0, 0)
    assert answers.delivered == []


def test_departing_while_it_is_delivered_changes_nothing(service: Service, offer: Offer) -> None:
    gate = Gate()
    answers = Answers()

    def deliver(request: InFlight) -> None:
        gate()
        answers(request)

    offer(same)
    request = service.open("m", None, 10)
    service.start(request, ("hello",), deliver)
    gate.wait()
    request.depart()
    gate.open()
    answers.wait()
    assert request.result() == ["hello"]
    assert len(answers.delivered) == 1


def test_departing_between_the_outcome_and_its_delivery_is_no_error(
    service: Service, offer: Offer, caplog: pytest.LogCaptureFixture
) -> None:
    class Torn(InFlight):
        """`depart` comes on another thread right after `receiver` was looked at."""

        @property
        def receiver(self) -> Any:
            found, self.kept = self.kept, None
            return found

        @receiver.setter
        def receiver(self, value: Any) -> None:
            self.kept = value

    entry = offer(same)
    assert entry.served is not None
    answers = Answers()
    request = Torn(entry.served, service.budget.admit(10))
    service.start(request, ("hello",), answers)
    answers.wait()
    assert caplog.records == []


def test_departing_after_the_answer_changes_nothing(service: Service, offer: Offer) -> None:
    offer(same)
    answers = Answers()
    request = service.open("m", None, 10)
    service.start(request, ("hello",), answers)
    answers.wait()
    request.depart()
    assert request.result() == ["hello"]
    assert len(answers.delivered) == 1


def test_departing_from_a_batch_costs_its_company_nothing(service: Service, offer: Offer) -> None:
    gate = Gate()

    def model(xs: list[int]) -> list[int]:
        gate()
        return [x + 10 for x in xs]

    offer(model, max_batch_size=4)
    answers = Answers()
    first = service.open("m", None, 10)
    service.start(first, (0,), answers)
    gate.wait()
    others = [service.open("m", None, 10) for _ in range(3)]
    for number, request in enumerate(others, 1):
        service.start(request, (number,), answers)
    others[1].depart()
    gate.open()
    answers.wait(3)
    assert [request.result() for request in (first, others[0], others[2])] == [[10], [11], [13]]


# ---- stop


def test_stop_waits_for_what_is_inside_and_refuses_what_comes(service: Service, offer: Offer) -> None:
    gate = Gate()
    offer(lambda x: (gate(), x)[1])
    answers = Answers()
    running, waiting = service.open("m", None, 0), service.open("m", None, 0)
    service.start(running, (1,), answers)
    gate.wait()
    service.start(waiting, (2,), answers)
    ended: list[bool] = []
    stopper = threading.Thread(target=lambda: ended.append(service.stop(PATIENCE)))
    stopper.start()
    assert service._stopping.wait(PATIENCE)
    with pytest.raises(Closed):
        service.open("m", None, 0)
    with pytest.raises(ModelNotFound):
        service.open("nobody", None, 0)
    assert ended == []
    gate.open()
    stopper.join(PATIENCE)
    assert ended == [True]
    assert [request.result() for request in answers.delivered] == [[1], [2]]


def test_stop_says_when_its_time_was_too_short_and_can_be_called_again(service: Service, offer: Offer) -> None:
    gate = Gate()
    offer(lambda x: gate())
    answers = Answers()
    service.start(service.open("m", None, 0), (1,), answers)
    gate.wait()
    assert not service.stop(timeout=0)
    gate.open()
    assert service.stop(PATIENCE)
    answers.wait()
    assert service.stop(0)


def test_a_request_whose_body_still_comes_in_holds_stop_up(service: Service, offer: Offer) -> None:
    offer(same)
    request = service.open("m", None, 10)
    assert not service.stop(timeout=0)
    answers = Answers()
    service.start(request, ("late",), answers)
    answers.wait()
    assert request.result() == ["late"]


def test_stop_ends_the_models_streams(service: Service, offer: Offer) -> None:
    before = set(threading.enumerate())
    offer(same, "a")
    offer(same, "b")
    assert set(threading.enumerate()) > before
    assert service.stop(PATIENCE)
    assert set(threading.enumerate()) <= before


def test_a_service_without_models_stops(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert Service(1, None).stop(0)
    assert caplog.records == []


def test_several_that_are_started_together_are_answered_each(service: Service, offer: Offer) -> None:
    model = offer(same).served.model
    answers = Answers()
    requests = [service.open("m", None, 10) for _ in range(4)]
    for number, request in enumerate(requests):
        request.inputs, request.receiver = (number,), answers
    requests[1].depart()
    service.start_all(model, requests)
    answers.wait(3)
    assert sorted(request.result()[0] for request in answers.delivered) == [0, 2, 3]
    assert inside(service) == (0, 0)


def test_several_that_cannot_be_started_hear_why(
    service: Service, offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = offer(same).served.model
    answers = Answers()
    requests = [service.open("m", None, 10) for _ in range(3)]
    for request in requests:
        request.inputs, request.receiver = (1,), answers

    def refuses(*_: object) -> None:
        raise BackendError("not today")

    monkeypatch.setattr(model, "send_all", refuses)
    service.start_all(model, requests)
    answers.wait(3)
    assert [str(request.take_failure()) for request in answers.delivered] == ["not today"] * 3
    assert inside(service) == (0, 0)


def test_several_that_come_to_a_closed_model_hear_it(service: Service, offer: Offer) -> None:
    model = offer(same).served.model
    answers = Answers()
    requests = [service.open("m", None, 10) for _ in range(3)]
    for request in requests:
        request.inputs, request.receiver = (1,), answers
    model.close()
    service.start_all(model, requests)
    answers.wait(3)
    assert all(isinstance(request.take_failure(), Closed) for request in answers.delivered)
