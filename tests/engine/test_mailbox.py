"""The real code of the Mailbox, stopped before each of its lines, in every order in which threads can come to run."""

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import pytest
import uvloop

from headrace.engine.mailbox import Mailbox, loop_runs_here

PATIENCE = 30.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
InThreads = Callable[..., Any]


class Actor:
    """Does something in a thread of its own, one line of `codes` at a time."""

    def __init__(self, act: Callable[[], object], codes: set[CodeType]) -> None:
        self._act, self._codes = act, codes
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.ended = False
        self.error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()
        assert self._stopped.acquire(timeout=PATIENCE)

    def step(self) -> None:
        self._go.release()
        assert self._stopped.acquire(timeout=PATIENCE), "a line of the mailbox waits for another thread"

    def _pause(self) -> None:
        self._stopped.release()
        assert self._go.acquire(timeout=PATIENCE)

    def _run(self) -> None:
        self._pause()
        sys.settrace(self._trace)
        try:
            self._act()
        except BaseException as error:
            self.error = error
        sys.settrace(None)
        self.ended = True
        self._stopped.release()

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code not in self._codes:
            return None
        if event == "line":
            self._pause()
        return self._trace


class Loop:
    """Of an event loop only what the mailbox uses: a queue of wake-ups."""

    def __init__(self) -> None:
        self.wakes: deque[Callable[[], object]] = deque()
        self.woken = 0

    def call_soon_threadsafe(self, wake: Callable[[], object]) -> None:
        self.wakes.append(wake)
        self.woken += 1

    def turn(self) -> None:
        if self.wakes:
            self.wakes.popleft()()


class PopFirst(Mailbox):
    """What must not be: drain, then clear the flag."""

    def _drain(self) -> None:
        items = self._items
        while items:
            function, argument = items.popleft()
            function(argument)
        self._armed = False


def explore(kind: type[Mailbox], posts_before: int, posters: int, turns: int, switches: int) -> tuple[int, int, int]:
    """(orders tried, orders that left a message lying, most wake-ups of one order).

    `posters` threads post a message each, while the loop takes `turns` turns. All orders with at most `switches`
    changes of thread between two lines where the first could have gone on.
    """
    codes = {kind.post.__code__, kind._drain.__code__}
    tried = stranded = most = 0
    unexplored: list[list[int]] = [[]]
    while unexplored:
        path = unexplored.pop()
        loop, got = Loop(), list[int]()
        box = kind(loop)  # type: ignore[arg-type]
        sent = list(range(posts_before + posters))
        for i in sent[:posts_before]:
            box.post(got.append, i)
        actors = [Actor(lambda i=i: box.post(got.append, i), codes) for i in sent[posts_before:]]  # noqa: B023
        actors += [Actor(lambda: [loop.turn() for _ in range(turns)], codes)]  # noqa: B023
        step, last, switched = 0, 0, 0
        while alive := [i for i, actor in enumerate(actors) if not actor.ended]:
            alive.sort(key=lambda i: i != last)  # going on is the first choice
            free = last not in alive
            if step < len(path):
                choice = path[step]
            else:
                choice = 0
                if free or switched < switches:
                    unexplored += [[*path, other] for other in range(1, len(alive))]
                path = [*path, 0]
            switched += bool(choice) and not free
            last = alive[choice]
            actors[last].step()
            step += 1
        assert [actor.error for actor in actors] == [None] * len(actors)
        while loop.wakes:  # the loop has nothing else to do
            loop.turn()
        tried += 1
        most = max(most, loop.woken)
        late = sorted(got) != sent
        if not late:  # and whoever comes now wakes it again
            box.post(got.append, len(sent))
            loop.turn()
            late = got[len(sent) :] != [len(sent)]
        stranded += late
        if posters <= 1:
            assert got == sorted(got), "messages of one thread come in the order they were posted"
    return tried, stranded, most


def test_no_order_of_lines_loses_a_wake_up() -> None:
    tried, stranded, most = explore(Mailbox, posts_before=1, posters=1, turns=1, switches=5)
    assert tried > 500
    assert stranded == 0
    assert most == 2


def test_clearing_the_flag_after_the_drain_strands_messages() -> None:
    _, stranded, _ = explore(PopFirst, posts_before=1, posters=1, turns=1, switches=5)
    assert stranded > 0


def test_no_order_of_two_posters_and_two_turns_loses_a_wake_up() -> None:
    tried, stranded, most = explore(Mailbox, posts_before=1, posters=2, turns=2, switches=2)
    assert tried > 200
    assert stranded == 0
    assert most <= 3, "never more wake-ups than messages"
    assert explore(PopFirst, posts_before=1, posters=2, turns=2, switches=1)[1] > 0


def test_many_messages_cost_one_wake_up() -> None:
    loop, got = Loop(), list[int]()
    box = Mailbox(loop)  # type: ignore[arg-type]
    for i in range(100):
        box.post(got.append, i)
    assert loop.woken == 1
    loop.turn()
    assert got == list(range(100))
    box.post(got.append, 100)
    assert loop.woken == 2


def test_what_a_delivery_posts_waits_for_the_loop_to_have_its_turn() -> None:
    loop, got = Loop(), list[int]()
    box = Mailbox(loop)  # type: ignore[arg-type]
    box.post(lambda i: (got.append(i), box.post(got.append, i + 1)), 1)
    loop.turn()
    assert got == [1]
    loop.turn()
    assert got == [1, 2]


def test_a_closed_loop_has_its_messages_dropped_not_kept() -> None:
    for factory in LOOPS.values():
        loop = factory()
        box = Mailbox(loop)
        loop.close()
        for i in range(10):
            box.post(print, i)
        assert not box._items


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
def test_threads_post_to_a_real_loop_and_nothing_is_lost(
    factory: Callable[[], asyncio.AbstractEventLoop], in_threads: InThreads
) -> None:
    threads, each = 4, 2000
    got: list[list[int]] = [[] for _ in range(threads)]

    async def main() -> None:
        box = Mailbox.here()
        assert box is Mailbox.here()
        assert box.loop is asyncio.get_running_loop()
        all_there = asyncio.Event()
        left = threads * each

        def deliver(message: tuple[int, int]) -> None:
            nonlocal left
            got[message[0]].append(message[1])
            left -= 1
            if not left:
                all_there.set()

        def post(thread: int) -> None:
            for i in range(each):
                box.post(deliver, (thread, i))

        crowd = in_threads(*(lambda t=t: post(t) for t in range(threads)))
        async with asyncio.timeout(PATIENCE):
            await all_there.wait()
        crowd.join()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert got == [list(range(each))] * threads


@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
def test_a_delivery_that_raises_is_reported_and_the_next_ones_are_made(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    got: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: got.append(type(context["exception"])))
        box, done = Mailbox.here(), asyncio.Event()
        box.post(int, "not a number")
        box.post(lambda _: (got.append("next"), done.set()), None)
        await done.wait()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert got == [ValueError, "next"]


def test_what_ends_the_loop_leaves_the_rest_for_its_next_run() -> None:
    loop, got = asyncio.new_event_loop(), list[int]()
    box = Mailbox(loop)

    def leave(_: object) -> None:
        raise SystemExit(3)

    box.post(leave, None)
    box.post(got.append, 1)
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert got == []
    loop.run_until_complete(asyncio.sleep(0))
    assert got == [1]
    loop.close()


def test_each_loop_has_a_mailbox_of_its_own() -> None:
    async def here() -> Mailbox:
        assert loop_runs_here()
        return Mailbox.here()

    assert not loop_runs_here()
    assert asyncio.run(here()) is not asyncio.run(here())
    with pytest.raises(RuntimeError):
        Mailbox.here()
