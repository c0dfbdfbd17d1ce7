"""How a worker process begins: a process that loads one thing, and runs it for its owner until its owner goes.

It is started by executing this file with its environment's Python (3.8 or later), and imports the standard library and
NumPy (1.22 or later) alone: it lives in somebody else's environment, and Headrace need not be there. So it loads the
files it is made of (`child_runs`, `child_arena`, `child_asked`), those it shares with its owner (`frames`, `messages`,
`values`), and the one that loads what it runs, by their paths. Python compiles what it executes at each start, and what
is loaded once: so what may be in another file is.

Rule 1: its owner's end is its own: the socket is closed then, and the kernel kills it, whatever it does (PDEATHSIG).
Rule 2: what its owner is (its terminal, its signals, its folder) is none of its business.
Rule 3: NumPy, and whatever it is to load, is imported once it is known how much of the machine it may use.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.path and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # this file's folder: its neighbours are no modules of the environment's

import contextlib
import ctypes
import faulthandler
import importlib.util
import json
import mmap
import os
import signal
import socket
import traceback
from typing import Any

PR_SET_PDEATHSIG = 1
LOADERS = {"callable": "callables", "onnx": "onnx_loader", "handler": "../archives/handler"}
"""By what a worker is told it is to load: the file that does. Each has `load(setup)`, which answers with something that
has `function` and `about`, and raises something called Refused where the message is all there is to say. A function
that has `stop` can be told to end its run: what `stop` is while a run goes on is called, from another thread."""


def neighbour(name: str) -> Any:
    """A file beside this one, or at a path from here: a module that nothing of the environment's is taken for."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
    full = "_headrace_" + os.path.basename(name)
    spec = importlib.util.spec_from_file_location(full, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module


def end_with(parent: int) -> None:
    """Have the kernel kill this process when that thread of its owner ends which has started it: one that lives as long
    as this process."""
    if not parent:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before that
        os._exit(0)


def leave_terminal() -> None:
    """Whoever reads from it in the background is stopped, and so is the whole worker with what it has started. Where
    there is none, opening it is an error, which is told."""
    with contextlib.suppress(OSError, ImportError):
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            import fcntl
            import termios

            fcntl.ioctl(terminal, termios.TIOCNOTTY)  # ours alone: only who leads a session takes it from the others
        finally:
            os.close(terminal)


def prepare(setup: dict[str, Any]) -> None:
    if setup.get("address_space"):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (setup["address_space"], setup["address_space"]))
    if setup.get("cpus"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, setup["cpus"])
    here = None
    with contextlib.suppress(OSError):  # it has gone
        here = os.getcwd()
    if here != setup["folder"]:  # else its owner may be where nobody may enter any more, or never might
        os.chdir(setup["folder"])
    if setup.get("path") is not None:
        sys.path[:] = setup["path"]
    if setup["folder"] not in sys.path:
        is_safe = getattr(sys.flags, "safe_path", False)  # -P: what is there is found, and takes nobody's place
        sys.path.insert(len(sys.path) if is_safe else 0, setup["folder"])
    sys.argv = setup.get("argv", [""])


def set_up(child: Any, parent: int) -> bool:
    """Load what the owner says. False: it cannot be, or the owner has gone."""
    while not child.waiting:
        if not child.receive():
            return False
    frame = child.waiting.pop()
    setup: dict[str, Any] = json.loads(frame.payload)
    try:
        prepare(setup)
        values = neighbour("values")
        loaded = neighbour(LOADERS[setup["loader"]]).load(setup)
        child.loaded(loaded, values, setup["in_lists"])
        end_with(parent)  # what it loads may have become another user, and that would have been forgotten
    except BaseException as error:
        said = {
            "type": type(error).__name__,
            "message": str(error)[:10_000],
            "traceback": traceback.format_exc()[-30_000:],
        }
        child.send(child.frames.FAILED, json.dumps(said).encode())
        child.flush()
        return False
    about = dict(loaded.about, python=sys.version.split()[0])
    child.send(child.frames.READY, json.dumps(about).encode())
    child.flush()
    return True


def main() -> None:
    sock_fd, arena_fd, size, generation, parent = map(int, sys.argv[1:6])
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's: it drains
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # and it does not end the owner
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what its owner does not want to hear of is not its business
    leave_terminal()
    os.set_inheritable(sock_fd, False)
    os.set_inheritable(arena_fd, False)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    sock = socket.socket(fileno=sock_fd)
    arena = mmap.mmap(arena_fd, size)
    os.close(arena_fd)
    child = neighbour("child_runs").Child(neighbour, sock, arena, generation)
    os.register_at_fork(after_in_child=child.forked)
    child.asked.offer()
    try:
        if set_up(child, parent):
            if child.awaits:
                neighbour("coroutines").serve(child)
            else:
                child.serve()
    except (ConnectionError, EOFError):
        pass  # the owner has gone
    child.ends()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


if __name__ == "__main__":
    main()
