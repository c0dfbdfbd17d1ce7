"""Pictures as what a network is given: float32 [1, C, H, W].

Pillow is needed here, and imported when the first model needs it. The bytes are anybody's: only plain formats are
opened, and how large a picture is is known before it is decoded.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np

MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")


class Form(NamedTuple):
    """`resize`: the shorter side is brought to it, and the middle taken; None: the whole picture is fitted."""

    size: tuple[int, int]
    channels: int
    resize: int | None
    mean: Any
    std: Any
    limited: bool = True


def read(body: bytes, form: Form, bad: type[Exception]) -> Any:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as opened:
            width, height = opened.size
            if form.limited and width * height > MAX_PIXELS:
                raise bad(f"the picture has {width} x {height} pixels; at most {MAX_PIXELS:,} are read")
            picture: Any = ImageOps.exif_transpose(opened) or opened
            picture = picture.convert("L" if form.channels == 1 else "RGB")
    except bad:
        raise
    except MemoryError:
        raise
    except Exception as error:  # Pillow has no one error
        start = bytes(body[:9])
        raise bad(
            f"the body is not a picture that can be read ({len(body):,} bytes, beginning {start!r}): send PNG, JPEG, "
            f"GIF, BMP or WebP bytes, whole"
        ) from error
    picture = _fitted(picture, form, Image)
    width, height = picture.size
    values = np.asarray(picture, np.float32).reshape(1, height, width, form.channels) / np.float32(255)
    values = (values - form.mean) / form.std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def of_numbers(body: Any, form: Form, bad: type[Exception]) -> Any:
    """What TorchServe's classifiers took beside pictures: the numbers the network is given, in lists [C, H, W]."""
    try:
        values: Any = np.asarray(body, np.float32)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 3 or values.shape[0] != form.channels or not values.size:
        raise bad(f"a picture, or numbers in lists [{form.channels}, height, width] are expected; other lists came")
    return values[None]


def _fitted(picture: Any, form: Form, Image: Any) -> Any:
    height, width = form.size
    bilinear = getattr(Image, "Resampling", Image).BILINEAR  # Pillow before 9.1 has it at its top
    if form.resize is None:
        return picture if picture.size == (width, height) else picture.resize((width, height), bilinear)
    across, down = picture.size
    short = min(across, down)
    if short != form.resize:
        across, down = (
            (form.resize, int(form.resize * down / across))
            if across == short
            else (int(form.resize * across / down), form.resize)
        )
        picture = picture.resize((across, down), bilinear)
    left, top = round((across - width) / 2.0), round((down - height) / 2.0)
    return picture.crop((left, top, left + width, top + height))  # black where there is nothing
