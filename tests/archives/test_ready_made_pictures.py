"""The handler `image_classifier` that needs no code: pictures in, labels out."""

import base64
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from ready_made_handlers import (
    FOLDER,
    Context,
    classifier,
    mean_of_channels,
    picture,
    pictures,
    requests,
    runtimes,
    started,
)

from headrace.archives.handlers.image_classifier import ImageClassifier as InProcess
from headrace.tensor import TensorSpec


def test_a_picture_gets_labels_and_probabilities_likeliest_first(tmp_path):
    mean_of_channels(tmp_path / "m.onnx")
    (tmp_path / "index_to_name.json").write_text('{"0": ["n1", "red"], "1": "green", "2": "blue"}')
    red = io.BytesIO()
    Image.new("RGB", (60, 40), (200, 100, 0)).save(red, "PNG")
    handler = started(classifier, "ImageClassifier", Context(tmp_path, top_k=2))
    (answer,) = handler.handle([{"body": bytearray(red.getvalue())}], Context(tmp_path))
    scores = np.exp(np.array([200, 100, 0]) / 255)
    assert list(answer) == ["red", "green"]
    assert answer["red"] == pytest.approx(scores[0] / scores.sum())


def test_what_a_network_sees_is_what_it_sees_in_the_servers_process(tmp_path):
    mean_of_channels(tmp_path / "m.onnx")
    spec = TensorSpec("x", np.dtype(np.float32), (None, 3, 4, 6))
    scores = TensorSpec("y", np.dtype(np.float32), (None, 3))
    config = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    theirs = InProcess([spec], [scores], None, config)
    ours = started(classifier, "ImageClassifier", Context(tmp_path, **config))
    for body in (
        picture(),
        picture(size=(60, 50)),
        picture("JPEG", (31, 17)),
        picture("GIF", (20, 10)),
        picture(mode="L"),
    ):
        np.testing.assert_array_equal(ours.read({"data": body})["x"], theirs.preprocess(body)["x"])


def test_one_that_is_no_picture_fails_alone(tmp_path):
    mean_of_channels(tmp_path / "m.onnx")
    context = Context(tmp_path)
    handler = started(classifier, "ImageClassifier", context)
    body = picture()
    rows = [
        {"body": body},
        {"body": b"no"},
        {"data": base64.b64encode(body).decode()},
        {"body": {"a": 1}},
        {},
        {"x": body},
    ]
    answers = handler.handle(rows, context)
    assert context.statuses == {1: 400, 3: 400, 4: 400}
    assert answers[0] == answers[2] == answers[5]
    assert answers[1]["message"].startswith("the body is not a picture that can be read (2 bytes")
    assert answers[1]["code"] == 400


def test_how_large_a_picture_is_is_known_before_it_is_decoded(tmp_path, monkeypatch):
    mean_of_channels(tmp_path / "m.onnx")
    body = picture(size=(20, 20))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    context = Context(tmp_path)
    handler = started(classifier, "ImageClassifier", context)
    (answer,) = handler.handle([{"body": body}], context)
    assert "20 x 20 pixels" in answer["message"]


def test_as_torchvision_does_the_shorter_side_is_resized_and_the_middle_taken():
    form = pictures.Form((224, 224), 3, 256, np.zeros(3, np.float32), np.ones(3, np.float32))
    for size, inside in (((512, 300), (436, 256)), ((300, 512), (256, 436)), ((256, 256), (256, 256))):
        body = picture(size=size)
        whole = Image.open(io.BytesIO(body)).resize(inside, Image.Resampling.BILINEAR)
        left, top = (inside[0] - 224) // 2, (inside[1] - 224) // 2
        wanted = np.asarray(whole.crop((left, top, left + 224, top + 224)), np.float32).transpose(2, 0, 1) / 255
        np.testing.assert_allclose(pictures.read(body, form, requests.Bad)[0], wanted, rtol=1e-6)


def test_torch_models_are_given_what_torchserve_gave_them_unless_the_yaml_says_otherwise():
    usual = {"resize": 256, "size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    form, top_k = classifier.form_of({}, None, usual, True)
    assert (form.size, form.resize, form.channels, top_k) == ((224, 224), 256, 3, 5)
    assert form.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    form, _ = classifier.form_of(
        {"resize": None, "size": [8, 9], "channels": 1, "mean": 0, "std": 1}, None, usual, True
    )
    assert (form.size, form.resize, form.channels, form.mean.tolist()) == ((8, 9), None, 1, [0])
    form, _ = classifier.form_of({}, (None, 3, 112, 112), usual, True)
    assert (form.size, form.resize) == ((112, 112), 128)


@pytest.mark.parametrize(
    "config",
    [{"tpo_k": 1}, {"top_k": 0}, {"std": 0}, {"mean": [1, 2]}, {"channels": 4}],
    ids=lambda config: next(iter(config)),
)
def test_options_that_cannot_be_are_named(config):
    with pytest.raises(ValueError, match="image classifier"):
        classifier.form_of(config, None, {}, True)


def test_what_torchserves_own_classifier_is_told_is_no_mistake(tmp_path):
    assert runtimes.config_of(Context(tmp_path, profile=True, top_k=2)) == {"top_k": 2}
    mean_of_channels(tmp_path / "m.onnx")
    assert started(classifier, "ImageClassifier", Context(tmp_path, profile=True)).top_k == 5


def test_labels_of_multi_model_server_are_read(tmp_path):
    (tmp_path / "synset.txt").write_text("n1 tench\nn2 goldfish\n")
    assert classifier.labels_of(str(tmp_path)) == {"0": "n1 tench", "1": "n2 goldfish"}


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"0": "a", "1": ["n1", "b"], "2": [], "3": 5}, {"0": "a", "1": "b", "2": "[]", "3": "5"}),
        ({"object_type_names": ["a", "b"]}, {"0": "a", "1": "b"}),
    ],
)
def test_labels_of_torchserve_are_read(tmp_path, said, read):
    (tmp_path / "index_to_name.json").write_text(json.dumps(said))
    assert classifier.labels_of(str(tmp_path)) == read


def test_labels_that_are_none_are_named(tmp_path):
    (tmp_path / "index_to_name.json").write_text('["cat"]')
    with pytest.raises(ValueError, match=r"index_to_name\.json is an object of class numbers"):
        classifier.labels_of(str(tmp_path))


def test_without_pillow_it_is_said_what_is_missing_and_where(tmp_path):
    mean_of_channels(tmp_path / "m.onnx")
    code = f"""
import runpy, sys
sys.modules["PIL"] = None
handler = runpy.run_path({str(FOLDER / "image_classifier.py")!r})["ImageClassifier"]()
try:
    handler.initialize(None)
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"reading pictures needs pillow, which is not in the environment of {sys.executable}" in done.stdout


def test_a_classifier_takes_the_networks_numbers_too(tmp_path):
    mean_of_channels(tmp_path / "m.onnx", size=(1, 2))
    handler = started(classifier, "ImageClassifier", Context(tmp_path))
    np.testing.assert_array_equal(handler.read({"body": [[[1, 2]], [[3, 4]], [[5, 6]]]})["x"][0, 2], [[5, 6]])
    for wrong in ([], [1], [[[1, 2]]], [[["a", 2]], [[3, 4]], [[5, 6]]], [[[1], [2, 3]]] * 3):
        with pytest.raises(requests.Bad, match=r"lists \[3, height, width\]"):
            handler.read({"body": wrong})
