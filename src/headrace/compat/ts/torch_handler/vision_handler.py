"""What is common to handlers of pictures."""

from __future__ import annotations

import base64
import io
from abc import ABC
from typing import Any

import torch
from PIL import Image
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler


class VisionHandler(BaseHandler, ABC):
    """`image_processing` makes a tensor of a picture. A request is a picture, its base64, or the tensor as lists."""

    image_processing: Any = None

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels", True):
            Image.MAX_IMAGE_PIXELS = None

    @property
    def ig(self) -> Any:
        """Captum's integrated gradients of the model: needed to explain, and not to serve."""
        if "ig" not in self.__dict__:
            from captum.attr import IntegratedGradients

            self.__dict__["ig"] = IntegratedGradients(self.model)
        return self.__dict__["ig"]

    @ig.setter
    def ig(self, value: Any) -> None:
        self.__dict__["ig"] = value

    @timed
    def preprocess(self, data: Any) -> Any:
        pictures = [self._tensor(row.get("data") or row.get("body")) for row in data]
        return torch.stack(pictures).to(self.device)

    def _tensor(self, sent: Any) -> Any:
        if isinstance(sent, str):
            sent = base64.b64decode(sent)
        if isinstance(sent, (bytes, bytearray)):
            return self.image_processing(Image.open(io.BytesIO(sent)))
        return torch.FloatTensor(sent)

    def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> Any:
        return self.ig.attribute(tensor_data, target=target, n_steps=15).tolist()
