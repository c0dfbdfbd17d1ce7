"""Pictures as MXNet arrays, [height, width, channel]. `interp`: 0 nearest, 1 bilinear, 2 area, 3 bicubic, 4 Lanczos."""

from __future__ import annotations

import base64
import io
from typing import Any


def read(buf: Any, flag: int = 1, to_rgb: bool = True, out: Any = None) -> Any:
    """The picture in some bytes; `flag` 0 for one channel."""
    from mxnet import image

    return image.imdecode(bytes(buf) if isinstance(buf, bytearray) else buf, flag, to_rgb, out)


def write(img_arr: Any, flag: int = 1, format: str = "jpeg", dim_order: str = "CHW") -> Any:
    """The base64 of the picture in `format`."""
    from PIL import Image

    if dim_order not in ("CHW", "HWC"):
        raise ValueError(f"dim_order is 'CHW' or 'HWC', not {dim_order!r}")
    array = img_arr.asnumpy().astype("uint8")
    if dim_order == "CHW":
        array = array.transpose(1, 2, 0)
    picture = Image.fromarray(array if flag == 1 else array.reshape(array.shape[:2]))
    file = io.BytesIO()
    picture.save(file, format=format)
    return base64.b64encode(file.getvalue())


def transform_shape(img_arr: Any, dim_order: str = "NCHW") -> Any:
    """A picture as a batch of one."""
    import mxnet as mx

    if dim_order not in ("NCHW", "NHWC"):
        raise ValueError(f"dim_order is 'NCHW' or 'NHWC', not {dim_order!r}")
    return mx.nd.expand_dims(mx.nd.transpose(img_arr, (2, 0, 1)) if dim_order == "NCHW" else img_arr, axis=0)


def resize(src: Any, new_width: int, new_height: int, interp: int = 2) -> Any:
    from mxnet import image

    return image.imresize(src, new_width, new_height, interp)


def fixed_crop(src: Any, x0: int, y0: int, w: int, h: int, size: Any = None, interp: int = 2) -> Any:
    from mxnet import image

    return image.fixed_crop(src, x0, y0, w, h, size, interp)


def color_normalize(src: Any, mean: Any, std: Any = None) -> Any:
    from mxnet import image

    return image.color_normalize(src.astype("float32"), mean, std)
