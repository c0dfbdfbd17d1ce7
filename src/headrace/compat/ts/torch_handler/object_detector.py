"""Pictures to what is seen on them, and where."""

from __future__ import annotations

from typing import Any

from ts.torch_handler._pictures import tensor_of
from ts.torch_handler.vision_handler import VisionHandler
from ts.utils.util import map_class_to_label


class ObjectDetector(VisionHandler):
    """The model takes a list of pictures of any sizes, and gives `{"boxes", "labels", "scores"}` for each."""

    threshold = 0.5
    image_processing = tensor_of()

    def preprocess(self, data: Any) -> Any:
        return [self._tensor(row.get("data") or row.get("body")).to(self.device) for row in data]

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self.model(data, *args, **kwargs)

    def postprocess(self, data: Any) -> Any:
        answers = []
        for seen in data:
            likely = seen["scores"] >= self.threshold
            boxes, classes = seen["boxes"][likely].tolist(), seen["labels"][likely].tolist()
            scores = seen["scores"][likely].tolist()
            found = [map_class_to_label([[box]], self.mapping, [[each]])[0] for box, each in zip(boxes, classes)]
            answers.append([{**each, "score": score} for each, score in zip(found, scores)])
        return answers
