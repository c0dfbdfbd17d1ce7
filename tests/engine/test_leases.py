"""Groups of lanes that want cores, as the engine asks for them, played through without threads."""

import random
from collections import Counter
from itertools import combinations

import pytest

from headrace.engine.leases import Group, Lane, Leases


class Play:
    """What the engine does with Leases: some work for each group, one piece of it for each run."""

    def __init__(self, cores: int, *groups: list[int]) -> None:
        self.leases = Leases(cores)
        self.groups = [Group() for _ in groups]
        for group, masks in zip(self.groups, groups):
            for mask in masks:
                group.add_lane(mask)
        self.work: Counter[Group] = Counter()
        self.running: list[Lane] = []
        self.line: list[Group] = []  # who stands in line, as seen from outside
        self.grants: list[Group] = []

    def give(self, group: Group, pieces: int = 1) -> None:
        self.work[group] += pieces
        self._ask(group)
        self._check()

    def end(self, lane: Lane) -> None:
        self.running.remove(lane)
        if bool(self.leases.line):
            self.leases.release(lane)
            if self.work[lane.group] and lane.group.idle:
                self.leases.line_up(lane.group)
                self._look()
            self._start(self.leases.grant(self.work.__getitem__))
        elif self.work[lane.group] and not lane.out:  # nobody else wants the cores: it takes its next piece at once
            self._run(lane)
        else:
            self.leases.release(lane)
        self._ask(lane.group)
        self._check()

    def drop(self, group: Group) -> None:
        """The group goes. What runs, runs on."""
        self.work[group] = 0
        self.leases.leave(group)
        self._look()
        self._start(self.leases.grant(self.work.__getitem__))
        self._check()

    def exchange(self, group: Group, masks: list[int]) -> None:
        """The group has other lanes. What runs, runs on."""
        in_line = group.in_line
        old = [*group.idle, *(lane for lane in self.running if lane.group is group)]
        self.leases.exchange(group, old, [Lane(group, mask) for mask in masks])
        assert group.in_line == in_line, "it keeps its place"
        self._start(self.leases.grant(self.work.__getitem__))
        self._ask(group)
        self._check()

    def _ask(self, group: Group) -> None:
        while self.work[group] and (lane := self.leases.want(group)) is not None:
            self._start([lane])
        self._look()

    def _start(self, lanes: list[Lane]) -> None:
        for lane in lanes:
            for earlier in self.line:  # they were passed over: their cores must not have been taken
                if lane.group is earlier:
                    break
                assert not earlier.in_line or not any(lane.mask & kept.mask for kept in earlier.idle), (
                    "overtook one who waits for its cores"
                )
            self.grants.append(lane.group)
        self._look()
        for lane in lanes:
            assert lane.running
            lane.awake()
            assert self.work[lane.group], "stood in line without work"
            self._run(lane)
        for lane in lanes:
            self._ask(lane.group)

    def _run(self, lane: Lane) -> None:
        self.work[lane.group] -= 1
        self.running.append(lane)

    def _look(self) -> None:
        self.line = [group for group in self.line if group.in_line]
        self.line += [group for group in self.groups if group.in_line and group not in self.line]

    def _check(self) -> None:
        leased = 0
        for lane in self.running:
            assert lane.running
            leased |= lane.mask
        assert all(not a.mask & b.mask for a, b in combinations(self.running, 2)), "two runs share a core"
        assert self.leases.free == self.leases.cores & ~leased
        assert bool(self.leases.line) == bool(self.line)
        for group in self.groups:
            assert group.running == sum(lane.group is group for lane in self.running)
            assert not group.waking
            assert group.in_line or not (self.work[group] and group.idle), "has work and a lane, and nobody knows"
        free = self.leases.free
        for group in self.line:
            assert not any(lane.mask & ~free == 0 for lane in group.idle), "could run, and does not"
            for lane in group.idle:
                free &= ~lane.mask


def random_masks(rng: random.Random, cores: int) -> list[int]:
    """Disjoint placements, as a scheduler makes them, though not always of neighbours."""
    order = rng.sample(range(cores), cores)
    masks = []
    while order and (not masks or rng.random() < 0.8):
        width = rng.choice([1, 1, 2, len(order)])
        masks.append(sum(1 << core for core in order[:width]))
        del order[:width]
    return masks


@pytest.mark.parametrize("seed", range(60))
def test_random_groups_share_no_core_leave_none_idle_and_all_get_their_turn(seed: int) -> None:
    rng = random.Random(seed)
    cores = rng.choice([1, 2, 3, 4, 8])
    play = Play((1 << cores) - 1, *(random_masks(rng, cores) for _ in range(rng.randint(1, 5))))
    for _ in range(150):
        if play.running and rng.random() < 0.55:
            play.end(rng.choice(play.running))
        elif rng.random() < 0.02:
            play.drop(rng.choice(play.groups))
        elif rng.random() < 0.05:
            play.exchange(rng.choice(play.groups), random_masks(rng, cores))
        else:
            play.give(rng.choice(play.groups), rng.randint(1, 3))
    while play.running:
        play.end(rng.choice(play.running))
    assert not any(play.work.values()), "work was left behind"
    assert play.leases.free == play.leases.cores


def test_a_wide_one_gets_its_turn_behind_narrow_ones_that_never_stop() -> None:
    play = Play(0b1111, [0b1, 0b10, 0b100, 0b1000], [0b1111])
    narrow, wide = play.groups
    play.give(narrow, 1000)
    play.give(wide, 2)
    ended = 0
    while wide not in {lane.group for lane in play.running}:
        play.end(play.running[0])
        ended += 1
    assert ended == 4, "each narrow run that was there ends once; none begins while the wide one waits"
    play.end(play.running[0])
    assert {lane.group for lane in play.running} == {narrow}, "and then it is the others' turn"


def test_a_core_that_nobody_keeps_is_not_left_idle_for_a_wide_one() -> None:
    play = Play(0b111, [0b1], [0b11], [0b100])
    first, wide, elsewhere = play.groups
    play.give(first)
    play.give(wide)
    play.give(elsewhere)
    assert [lane.group for lane in play.running] == [first, elsewhere]


def test_models_take_turns() -> None:
    play = Play(0b11, [0b11], [0b11], [0b11])
    a, b, c = play.groups
    for group in play.groups:
        play.give(group, 3)
    while play.running:
        play.end(play.running[0])
    assert play.grants == [a, b, c] * 3


def test_who_came_first_is_served_first() -> None:
    play = Play(0b1, *([0b1] for _ in range(5)))
    for group in reversed(play.groups):
        play.give(group)
    while play.running:
        play.end(play.running[0])
    assert play.grants == play.groups[::-1]


def test_a_group_with_much_work_stands_in_line_once() -> None:
    play = Play(0b11, [0b11], [0b1, 0b10], [0b11])
    hog, busy, other = play.groups
    play.give(hog)
    play.give(busy, 10)
    play.give(other)
    play.end(play.running[0])
    assert play.grants == [hog, busy, busy], "its turn is as many lanes as it has"
    play.end(play.running[0])
    play.end(play.running[0])
    assert play.grants == [hog, busy, busy, other], "and for more it stands behind those who came meanwhile"


def test_a_turn_is_all_the_lanes_there_is_work_for() -> None:
    """A wide one stands behind, and keeps what is left: a core that is not taken now is idle for a whole run."""
    play = Play(0b1111, [0b1111], [0b1, 0b10, 0b100, 0b1000])
    wide, narrow = play.groups
    play.give(wide, 3)
    play.give(narrow, 6)
    while play.running:
        play.end(play.running[0])
    assert play.grants == [wide, *[narrow] * 4, wide, *[narrow] * 2, wide]


def test_a_turn_is_no_more_lanes_than_there_is_work_for() -> None:
    play = Play(0b111, [0b111], [0b1, 0b10, 0b100], [0b1])  # a group's last lane is taken first
    wide, narrow, other = play.groups
    play.give(wide)
    play.give(narrow, 2)
    play.give(other)
    play.end(play.running[0])
    assert [(lane.group, lane.mask) for lane in play.running] == [(narrow, 0b100), (narrow, 0b10), (other, 0b1)]


def test_the_lane_that_ran_last_is_taken_first() -> None:
    play = Play(0b111, [0b1, 0b10, 0b100])
    (group,) = play.groups
    play.give(group, 3)
    last = play.running[1]
    for lane in (play.running[0], play.running[2], last):
        play.end(lane)
    play.give(group)
    assert play.running == [last]


def test_who_leaves_the_line_lets_those_behind_pass() -> None:
    play = Play(0b11, [0b1], [0b11], [0b10])
    narrow, wide, behind = play.groups
    play.give(narrow)
    play.give(wide)
    play.give(behind)
    assert [lane.group for lane in play.running] == [narrow]
    play.drop(wide)
    assert [lane.group for lane in play.running] == [narrow, behind]


def test_other_lanes_take_their_groups_place_in_line_and_what_it_kept() -> None:
    play = Play(0b1111, [0b11], [0b1111], [0b1111])
    narrow, wide, behind = play.groups
    play.give(narrow)
    play.give(wide, 2)
    play.give(behind)
    play.exchange(wide, [0b11, 0b1100])
    assert [lane.group for lane in play.running] == [narrow, wide], "half of it is free"
    play.end(play.running[0])
    play.end(play.running[0])
    assert play.grants == [narrow, wide, behind], "its next lane stands behind who came meanwhile"


def test_a_lane_that_was_exchanged_gives_its_cores_back_at_the_end_of_its_run_and_is_not_granted_again() -> None:
    play = Play(0b11, [0b11])
    (group,) = play.groups
    play.give(group, 3)
    (old,) = play.running
    play.exchange(group, [0b1, 0b10])
    assert play.running == [old]
    play.end(old)
    assert [lane.mask for lane in play.running] == [0b1, 0b10] or [lane.mask for lane in play.running] == [0b10, 0b1]
    assert old not in group.idle


def test_a_lane_that_is_exchanged_before_it_has_pulled_loses_its_cores_at_once() -> None:
    leases, group = Leases(0b11), Group()
    old = group.add_lane(0b11)
    assert leases.want(group) is old
    new = Lane(group, 0b1)
    leases.exchange(group, [old], [new])
    assert (group.waking, group.running, group.idle, leases.free) == (0, 0, [new], 0b11)
    assert leases.want(group) is new


def test_a_lane_is_waking_from_its_grant_to_its_first_look_at_the_work() -> None:
    leases, group = Leases(0b1), Group()
    lane = group.add_lane(0b1, stream="its stream")
    assert leases.want(group) is lane
    assert (group.waking, group.running, group.idle, lane.stream) == (1, 1, [], "its stream")
    lane.awake()
    lane.awake()
    assert (group.waking, group.running) == (0, 1)
    assert leases.want(group) is None
    assert not bool(leases.line), "all its lanes run: it has nothing to stand in line with"
    leases.release(lane)
    assert leases.want(group) is lane
    leases.release(lane)  # without a look: its port was closed
    assert (group.waking, group.running, leases.free) == (0, 0, 0b1)
