"""A service that classifies pictures with an MXNet network."""

from __future__ import annotations

from typing import Any

from mms.model_service.mxnet_model_service import MXNetBaseService
from mms.utils.mxnet import image, ndarray


class MXNetVisionService(MXNetBaseService):
    """Pictures of the size of the signature (NCHW); the five likeliest of the labels in `synset.txt`."""

    def _preprocess(self, data: Any) -> Any:
        made = []
        for spec, picture in zip(self.signature["inputs"], data):
            height, width = spec["data_shape"][2:]
            made.append(image.transform_shape(image.resize(image.read(picture), width, height)))
        return made

    def _postprocess(self, data: Any) -> Any:
        if not hasattr(self, "labels"):
            raise RuntimeError("a service that classifies needs its labels: synset.txt in the archive, one on a line")
        return [ndarray.top_probability(each, self.labels, top=5) for each in data]
