"""Train the bundled "digits" model and write everything that goes with it.

Rule 1: a picture is its 8-bit grey values. Training, measuring and the PNG files all start from the same bytes
        divided by 255, so a PNG sent to the server is exactly the array the network was measured on.
Rule 2: the held-out pictures are for the last line of output only. What had to be chosen (layers, epochs, rates)
        was chosen on the validation part, which is cut from the training side.
Rule 3: the accuracy printed is that of the files: the written ONNX graph, run over the written PNGs read back.
Rule 4: the graph is built here from the trained weights, layer by layer, so its operators are the ones we named.

Promised: a second run with the same library versions on the same machine writes the same bytes. Not promised: the
same weights on another processor or with another release of torch (sums may be ordered differently; the accuracy then
moves by a picture or two), nor the same PNG bytes with another zlib (the pixels are the same).
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

SEED = 20
EPOCHS = 60
BATCH_SIZE = 64
PEAK_RATE = 3e-3
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

MODEL_FOLDER = Path("src/headrace/bundled/digits")
PICTURE_FOLDER = Path("examples/digits/held_out")
PICTURE_PATTERN = "[0-9][0-9][0-9][0-9]-[0-9].png"

# TorchServe's form, so that the folder reads like an unpacked archive. The date is fixed, and the archiver's version
# is this script's own: neither may change between two runs.
MANIFEST = {
    "createdOn": "01/01/2025 00:00:00",
    "runtime": "python",
    "model": {
        "modelName": "digits",
        "serializedFile": "digits.onnx",
        "handler": "image_classifier",
        "modelVersion": "1.0",
        "configFile": "model-config.yaml",
    },
    "archiverVersion": "1.0",
}

CONFIG = """\
handler:
  # Per channel, taken off the values after they are scaled to 0..1. The network wants them as they are.
  mean: [0.0]
  # Per channel, what the values are divided by after that.
  std: [1.0]
  # How many classes an answer names, likeliest first.
  top_k: 5
"""

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Some of the data set. `indices` are places in scikit-learn's order."""

    indices: Integers
    pictures: Bytes
    labels: Integers


def load_parts() -> tuple[Part, Part, Part]:
    """What to fit, what to choose by, and what is held out. Each has all ten digits in the same shares."""
    digits = load_digits()
    pictures = np.round(digits.images * 255 / 16).astype(np.uint8)
    labels = digits.target.astype(np.int64)

    def split(indices: Integers, share: float) -> tuple[Integers, Integers]:
        kept, taken = train_test_split(indices, test_size=share, stratify=labels[indices], random_state=SEED)
        return np.sort(kept), np.sort(taken)

    def part(indices: Integers) -> Part:
        return Part(indices, pictures[indices], labels[indices])

    training, held_out = split(np.arange(len(labels)), 0.2)
    fit, validation = split(training, 0.1)
    return part(fit), part(validation), part(held_out)


def as_input(pictures: Bytes) -> Floats:
    return pictures[:, np.newaxis].astype(np.float32) / np.float32(255)


def make_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 48, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Linear(48 * 4 * 4, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    )


def nudge(images: Tensor, chance: torch.Generator) -> Tensor:
    """Each picture moved by up to one pixel each way. What leaves the frame is lost; what enters is blank."""
    pixel = 2 / images.shape[-1]  # affine_grid spans -1..1
    moves = torch.eye(2, 3).repeat(len(images), 1, 1)
    moves[:, :, 2] = (torch.rand(len(images), 2, generator=chance) * 2 - 1) * pixel
    grid = functional.affine_grid(moves, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(fit: Part, validation: Part) -> nn.Sequential:
    # One thread: how a sum is cut between threads decides how it is rounded.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    chance = torch.Generator().manual_seed(SEED)

    images, labels = torch.from_numpy(as_input(fit.pictures)), torch.from_numpy(fit.labels)
    network = make_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    steps = -(-len(images) // BATCH_SIZE) * EPOCHS
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK_RATE, total_steps=steps)
    for epoch in range(1, EPOCHS + 1):
        network.train()
        total = 0.0
        for chosen in torch.randperm(len(images), generator=chance).split(BATCH_SIZE):
            logits = network(nudge(images[chosen], chance))
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if epoch % 10 == 0:
            share = (probabilities_of(network, validation.pictures).argmax(axis=1) == validation.labels).mean()
            print(f"epoch {epoch:3}  loss {total / len(images):.4f}  validation accuracy {share:.4f}", flush=True)
    return network


def probabilities_of(network: nn.Sequential, pictures: Bytes) -> Floats:
    network.eval()
    with torch.no_grad():
        result: Floats = network(torch.from_numpy(as_input(pictures))).softmax(dim=1).numpy()
    return result


def to_onnx(network: nn.Sequential) -> onnx.ModelProto:
    """The network as a graph that ends in a softmax and takes any number of pictures at once."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    current = "image"

    def add(operator: str, parameters: Sequence[str] = (), output: str = "", **attributes: int | list[int]) -> None:
        nonlocal current
        name = f"{operator.lower()}_{len(nodes)}"
        output = output or name
        nodes.append(helper.make_node(operator, [current, *parameters], [output], name=name, **attributes))
        current = output

    def keep(place: int, layer: nn.Conv2d | nn.Linear) -> list[str]:
        names = []
        for kind, values in layer.named_parameters():
            names.append(f"layer_{place}.{kind}")
            weights.append(numpy_helper.from_array(values.detach().numpy(), names[-1]))
        return names

    for place, layer in enumerate(network):
        match layer:
            case nn.Conv2d():
                add("Conv", keep(place, layer), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            case nn.Linear():
                add("Gemm", keep(place, layer), transB=1)
            case nn.MaxPool2d():
                add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
            case nn.Flatten():
                add("Flatten", axis=1)
            case nn.ReLU():
                add("Relu")
            case nn.Dropout():
                pass  # does nothing once trained
            case _:
                raise TypeError(f"no ONNX operator is known here for {layer}")
    add("Softmax", output="probabilities", axis=1)

    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="headrace examples/digits"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def write_model(folder: Path, model: onnx.ModelProto) -> None:
    def write_json(path: Path, value: object) -> None:
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    (folder / "MAR-INF").mkdir(parents=True, exist_ok=True)
    (folder / "digits.onnx").write_bytes(model.SerializeToString(deterministic=True))
    (folder / "model-config.yaml").write_text(CONFIG, encoding="utf-8")
    write_json(folder / "index_to_name.json", {str(index): name for index, name in enumerate(NAMES)})
    write_json(folder / "MAR-INF" / "MANIFEST.json", MANIFEST)


def write_pictures(folder: Path, part: Part) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Pictures of an earlier split would be measured as held out although this run trained on them.
    for stale in folder.glob(PICTURE_PATTERN):
        stale.unlink()
    for index, picture, label in zip(part.indices, part.pictures, part.labels, strict=True):
        Image.fromarray(picture).save(folder / f"{index:04}-{label}.png", optimize=True)


def measure(model: Path, pictures: Path) -> tuple[int, int]:
    """How many of the pictures the file gets right, and of how many."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    paths = sorted(pictures.glob(PICTURE_PATTERN))
    images = as_input(np.stack([np.asarray(Image.open(path)) for path in paths]))
    labels = np.array([int(path.stem[-1]) for path in paths])
    (probabilities,) = session.run(["probabilities"], {"image": images})
    return int((np.asarray(probabilities).argmax(axis=1) == labels).sum()), len(paths)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the bundled digits model and write its files.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parents[2],
        help=f"where {MODEL_FOLDER} and {PICTURE_FOLDER} are written (default: this repository)",
    )
    out: Path = parser.parse_args().out

    fit, validation, held_out = load_parts()
    print(f"{len(fit.labels)} to fit, {len(validation.labels)} to choose by, {len(held_out.labels)} held out")
    began = time.monotonic()
    network = train(fit, validation)
    print(f"trained in {time.monotonic() - began:.1f} s")

    write_model(out / MODEL_FOLDER, to_onnx(network))
    write_pictures(out / PICTURE_FOLDER, held_out)
    right, count = measure(out / MODEL_FOLDER / "digits.onnx", out / PICTURE_FOLDER)
    print(f"held-out accuracy {right / count:.4f} ({right} of {count})")


if __name__ == "__main__":
    main()
