"""The batcher is told what time it is: nothing here waits."""

from collections.abc import Hashable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.engine.guard import Guard
from headrace.engine.source import Refused
from headrace.errors import BackendError, Closed, DeadlineExceeded
from headrace.model.batcher import LOOK_AHEAD, Batcher
from headrace.model.pending import Owner, Pending


class Nobody(Owner):
    def on_error(self, pending: Pending) -> None:
        pass


GUARD = Guard()


class Request(Pending):
    """Says whether it has given its room back."""

    inside = True

    def let_go(self) -> None:
        super().let_go()
        self.inside = False


def request(rows: int = 1, alike: Hashable = "a", deadline: float | None = None, priority: float = 0) -> Request:
    pending = Request(Nobody(), (object(),), GUARD)
    pending.rows, pending.alike, pending.deadline, pending.priority = rows, alike, deadline, priority
    return pending


def filled(batcher: Batcher, requests: list[Request], now: float = 0.0) -> list[Request]:
    for one in requests:
        batcher.add(one, now)
    return requests


def settle(refused: Refused) -> list[Pending]:
    for future, error in refused:
        future.settle(error=error)
    return [future for future, _ in refused if isinstance(future, Pending)]


# ---- rule 1: the delay is a bound, never a floor


@pytest.mark.parametrize("size", [1, 8])
def test_an_idle_model_takes_a_lone_request_at_once(size: int) -> None:
    batcher = Batcher(size, max_batch_delay=10.0)
    (lone,) = filled(batcher, [request()])
    assert batcher.batches(0.0, busy=False) == 1
    assert batcher.pull(0.0, False, []) == [lone]


def test_a_free_stream_beside_a_busy_one_waits_until_the_batch_is_full() -> None:
    batcher = Batcher(3, max_batch_delay=10.0)
    first = filled(batcher, [request(), request()])
    assert batcher.batches(1.0, busy=True) == 0
    assert batcher.pull(1.0, True, []) == []
    first += filled(batcher, [request()], now=1.0)
    assert batcher.batches(1.0, busy=True) == 1
    assert batcher.pull(1.0, True, []) == first


def test_a_free_stream_waits_no_longer_than_the_delay_of_the_oldest() -> None:
    batcher = Batcher(3, max_batch_delay=10.0)
    (old,) = filled(batcher, [request()], now=5.0)
    (young,) = filled(batcher, [request()], now=14.0)
    assert batcher.next_deadline() == 15.0
    assert batcher.pull(14.999, True, []) == []
    assert batcher.pull(15.0, True, []) == [old, young]
    assert batcher.next_deadline() is None


def test_without_a_delay_a_busy_model_takes_what_there_is() -> None:
    batcher = Batcher(3)
    waiting = filled(batcher, [request(), request()])
    assert batcher.pull(0.0, True, []) == waiting


def test_without_batching_each_waiting_request_is_a_run() -> None:
    batcher = Batcher(1, max_batch_delay=10.0)
    first, second = filled(batcher, [request(), request()])
    assert batcher.batches(0.0, busy=True) == 2
    assert [batcher.pull(0.0, True, []), batcher.pull(0.0, True, [])] == [[first], [second]]


@pytest.mark.parametrize(
    ("waiting", "now", "busy", "runs"),
    [(0, 0, False, 0), (1, 0, False, 1), (1, 0, True, 0), (1, 9, True, 1), (4, 0, True, 1), (6, 0, True, 1),
     (6, 0, False, 1), (6, 9, True, 2), (8, 0, True, 2)],
)  # fmt: skip
def test_it_says_how_many_runs_could_begin(waiting: int, now: float, busy: bool, runs: int) -> None:
    batcher = Batcher(4, max_batch_delay=9.0)
    filled(batcher, [request() for _ in range(waiting)])
    assert batcher.batches(now, busy) == runs


# ---- rule 2: what is alike is joined, the oldest is never passed over


def test_a_batch_holds_the_oldest_and_those_like_it_in_their_order() -> None:
    batcher = Batcher(3)
    a1, b1, a2, b2, a3, a4 = filled(batcher, [request(alike=kind) for kind in "ababaa"])
    assert batcher.pull(0.0, False, []) == [a1, a2, a3]
    assert batcher.pull(0.0, False, []) == [b1, b2]
    assert batcher.pull(0.0, False, []) == [a4]


def test_rows_are_counted_and_what_does_not_fit_keeps_its_place() -> None:
    batcher = Batcher(4)
    two, three, one, four = filled(batcher, [request(rows=n) for n in (2, 3, 1, 4)])
    assert batcher.pull(0.0, False, []) == [two, one]
    assert batcher.pull(0.0, False, []) == [three]
    assert batcher.pull(0.0, False, []) == [four]


def test_a_request_with_more_rows_than_a_batch_may_have_runs_alone() -> None:
    batcher = Batcher(4)
    wide, narrow = filled(batcher, [request(rows=9), request()])
    assert batcher.pull(0.0, False, []) == [wide]
    assert batcher.pull(0.0, False, []) == [narrow]
    narrow, wide = filled(batcher, [request(), request(rows=9)])
    assert batcher.pull(0.0, False, []) == [narrow]
    assert batcher.pull(0.0, False, []) == [wide]


def test_a_request_without_rows_is_joined_like_any_other() -> None:
    batcher = Batcher(2)
    waiting = filled(batcher, [request(rows=0), request(), request(rows=0), request()])
    assert batcher.pull(0.0, False, []) == waiting


def test_company_is_looked_for_among_a_bounded_number_of_requests() -> None:
    batcher = Batcher(2)
    first, *others = filled(batcher, [request(), *(request(alike="b") for _ in range(LOOK_AHEAD * 2)), request()])
    assert batcher.pull(0.0, False, []) == [first]
    assert batcher.pull(0.0, False, []) == others[:2]


def test_what_is_never_alike_runs_alone() -> None:
    batcher = Batcher(4)
    first, second = filled(batcher, [request(alike=object()), request(alike=object())])
    assert batcher.pull(0.0, False, []) == [first]
    assert batcher.pull(0.0, False, []) == [second]


# ---- rule 3: late ones are refused, cancelled ones are skipped


def test_a_late_request_is_refused_when_it_is_reached_and_its_neighbours_run() -> None:
    batcher = Batcher(3)
    late_head, in_time, late, last = filled(batcher, [request(deadline=d) for d in (1.0, 2.0, 1.5, None)])
    refused: Refused = []
    assert batcher.pull(2.0, False, refused) == [in_time, last]  # at its deadline a request is not late yet
    assert settle(refused) == [late_head, late]
    assert isinstance(late.exception(), DeadlineExceeded)
    assert batcher.counts.late == 2


def test_a_late_request_of_another_kind_is_left_until_it_is_reached() -> None:
    batcher = Batcher(3)
    first, other = filled(batcher, [request(), request(alike="b", deadline=1.0)])
    refused: Refused = []
    assert batcher.pull(2.0, False, refused) == [first]
    assert not refused
    assert batcher.pull(2.0, False, refused) == []
    assert settle(refused) == [other]


def test_a_cancelled_request_is_skipped_wherever_it_waits() -> None:
    batcher = Batcher(8)
    waiting = filled(batcher, [request() for _ in range(5)])
    for i in (0, 2, 4):
        assert waiting[i].cancel()
    assert batcher.pull(0.0, False, []) == [waiting[1], waiting[3]]
    assert batcher.is_empty()
    assert batcher.counts.cancelled == 3


def test_a_request_that_is_cancelled_and_late_counts_as_cancelled() -> None:
    batcher = Batcher(1)
    (gone,) = filled(batcher, [request(deadline=1.0)])
    gone.cancel()
    refused: Refused = []
    assert batcher.pull(2.0, False, refused) == []
    assert (refused, batcher.counts.cancelled, batcher.counts.late) == ([], 1, 0)


def test_a_cancelled_head_starts_no_run() -> None:
    batcher = Batcher(4, max_batch_delay=3.0)
    (gone,) = filled(batcher, [request()], now=1.0)
    filled(batcher, [request()], now=2.0)
    gone.cancel()
    assert batcher.batches(4.5, busy=True) == 0
    assert batcher.next_deadline() == 5.0


def test_the_clock_is_watched_for_the_oldest_that_still_waits() -> None:
    batcher = Batcher(4, max_batch_delay=3.0)
    (gone,) = filled(batcher, [request()], now=1.0)
    filled(batcher, [request()], now=2.0)
    gone.cancel()
    assert batcher.next_deadline() == 5.0


def test_cancelled_requests_do_not_pile_up() -> None:
    batcher = Batcher(4)
    (kept,) = filled(batcher, [request()])
    for _ in range(5000):
        filled(batcher, [gone := request()])
        gone.cancel()
        assert len(batcher) <= 258
    assert batcher.pull(0.0, False, []) == [kept]
    assert batcher.is_empty()
    assert (batcher.counts.cancelled, batcher.counts.submitted) == (5000, 5001)


def test_many_live_requests_are_not_swept_again_and_again() -> None:
    batcher = Batcher(4)
    alive = filled(batcher, [request() for _ in range(2000)])
    assert len(batcher) == 2000
    assert batcher.pull(0.0, False, []) == alive[:4]


# ---- rule 4 and the end


def test_what_was_pulled_has_begun_and_stays_in_its_batch_when_it_is_cancelled() -> None:
    batcher = Batcher(2)
    first, second = filled(batcher, [request(), request()])
    batch = batcher.pull(0.0, False, [])
    assert first.cancel()
    assert batch == [first, second]
    assert first.inputs, "the run still reads them"
    assert first.inside
    assert second.settle([1])


def test_who_is_cancelled_before_its_run_lets_go_at_once() -> None:
    batcher = Batcher(2)
    (gone,) = filled(batcher, [request()])
    gone.cancel()
    assert not gone.inputs
    assert not gone.inside


def test_an_abandoned_batcher_refuses_what_waits_and_what_comes() -> None:
    batcher = Batcher(2)
    first, gone = filled(batcher, [request(), request()])
    gone.cancel()
    batcher.abandon(Closed("closed"))
    refused: Refused = []
    assert batcher.pull(0.0, False, refused) == []
    later = filled(batcher, [request()])
    assert batcher.pull(0.0, True, refused) == []
    assert settle(refused) == [first, *later]
    assert isinstance(first.exception(), Closed)
    assert (batcher.counts.refused, batcher.counts.cancelled, len(batcher)) == (2, 1, 0)


def test_times_and_rows_are_summed_up() -> None:
    batcher = Batcher(4)
    filled(batcher, [request(rows=2)], now=1.0)
    filled(batcher, [request()], now=2.0)
    batch = batcher.pull(5.0, False, [])
    assert (batcher.counts.started, batcher.counts.queue_seconds) == (2, 7.0)
    batch[1].failure = BackendError("it broke")
    batcher.ended(batch, 6.0)
    counts = batcher.counts
    assert (counts.runs, counts.rows) == (1, 3)
    assert (counts.started, counts.completed, counts.failed) == (2, 1, 1)


# ---- any order of anything, beside a list that is simple enough to be right


class BesideAList(RuleBasedStateMachine):
    @initialize(size=st.integers(1, 5), delay=st.sampled_from([0.0, 2.0]))
    def begin(self, size: int, delay: float) -> None:
        self.size, self.delay, self.now = size, delay, 0.0
        self.batcher = Batcher(size, delay)
        self.waiting: list[Pending] = []
        self.running: list[list[Pending]] = []

    @rule(
        rows=st.integers(0, 6),
        alike=st.sampled_from("ab"),
        patience=st.sampled_from([None, None, 0.0, 1.0, 5.0]),
        priority=st.sampled_from([0, 0, 0, 0.25, 1, 7, -1]),
    )
    def add(self, rows: int, alike: str, patience: float | None, priority: float) -> None:
        one = request(rows, alike, None if patience is None else self.now + patience, priority)
        self.batcher.add(one, self.now)
        self.waiting.append(one)
        # A step of priority is worth a second of waiting. Sorting is stable: equal ones stay in the order they came.
        self.waiting.sort(key=lambda one: (one.queued_at - one.priority, one.priority != 0))

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.waiting or self.running)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        everyone = [*self.waiting, *(one for batch in self.running for one in batch)]
        data.draw(st.sampled_from(everyone)).cancel()

    @rule(busy=st.booleans())
    def pull(self, busy: bool) -> None:
        expected, late = self._expected(busy)
        refused: Refused = []
        could = self.batcher.batches(self.now, busy)
        batch = self.batcher.pull(self.now, busy, refused)
        assert batch == expected
        assert [future for future, _ in refused] == late
        assert could or not batch, "a stream would not have been woken for it"
        settle(refused)
        if batch:
            self.running.append(batch)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.running))
        self.running.remove(batch)
        failed = data.draw(st.integers(0, len(batch)))
        for one in batch[:failed]:
            one.failure = BackendError("it broke")
        before = self.batcher.counts.failed
        self.batcher.ended(batch, self.now)
        assert self.batcher.counts.failed == before + failed

    @invariant()
    def everyone_is_counted_once(self) -> None:
        if not hasattr(self, "batcher"):
            return
        counts = self.batcher.counts
        assert counts.started - counts.completed - counts.failed == sum(map(len, self.running))
        assert counts.submitted == counts.started + counts.cancelled + counts.late + len(self.batcher)

    def _expected(self, busy: bool) -> tuple[list[Pending], list[Pending]]:
        """(batch, late), taken out of `self.waiting`."""
        waiting, late = self.waiting, []
        if busy and self.size > 1:
            for plain in True, False:  # tombstones at the head of either line are gone
                for one in [one for one in waiting if (one.priority == 0) is plain]:
                    if not one.can_read():
                        break
                    waiting.remove(one)
            if not waiting:
                return [], []
            oldest = min(one.queued_at for one in waiting if not one.can_read())
            if len(waiting) < self.size and self.now < oldest + self.delay:
                return [], []
        batch: list[Pending] = []
        looked = 0
        for one in list(waiting):
            rows = sum(other.rows for other in batch)
            if batch:
                if batch[0].rows >= self.size or rows >= self.size or looked >= LOOK_AHEAD * self.size:
                    break
                looked += 1
                if one.alike != batch[0].alike or rows + one.rows > self.size:
                    continue
            waiting.remove(one)
            if one.can_read():
                continue
            if one.deadline is not None and self.now > one.deadline:
                late.append(one)
            else:
                batch.append(one)
        return batch, late


BesideAList.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrderOfAnythingAgreesWithAList = BesideAList.TestCase


# ---- what was pulled and did not begin


@pytest.mark.parametrize("size", [1, 2])
def test_what_is_put_back_waits_where_it_did_and_is_not_counted_twice(size: int) -> None:
    batcher, twin = Batcher(size), Batcher(size)
    for each in batcher, twin:
        filled(each, [request(priority=priority) for priority in (0, 0, 0, 2, 0, 1)])
    pulled = [batcher.pull(1.0, False, []) for _ in range(2)]
    batcher.put_back(2, [one for batch in pulled for one in batch], 1.0)
    assert all(not one._begun for batch in pulled for one in batch)
    again = [batcher.pull(2.0, False, []) for _ in range(6 // size)]
    assert again[:2] == pulled
    alike = [twin.pull(2.0, False, []) for _ in range(6 // size)]
    assert [[one.priority for one in batch] for batch in again] == [[one.priority for one in batch] for batch in alike]
    assert batcher.counts == twin.counts


def test_pulling_one_at_a_time_is_pulling_batches_of_one() -> None:
    one, several = Batcher(), Batcher()
    refused: tuple[Refused, Refused] = ([], [])
    for batcher in one, several:
        waiting = filled(batcher, [request(deadline=deadline) for deadline in (None, 5.0, None, 0.5, None)])
        waiting[2].cancel()
    while (first := one.pull_one(1.0, refused[0])) is not None:
        (other,) = several.pull(1.0, False, refused[1])
        assert (first._begun, first.deadline) == (other._begun, other.deadline)
    assert several.pull(1.0, False, refused[1]) == []
    assert one.counts == several.counts
    assert [type(error) for _, error in refused[0]] == [type(error) for _, error in refused[1]] == [DeadlineExceeded]
