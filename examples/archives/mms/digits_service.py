import io
import logging
import os

import numpy as np
import onnxruntime
from mms.metrics.dimension import Dimension
from mms.service import PredictionException
from PIL import Image


class DigitsService(object):
    def __init__(self):
        self.session = None
        self.labels = None
        self.initialized = False
        self._context = None

    def initialize(self, context):
        self._context = context
        self.initialized = True
        properties = context.system_properties
        model_dir = properties.get("model_dir")
        self.session = onnxruntime.InferenceSession(
            os.path.join(model_dir, "digits.onnx"), providers=["CPUExecutionProvider"]
        )
        with open(os.path.join(model_dir, "synset.txt")) as f:
            self.labels = [line.rstrip() for line in f]
        logging.info("loaded %s", context.manifest["model"]["modelName"])

    def preprocess(self, batch):
        images = []
        for idx, data in enumerate(batch):
            img = data.get("data")
            if img is None:
                img = data.get("body")
            if not img:
                raise PredictionException("No image was found in the request", 400)
            self._context.metrics.add_size("ImageSize", len(img), idx, "B", [Dimension("Level", "Input")])
            picture = Image.open(io.BytesIO(img)).convert("L").resize((8, 8))
            images.append(np.asarray(picture, dtype=np.float32)[np.newaxis] / 255)
        return np.stack(images)

    def inference(self, model_input):
        return self.session.run(None, {"image": model_input})[0]

    def postprocess(self, inference_output):
        answers = []
        for idx, scores in enumerate(inference_output):
            best = np.argsort(scores)[::-1][:3]
            self._context.request_processor[idx].add_response_property("x-digit", self.labels[best[0]])
            answers.append([{"class": self.labels[i], "probability": float(scores[i])} for i in best])
        return answers


_service = DigitsService()


def handle(data, context):
    if not _service.initialized:
        _service.initialize(context)
    if data is None:
        return None
    return _service.postprocess(_service.inference(_service.preprocess(data)))
