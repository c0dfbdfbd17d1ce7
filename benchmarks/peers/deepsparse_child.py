"""DeepSparse in a process of its own: a request a line on stdin, its answer a line of JSON on stdout.

    .peers/venv-deepsparse/bin/python benchmarks/peers/deepsparse_child.py MODEL SIZE SCHEDULER STREAMS

First says what it has loaded; then {"callers": 8, "secs": 2} is answered with what that closed loop found.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

# It sends an event at every construction unless told not to.
os.environ["NM_DISABLE_ANALYTICS"] = "True"
PR_SET_PDEATHSIG = 1
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> int:
    path, size, scheduler, streams = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    # Whoever measures may be killed while this is stopped, and a stopped process does not see its stdin end.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Its banner goes to stdout: the answers have a file of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    import numpy as np
    from deepsparse import Engine, Scheduler
    from loops import closed_loop

    x = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    engine = Engine(
        path,
        batch_size=1,
        scheduler=Scheduler.from_str(scheduler),
        num_streams=streams or None,
        input_shapes=[list(x.shape)],
    )
    for _ in range(5):
        y = engine([x])
    about = {"cores": engine.num_cores, "streams": engine.num_streams, "y": float(y[0].sum())}
    answers.write(json.dumps(about) + "\n")
    for line in sys.stdin:
        asked = json.loads(line)
        answers.write(json.dumps(closed_loop([lambda: engine([x])] * asked["callers"], asked["secs"])) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
