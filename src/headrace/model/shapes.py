"""What a drawing is made of: boxes, and words with their places. Lengths are in pixels. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

Colour = tuple[int, int, int]
INK: Colour = (28, 32, 38)


@dataclass(frozen=True, slots=True)
class Box:
    """From (x0, y0) up to but not including (x1, y1). `role`: what it is; `of`: the place of its span or request."""

    role: str
    x0: int
    y0: int
    x1: int
    y1: int
    fill: Colour
    outline: Colour | None = None
    of: int = -1


@dataclass(frozen=True, slots=True)
class Words:
    """`anchor`: which part of the text is at (x, y): l, m or r; its middle in height."""

    role: str
    x: float
    y: float
    text: str
    size: int
    anchor: str = "l"
    colour: Colour = INK
    of: int = -1


@dataclass(slots=True)
class Drawing:
    width: int
    height: int
    boxes: list[Box] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
