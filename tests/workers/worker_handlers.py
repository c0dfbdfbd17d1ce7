"""What worker processes run in these tests. A gate is a file: its handler says that it is there, and waits for one."""

import os
import signal
import subprocess
import sys
import time

import numpy as np


def echo(x):
    return x


def appends(x):
    x[-1].append(1)
    return len(x[-1])


def is_one(x):
    return x[0] is x[1]


def counts_up(x):
    x += 1
    return int(x.sum())


def double(x):
    return x * 2


def pid(_):
    return os.getpid()


def fails(x):
    raise ValueError(f"no {x}")


def add(a, b=1):
    return a + b


def gate(folder):
    """Say that it has begun, and wait until it may go on."""
    wait_at(folder)
    return os.getpid()


def gate_or_echo(x):
    return gate(x) if isinstance(x, str) else x


async def gate_or_echo_at_once(x):
    return gate_or_echo(x)


def wait_at(folder):
    reached = os.path.join(folder, f"reached-{os.getpid()}")
    with open(reached, "w"):
        pass
    while not os.path.exists(os.path.join(folder, "open")):
        time.sleep(0.005)


def dies_once(folder):
    """Kills its worker the first time it is called with this folder."""
    mark = os.path.join(folder, "died")
    if not os.path.exists(mark):
        with open(mark, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def dies(_):
    os.kill(os.getpid(), signal.SIGKILL)


def exits(_):
    os._exit(3)


def starts_others(hangs):
    """Their ids: one of our session, one of its own, and that one's."""
    ours = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    script = "sleep 1000 & echo $!; wait"
    own = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    pids = [ours.pid, own.pid, int(own.stdout.readline())]
    if hangs:
        with open(hangs, "w") as file:
            file.write(" ".join(map(str, pids)))
        time.sleep(1000)
    return pids


def forks(how):
    """What became of a process that it forked."""
    child = os.fork()
    if child == 0:
        if how == "exits":
            sys.exit(3)
        if how == "raises":
            raise ValueError("in the forked one")
        return "the forked one's"
    return os.waitpid(child, 0)[1]


def segfaults(_):
    import ctypes

    ctypes.string_at(0)


def raises_exit(_):
    sys.exit(2)


def hangs(_):
    while True:
        time.sleep(0.01)


def dies_if(x):
    if x == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def heeds(folder):
    """Runs until it is cancelled, and says so."""
    import headrace_worker

    with open(os.path.join(folder, "reached"), "w"):
        pass
    while not headrace_worker.cancelled():
        time.sleep(0.005)
    with open(os.path.join(folder, "heeded"), "w"):
        pass


def batch(xs):
    if any(x == "bad" for x in xs):
        raise ValueError("there is a bad one")
    if any(x == "short" for x in xs):
        return xs[1:]
    return [ValueError(x) if x == "own" else (len(xs), x) for x in xs]


KEPT = []


def keeps_all(x):
    KEPT.append(x)
    return len(KEPT), [int(each[0]) for each in KEPT]


def keeps(x):
    """What it was given before, and is now: it keeps what is not its own."""
    KEPT.append(x)
    return [float(each.sum()) for each in KEPT]


def large(nbytes):
    return np.zeros(nbytes, np.uint8)


def eats(_):
    return len(bytearray(1 << 34))


def environment(name):
    return os.environ.get(name)


def shouts(lines):
    for i in range(lines):
        print("line", i)  # noqa: T201
    print("to stderr", file=sys.stderr)  # noqa: T201
    return lines


def starts_another(_):
    import subprocess

    return subprocess.Popen(["sleep", "1000"]).pid


class Strange:
    pass


def strange(_):
    return Strange()


def writes_rubbish(_):
    """Writes what is no frame to its owner."""
    for fd in range(3, 64):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                os.write(fd, b"\xff" * 64)
        except OSError:
            pass
    time.sleep(60)


def modules(_):
    return sorted(name for name in sys.modules if name.split(".")[0] in ("headrace", "orjson", "uvloop", "typer"))


def dies_batch(xs):
    if "die" in xs:
        os.kill(os.getpid(), signal.SIGKILL)
    return xs


def gate_if(x):
    if isinstance(x, str):
        wait_at(x)
    return x


def floods(megabytes):
    """Long lines, short ones, and none: what has no newline at all."""
    for i in range(megabytes):
        piece = (b"x" * 50 + b"\n") * 20_560 if i % 4 else b"y" * (1 << 20)
        for fd in (1, 2):
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
    return megabytes


def floods_until(folder):
    """Until its gate is open."""
    with open(os.path.join(folder, f"reached-{os.getpid()}"), "w"):
        pass
    while not os.path.exists(os.path.join(folder, "open")):
        os.write(1, (b"x" * 50 + b"\n") * 1000)
    return "over"


def last_bytes(x):
    return x[-3:]


def ones(nbytes):
    return np.ones(nbytes, np.uint8)


def address_space(_):
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)


def miscounts(xs):
    counts = {"none": [], "fewer": xs[1:], "more": [*xs, 1], "a tuple": tuple(xs), "no list": {"a": 1}}
    return counts[xs[0]]


def rubbish_if(x):
    return writes_rubbish(x) if x == "rubbish" else x


def masked(_):
    return np.ma.masked_array([1, 2], [True, False])


async def waits(x):
    return x


def plain(x):
    return waits(x)


def plain_batch(xs):
    return [waits(x) for x in xs]


def plain_of_batch(xs):
    return waits(xs)


async def twice(x):
    return waits(x)


def object_(_):
    return open(os.devnull)


def kind(x):
    return type(x).__name__
