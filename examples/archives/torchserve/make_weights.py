"""Writes `digits.pt`: the state dict of model.py, with the weights of the digits model that comes with Headrace.

Runs in the environment with torch and onnx:  python make_weights.py DIGITS.onnx DIGITS.pt
"""

import sys

import onnx
import torch
from model import DigitsNet
from onnx import numpy_helper

LAYERS = ("features.0", "features.2", "features.5", "classifier.1", "classifier.3")


def main(source, target):
    found = [numpy_helper.to_array(one).copy() for one in onnx.load(source).graph.initializer]
    names = [f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]
    network = DigitsNet()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in zip(names, found)})
    torch.save(network.state_dict(), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
