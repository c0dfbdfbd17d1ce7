"""Ctrl-C, or what a handler of another signal raises, between any two steps of a push, a submit, a cancel or a read: it
is raised, and the engine is whole after it.

Each test is a process of its own, whose timer interrupts the main thread after a random while, hundreds of times. After
each interrupt nothing may be left inside, no Var held, no stream lost, and what is pushed then runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

ROUNDS = 400
KINDS = {
    "one core": "cores=1",
    "several cores": "cores=2",
    "full": "cores=2, max_operations=4",
    "full of bytes": "cores=2, max_operations=4, max_bytes=400",
    "shedding": "cores=2, max_operations=4, on_full='shed'",
    "polled": "cores=2, polled=True",
    "a model": "cores=2, of_a_model=True",
    "a model, full of bytes": "cores=2, of_a_model=True, max_bytes=400",
}
SCRIPT = """
    import contextlib, gc, os, random, signal, sys, traceback
    import headrace as hr
    from headrace.engine.topology import made_up

    PATIENCE = 10.0

    class OutOfTime(Exception):
        "What a time limit of a user's own raises."

    def made(cores, of_a_model=False, polled=False, **options):
        engine = hr.Engine(topology=made_up(cores), **options)
        model = hr.compile_model(lambda x: x, engine=engine, scheduler="multi_stream") if of_a_model else None
        if polled:
            engine.poll()
        return engine, model

    rng = random.Random({seed})
    engine, model = made({options})
    variables = [hr.Var(name) for name in "abcd"]
    armed, interrupts, last = False, 0, ""

    def interrupt(number, frame):
        global armed, interrupts, last
        if armed:  # one that comes too late is none
            armed = False
            interrupts += 1
            last = "".join(traceback.format_stack(frame, 9))
            raise {raises}

    signal.signal(signal.SIGALRM, interrupt)

    def burst():
        futures = []
        for _ in range(30):
            try:
                if model is not None:
                    futures.append(model.submit(b"ten bytes.", priority=rng.choice([0, 1])))
                else:
                    reads, writes = (rng.sample(variables, rng.randint(0, 2)) for _ in range(2))
                    futures.append(
                        engine.push(lambda: b"ten bytes.", reads=reads, writes=writes, priority=rng.choice([0, 1]))
                    )
            except (hr.Overloaded, hr.WouldDeadlock):
                futures.clear()
            what = rng.random()
            if futures and what < 0.1:
                rng.choice(futures).cancel()
            elif futures and what < 0.2 and not futures[-1].cancelled():
                with contextlib.suppress(hr.Overloaded):
                    futures.pop().result(PATIENCE)

    def check():
        with contextlib.suppress(ExceptionGroup):  # what was shed
            engine.waitall(PATIENCE)
        for var in variables:
            assert engine.push(int, writes=[var]).result(PATIENCE) == 0
        if model is not None:
            assert model(b"x") == b"x"
        engine.waitall(PATIENCE)
        gc.collect()
        budget = engine.statistics().budget
        assert (budget.inside, budget.nbytes, budget.waiting, budget.unread) == (0, 0, 0, 0), budget
        assert engine.statistics().cores_leased == 0
        for port in engine._ports:
            assert len(port.source) == 0
            assert all(stream._thread.is_alive() for stream in port.streams)

    if issubclass({raises}, Exception):  # of which `Thread.start` makes a KeyError in its midst
        engine.push(int).result(PATIENCE)

    try:
        for i in range({rounds}):
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(10e-6, 400e-6))
                burst()
                armed = False
            except {raises}:
                pass
            armed = False
            check()
        engine.close(timeout=PATIENCE)
    except BaseException:
        traceback.print_exc()
        print("round", i, "seed", {seed}, "interrupted at", last, engine.dump_state(), sep="\\n")
        sys.stdout.flush()
        os._exit(1)
    print(interrupts)
"""


@pytest.mark.parametrize("raises", ["KeyboardInterrupt", "OutOfTime"])
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_an_interrupt_between_any_two_steps_leaves_the_engine_whole(options: str, raises: str) -> None:
    seed = int.from_bytes(os.urandom(4))
    script = textwrap.dedent(SCRIPT).format(seed=seed, options=options, rounds=ROUNDS, raises=raises)
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stdout + told.stderr
    assert int(told.stdout) > ROUNDS / 4, "it was hardly ever interrupted"
