"""A timeline as an image: what `drawing` has laid out, in pixels. Pure: it returns an image and writes none.

The one file of the library that draws. Nothing imports it before a picture is wanted.
"""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageDraw, ImageFont

from headrace.model.drawing import Subject, draw
from headrace.model.shapes import Drawing
from headrace.model.shown import Window
from headrace.model.timeline import Timeline

PAPER = (255, 255, 255)


def picture(timeline: Timeline, subject: Subject, window: Window | None = None) -> Image.Image:
    """`window`: seconds from the begin, or from when to when; None: so many runs that each has room for its number."""
    return paint(draw(timeline, subject, text_width, window))


def text_width(text: str, size: int) -> float:
    return _font(size).getlength(text)


def paint(drawing: Drawing) -> Image.Image:
    image = Image.new("RGB", (drawing.width, drawing.height), PAPER)
    pen = ImageDraw.Draw(image)
    for box in drawing.boxes:
        if box.x1 > box.x0 and box.y1 > box.y0:
            pen.rectangle((box.x0, box.y0, box.x1 - 1, box.y1 - 1), fill=box.fill, outline=box.outline)
    for words in drawing.words:
        pen.text((words.x, words.y), words.text, words.colour, _font(words.size), anchor=f"{words.anchor}m")
    return image


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
