"""The built-in picture classifier: picture bytes -> a tensor; class scores -> the likeliest labels.

Rule 1: it is trusted and runs at the door; between its two halves is an ordinary tensor model.
Rule 2: the bytes are anybody's. Only plain picture formats are opened, the size is known before anything is decoded,
        and whatever goes wrong is InvalidInput.
Rule 3: Pillow's process-wide settings are left alone, and nothing is warned about. Silencing warnings is process-wide
        as well, so Pillow is kept from giving any.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from headrace.errors import BackendError, InvalidArchive, InvalidInput
from headrace.tensor import Array, TensorSpec

MAX_PIXELS = 64_000_000

_OPTIONS = ("mean", "std", "top_k")
# EXIF orientation -> what brings the picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageClassifier:
    """`config` is the `handler:` section of the model's YAML.

    `mean` and `std`: one number per channel, applied to values scaled to 0..1; by default the values stay as they are.
    `top_k`: how many classes an answer names, 5 by default.
    """

    def __init__(
        self,
        specs_in: Sequence[TensorSpec],
        specs_out: Sequence[TensorSpec],
        labels: Mapping[str, str] | None,
        config: Mapping[str, object],
    ) -> None:
        self._input, self._channels, self._size = _picture_input(specs_in)
        self._output, self._output_index = _score_output(specs_out)
        self._labels = dict(labels or {})
        if unknown := [key for key in config if key not in (*_OPTIONS, "profile")]:  # TorchServe's, and no mistake
            raise InvalidArchive(f"the image classifier has no option {unknown[0]!r}; it has {', '.join(_OPTIONS)}")
        self._mean = _per_channel(config, "mean", 0.0, self._channels)
        self._std = _per_channel(config, "std", 1.0, self._channels)
        if not (self._std > 0).all():
            raise InvalidArchive(f"'std' of the image classifier must be above 0, it is {config['std']!r}")
        top_k = config.get("top_k", 5)
        if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
            raise InvalidArchive(f"'top_k' of the image classifier must be an integer from 1 up, it is {top_k!r:.60}")
        self._top_k = top_k

    def preprocess(self, body: bytes) -> dict[str, Array]:
        """The picture in `body` as the model's input, float32 [1, C, H, W]. Transparency is dropped, not blended."""
        try:
            picture = _decode(body, "L" if self._channels == 1 else "RGB")
            if picture.size != self._size:
                picture = picture.resize(self._size, Image.Resampling.BILINEAR)  # antialiased where it shrinks
        except (InvalidInput, MemoryError):
            raise
        except (
            Exception
        ) as error:  # Pillow has no one error: OSError, SyntaxError, ValueError, struct.error, EOFError ...
            raise _not_a_picture(body) from error
        width, height = self._size
        values = np.asarray(picture, np.float32).reshape(1, height, width, self._channels) / np.float32(255)
        values = (values - self._mean) / self._std
        return {self._input: np.ascontiguousarray(values.transpose(0, 3, 1, 2))}

    def postprocess(self, outputs: Mapping[str, Array] | Sequence[Array]) -> dict[str, float]:
        """Labels and probabilities of one row, likeliest first. Scores that are no probabilities are softmaxed.

        A class without a label goes by its index. Of classes that share a label the likeliest is named.
        """
        try:
            output = outputs[self._output] if isinstance(outputs, Mapping) else outputs[self._output_index]
            scores = np.asarray(output, np.float64)
        except (LookupError, TypeError, ValueError) as error:
            raise BackendError(f"the model did not give its output {self._output!r} as numbers") from error
        if scores.ndim == 2 and len(scores) == 1:
            scores = scores[0]
        if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
            raise BackendError(
                f"output {self._output!r} should be one row of finite scores; its shape is {list(scores.shape)}"
            )
        if scores.min() < 0 or abs(scores.sum() - 1) > 1e-3:
            scores = np.exp(scores - scores.max())
            scores /= scores.sum()
        best: dict[str, float] = {}
        for index in np.argsort(-scores, kind="stable").tolist():
            best.setdefault(self._labels.get(str(index), str(index)), float(scores[index]))
            if len(best) == self._top_k:
                break
        return best


class _Jpeg(JpegImageFile):
    """A JPEG whose EXIF Pillow does not parse: it would, for the resolution, and warns where the EXIF is corrupt."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


# First bytes -> who opens the rest. Not `Image.open`: it warns of sizes that are refused here anyway, it may start
# other programs (for PostScript), and in a JPEG it looks for further pictures, and warns again.
_FORMATS: tuple[tuple[bytes, Callable[[io.BytesIO], ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", _Jpeg),
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"RIFF", WebPImageFile),
    (b"BM", BmpImageFile),
)


def _decode(body: bytes, mode: str) -> Image.Image:
    reader = next((reader for magic, reader in _FORMATS if body.startswith(magic)), None)
    if reader is None:
        raise _not_a_picture(body)
    # Pillow allots memory for these two while opening them, so their size is read first.
    if reader is GifImageFile:
        _check_size(_gif_size(body))
    elif reader is WebPImageFile:
        _check_size(_webp_size(body))
    elif reader is PngImageFile and b"acTL" in body:
        body = _without_animation(body)
    with reader(io.BytesIO(body)) as opened:
        _check_size(opened.size)
        opened.load()
        orientation = _orientation(opened.info.get("exif"))
        # Pillow would carry this over to the new mode, and warns where it cannot.
        opened.info.pop("transparency", None)
        picture: Image.Image = opened
        if picture.mode.startswith("I"):  # 16 bits of grey. Pillow's own conversion has clipped instead of scaling
            picture = Image.fromarray((np.asarray(picture).astype(np.float32) / 257).round().astype(np.uint8))
        picture = picture.convert(mode)
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InvalidInput(
            f"the picture has {width:,} x {height:,} pixels; at most {MAX_PIXELS:,} are read: send a smaller one"
        )


def _gif_size(body: bytes) -> tuple[int, int]:
    """The screen, enlarged by the first frame: Pillow makes a picture that holds both."""
    width, height, flags = struct.unpack_from("<HHB", body, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while body[at] == 0x21:  # extensions: a label, then blocks up to an empty one
        at += 2
        while body[at]:
            at += 1 + body[at]
        at += 1
    if body[at] != 0x2C:
        raise _not_a_picture(body)
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", body, at + 1)
    return max(width, left + frame_width), max(height, top + frame_height)


def _webp_size(body: bytes) -> tuple[int, int]:
    chunk = body[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(body[24:27], "little") + 1, int.from_bytes(body[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(body[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise _not_a_picture(body)


def _without_animation(body: bytes) -> bytes:
    """The still picture of an animated PNG. Pillow warns where the animation's description is malformed."""
    kept, at = [body[:8]], 8
    while at < len(body):
        end = at + 12 + int.from_bytes(body[at : at + 4], "big")
        if body[at + 4 : at + 8] not in (b"acTL", b"fcTL", b"fdAT"):
            kept.append(body[at:end])
        at = end
    return b"".join(kept)


def _orientation(exif: object) -> int:
    """How the camera was held, 1 to 8; 1, upright, where that cannot be read."""
    if not isinstance(exif, bytes):
        return 1
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, offset)
        for index in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, offset + 2 + 12 * index)
            if (tag, kind) == (0x0112, 3):
                return int(value)
    except struct.error:
        pass
    return 1


def _not_a_picture(body: bytes) -> InvalidInput:
    if not body:
        return InvalidInput("the body is empty: send PNG, JPEG, GIF, BMP or WebP bytes")
    start = f"beginning {body[:9]!r}..." if len(body) > 9 else repr(body)
    return InvalidInput(
        f"the body is not a picture that can be read ({len(body):,} bytes {start}): "
        "send PNG, JPEG, GIF, BMP or WebP bytes, whole"
    )


def _picture_input(specs: Sequence[TensorSpec]) -> tuple[str, int, tuple[int, int]]:
    """The name, the channels and the (width, height) of the model's one input."""
    expected = (
        "the image classifier needs a model with one float32 input [N, C, H, W]: N free or 1, C 1 or 3, H and W fixed"
    )
    if len(specs) == 1 and len(specs[0].shape) == 4 and specs[0].dtype == np.float32:
        rows, channels, height, width = specs[0].shape
        if rows in (None, 1) and channels in (1, 3) and height and width and channels is not None:
            return specs[0].name, channels, (width, height)
    raise InvalidArchive(f"{expected}; this one has {'; '.join(map(str, specs)) or 'none'}")


def _score_output(specs: Sequence[TensorSpec]) -> tuple[str, int]:
    """The name and the place of the output that has a score for each class: the first that can be it."""
    for index, spec in enumerate(specs):
        if spec.dtype.kind == "f" and len(spec.shape) == 2 and spec.shape[0] in (None, 1):
            return spec.name, index
    came = "; ".join(map(str, specs)) or "none"
    raise InvalidArchive(f"the image classifier needs a model with a float output [N, classes]; this one has {came}")


def _per_channel(config: Mapping[str, object], key: str, default: float, channels: int) -> Array:
    values = config.get(key, [default] * channels)
    if (
        not isinstance(values, list | tuple)
        or len(values) != channels
        or not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    ):
        raise InvalidArchive(
            f"{key!r} of the image classifier must be a list of {channels} numbers, one per channel, "
            f"it is {values!r:.60}"
        )
    return np.array(values, np.float32)
