"""What stands for archives' handlers in the tests of their doors: given lists of requests, give lists of answers.

It runs in worker processes; `headrace_worker` is there.
"""

import json
import os
import signal
import threading

HELD = threading.Event()


def noop(requests):
    return [b"OK" for _ in requests]


def show(requests):
    """What came, as JSON."""
    answers = []
    for id, headers, body in requests:
        kind = "bytes" if isinstance(body, bytes) else "fields"
        shown = body.decode("latin-1") if kind == "bytes" else [(n, t, v.decode("latin-1")) for n, t, v in body]
        said = {"id": id, "headers": headers, "kind": kind, "body": shown, "together": len(requests)}
        answers.append(json.dumps(said).encode())
    return answers


def told(requests):
    """As its body says: what Python calls a tuple, in JSON."""
    answers = []
    for _, _, body in requests:
        said = json.loads(body)
        if isinstance(said, list):
            said = tuple(each.encode("latin-1") if i == 0 and len(said) == 5 else each for i, each in enumerate(said))
        answers.append(said)
    return answers


def parts(requests):
    """So many parts of so many bytes as the body says: `[count, size]`, and what else is to happen then."""
    import headrace_worker

    answers = []
    for index, (_, _, body) in enumerate(requests):
        count, size, *then = json.loads(body)
        for i in range(count):
            part = b"%c" % (97 + i % 26) * size
            headrace_worker.send_part(index, (part, "text/x", 201, None, (("X-Of", "us"),)) if i == 0 else part)
        if then == ["die"]:
            os.kill(os.getpid(), signal.SIGKILL)
        elif then == ["raise"]:
            raise ValueError("in the middle")
        elif then and then[0] == "wait":  # for a file to be there
            import time

            while not os.path.exists(then[1]) and not headrace_worker.cancelled():
                time.sleep(0.005)
        answers.append(b"the end")
    return answers


def endless(requests):
    """Parts until nobody wants any: then the file the body names is there."""
    import headrace_worker

    name = requests[0][2].decode()
    try:
        while True:
            headrace_worker.send_part(0, b"more " * 1000)
    except headrace_worker.Withdrawn:
        with open(name, "w") as file:
            file.write("withdrawn")
        raise


def counts(requests):
    import headrace_worker

    for _, _, body in requests:
        headrace_worker.tell_metrics([tuple(each) for each in json.loads(body)])
    return [b"told" for _ in requests]
