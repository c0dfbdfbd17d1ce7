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

from headrace.engine.engine import Engine
from headrace.engine.future import Future
from headrace.engine.mailbox import HOLD, MANY, Hold, Mailbox, loop_runs_here
from headrace.engine.topology import made_up
from headrace.testing import FakeClock, Gate

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
    """Of an event loop only what the mailbox uses: wake-ups, and ticks that are due when the test says so."""

    def __init__(self) -> None:
        self.wakes: deque[Callable[[], object]] = deque()
        self.ticks: deque[Callable[[], object]] = deque()
        self.woken = 0

    def call_soon_threadsafe(self, wake: Callable[[], object]) -> None:
        self.wakes.append(wake)
        self.woken += 1

    def call_later(self, seconds: float, tick: Callable[[], object]) -> None:
        self.ticks.append(tick)

    def turn(self) -> None:
        if self.wakes:
            self.wakes.popleft()()

    def tick(self) -> None:
        if self.ticks:
            self.ticks.popleft()()

    def settle_down(self) -> None:
        """Until it has nothing to do, and nothing to wait for."""
        for _ in range(100):
            self.turn()
            self.tick()
            if not self.wakes and not self.ticks:
                return
        raise AssertionError("it ticks for ever")


class PopFirst(Mailbox):
    """What must not be: drain, then clear the flag."""

    def _drain(self) -> None:
        items = self._items
        while items:
            function, argument = items.popleft()
            function(argument)
        self._armed = False


class TickPopsFirst(Mailbox):
    """What must not be either: the tick drains, then says that it ticks no more."""

    def _tick(self) -> None:
        self._drain()
        again = self._drained and self.waiting >= MANY
        self._drained = self.promised = False
        self._ticking = again
        if again:
            self.loop.call_later(0.001, self._tick)


class HoldsAlways(Mailbox):
    """Nor this: a stream holds its wake-ups back whether the loop ticks or not."""

    def post(self, function: Callable[[Any], object], argument: Any) -> None:
        self._ticking = True
        super().post(function, argument)


class Scene:
    """What some threads do with one mailbox. `acts`: functions; what they post is what `got` must come to."""

    def __init__(self, kind: type[Mailbox]) -> None:
        self.loop = Loop()
        self.box = kind(self.loop)  # type: ignore[arg-type]
        self.got: list[tuple[str, int]] = []
        self.acts: list[Callable[[], object]] = []
        self._posted: dict[str, int] = {}

    def wait(self, tasks: int) -> None:
        """So many tasks of the loop wait: it ticks, if they are many."""
        for _ in range(tasks):
            self.box.expect()

    def post(self, who: str) -> None:
        count = self._posted[who] = self._posted.get(who, 0) + 1
        self.box.post(self.got.append, (who, count))

    def poster(self, who: str) -> None:
        self.acts.append(lambda: self.post(who))

    def stream(self, posts: int, comes_back: bool) -> None:
        """It ends short runs one after the other; then, if it does not come back, its next run hangs."""

        def work() -> None:
            hold = Hold.here()
            for i in range(posts):
                hold.on = True
                self.post("stream")
                if comes_back or i < posts - 1:
                    hold.let_go(
                        1000.0 + 1.5 * HOLD * i
                    )  # the first time it holds on, the second time it has held on enough
            if comes_back:
                hold.on = False
                hold.let_go(1001.0)

        self.acts.append(work)

    def is_stranded(self) -> bool:
        """Whether a message lies there when the loop has nothing else to do, or whoever comes now does not wake it."""
        for late in False, True:
            if late:
                self.post("late")
            self.loop.settle_down()
            for who, count in self._posted.items():
                got = [i for name, i in self.got if name == who]
                assert got == sorted(got), "messages of one thread come in the order they were posted"
                if got != list(range(1, count + 1)):
                    return True
        return False


def explore(make: Callable[[], Scene], switches: int) -> tuple[int, int, int]:
    """(orders tried, orders that left a message lying, most wake-ups of one order).

    All orders of the lines of the acts with at most `switches` changes of thread between two lines where the first
    could have gone on.
    """
    tried = stranded = most = 0
    unexplored: list[list[int]] = [[]]
    while unexplored:
        path = unexplored.pop()
        scene = make()
        kind = type(scene.box)
        functions = kind.post, kind.announce, kind._drain, kind.ring, kind._tick, kind.expect, Hold.let_go
        codes = {function.__code__ for function in functions}
        actors = [Actor(act, codes) for act in scene.acts]
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
        tried += 1
        stranded += scene.is_stranded()
        most = max(most, scene.loop.woken - 1)  # without the late one's
    return tried, stranded, most


def posts(kind: type[Mailbox], posts_before: int, posters: int, turns: int) -> Callable[[], Scene]:
    """`posters` threads post a message each, while the loop takes `turns` turns."""

    def make() -> Scene:
        scene = Scene(kind)
        for _ in range(posts_before):
            scene.post("before")
        for i in range(posters):
            scene.poster(f"poster {i}")
        scene.acts.append(lambda: [scene.loop.turn() for _ in range(turns)])
        return scene

    return make


def holds(
    kind: type[Mailbox], *, posts: int = 1, comes_back: bool = False, ticks: int = 1, posters: int = 0, more: int = 0
) -> Callable[[], Scene]:
    """A stream holds its wake-ups back while the loop ticks; `more` tasks come to wait, and others post."""

    def make() -> Scene:
        scene = Scene(kind)
        scene.wait(MANY)
        scene.stream(posts, comes_back)
        for i in range(posters):
            scene.poster(f"poster {i}")

        def loop() -> None:
            for _ in range(ticks):
                scene.loop.tick()
                scene.wait(more)
                scene.loop.turn()

        scene.acts.append(loop)
        return scene

    return make


def test_no_order_of_lines_loses_a_wake_up() -> None:
    tried, stranded, most = explore(posts(Mailbox, posts_before=1, posters=1, turns=1), switches=4)
    assert tried > 500
    assert stranded == 0
    assert most == 2


def test_clearing_the_flag_after_the_drain_strands_messages() -> None:
    _, stranded, _ = explore(posts(PopFirst, posts_before=1, posters=1, turns=1), switches=4)
    assert stranded > 0


def test_no_order_of_two_posters_and_two_turns_loses_a_wake_up() -> None:
    tried, stranded, most = explore(posts(Mailbox, posts_before=1, posters=2, turns=2), switches=2)
    assert tried > 200
    assert stranded == 0
    assert most <= 3, "never more wake-ups than messages"
    assert explore(posts(PopFirst, posts_before=1, posters=2, turns=2), switches=1)[1] > 0


def test_what_a_stream_holds_back_is_found_by_the_tick_though_its_next_run_never_ends() -> None:
    tried, stranded, most = explore(holds(Mailbox), switches=3)
    assert tried > 200
    assert stranded == 0
    assert most <= 1, "only where the tick was too early to see the message"


def test_a_tick_that_drains_first_and_clears_afterwards_strands_what_is_held_back() -> None:
    assert explore(holds(TickPopsFirst), switches=2)[1] > 0
    assert explore(holds(TickPopsFirst), switches=0)[1] == 0, "it takes a change of thread in the middle"


def test_holding_back_from_a_loop_that_does_not_tick_strands_messages() -> None:
    assert explore(holds(HoldsAlways), switches=2)[1] > 0


@pytest.mark.parametrize("comes_back", [True, False])
def test_no_order_of_a_stream_and_a_loop_that_ticks_twice_loses_a_wake_up(comes_back: bool) -> None:
    for posts, more, switches in (1, 1, 2), (3, 0, 1), (3, 1, 1):
        scenes = holds(Mailbox, posts=posts, comes_back=comes_back, ticks=2, more=more)
        tried, stranded, _ = explore(scenes, switches)
        assert tried > 20
        assert stranded == 0


@pytest.mark.parametrize("comes_back", [True, False])
def test_no_order_of_a_stream_that_holds_one_that_does_not_and_a_loop_loses_a_wake_up(comes_back: bool) -> None:
    tried, stranded, _ = explore(holds(Mailbox, posts=2, comes_back=comes_back, posters=1), switches=1)
    assert tried > 50
    assert stranded == 0


def test_what_is_held_back_costs_one_wake_up_when_it_is_let_go() -> None:
    scene = Scene(Mailbox)
    scene.wait(MANY)
    hold = Hold.here()
    hold.on = True
    try:
        for i in range(10):
            scene.post("stream")
            hold.let_go(1000.0 + 0.09 * i * HOLD)
        assert scene.loop.woken == 0
        hold.let_go(1000.0 + 1.01 * HOLD)
        assert scene.loop.woken == 1
        scene.post("stream")
        scene.loop.turn()
        assert len(scene.got) == 11
        hold.let_go(1001.0)
        hold.let_go(1002.0)
        assert scene.loop.woken == 1, "it has been told by the wake-up before"
        scene.post("stream")
        hold.let_go(1003.0)
        assert scene.loop.woken == 1, "each time it is held back anew"
        hold.on = False
        hold.let_go(1002.0)
        assert scene.loop.woken == 2, "a stream that has no next run holds nothing back"
        scene.loop.turn()
        scene.post("stream")
        assert scene.loop.woken == 3
    finally:
        Hold.here()


def test_a_loop_ticks_only_while_many_wait_and_something_comes() -> None:
    scene = Scene(Mailbox)
    scene.wait(MANY - 1)
    assert not scene.loop.ticks
    scene.wait(1)
    assert len(scene.loop.ticks) == 1
    scene.wait(1)
    assert len(scene.loop.ticks) == 1, "one at a time"
    scene.loop.tick()
    assert not scene.loop.ticks, "nothing came"
    scene.wait(1)
    scene.post("somebody")
    scene.loop.tick()
    assert len(scene.loop.ticks) == 1
    scene.box.waiting -= MANY
    scene.post("somebody")
    scene.loop.tick()
    assert not scene.loop.ticks, "few wait"


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


def test_what_the_loop_posts_in_a_step_of_its_own_wakes_nobody_and_is_taken_right_after_it() -> None:
    loop, got = Loop(), list[int]()
    box = Mailbox(loop)  # type: ignore[arg-type]

    def step() -> None:
        box.post(got.append, 1)
        assert got == []
        raise LookupError

    with pytest.raises(LookupError):
        box.take_what(step)
    assert (got, loop.woken) == ([1], 0)
    box.post(got.append, 2)
    assert loop.woken == 1
    box.take_what(lambda: box.post(got.append, 3))  # what was posted before goes along
    loop.turn()
    assert (got, loop.woken) == ([1, 2, 3], 1)


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


def test_what_is_held_back_from_a_loop_that_was_closed_meanwhile_is_dropped() -> None:
    for factory in LOOPS.values():
        loop = factory()
        box = Mailbox(loop)
        for _ in range(MANY):
            box.expect()
        hold = Hold.here()
        hold.on = True
        try:
            box.post(print, "nobody is there")
            loop.close()
            hold.let_go(1000.0)
            hold.let_go(1001.0)
            assert not box._items
        finally:
            Hold.here()


@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
def test_a_loop_that_is_stopped_and_run_again_gets_what_was_held_back_meanwhile(
    factory: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.engine.mailbox.TICK", 0.2)  # not before the loop is stopped
    loop, got = factory(), list[str]()
    came = asyncio.Event()

    async def wait_for_what_comes(box: Mailbox) -> None:
        for _ in range(MANY):
            box.expect()

    box = Mailbox(loop)
    loop.run_until_complete(wait_for_what_comes(box))
    assert box._ticking
    hold = Hold.here()
    hold.on = True
    try:
        box.post(lambda message: (got.append(message), came.set()), "held back, and the stream never came back")
    finally:
        Hold.here()
    assert got == []
    loop.run_until_complete(asyncio.wait_for(came.wait(), PATIENCE))
    assert len(got) == 1
    loop.close()


@pytest.mark.parametrize("clock", [None, FakeClock()], ids=["real time", "no time passes"])
def test_two_loops_in_two_threads_each_get_all_of_theirs(clock: FakeClock | None, in_threads: InThreads) -> None:
    tasks, each = 2 * MANY, 100
    got: dict[str, list[int]] = {}
    with Engine(topology=made_up(2), clock=clock) as engine:

        async def ask(name: str, task: int) -> None:
            for i in range(each):
                got[name].append(await engine.push(lambda i=i: task * each + i))

        async def main(name: str) -> None:
            got[name] = []
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(ask(name, task) for task in range(tasks)))

        def run(name: str) -> None:
            with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
                runner.run(main(name))

        in_threads(*(lambda name=name: run(name) for name in LOOPS)).join()
    for name in LOOPS:
        assert sorted(got[name]) == list(range(tasks * each))


@pytest.fixture
def wakes(monkeypatch: pytest.MonkeyPatch) -> list[Mailbox]:
    """Of which mailboxes the loop was woken, each time."""
    wakes: list[Mailbox] = []
    ring = Mailbox.ring

    def counted(box: Mailbox) -> None:
        if box._items and not box._armed:
            wakes.append(box)
        ring(box)

    monkeypatch.setattr(Mailbox, "ring", counted)
    return wakes


@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
def test_a_loop_that_is_busy_while_many_runs_end_is_woken_once_for_all_of_them(
    factory: Callable[[], asyncio.AbstractEventLoop], wakes: list[Mailbox]
) -> None:
    rounds, tasks = 10, 64

    async def wait(future: Future[int]) -> int:
        return await future

    async def main() -> None:
        for _ in range(rounds):
            gate = Gate()
            first = engine.push(gate)
            waiting = [asyncio.ensure_future(wait(engine.push(lambda i=i: i))) for i in range(tasks)]
            await asyncio.sleep(0)  # all of them wait
            gate.open()
            first.wait_to_read(PATIENCE)
            engine.waitall(PATIENCE)  # the loop does nothing else meanwhile
            async with asyncio.timeout(PATIENCE):
                assert await asyncio.gather(*waiting) == list(range(tasks))

    with Engine(topology=made_up(1)) as engine, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert 1 <= len(wakes) <= 2 * rounds


@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
def test_while_no_time_passes_a_stream_wakes_the_loop_only_when_it_has_nothing_left_to_do(
    factory: Callable[[], asyncio.AbstractEventLoop], wakes: list[Mailbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, each = 64, 30
    idle = 0
    held_back = 0
    turn, announce = Engine.turn, Mailbox.announce

    def counted(self: Engine, stream: Any, done: Any) -> Any:
        nonlocal idle
        work = turn(self, stream, done)
        idle += done is not None and work is None
        return work

    def counted_announce(self: Mailbox) -> None:
        nonlocal held_back
        before = len(wakes)
        announce(self)
        held_back += len(wakes) == before

    monkeypatch.setattr(Engine, "turn", counted)
    monkeypatch.setattr(Mailbox, "announce", counted_announce)

    async def ask() -> None:
        for _ in range(each):
            await engine.push(int)

    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(ask() for _ in range(tasks)))

    with Engine(topology=made_up(1), clock=FakeClock()) as engine, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert held_back > 0
    # Not held back is only what ends when the loop has ceased to tick, until the next of its tasks comes to wait.
    assert len(wakes) <= idle + tasks * each - held_back
