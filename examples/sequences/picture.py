"""The picture of the rounds that `in_completion_order.py --plot` has measured."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

if TYPE_CHECKING:
    from in_completion_order import Served

matplotlib.use("Agg")
from matplotlib import pyplot

# Told apart by the colour-blind as well (Okabe and Ito).
COLOURS = {
    "submission order": "#d55e00",
    "can_read": "#e69f00",
    "poll": "#0072b2",
    "poll, short first": "#009e73",
}


def draw(rounds: dict[tuple[str, str], list[Served]], lengths: Any, path: Path) -> None:
    # One round stands for all: the one with the median mean.
    shown = {
        key: sorted(runs, key=lambda run: float(run.latencies.mean()))[len(runs) // 2] for key, runs in rounds.items()
    }
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    edges = np.geomspace(lengths.min(), lengths.max() + 1, 9)
    for way in ("submission order", "poll"):
        latencies = shown["steady", way].latencies
        left.scatter(lengths, latencies, s=6, alpha=0.25, color=COLOURS[way], linewidths=0)
        bins = [latencies[(lengths >= low) & (lengths < high)] for low, high in pairwise(edges)]
        medians = [np.median(each) if len(each) else np.nan for each in bins]
        left.plot(np.sqrt(edges[1:] * edges[:-1]), medians, color=COLOURS[way], linewidth=2.5, label=f"{way} (median)")
    left.set(xscale="log", yscale="log", xlabel="length of the sequence, tokens", ylabel="latency, ms")
    left.set_title("steady: the short wait for the long, or not")
    for way, colour in COLOURS.items():
        latencies = np.sort(shown["crowd", way].latencies)
        shares = np.arange(1, len(latencies) + 1) / len(latencies) * 100
        style = "--" if way == "can_read" else "-"
        middle.plot(latencies, shares, style, color=colour, linewidth=2, label=way)
    most = max(run.most_in_flight for (load, _), run in shown.items() if load == "crowd")
    middle.set(xscale="log", xlabel="latency, ms", ylabel="share of requests answered by then, %")
    middle.set_title(f"crowd: up to {most} in flight")
    longest = [float(np.median([run.kept_waiting for run in rounds["steady", way]])) for way in COLOURS]
    bars = right.barh(list(COLOURS), longest, color=list(COLOURS.values()))
    right.bar_label(bars, fmt="%.1f", padding=4)
    right.invert_yaxis()
    right.margins(x=0.15)
    right.set(xlabel="ms")
    right.set_title("steady: longest an arrival was kept waiting")
    for axes in (left, middle):
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_formatter("{x:g}")
    left.yaxis.set_major_formatter("{x:g}")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
