"""Scores as MXNet arrays."""

from __future__ import annotations

from typing import Any


def top_probability(data: Any, labels: list[str], top: int = 5) -> list[dict[str, Any]]:
    """The likeliest classes of the first row, the likeliest first."""
    scores = data.asnumpy() if hasattr(data, "asnumpy") else data
    row = scores.reshape(scores.shape[0], -1)[0]
    return [
        {"probability": float(row[each]), "class": labels[each]}
        for each in (-row).argsort(kind="stable")[:top].tolist()
    ]
