"""The picture transforms of torchvision that TorchServe's handlers use, for environments without torchvision.

Rule: the same numbers. Where torchvision is installed, it is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def to_rgb(picture: Any) -> Any:
    """With three channels: no classifier was trained on palettes, transparency or CMYK."""
    return picture.convert("RGB") if hasattr(picture, "convert") else picture


class Compose:
    def __init__(self, transforms: Any) -> None:
        self.transforms = transforms

    def __call__(self, picture: Any) -> Any:
        for each in self.transforms:
            picture = each(picture)
        return picture


class Resize:
    """The shorter side to `size`, or both to a pair."""

    def __init__(self, size: Any) -> None:
        self.size = size

    def __call__(self, picture: Any) -> Any:
        width, height = picture.size
        if isinstance(self.size, int):
            short = min(width, height)
            wanted = (int(self.size * width / short), int(self.size * height / short))
        else:
            wanted = (self.size[1], self.size[0])
        return picture if wanted == picture.size else picture.resize(wanted, 2)  # bilinear, antialiased


class CenterCrop:
    """What of the picture is not there is black."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Any) -> Any:
        width, height = picture.size
        left, top = round((width - self.size) / 2.0), round((height - self.size) / 2.0)
        return picture.crop((left, top, left + self.size, top + self.size))


class ToTensor:
    """float32 [C, H, W] from 0 to 1; of pictures with more than 8 bits a channel, the values as they are."""

    def __call__(self, picture: Any) -> Any:
        if picture.mode == "1":
            picture = picture.convert("L")
        array = np.array(picture, copy=True)
        if array.ndim == 2:
            array = array[:, :, None]
        values = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
        return values.float().div(255) if array.dtype == np.uint8 else values


class Normalize:
    def __init__(self, mean: Any, std: Any) -> None:
        self.mean = torch.tensor(mean).reshape(-1, 1, 1)
        self.std = torch.tensor(std).reshape(-1, 1, 1)

    def __call__(self, values: Any) -> Any:
        return (values - self.mean) / self.std


def _transforms() -> Any:
    try:
        from torchvision import transforms
    except ImportError:
        import sys

        return sys.modules[__name__]
    return transforms


def imagenet() -> Any:
    """A picture as networks for ImageNet are trained to see it."""
    t = _transforms()
    normal = t.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    return t.Compose([to_rgb, t.Resize(256), t.CenterCrop(224), t.ToTensor(), normal])


def tensor_of() -> Any:
    t = _transforms()
    return t.Compose([to_rgb, t.ToTensor()])
