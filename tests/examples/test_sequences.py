"""The example of completion order runs, and answers every request in both orders."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "sequences" / "in_completion_order.py"


def test_both_orders_are_measured() -> None:
    command = [sys.executable, "-W", "error", str(SCRIPT), "--requests", "40", "--seed", "3"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    means = re.findall(r"(submission|completion) order +mean +([0-9.]+)", told.stdout)
    assert [order for order, _ in means] == ["submission", "completion"]
    assert all(float(mean) > 0 for _, mean in means)
