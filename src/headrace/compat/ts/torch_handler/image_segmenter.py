"""Pictures to scores of classes for each pixel."""

from __future__ import annotations

from typing import Any

from ts.torch_handler._pictures import imagenet
from ts.torch_handler.vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    """The model gives `{"out": [N, K, H, W]}`, as torchvision's do. A pixel's answer is its likeliest class and how
    likely that is."""

    image_processing = imagenet()

    def postprocess(self, data: Any) -> Any:
        probabilities = data["out"].softmax(dim=1) if isinstance(data, dict) else data.softmax(dim=1)
        best, classes = probabilities.max(dim=1, keepdim=True)
        import torch

        return torch.cat((classes.type(best.dtype), best), dim=1).permute(0, 2, 3, 1).tolist()


ImangeSegmenter = ImageSegmenter
