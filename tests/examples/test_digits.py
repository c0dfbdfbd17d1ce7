"""The shipped digits model keeps what its README says. Looks at the files only: nothing is trained here."""

import json
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "src" / "headrace" / "bundled" / "digits"
PICTURES = sorted((ROOT / "examples" / "digits" / "held_out").iterdir())

Floats = npt.NDArray[np.float32]


def read(path: Path) -> Floats:
    with Image.open(path) as picture:
        assert (picture.mode, picture.size) == ("L", (8, 8)), path.name
        return np.asarray(picture, dtype=np.float32)[np.newaxis] / np.float32(255)


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(MODEL / "digits.onnx", providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def images() -> Floats:
    return np.stack([read(path) for path in PICTURES])


def probabilities(session: onnxruntime.InferenceSession, images: Floats) -> Floats:
    return np.asarray(session.run(["probabilities"], {"image": images})[0], dtype=np.float32)


def test_every_held_out_picture_says_its_digit() -> None:
    assert len(PICTURES) >= 300
    assert [path.name for path in PICTURES if not re.fullmatch(r"\d{4}-[0-9]\.png", path.name)] == []
    assert {path.stem[-1] for path in PICTURES} == set("0123456789")


def test_at_least_97_of_100_held_out_pictures_are_named_right(
    session: onnxruntime.InferenceSession, images: Floats
) -> None:
    labels = np.array([int(path.stem[-1]) for path in PICTURES])
    assert (probabilities(session, images).argmax(axis=1) == labels).mean() >= 0.97


def test_answers_are_probabilities(session: onnxruntime.InferenceSession, images: Floats) -> None:
    answers = probabilities(session, images)
    assert answers.shape == (len(PICTURES), 10)
    assert answers.min() >= 0
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)


def test_company_in_the_batch_does_not_change_an_answer(session: onnxruntime.InferenceSession, images: Floats) -> None:
    together = probabilities(session, images[:7])
    alone = np.concatenate([probabilities(session, images[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_the_folder_holds_what_the_manifest_names() -> None:
    model = json.loads((MODEL / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))["model"]
    assert model["modelName"] == MODEL.name
    for name in (model["serializedFile"], model["configFile"], "index_to_name.json"):
        assert (MODEL / name).is_file(), name


def test_every_class_has_a_name() -> None:
    names = json.loads((MODEL / "index_to_name.json").read_text(encoding="utf-8"))
    assert list(names) == [str(index) for index in range(10)]
