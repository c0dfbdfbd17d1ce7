import contextlib
import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from headrace.archives.handlers.image_classifier import ImageClassifier
from headrace.errors import BackendError, InvalidArchive, InvalidInput
from headrace.tensor import TensorSpec

SCORES = TensorSpec("scores", np.dtype(np.float32), (None, 4))
LABELS = {"0": "cat", "1": "dog", "2": "fish"}


def pixels(channels, height=None, width=None):
    return TensorSpec("x", np.dtype(np.float32), (None, channels, height, width))


def classifier(channels=3, height=2, width=3, *, labels=LABELS, **config):
    return ImageClassifier([pixels(channels, height, width)], [SCORES], labels, config)


def saved(picture, kind="PNG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def values_of(handler, body):
    """What the model would see, as 0..255 [H, W, C]."""
    (values,) = handler.preprocess(body).values()
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    return np.rint(values[0].transpose(1, 2, 0) * 255).astype(int)


RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (2, 3, 3), np.uint8)
GREY = RNG.integers(0, 256, (2, 3), np.uint8)


# Pictures


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_pictures_come_through_to_the_last_bit(kind):
    body = saved(Image.fromarray(RGB), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert values_of(classifier(), body).tolist() == RGB.tolist()


def test_a_jpeg_comes_through_nearly():
    smooth = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    body = saved(Image.fromarray(smooth), "JPEG", quality=100, subsampling=0)
    assert np.abs(values_of(classifier(3, 32, 32), body) - smooth).max() <= 6


def test_the_input_is_named_and_has_a_batch_dimension():
    (name, values), *more = classifier().preprocess(saved(Image.fromarray(RGB))).items()
    assert (name, values.shape, more) == ("x", (1, 3, 2, 3), [])


def test_colour_becomes_grey_and_grey_becomes_colour():
    grey = np.asarray(Image.fromarray(RGB).convert("L"))
    assert values_of(classifier(1), saved(Image.fromarray(RGB)))[..., 0].tolist() == grey.tolist()
    colour = values_of(classifier(3), saved(Image.fromarray(GREY)))
    assert all(colour[..., channel].tolist() == GREY.tolist() for channel in range(3))


def test_sixteen_bits_are_scaled_not_cut_off():
    deep = GREY.astype(np.uint16) * 257
    body = saved(Image.fromarray(deep))
    assert Image.open(io.BytesIO(body)).mode.startswith("I")
    assert values_of(classifier(1), body)[..., 0].tolist() == GREY.tolist()
    assert values_of(classifier(3), body)[..., 1].tolist() == GREY.tolist()


def test_transparency_is_dropped():
    alpha = RNG.integers(0, 256, (2, 3, 1), np.uint8)
    body = saved(Image.fromarray(np.concatenate([RGB, alpha], axis=2)))
    assert values_of(classifier(), body).tolist() == RGB.tolist()
    body = saved(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha[..., 0])]))
    assert values_of(classifier(1), body)[..., 0].tolist() == GREY.tolist()


@pytest.mark.parametrize(
    ("kind", "transparency"), [("PNG", None), ("GIF", None), ("PNG", 0), ("GIF", 0), ("PNG", bytes([0, 128, 255]))]
)
def test_palettes_become_colours(kind, transparency):
    palette = Image.fromarray(RGB).quantize(6)
    body = saved(palette, kind, **({} if transparency is None else {"transparency": transparency}))
    expected = np.asarray(palette.convert("RGB"))
    assert values_of(classifier(), body).tolist() == expected.tolist()
    grey = np.asarray(palette.convert("L"))
    assert values_of(classifier(1), body)[..., 0].tolist() == grey.tolist()


def test_one_bit_and_cmyk_pictures_are_read():
    black_and_white = Image.fromarray(GREY > 127)
    assert values_of(classifier(1), saved(black_and_white))[..., 0].tolist() == ((GREY > 127) * 255).tolist()
    body = saved(Image.new("CMYK", (3, 2), (255, 255, 255, 0)), "JPEG")
    assert values_of(classifier(), body).max() <= 2


def test_of_an_animation_the_first_frame_is_read():
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        body = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
        assert values_of(classifier(), body)[0, 0].tolist() == [255, 0, 0]


def test_a_malformed_animation_is_its_still_picture_and_no_warning():
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "lime")]
    body = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    at = body.index(b"acTL")
    none = b"acTL" + bytes(8)
    body = body[:at] + none + struct.pack(">I", zlib.crc32(none)) + body[at + 16 :]
    assert values_of(classifier(), body)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_brought_upright(kind, orientation):
    # Quadrants in colours that even JPEG keeps apart.
    quadrants = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    picture = Image.fromarray(quadrants.repeat(16, 0).repeat(24, 1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}[kind]
    body = saved(picture, kind, exif=exif, **options)
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }[orientation](quadrants)
    height, width = (32, 48) if orientation < 5 else (48, 32)
    seen = values_of(classifier(3, height, width), body)
    corners = seen[height // 4 :: height // 2, width // 4 :: width // 2]
    assert np.abs(corners - upright).max() < 40


def exif_body(exif):
    return saved(Image.new("RGB", (3, 2), "red"), "JPEG", exif=b"Exif\0\0" + exif)


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHII", 0x0112, 3, 1, 9 << 16),
        b"II*\0\x08\0\0\0\x02\0"
        + struct.pack("<HHII", 0x010E, 2, 5000, 9999)
        + struct.pack("<HHII", 0x011A, 5, 1, 9999),
        bytes(range(256)),
    ],
)
def test_corrupt_exif_costs_neither_the_picture_nor_a_warning(exif):
    assert classifier().preprocess(exif_body(exif))["x"].shape == (1, 3, 2, 3)


def test_a_large_picture_is_shrunk_with_antialiasing():
    checkers = (np.indices((64, 96)).sum(0) % 2 * 255).astype(np.uint8)
    seen = values_of(classifier(1), saved(Image.fromarray(checkers)))
    assert np.abs(seen - 127.5).max() < 3


def test_a_small_picture_is_enlarged():
    assert values_of(classifier(3, 20, 30), saved(Image.new("RGB", (1, 1), "red")))[19, 29].tolist() == [255, 0, 0]


def test_values_are_normalised_per_channel():
    handler = classifier(mean=[0.5, 0.25, 0], std=[0.5, 0.25, 1])
    body = saved(Image.new("RGB", (3, 2), (255, 0, 51)))
    np.testing.assert_allclose(handler.preprocess(body)["x"][0, :, 0, 0], [1, -1, 0.2], rtol=1e-6)


# Bodies that are no pictures

PNG = saved(Image.fromarray(RNG.integers(0, 256, (40, 40, 3), np.uint8)))
JPEG = saved(Image.fromarray(RNG.integers(0, 256, (40, 40, 3), np.uint8)), "JPEG")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def gif_of_size(screen, frame):
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *screen, 0, 0, 0)
        + b"!\xfe\x02hi\0,"
        + struct.pack("<HHHHB", 0, 0, *frame, 0)
        + b"\x02\0;"
    )


def webp_of_size(kind, width, height):
    if kind == b"VP8X":
        data = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        data = b"\x2f" + (width - 1 | height - 1 << 14).to_bytes(4, "little") + bytes(5)
    else:
        data = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    chunk = kind + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def bmp_of_size(width, height):
    body = bytearray(saved(Image.new("L", (1, 1)), "BMP"))
    body[18:26] = struct.pack("<ii", width, height)
    return bytes(body)


def jpeg_of_size(width, height):
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 5] + struct.pack(">HH", height, width) + JPEG[at + 9 :]


@pytest.mark.parametrize(
    "body",
    [
        png_of_size(8001, 8000),
        png_of_size(10_000, 10_000),  # where Pillow would warn
        png_of_size(2**31 - 1, 2**31 - 1),
        bmp_of_size(9500, 9500),
        jpeg_of_size(9500, 9500),
        gif_of_size((9500, 9500), (1, 1)),
        gif_of_size((1, 1), (9500, 9500)),
        webp_of_size(b"VP8X", 9500, 9500),
        webp_of_size(b"VP8L", 9500, 9500),
        webp_of_size(b"VP8 ", 9500, 9500),
    ],
    ids=lambda body: repr(body[:4]),
)
def test_a_decompression_bomb_is_refused_by_its_header(body):
    with pytest.raises(InvalidInput, match="pixels; at most 64,000,000 are read"):
        classifier().preprocess(body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is empty: send PNG, JPEG"),
        (b"hello world!", r"\(12 bytes beginning b'hello wor'\.\.\.\): send PNG, JPEG"),
        (b"hi", r"\(2 bytes b'hi'\)"),
        (b'{"data": "iVBORw0KGgo="}', "not a picture that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture that can be read"),
        (b"RIFF\x24\0\0\0WAVEfmt \0\0\0\0" + bytes(40), "not a picture that can be read"),
        (PNG.replace(b"IHDR", b"IHDX"), "not a picture that can be read"),
        (b"BM" + bytes(100), "not a picture that can be read"),
        (b"GIF89a" + bytes(100), "not a picture that can be read"),
    ],
)
def test_what_is_no_picture_is_refused(body, said):
    with pytest.raises(InvalidInput, match=said):
        classifier().preprocess(body)


WHOLE = {
    "PNG": PNG,
    "JPEG": JPEG,
    "BMP": saved(Image.fromarray(RGB), "BMP"),
    "GIF": saved(Image.fromarray(RGB), "GIF"),
    "WEBP": saved(Image.fromarray(RGB), "WEBP"),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.5, 0.7])
def test_a_truncated_picture_is_refused(kind, part):
    body = WHOLE[kind][: int(len(WHOLE[kind]) * part)]
    with pytest.raises(InvalidInput, match=r"that can be read|empty"):
        classifier().preprocess(body)


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(seed, recwarn):
    warnings.simplefilter("always")  # as an error, a warning would pass for a refusal
    rng = random.Random(seed)
    body = bytearray(WHOLE[rng.choice(sorted(WHOLE))])
    for _ in range(rng.randint(1, 8)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    with contextlib.suppress(InvalidInput):
        assert classifier().preprocess(bytes(body))["x"].shape == (1, 3, 2, 3)
    assert not recwarn.list


def test_pillows_settings_stay_as_they_were():
    def settings():
        return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK, dict(Image.MIME)

    before = settings()
    classifier().preprocess(PNG)
    with pytest.raises(InvalidInput):
        classifier().preprocess(JPEG[:300])
    assert settings() == before


# Answers


def test_probabilities_are_named_likeliest_first():
    row = np.array([[0.2, 0.5, 0.05, 0.25]], np.float32)
    answer = classifier(top_k=3).postprocess({"scores": row})
    assert list(answer) == ["dog", "3", "cat"]  # class 3 has no label
    assert answer == pytest.approx({"dog": 0.5, "3": 0.25, "cat": 0.2})
    assert {type(value) for value in answer.values()} == {float}


def test_a_row_may_come_with_or_without_its_batch_dimension_by_name_or_by_place():
    row = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    forms = [{"scores": row}, {"scores": row[None]}, [row], (row[None],)]
    assert len({tuple(classifier().postprocess(form).items()) for form in forms}) == 1


@pytest.mark.parametrize("row", [[1.0, 2, 3, 4], [-1.0, 0.5, 0.5, 1], [1000.0, 999, 0, -1000], [0.25, 0.25, 0.25, 0.2]])
def test_scores_that_are_no_probabilities_are_softmaxed(row):
    answer = classifier(labels=None).postprocess([np.array(row, np.float32)])
    exponents = np.exp(np.array(row) - max(row))
    assert answer == pytest.approx({str(i): p for i, p in enumerate(exponents / exponents.sum())})
    assert list(answer.values()) == sorted(answer.values(), reverse=True)


def test_probabilities_that_add_up_nearly_are_left_alone():
    answer = classifier().postprocess([np.array([0.9995, 0, 0, 0])])
    assert answer["cat"] == 0.9995


def test_ties_go_to_the_first_class_and_no_more_are_named_than_there_are():
    answer = classifier(top_k=100).postprocess([np.full(4, 0.25)])
    assert list(answer) == ["cat", "dog", "fish", "3"]


def test_of_classes_that_share_a_label_the_likeliest_is_named():
    handler = classifier(labels={"0": "crane", "1": "crane"}, top_k=2)
    assert handler.postprocess([np.array([0.3, 0.6, 0.0, 0.1])]) == {"crane": 0.6, "3": 0.1}


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"other": np.ones(4)},
        [],
        [np.ones((2, 4))],
        [np.ones((1, 1, 4))],
        [np.ones(())],
        [np.empty(0)],
        [np.array([np.nan, 0, 0, 1])],
        [np.array([np.inf, 0, 0, 1])],
        [np.array(["a", "b"])],
    ],
)
def test_an_output_that_is_no_row_of_scores_is_the_models_fault(outputs):
    with pytest.raises(BackendError, match="output 'scores'"):
        classifier().postprocess(outputs)


def test_the_scores_are_the_first_output_that_can_be_scores():
    label = TensorSpec("label", np.dtype(np.int64), (None,))
    handler = ImageClassifier([pixels(1, 2, 3)], [label, SCORES], LABELS, {})
    row = np.array([[0.0, 1, 0, 0]])
    assert handler.postprocess([np.array([1]), row])["dog"] == 1
    assert handler.postprocess({"label": np.array([1]), "scores": row})["dog"] == 1


# Models and settings it cannot work with


@pytest.mark.parametrize(
    "specs",
    [
        [],
        [pixels(3, 2, 3), pixels(3, 2, 3)],
        [pixels(4, 2, 3)],
        [pixels(None, 2, 3)],
        [pixels(3, None, 3)],
        [pixels(3, 2, None)],
        [pixels(3, 0, 3)],
        [TensorSpec("x", np.dtype(np.float32), (8, 3, 2, 3))],
        [TensorSpec("x", np.dtype(np.float32), (None, 3, 6))],
        [TensorSpec("x", np.dtype(np.uint8), (None, 3, 2, 3))],
    ],
)
def test_a_model_that_takes_no_pictures_is_refused(specs):
    with pytest.raises(InvalidArchive, match=r"one float32 input \[N, C, H, W\]"):
        ImageClassifier(specs, [SCORES], None, {})


@pytest.mark.parametrize(
    "spec", [("y", np.int64, (None, 4)), ("y", np.float32, (None,)), ("y", np.float32, (8, 4)), None]
)
def test_a_model_that_gives_no_scores_is_refused(spec):
    specs = [] if spec is None else [TensorSpec(spec[0], np.dtype(spec[1]), spec[2])]
    with pytest.raises(InvalidArchive, match=r"a float output \[N, classes\]"):
        ImageClassifier([pixels(3, 2, 3)], specs, None, {})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"mean": [0.5]}, "'mean' .* list of 3 numbers"),
        ({"mean": 0.5}, "'mean' .* list of 3 numbers"),
        ({"mean": [0, 0, True]}, "list of 3 numbers"),
        ({"mean": [0, 0, "0"]}, "list of 3 numbers"),
        ({"mean": [0, 0, float("nan")]}, "list of 3 numbers"),
        ({"std": [1, 1, 0]}, "'std' .* above 0"),
        ({"std": [1, 1, -1]}, "'std' .* above 0"),
        ({"std": None}, "'std' .* list of 3 numbers"),
        ({"top_k": 0}, "'top_k' .* from 1 up, it is 0"),
        ({"top_k": 2.0}, "'top_k'"),
        ({"top_k": True}, "'top_k'"),
        ({"topk": 5}, "no option 'topk'; it has mean, std, top_k"),
    ],
)
def test_settings_it_cannot_have_are_refused(config, said):
    with pytest.raises(InvalidArchive, match=said):
        classifier(**config)
