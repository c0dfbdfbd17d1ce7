"""Writes a Gluon network with random weights as MMS wants it: symbol, parameters, signature and labels.

Runs in the environment with mxnet:  python make_network.py FOLDER
"""

import json
import os
import sys

import mxnet as mx
from mxnet.gluon.model_zoo import vision

CLASSES, SIZE = 10, 224


def main(folder):
    mx.random.seed(7)
    net = vision.squeezenet1_1(classes=CLASSES)
    net.initialize(mx.init.MSRAPrelu())
    net.hybridize()
    net(mx.nd.zeros((1, 3, SIZE, SIZE)))
    net.export(os.path.join(folder, "squeezenet"))
    signature = {
        "inputs": [{"data_name": "data", "data_shape": [0, 3, SIZE, SIZE]}],
        "input_type": "image/png",
        "output_type": "application/json",
    }
    with open(os.path.join(folder, "signature.json"), "w") as f:
        json.dump(signature, f)
    with open(os.path.join(folder, "synset.txt"), "w") as f:
        f.writelines(f"class-{i}\n" for i in range(CLASSES))


if __name__ == "__main__":
    main(sys.argv[1])
