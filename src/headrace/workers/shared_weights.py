"""One copy of an ONNX model's weights for all of its workers, and what that costs, measured when it is made.

A program in the workers' environment (`onnx_weights`) writes it. So nothing of the model is loaded in this process.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import InvalidModel
from headrace.wording import count_of
from headrace.workers.loadable import Loadable
from headrace.workers.memory import Memory

PROGRAM = Path(__file__).with_name("onnx_weights.py")
DEAR = 1.1
"""So much longer a run takes before that is a warning."""
MIB = 1 << 20
_log = logging.getLogger("headrace.workers")


@dataclass(frozen=True)
class Cost:
    """The shortest of some runs of each kind, in turns, in seconds."""

    rows: int | None
    """None: the model's own leading dimension."""
    own: float
    shared: float

    def __str__(self) -> str:
        rows = f" with {count_of(self.rows, 'row')}" if self.rows is not None else ""
        return f"a run{rows} takes {1e3 * self.shared:.3g} ms, with a copy of its own {1e3 * self.own:.3g} ms"


@dataclass(frozen=True)
class SharedWeights:
    nbytes: int
    costs: tuple[Cost, ...]
    """() where the model does not take made-up inputs."""
    told: Mapping[str, Any]
    """What `onnx_loader` wants to know."""

    def __str__(self) -> str:
        measured = "; ".join(map(str, self.costs)) or "what that costs could not be measured with made-up inputs"
        return f"its workers share one copy of {self.nbytes / MIB:.1f} MiB of weights: {measured}"


def shared_weights(
    model: Loadable,
    told: Mapping[str, Any],
    descriptors: Sequence[int],
    memory: Memory,
    python: str | None,
    env: Mapping[str, str],
    threads: int,
    timeout: float,
) -> SharedWeights:
    """Write them to `memory`, and seal it. HeadraceError where that cannot be. `told`: where the model is; `timeout`:
    seconds."""
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        command = [python or sys.executable, str(PROGRAM)]
        command.append(json.dumps({**told, "memory": memory.fd, "folder": folder, "threads": threads}))
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(*descriptors, memory.fd),
                env=dict(env),
                timeout=timeout,
                check=False,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            raise InvalidModel(
                f"{model} was not loaded within {timeout:g} s, so its weights cannot be shared"
            ) from None
        except OSError as error:
            raise InvalidModel(f"{command[0]} cannot be started: {error.strerror}") from error
        try:
            answer = json.loads(Path(folder, "answer.json").read_bytes())
        except (OSError, ValueError):
            last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
            raise InvalidModel(
                f"loading {model} to share its weights ended with exit status {done.returncode}; it said: {last[0]}"
            ) from None
    if "shared" not in answer:
        raise model.refusal(answer)
    memory.seal()
    shared = answer["shared"]
    return SharedWeights(shared["weights"], tuple(Cost(*each) for each in answer["runs"]), shared)


def tell(name: str, weights: SharedWeights) -> None:
    """Whoever reads the log. What costs more than a tenth is a warning."""
    dear = any(cost.shared > DEAR * cost.own for cost in weights.costs)
    _log.log(
        logging.WARNING if dear else logging.INFO, "%s: %s", name, weights, extra={"model": name, "request_id": None}
    )
