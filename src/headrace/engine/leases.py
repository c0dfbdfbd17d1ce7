"""Who may run on which cores. Pure: the caller holds the engine's lock.

Streams belong to a model; cores belong to the engine; a stream leases its cores for each run.

Rule 1: the cores of what runs are disjoint, so their widths never add up to more than the engine's cores.
Rule 2: cores go to those who wait in the order they came. One who waits for several cores keeps those that come free
        for it: later ones may not take them, so a wide request does not starve behind narrow ones.
Rule 3: whoever ends a run goes behind those who waited meanwhile, so several models take turns.
Rule 4: a Group stands in line at most once, however much work it has. When its turn comes it is given every lane it has
        work for and whose cores are free: one at a time, the others would be kept idle for whoever is wide and next in
        line. For more it lines up again.
Rule 5: its lanes may be exchanged at any moment: it keeps its place in line, and old lanes that run end their run.

Cores are bits of an int: asking and taking are two machine operations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any


class Lane:
    """What one stream needs to run: its cores, as a bit mask. `running` from the grant to the release."""

    __slots__ = ("group", "mask", "out", "running", "stream", "waking")

    def __init__(self, group: Group, mask: int, stream: Any = None) -> None:
        self.group, self.mask, self.stream = group, mask, stream
        self.running = False
        self.waking = False  # granted, and has not pulled yet
        self.out = True  # not one of its group's: not yet, or no more. It is not granted then

    def awake(self) -> None:
        """It pulls now."""
        if self.waking:
            self.waking = False
            self.group.waking -= 1


class Group:
    """The lanes that pull from one source. `idle` is last in, first out: the warmest is taken first."""

    __slots__ = ("idle", "in_line", "running", "waking")

    def __init__(self) -> None:
        self.idle: list[Lane] = []
        self.running = 0  # lanes granted and not released
        self.waking = 0  # of those, lanes that have not pulled yet
        self.in_line = False

    def add_lane(self, mask: int, stream: Any = None) -> Lane:
        lane = Lane(self, mask, stream)
        lane.out = False
        self.idle.append(lane)
        return lane


class Leases:
    def __init__(self, cores: int) -> None:
        """`cores`: a bit mask of the cores there are."""
        self.cores = cores
        self.free = cores
        self.line: deque[Group] = deque()
        """Who waits for cores."""

    @property
    def leased(self) -> int:
        """How many cores are in use."""
        return (self.cores & ~self.free).bit_count()

    def want(self, group: Group) -> Lane | None:
        """`group` has work for one more lane. The lane that may run now; None: none is idle, or it stands in line."""
        if not group.idle or group.in_line:
            return None
        if not group.idle[-1].mask:  # it runs elsewhere (`remote`): cores are not what it waits for
            self._grant(elsewhere := group.idle[-1])
            return elsewhere
        if not self.line:
            lane = self._fitting(group, self.free)
            if lane is not None:
                self._grant(lane)
                return lane
        self.line_up(group)
        # Whoever stands in front could not be granted before, and nothing has been released since: only we can be.
        granted = self.grant() if len(self.line) > 1 else None
        return granted[0] if granted else None

    def line_up(self, group: Group) -> None:
        """Stand behind those who wait."""
        if not group.in_line:
            group.in_line = True
            self.line.append(group)

    def release(self, lane: Lane) -> None:
        """`lane` has ended its run. Follow with `grant`: its cores may be what someone waits for."""
        lane.awake()
        lane.running = False
        group = lane.group
        group.running -= 1
        if not lane.out:
            group.idle.append(lane)
        self.free |= lane.mask

    def exchange(self, group: Group, old: Iterable[Lane], new: Iterable[Lane]) -> None:
        """`new` lanes are the group's from now on. Of the `old` ones, which are all it has, those that have pulled keep
        their cores until they are released; those that have not lose them. Follow with `grant`.
        """
        for lane in old:
            lane.out = True
            if lane.waking:
                self.release(lane)
        group.idle = list(new)
        for lane in group.idle:
            lane.out = False

    def leave(self, group: Group) -> None:
        """`group` wants nothing any more. Follow with `grant`: it may have kept cores for itself."""
        if group.in_line:
            group.in_line = False
            self.line.remove(group)

    def grant(self, ready: Callable[[Group], int] | None = None) -> list[Lane]:
        """The lanes that may run now, for those who stand in line. `ready`: how many lanes a group has work for; None:
        one each."""
        granted: list[Lane] = []
        available = self.free
        still: deque[Group] = deque()
        for group in self.line:
            lane = self._fitting(group, available) if available else None
            if lane is not None:
                group.in_line = False
                wanted = ready(group) if ready is not None else 1
                while lane is not None:
                    self._grant(lane)
                    granted.append(lane)
                    available &= ~lane.mask
                    wanted -= 1
                    lane = self._fitting(group, available) if wanted > 0 and available else None
            else:
                still.append(group)
                for waiting in group.idle:
                    available &= ~waiting.mask
        self.line = still
        return granted

    @staticmethod
    def _fitting(group: Group, available: int) -> Lane | None:
        for lane in reversed(group.idle):
            if lane.mask & ~available == 0:
                return lane
        return None

    def _grant(self, lane: Lane) -> None:
        # All of it without a call in between, where Ctrl-C could come; this one last.
        group = lane.group
        group.running += 1
        group.waking += 1
        lane.running = lane.waking = True
        self.free &= ~lane.mask
        group.idle.remove(lane)
