"""A service that classifies pictures with a Gluon network."""

from __future__ import annotations

from typing import Any

import mxnet as mx
from mms.model_service.mxnet_model_service import GluonImperativeBaseService
from mms.utils.mxnet import image, ndarray


class GluonVisionService(GluonImperativeBaseService):
    """Pictures of the size of the signature (NCHW), normalised as for ImageNet; the five likeliest labels."""

    def _preprocess(self, data: Any) -> Any:
        made = []
        for spec, picture in zip(self.signature["inputs"], data):
            height, width = spec["data_shape"][2:]
            array = image.resize(image.read(picture), width, height).astype("float32") / 255
            mean, std = mx.nd.array([0.485, 0.456, 0.406]), mx.nd.array([0.229, 0.224, 0.225])
            made.append(image.transform_shape(image.color_normalize(array, mean, std)))
        return made

    def _inference(self, data: Any) -> Any:
        return super()._inference(data).softmax()

    def _postprocess(self, data: Any) -> Any:
        if not hasattr(self, "labels"):
            raise RuntimeError("a service that classifies needs its labels: synset.txt in the archive, one on a line")
        return [ndarray.top_probability(each.expand_dims(0), self.labels, top=5) for each in data]
