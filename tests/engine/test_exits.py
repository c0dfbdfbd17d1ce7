"""Ends that are not a `close`: the interpreter's exit with work in flight, and a fork. Each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("engine", ["None", "hr.Engine(num_cores=1)"])
def test_the_interpreters_exit_finishes_what_is_inside(engine: str) -> None:
    told = run(
        f"""
        import atexit, os, threading
        import headrace as hr
        exiting = threading.Event()

        def answer(x):
            exiting.wait()
            os.write(1, b".")

        model = hr.compile_model(answer, engine={engine})
        for i in range(300):
            model.submit(i)
        atexit.register(exiting.set)  # before ours, which was registered before: nothing is answered until the exit
        """
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, "." * 300, "")


def test_a_forked_child_is_told_so_and_can_have_an_engine_of_its_own() -> None:
    told = run(
        """
        import os
        import headrace as hr
        model = hr.compile_model(lambda x: x + 1)
        future = model.submit(1)
        assert future.result() == 2
        child = os.fork()
        if not child:
            for call in (lambda: model(1), lambda: model.submit(1), lambda: model.engine.push(print)):
                try:
                    call()
                except hr.Closed as error:
                    assert "forked" in str(error)
                else:
                    os._exit(1)
            with hr.compile_model(lambda x: x + 2) as mine:
                os._exit(0 if mine(1) == 3 else 2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert model(5) == 6
        """
    )
    assert (told.returncode, told.stderr) == (0, "")
