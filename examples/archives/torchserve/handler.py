import io
import logging

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import map_class_to_label

logger = logging.getLogger(__name__)


class DigitsHandler(BaseHandler):
    topk = 3

    def initialize(self, context):
        super().initialize(context)
        config = getattr(context, "model_yaml_config", None) or {}
        self.topk = config.get("handler", {}).get("topk", self.topk)
        logger.info("DigitsHandler initialised on %s", self.device)

    def preprocess(self, data):
        images = []
        for row in data:
            image = row.get("data") or row.get("body")
            image = Image.open(io.BytesIO(image)).convert("L").resize((8, 8))
            images.append(torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).unsqueeze(0))
        return torch.stack(images).to(self.device)

    def postprocess(self, data):
        probs, classes = torch.topk(F.softmax(data, dim=1), self.topk, dim=1)
        return map_class_to_label(probs.tolist(), self.mapping, classes.tolist())
