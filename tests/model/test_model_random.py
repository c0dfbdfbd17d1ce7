"""Random users of three models on one engine: everybody is answered once, and the room is given back."""

import random
import threading
from typing import Any

import pytest

import headrace as hr
from headrace.engine.topology import made_up

PATIENCE = 30.0


def picky(x: int) -> int:
    if x % 7 == 3:
        raise ValueError(x)
    if x % 31 == 5:
        raise SystemExit(x)
    return -x


def picky_in_lists(xs: list[int]) -> list[Any]:
    if any(x % 31 == 5 for x in xs):
        raise SystemExit
    if len(xs) > 1 and sum(xs) % 11 == 0:
        return xs[1:]  # the wrong number of answers
    return [ValueError(x) if x % 7 == 3 else -x for x in xs]


def right(x: int, future: hr.Future[int]) -> bool:
    """Whether this outcome is one that a request of `x` may have."""
    error = future.exception(PATIENCE)
    if isinstance(error, hr.Cancelled | hr.Closed | hr.DeadlineExceeded):
        return True
    if isinstance(error, hr.BackendError):
        return x % 7 == 3 or x % 31 == 5
    return error is None and future.result() == -x and x % 7 != 3 and x % 31 != 5


@pytest.mark.parametrize("drain", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_everybody_is_answered_once_whatever_they_do(seed: int, drain: bool) -> None:
    sent = threading.Semaphore(0)
    told: list[hr.Future[Any]] = []
    with hr.Engine(topology=made_up(3), max_operations=200) as engine:
        options: dict[str, Any] = {"engine": engine}
        models = [
            hr.compile_model(picky, scheduler="multi_stream", **options),
            hr.compile_model(picky_in_lists, max_batch_size=4, num_cores=2, **options),
            hr.compile_model(
                picky_in_lists, scheduler="multi_stream", max_batch_size=8, max_batch_delay=0.001, **options
            ),
        ]
        everything: list[list[tuple[int, hr.Future[Any]]]] = [[] for _ in range(3)]

        def user(number: int) -> None:
            rng, mine = random.Random(f"{seed} {number}"), everything[number]
            for x in range(300):
                timeout = rng.choice([None, None, 0.0, 0.001, 10.0])
                try:
                    future = rng.choice(models).submit(x, timeout=timeout)
                except hr.Closed:
                    return
                except hr.DeadlineExceeded:  # so many wait that it is known to be too late
                    assert timeout is not None
                    sent.release()
                    continue
                mine.append((x, future))
                sent.release()
                match rng.randrange(8):
                    case 0:
                        future.cancel()
                    case 1:
                        rng.choice(mine)[1].cancel()
                    case 2 | 5:
                        future.add_done_callback(told.append)
                    case 3:
                        future.add_done_callback(lambda f: f.cancel() or 1 / 0)
                    case 4:
                        future.exception(PATIENCE)

        threads = [threading.Thread(target=user, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(900 if drain else 200):  # all of them; or close while they go on
            assert sent.acquire(timeout=PATIENCE)
        for model in models:
            model.close(drain=drain)
        for thread in threads:
            thread.join(PATIENCE)
        wrong = [(x, future) for mine in everything for x, future in mine if not right(x, future)]
        assert not wrong
        for model in models:
            seen = model.statistics()
            assert (seen.waiting, seen.running) == (0, 0)
            ended = seen.completed + seen.failed + seen.cancelled + seen.late + seen.refused
            assert seen.submitted == ended
            assert not drain or seen.refused == 0
        assert sum(model.statistics().submitted for model in models) == sum(map(len, everything))
        assert len(told) == len(set(told)), "nobody is told twice"
        after = engine.statistics()
        assert (after.budget.inside, after.budget.nbytes, after.cores_leased) == (0, 0, 0)
