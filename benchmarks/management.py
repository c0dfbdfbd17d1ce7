"""Models that come, change and go while others serve.

    python benchmarks/management.py [--only beside,swaps,kills,listing] [--models 100] [--swaps 60] [--kills 50]

`beside`: 100 models, one after the other, are registered, scaled from none to one, asked and unregistered over REST,
while ResNet-18 (128x128, `multi_stream`) serves arrivals that do not wait for answers, at half of what it can do. A
third each: ONNX files, digits archives (both in the server's process), archives with code (a worker process each).
`swaps`: two models (an ONNX file, and a function in workers) have another version every second, under load. `kills`:
`kill -9` of the server while models are registered and unregistered; what comes back is what had been told to be made.
`listing`: looks at 1,000 models that are registered and not loaded. Writes benchmarks/results/management.md, where what
was not run stays.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# Before the runtime is imported: no thread that sends usage data.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from machine import surroundings  # noqa: E402
from managed.beside import beside  # noqa: E402
from managed.kills import kills  # noqa: E402
from managed.listing import listing  # noqa: E402
from managed.swaps import swaps  # noqa: E402

ORDER = ("beside", "swaps", "kills", "listing")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ORDER))
    parser.add_argument("--models", type=int, default=100, help="that come and go beside ResNet-18 (%(default)s)")
    parser.add_argument("--kinds", default="onnx,archive,code", help="of those models (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="in which they come and go (%(default)s)")
    parser.add_argument("--secs", type=float, default=6, help="of ResNet-18 alone in each round (%(default)s)")
    parser.add_argument("--swaps", type=int, default=60, help="one a second (%(default)s)")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--listed", type=int, default=1000, help="models that are registered (%(default)s)")
    options = parser.parse_args()
    figures: dict[str, Callable[[Path], str]] = {
        "beside": lambda folder: beside(folder, options.models, options.secs, options.rounds, options.kinds.split(",")),
        "swaps": lambda folder: swaps(folder, options.swaps),
        "kills": lambda folder: kills(folder, options.kills),
        "listing": lambda folder: listing(folder, options.listed),
    }
    chosen = options.only.split(",")
    for name in [name for name in ORDER if name in chosen]:
        with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
            text = figures[name](Path(folder))
        print(f"## {name}\n\n{text}\n", flush=True)
        keep(name, text)
    return 0


def keep(name: str, text: str) -> None:
    """Into the file of results. A section that was not run stays as it is, with what it was measured at."""
    path = HERE / "results" / "management.md"
    kept = dict(re.findall(r"^## (\w+)\n\n(.*?)\s*(?=^## |\Z)", path.read_text() if path.exists() else "", re.M | re.S))
    where = ", ".join(f"{key} {value}" for key, value in surroundings().items() if key != "wrk")
    kept[name] = f"{text}\n\n`python benchmarks/management.py {' '.join(sys.argv[1:])}`; {where}"
    sections = [f"## {each}\n\n{kept[each]}\n" for each in ORDER if each in kept]
    path.write_text("\n".join(["# Management\n", *sections]))


if __name__ == "__main__":
    sys.exit(main())
