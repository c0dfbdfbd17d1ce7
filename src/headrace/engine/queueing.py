"""How long requests take under a load, as queueing theory has it. Pure; all times are seconds, all rates per second.

The model is M/G/s: requests come at random moments (Poisson), s streams alike take them first come, first served, and a
run takes `service` on average with a standard deviation of `cv` times that. Of the distribution only these two moments
are known; where its shape matters it is taken to be lognormal.

What is exact: Erlang's C for how likely a request is to wait if runs are exponential (for others it is near), the mean
of one stream (Pollaczek and Khinchine). For several streams and for the distribution of waits this is the approximation
of Tijms, van Hoorn and Federgruen, "Approximations for the steady-state probabilities in the M/G/c queue", Advances in
Applied Probability 13 (1981): while all s streams are busy they drain the queue like one that is s times as fast, and
who finds all of them busy and nobody waiting waits for the first of s runs that are somewhere on their way. A wait is
then that first end and as many remainders of a run at s times the speed as a geometric number says. For equal runs it
is far nearer than Erlang's C with an exponential tail, which says half as much again for the p99 of a quiet stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf, log, log1p, sqrt
from statistics import NormalDist

from headrace.errors import InvalidOption

PIECES = 16
"""Grid points of a wait in one run's time at s times the speed."""
LONGEST = 4000
"""Grid points at most; beyond them waits decay exponentially, as they do from early on."""
RUNS = 64
"""Equally likely run times that stand for all of them."""
_normal = NormalDist()


@dataclass(frozen=True, slots=True)
class Load:
    """`rate` requests a second on `streams`, each run taking `service` seconds while all streams are busy."""

    rate: float
    streams: int
    service: float
    cv: float = 0.0
    """Standard deviation of a run's time over its mean."""
    first: float | None = None
    """Seconds a run takes on a stream that has rested: caches are cold, threads and cores asleep. None: `service`."""

    def __post_init__(self) -> None:
        well = self.rate >= 0 and self.streams >= 1 and self.service > 0 and self.cv >= 0
        if not well or (self.first is not None and not self.first > 0):
            raise InvalidOption(
                "a load is a rate from 0, streams from 1, seconds of service above 0, a cv from 0, and seconds of a "
                f"first run above 0, not {self.rate}, {self.streams}, {self.service}, {self.cv} and {self.first}"
            )

    @property
    def capacity(self) -> float:
        """Requests a second the streams can answer."""
        return self.streams / self.service

    @property
    def utilisation(self) -> float:
        """Share of its time a stream is busy; from 1 up the queue grows for ever."""
        return self.rate / self.capacity

    @property
    def wait_probability(self) -> float:
        """How likely all streams are busy when a request comes."""
        return self._behind_and_run()[0]

    @property
    def mean_wait(self) -> float:
        """Seconds from a request's coming to its start, on average over all; infinite if more come than can go."""
        busy = self.utilisation
        if busy >= 1:
            return inf
        behind, run = self._behind_and_run()
        remainder = self.service * (1 + self.cv**2) / (2 * self.streams)
        return behind * (self._first_end(run) + busy / (1 - busy) * remainder)

    @property
    def mean(self) -> float:
        """Seconds from a request's coming to its end, on average."""
        return self.mean_wait + self._behind_and_run()[1]

    def quantile(self, p: float) -> float:
        """Seconds within which a share `p` of the requests have come to their end; infinite as `mean_wait` is."""
        if not 0 < p < 1:
            raise InvalidOption(f"a quantile is of a share above 0 and below 1, not {p}")
        if self.utilisation >= 1:
            return inf
        runs = [self._run_within((i + 0.5) / RUNS) for i in range(RUNS)]
        waits, step = self._waits((1 - p) / 20), self._step
        behind, slower = self.wait_probability, (self.first or self.service) / self.service

        def longer(seconds: float) -> float:
            at_once = sum(run * slower > seconds for run in runs)
            waited = sum(_beyond(waits, (seconds - run) / step) for run in runs)
            return ((1 - behind) * at_once + behind * waited) / RUNS

        low, high = 0.0, max(runs) * max(1.0, slower)
        while longer(high) > 1 - p:
            low, high = high, 2 * high
        while high - low > 1e-4 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if longer(middle) > 1 - p else (low, middle)
        return high

    # ---- inside

    @property
    def _step(self) -> float:
        return self.service / self.streams / PIECES

    def _behind_and_run(self) -> tuple[float, float]:
        """How likely a run begins right behind another one, and how long one takes on average. The longer they are, the
        more often they are behind others, which are the short ones: found by going round until nothing changes."""
        run = self.service
        for _ in range(1 if self.first is None else 50):
            behind = erlang_c(self.streams, self.rate * run)
            run = behind * self.service + (1 - behind) * (self.first or self.service)
        return behind, run

    def _remaining(self, seconds: float, run: float) -> float:
        """How likely a run that is somewhere on its way takes at least so much longer, where one takes `run`."""
        if seconds <= 0:
            return 1.0
        if self.cv == 0:
            return max(0.0, 1 - seconds / run)
        sigma = sqrt(log1p(self.cv**2))
        d = (log(run / seconds) + sigma**2 / 2) / sigma
        return max(0.0, _normal.cdf(d) - seconds / run * _normal.cdf(d - sigma))

    def _run_within(self, share: float) -> float:
        """Seconds within which this share of the runs on busy streams have ended."""
        sigma = sqrt(log1p(self.cv**2))
        return self.service * exp(sigma * _normal.inv_cdf(share) - sigma**2 / 2)

    def _first_end(self, run: float) -> float:
        """Seconds until the first of s runs on their way ends, on average."""
        step, total, at = self._step, 0.0, 0.5
        while (likely := self._remaining(at * step, run) ** self.streams) > 1e-9:
            total += likely
            at += 1
        return total * step

    def _waits(self, enough: float) -> list[float]:
        """For grid point k, how likely a request that has to wait does so for more than k steps.

        Goes on until that is as unlikely as `enough`, or `LONGEST`.
        """
        step, busy, run = self._step, self.utilisation, self._behind_and_run()[1]
        first = _masses(lambda at: self._remaining(at * step, run) ** self.streams)
        one = _masses(lambda at: self._remaining(at * step * self.streams, self.service))
        # The sum of a geometric number of remainders, by Panjer's recursion (ASTIN Bulletin 12, 1981).
        whole = [(1 - busy) / (1 - busy * one[0])]
        waits: list[float] = []
        left = 1.0
        while left > enough and len(waits) < LONGEST:
            k = len(waits)
            if k:
                more = sum(one[j] * whole[k - j] for j in range(1, min(k, len(one) - 1) + 1))
                whole.append(busy * more / (1 - busy * one[0]))
            mass = sum(first[j] * whole[k - j] for j in range(min(k, len(first) - 1) + 1))
            waits.append(left - mass / 2)  # the mass of a point stands for half a step on either side
            left -= mass
        return waits


def erlang_c(streams: int, erlangs: float) -> float:
    """How likely a request finds all `streams` busy, where `erlangs` (rate times service) of them are on average.

    A. K. Erlang, "Solution of some problems in the theory of probabilities of significance in automatic telephone
    exchanges" (1917). 1 where more comes than can go.
    """
    if erlangs >= streams:
        return 1.0
    blocked = 1.0  # Erlang's B, by its recursion: no factorials, no overflow
    for n in range(1, streams + 1):
        blocked = erlangs * blocked / (n + erlangs * blocked)
    busy = erlangs / streams
    return blocked / (1 - busy * (1 - blocked))


def _masses(longer: Callable[[float], float]) -> list[float]:
    """How likely each grid point is, for a time that is longer than `at` points with the likelihood `longer(at)`."""
    masses, left, at = [], 1.0, 0.5
    while left > 1e-9:
        beyond = longer(at)
        masses.append(left - beyond)
        left, at = beyond, at + 1
    return masses


def _beyond(waits: list[float], at: float) -> float:
    """How likely a wait is longer than `at` grid points, by the points on either side."""
    if at <= 0:
        return 1.0
    k = int(at)
    if k + 1 < len(waits):
        low, high = waits[k] if k else 1.0, waits[k + 1]
        return low + (high - low) * (at - k)
    if len(waits) < LONGEST:
        return 0.0
    decay: float = (waits[-1] / waits[LONGEST // 2]) ** (1 / (LONGEST - 1 - LONGEST // 2))
    return float(waits[-1] * decay ** (at - LONGEST + 1))
