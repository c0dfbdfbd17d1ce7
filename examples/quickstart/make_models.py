"""Make the two models of the quick start: digits networks of different size, as archives.

    python examples/quickstart/make_models.py [--out FOLDER]

Rule 1: needs NumPy, Pillow, onnx and Headrace, nothing else: the pictures to train on are all in training.png, 8x8
        each, a row for each digit (they are the 1,437 of the data set that are not in ../digits/held_out).
Rule 2: nothing is drawn but from one seed. Where sums are ordered alike, a second run makes the same files.
Rule 3: the accuracy that is printed is that of the files, by ONNX Runtime, on the 360 pictures that were held out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

# One thread: the matrices are small, and how a sum is cut between threads decides how it is rounded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

HERE = Path(__file__).resolve().parent
HELD_OUT = HERE.parent / "digits" / "held_out"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LAYERS = {"digits_small": (24,), "digits_large": (256, 128)}
"""Name of the model, and how wide its hidden layers are."""
SEED = 20
EPOCHS = 40
BATCH = 32
RATE = 2e-3
DECAY = 1e-4

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Layer = tuple[Floats, Floats]
"""Weights [in, out], and what is added."""


def pictures_to_fit() -> tuple[Floats, Integers]:
    """All of training.png: [n, 64], from 0 to 1, and which digit each is. What is all black is no picture."""
    with Image.open(HERE / "training.png") as sheet:
        grey = np.asarray(sheet, np.float32) / np.float32(255)
    rows = grey.reshape(10, 8, -1, 8).transpose(0, 2, 1, 3).reshape(10, -1, 64)
    there = rows.any(axis=2)
    return rows[there], np.nonzero(there)[0]


def held_out() -> tuple[Floats, Integers]:
    paths = sorted(HELD_OUT.glob("*-[0-9].png"))
    grey = np.stack([np.asarray(Image.open(path), np.float32) for path in paths])
    return grey[:, np.newaxis] / np.float32(255), np.array([int(path.stem[-1]) for path in paths])


def train(pictures: Floats, digits: Integers, hidden: Sequence[int]) -> list[Layer]:
    """A network with rectified layers and a softmax, by Adam on shifted copies, its rate falling to nothing."""
    chance = np.random.default_rng(SEED)
    widths = [pictures.shape[1], *hidden, 10]
    weights: list[Floats] = []
    for wide, next_wide in pairwise(widths):
        weights += [
            (chance.standard_normal((wide, next_wide)) * np.sqrt(2 / wide)).astype(np.float32),
            np.zeros(next_wide, np.float32),
        ]
    means, squares = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    steps = -(-len(pictures) // BATCH) * EPOCHS
    step = 0
    for _ in range(EPOCHS):
        order = chance.permutation(len(pictures))
        for at in range(0, len(order), BATCH):
            chosen = order[at : at + BATCH]
            gradients = gradient(weights, shifted(pictures[chosen], chance), digits[chosen])
            step += 1
            rate = RATE * (1 - step / steps)
            for place, slope in enumerate(gradients):
                means[place] += np.float32(0.1) * (slope - means[place])
                squares[place] += np.float32(0.001) * (slope * slope - squares[place])
                mean, square = means[place] / (1 - 0.9**step), squares[place] / (1 - 0.999**step)
                weights[place] -= np.float32(rate) * (mean / (np.sqrt(square) + 1e-8) + DECAY * weights[place])
    return list(zip(weights[::2], weights[1::2]))


def shifted(pictures: Floats, chance: np.random.Generator) -> Floats:
    """Each moved by up to one pixel each way, half of the time: nobody writes in the middle of the frame."""
    padded = np.pad(pictures.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    down, right, move = chance.integers(0, [3, 3, 2], (len(pictures), 3)).T
    rows = np.where(move, down, 1)[:, np.newaxis] + np.arange(8)
    columns = np.where(move, right, 1)[:, np.newaxis] + np.arange(8)
    moved: Floats = padded[np.arange(len(pictures))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.reshape(-1, 64)


def gradient(weights: list[Floats], pictures: Floats, digits: Integers) -> list[Floats]:
    """Of the mean cross entropy, in the order of `weights`."""
    layers = [pictures]
    last = len(weights) - 2
    for place in range(0, len(weights), 2):
        summed = layers[-1] @ weights[place] + weights[place + 1]
        layers.append(summed if place == last else np.maximum(summed, 0))
    scores = np.exp(layers[-1] - layers[-1].max(axis=1, keepdims=True))
    slope = scores / scores.sum(axis=1, keepdims=True)
    slope[np.arange(len(digits)), digits] -= 1
    slope /= np.float32(len(digits))
    found: list[Floats] = []
    for place in range(last, -1, -2):
        before = layers[place // 2]
        found = [before.T @ slope, slope.sum(axis=0), *found]
        slope = (slope @ weights[place].T) * (before > 0)
    return found


def to_onnx(name: str, layers: Sequence[Layer]) -> onnx.ModelProto:
    nodes = [helper.make_node("Flatten", ["image"], ["hidden_0"], axis=1)]
    kept = []
    for place, (weights, added) in enumerate(layers, 1):
        kept += [numpy_helper.from_array(weights, f"w{place}"), numpy_helper.from_array(added, f"b{place}")]
        nodes.append(helper.make_node("Gemm", [f"hidden_{place - 1}", f"w{place}", f"b{place}"], [f"sum_{place}"]))
        if place < len(layers):
            nodes.append(helper.make_node("Relu", [f"sum_{place}"], [f"hidden_{place}"]))
    nodes.append(helper.make_node("Softmax", [f"sum_{len(layers)}"], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        kept,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="headrace examples/quickstart"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def right_of(file: Path) -> tuple[int, int]:
    """How many of the held-out pictures the file names right, and of how many."""
    pictures, digits = held_out()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["probabilities"], {"image": pictures})
    return int((np.asarray(scores).argmax(axis=1) == digits).sum()), len(digits)


def make(out: Path) -> None:
    """The archives, by `headrace archive`, in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    pictures, digits = pictures_to_fit()
    with tempfile.TemporaryDirectory(prefix="headrace-") as made:
        folder = Path(made)
        labels = folder / "index_to_name.json"
        labels.write_text(json.dumps({str(index): name for index, name in enumerate(NAMES)}, indent=2) + "\n")
        for name, hidden in LAYERS.items():
            layers = train(pictures, digits, hidden)
            file = folder / f"{name}.onnx"
            file.write_bytes(to_onnx(name, layers).SerializeToString(deterministic=True))
            command = [sys.executable, "-m", "headrace", "archive", f"--model-name={name}", "--version=1.0"]
            command += ["--handler=image_classifier", f"--serialized-file={file}", f"--extra-files={labels}"]
            subprocess.run([*command, f"--export-path={out}", "--force"], check=True, stdout=subprocess.DEVNULL)
            right, count = right_of(file)
            numbers = sum(weights.size + added.size for weights, added in layers)
            print(f"{out / name}.mar: {numbers:,} weights, {right} of {count} held-out pictures right", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the two models of the quick start.")
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder for the archives (default: models)")
    make(parser.parse_args().out)


if __name__ == "__main__":
    main()
