"""The handler called `image_classifier`, in a worker: a picture in, the likeliest labels and their probabilities out.

What is done to a picture is what the runtime's users are used to; the `handler:` section of the YAML may change it:
`size` (one number, or [height, width]), `resize` (of the shorter side, before the middle is taken; null: none), `mean`,
`std` (of values from 0 to 1), `channels` (3), `top_k` (5).

Torch models: the shorter side 256, the middle 224 x 224, ImageNet's mean and deviation, as TorchServe's. Others: the
whole picture in the size the model says, or 224 x 224, from 0 to 1.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import Any

import numpy as np

_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "neighbours.py")
_spec = importlib.util.spec_from_file_location("_headrace_neighbours", _PATH)
assert _spec is not None and _spec.loader is not None  # noqa: PT018
neighbours = sys.modules["_headrace_neighbours"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(neighbours)

pictures, requests, runtimes = (neighbours.load(name) for name in ("pictures", "requests", "runtimes"))
OPTIONS = ("size", "resize", "mean", "std", "channels", "top_k")


class ImageClassifier:
    def __init__(self) -> None:
        self.runtime: Any = None
        self.form: Any = None
        self.name, self.top_k = "", 5
        self.labels: dict[str, str] = {}

    def initialize(self, context: Any) -> None:
        try:
            import PIL.Image  # noqa: F401
        except ImportError:
            raise runtimes.needed("pillow", "reading pictures") from None
        self.runtime = runtimes.open_model(context)
        if len(self.runtime.inputs) != 1:
            names = ", ".join(spec.name for spec in self.runtime.inputs)
            raise ValueError(f"the image classifier needs a model with one input; this one has {names or 'none'}")
        properties = context.system_properties
        self.name = self.runtime.inputs[0].name
        self.form, self.top_k = form_of(
            runtimes.config_of(context),
            self.runtime.inputs[0].shape,
            getattr(self.runtime, "pictures", {}),
            bool(properties.get("limit_max_image_pixels", True)),
        )
        self.labels = labels_of(properties["model_dir"])

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        return requests.answer_all(data, context, self.runtime, self.read, self.write)  # type: ignore[no-any-return]

    def read(self, row: Any) -> dict[str, Any]:
        body = requests.body_of(row)
        if isinstance(body, list):
            return {self.name: pictures.of_numbers(body, self.form, requests.Bad)}
        return {self.name: pictures.read(requests.bytes_of(body, "a picture"), self.form, requests.Bad)}

    def write(self, outputs: list[Any]) -> dict[str, float]:
        """Scores that are no probabilities are softmaxed. A class without a label goes by its index."""
        scores = np.asarray(outputs[0], np.float64).reshape(-1)
        if not scores.size or not np.isfinite(scores).all():
            raise ValueError(f"the model's first output is one row of finite scores, not {outputs[0]!r:.200}")
        if scores.min() < 0 or abs(scores.sum() - 1) > 1e-3:
            scores = np.exp(scores - scores.max())
            scores /= scores.sum()
        best: dict[str, float] = {}
        for index in np.argsort(-scores, kind="stable").tolist():
            best.setdefault(self.labels.get(str(index), str(index)), float(scores[index]))
            if len(best) == self.top_k:
                break
        return best


def form_of(config: dict[str, Any], shape: Any, usual: dict[str, Any], limited: bool) -> Any:
    """(what pictures are brought into, how many labels an answer has). `usual`: the runtime's ways."""
    unknown = sorted(set(config) - set(OPTIONS))
    if unknown:
        raise ValueError(f"the image classifier has no option {unknown[0]!r}; it has {', '.join(OPTIONS)}")
    said = {**usual, **config}
    channels, height, width = shape[1:] if shape is not None and len(shape) == 4 else (None, None, None)
    channels = channels or said.get("channels", 3)
    if channels not in (1, 3):
        raise ValueError(f"the image classifier needs a model with 1 or 3 channels, first; this one has {channels}")
    size = said.get("size", 224)
    down, across = (int(one) for one in (size if isinstance(size, (list, tuple)) else (size, size)))
    resize = said.get("resize")
    if height is not None and width is not None:  # the model says it
        if resize is not None and "resize" not in config:
            resize = resize * min(height, width) // min(down, across)
        down, across = height, width
    mean, std = (
        _per_channel(said.get(name, usual_one), name, channels) for name, usual_one in (("mean", 0), ("std", 1))
    )
    if not (std > 0).all():
        raise ValueError(f"'std' of the image classifier is above 0, not {said['std']!r}")
    top_k = said.get("top_k", 5)
    if not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"'top_k' of the image classifier is a whole number from 1 up, not {top_k!r}")
    return pictures.Form((down, across), channels, resize, mean, std, limited), top_k


def _per_channel(value: Any, name: str, channels: int) -> Any:
    values = np.asarray(value, np.float32).reshape(-1)
    if len(values) == 3 and channels == 1:
        values = values[:1]
    if len(values) not in (1, channels):
        raise ValueError(
            f"{name!r} of the image classifier is one number for each of {channels} channels, not {value!r}"
        )
    return values


def labels_of(folder: str) -> dict[str, str]:
    """index_to_name.json, or MMS's synset.txt: a line for each class, the first word a code."""
    path = os.path.join(folder, "index_to_name.json")
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict):
            raise ValueError(f"index_to_name.json is an object of class numbers and their names, not {found!r:.60}")
        if isinstance(found.get("object_type_names"), list):
            found = {str(index): name for index, name in enumerate(found["object_type_names"])}
        return {index: str(name[-1] if isinstance(name, list) and name else name) for index, name in found.items()}
    path = os.path.join(folder, "synset.txt")
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            return {str(index): line.strip() for index, line in enumerate(file) if line.strip()}
    return {}
