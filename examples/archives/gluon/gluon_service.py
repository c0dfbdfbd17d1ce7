import json
import os

import mxnet as mx
from mms.utils.mxnet import image, ndarray
from mxnet import gluon


class GluonService(object):
    def __init__(self):
        self.net = None
        self.labels = None
        self.signature = None
        self.ctx = None
        self.initialized = False

    def initialize(self, context):
        properties = context.system_properties
        model_dir = properties.get("model_dir")
        gpu_id = properties.get("gpu_id")
        self.ctx = mx.cpu() if gpu_id is None else mx.gpu(gpu_id)
        with open(os.path.join(model_dir, "signature.json")) as f:
            self.signature = json.load(f)
        with open(os.path.join(model_dir, "synset.txt")) as f:
            self.labels = [line.rstrip() for line in f]
        names = [one["data_name"] for one in self.signature["inputs"]]
        self.net = gluon.nn.SymbolBlock.imports(
            os.path.join(model_dir, "squeezenet-symbol.json"),
            names,
            os.path.join(model_dir, "squeezenet-0000.params"),
            ctx=self.ctx,
        )
        self.initialized = True

    def preprocess(self, batch):
        height, width = self.signature["inputs"][0]["data_shape"][2:]
        images = []
        for row in batch:
            img = row.get("data")
            if img is None:
                img = row.get("body")
            img = image.read(img)
            img = image.resize(img, width, height)
            img = image.transform_shape(img.astype("float32") / 255)
            images.append(img)
        return mx.nd.concat(*images, dim=0).as_in_context(self.ctx)

    def inference(self, data):
        return self.net(data).softmax()

    def postprocess(self, output):
        return [ndarray.top_probability(row.expand_dims(0), self.labels, top=3) for row in output]


_service = GluonService()


def handle(data, context):
    if not _service.initialized:
        _service.initialize(context)
    if data is None:
        return None
    return _service.postprocess(_service.inference(_service.preprocess(data)))
