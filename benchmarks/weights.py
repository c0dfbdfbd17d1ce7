"""What streams cost in memory: a model of 128 MiB of weights and small activations, loaded with 1, 2 and 4 streams.

    python benchmarks/weights.py

Each case is a process of its own: what its resident memory grew by from before the load to after a run on every
stream. Streams of width 1 share one session, so more of them should cost next to nothing; beside them stand as many
plain ONNX Runtime sessions. The weights are random, made here, and thrown away.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
LAYERS, SIDE = 8, 2048
WEIGHTS = LAYERS * SIDE * SIDE * 4
CASES = (("multi_stream", 1), ("multi_stream", 2), ("multi_stream", 4), ("plain sessions", 1), ("plain sessions", 2))


@dataclass(frozen=True)
class Row:
    how: str
    streams: int
    grew: int
    """Bytes."""
    more: float
    """Than the same with one stream, as a share of the weights."""


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.onnx")
        path.write_bytes(model())
        rows: list[Row] = []
        for how, streams in CASES:
            command = [sys.executable, __file__, "--child", str(path), how, str(streams)]
            grew = int(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            one = next((row.grew for row in rows if row.how == how), grew)
            rows.append(Row(how, streams, grew, (grew - one) / WEIGHTS))
    return rows


def table(rows: list[Row]) -> str:
    lines = ["| | streams | memory MiB | more than one stream, of the weights |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {row.how} | {row.streams} | {row.grew / MIB:.1f} | {row.more:.1%} |" for row in rows]
    return "\n".join(lines)


def model() -> bytes:
    """`LAYERS` matrix products in a row."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    names = ["x", *(f"h{i}" for i in range(1, LAYERS)), "y"]
    weights = [
        numpy_helper.from_array(rng.standard_normal((SIDE, SIDE), np.float32) / SIDE**0.5, f"w{i}")
        for i in range(LAYERS)
    ]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(LAYERS)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", SIDE]) for name in "xy"]
    graph = helper.make_graph(nodes, "weights", ends[:1], ends[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = made.SerializeToString()
    return serialized


def child(path: str, how: str, streams: int) -> int:
    """Bytes this process grows by."""
    import numpy as np
    import onnxruntime

    import headrace as hr
    from headrace.engine.topology import made_up

    x = np.ones((1, SIDE), np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # What the runtime takes once, whatever it loads, is not the model's.
    hr.compile_model(Path(hr.__file__).parent / "bundled/digits/digits.onnx", scheduler="naive").close()
    before = settled()
    if how == "plain sessions":
        sessions = [onnxruntime.InferenceSession(path, options) for _ in range(streams)]
        for session in sessions:
            session.run(None, {"x": x})
        return settled() - before
    with (
        hr.Engine(topology=made_up(streams)) as engine,
        hr.compile_model(path, scheduler="multi_stream", engine=engine) as loaded,
    ):
        for future in [loaded.submit(x) for _ in range(8 * streams)]:
            future.result()
        return settled() - before


def settled() -> int:
    """What is resident once what was freed has been given back: how much of the load's own memory the allocator still
    holds is chance, and more than what is looked for."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    return resident()


def resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this needs Linux: /proc/self/status says no VmRSS")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=3, metavar=("MODEL", "HOW", "STREAMS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        path, how, streams = options.child
        print(child(path, how, int(streams)))
    else:
        print(table(measure()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
