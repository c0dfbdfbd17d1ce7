"""What becomes of what a worker had when its process ended: who is told, who waits again, alone or as before.

`retry` says it of one request; here it is said of works, some of which are batches and go both ways.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, MutableSet
from typing import TYPE_CHECKING, Any

from headrace.engine.remote import exchange, hand_back, lose
from headrace.errors import HeadraceError, ResponseTimeout, WorkerDied
from headrace.model.pending import Pending
from headrace.model.run import Run
from headrace.workers.in_hand import InHand, Sent
from headrace.workers.output import Output
from headrace.workers.retry import Fate, fate, has_begun

if TYPE_CHECKING:
    from headrace.workers.pool import Pool
    from headrace.workers.worker import Worker

_log = logging.getLogger("headrace.workers")


def bury(pool: Pool, worker: Worker, hand: InHand, error: HeadraceError) -> None:
    """What was with the process is told `error`, or waits again."""
    ended, stream = hand.ended, worker.stream
    if pool.is_sequenced:
        lose(pool.engine, stream)
    may_try = pool.options.idempotent and not isinstance(error, ResponseTimeout)
    begun, inside = hand.arena.begun(), [*hand.sent.values(), *hand.again]
    alone = pool.source.alone
    if hand.is_known:
        fates = part([each for each in inside if each.overdue], begun, pool.tried, False, error)
        beside = WorkerDied(pool.name, "was ended, as another run on its event loop did not end in time")
        others = [each for each in inside if not each.overdue]  # have cost nobody anything, as if they had not begun
        fates += part(others, 0 if pool.options.idempotent else begun, pool.tried, False, beside)
    elif pool.at_once:
        suspects = [each for each in inside if each.id > 0 and has_begun(each.id, begun)]
        guilty = hand.sent.get(hand.arena.step()[0])
        if guilty is not None and pool.options.idempotent:  # it died in the middle of a step of this one's
            others = [each for each in inside if each is not guilty]
            fates = part([guilty], begun, pool.tried, may_try, error, alone)
            fates += part(others, 0, pool.tried, False, error)
        else:
            may_try = pool.options.idempotent and (may_try or len(suspects) > 1)
            fates = part(inside, begun, pool.tried, may_try, error, alone, one_of_many=len(suspects) > 1)
    else:
        fates = part(inside, begun, pool.tried, may_try, error)
    pool.has_tried = pool.has_tried or len(pool.tried) > 0
    back: list[tuple[Any, float]] = []
    for work, ends, waits, taken_at in fates:
        for request in ends:  # nobody asks for its past any more
            pool.tried.discard(request)
            alone.discard(request)
        if not waits:
            ended.append((work, None))
        elif not ends:
            back.append((work, taken_at))
        else:
            ended.append((pool.part_of(work, ends), None))
            back.append((pool.part_of(work, waits), taken_at))
    exchange(pool.engine, stream, ended, 0, 0)
    if back:
        hand_back(pool.engine, stream, back)
    pool.keep_suspects(worker)


def part(
    sent: Iterable[Sent],
    begun_last: int,
    tried: MutableSet[Pending],
    may_try: bool,
    error: HeadraceError,
    alone: MutableSet[Pending] | None = None,
    one_of_many: bool = False,
) -> list[tuple[Any, list[Pending], list[Pending], float]]:
    """For each work: itself, those of its requests that end, those that wait again, and when it was taken.

    Those that end with `error` have it; those that are to run alone are like nothing else, and in `tried` if they had
    begun. `may_try`: what had begun may begin once more. `alone`: those that are to have a worker for themselves.
    """
    found: dict[int, tuple[Any, list[Pending], list[Pending], float]] = {}
    for each in sent:
        _, ends, waits, _ = found.setdefault(id(each.work), (each.work, [], [], each.taken_at))
        begun = each.id > 0 and has_begun(each.id, begun_last)
        for request in each.requests:
            its = fate(
                begun=begun,
                tried=request in tried,
                idempotent=may_try and not request.parted,
                wanted=not request._done,
                one_of_many=one_of_many,
            )
            if its is Fate.FAILS:
                request.failure = error
                ends.append(request)
                continue
            if its is Fate.ALONE:
                request.alike = object()  # like nothing else
                if begun:
                    tried.add(request)
                    if alone is not None:
                        alone.add(request)
            elif its is Fate.AMONG_OTHERS:
                tried.add(request)
            waits.append(request)
    # Of one that was divided, some have been answered.
    return [
        (work, [each for each in work.batch if each not in waits] if isinstance(work, Run) else ends, waits, taken_at)
        for work, ends, waits, taken_at in found.values()
    ]


def tell(pool: Pool, name: str, why: str, hand: InHand | None, output: Output | None) -> None:
    """The operator."""
    count = 0 if hand is None else sum(len(each.requests) for each in (*hand.sent.values(), *hand.again))
    last, said = list(output.last) if output is not None else [], ""
    if output is not None and output.is_stack:
        said = "; where it hung:\n" + "\n".join(last)
    elif last:
        said = f"; it had written: {' | '.join(last[-12:])}"
    _log.error(
        "%s %s; %d requests were with it%s",
        name,
        " ".join(why.split()),
        count,
        said,
        extra={"model": pool.name, "request_id": None},
    )


def tell_late(pool: Pool, name: str, seconds: float, output: Output) -> None:
    """The operator. What its process waited for it has said itself (`child_end`)."""
    said = f": {' | '.join(list(output.last)[-12:])}" if output.last else ""
    _log.warning(
        "%s was told to end, had not after %g s, and was killed%s",
        name,
        seconds,
        said,
        extra={"model": pool.name, "request_id": None},
    )
