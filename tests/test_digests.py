"""Digests of examples: equal where the content is, in every process."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from xfer.cache import example_digests

DIFFERENT = [
    "1",
    1,
    1.0,
    True,
    b"1",
    None,
    "",
    b"",
    "None",
    [],
    (),
    {},
    [[]],
    [1, 2],
    (1, 2),
    [[1], [2]],
    [[1, 2]],
    [[1], 2],
    ("ab", "c"),
    ("a", "bc"),
    ("abc",),
    "abc",
    ["text 1:a", "b"],
    ["text 1:", "ab"],
    {"a": 1},
    {b"a": 1},
    {"a": 2},
    {"b": 1},
    {1: "a"},
    {"a": 1, "b": 2},
    {"a": 2, "b": 1},
    0.0,
    -0.0,
    1j,
    float("nan"),
    2**70,
    "\ud800",
    np.float32(1),
    np.float64(1),
    np.int8(1),
    np.array([1, 2]),
    np.array([[1, 2]]),
    np.array([[1], [2]]),
    np.array([1.0, 2.0]),
    np.array([1, 2], "f4"),
    np.array([], "f4"),
    np.zeros((0, 3), "f4"),
    np.zeros((3, 0), "f4"),
    np.array(["a", "b"]),
    np.array(["ab"]),
    np.array(["2020-01-01"], "M8[D]"),
    np.array(["2020-01-01"], "M8[s]"),
]


def test_different_examples_have_different_digests():
    digests = example_digests(DIFFERENT)
    assert len(set(digests)) == len(DIFFERENT)
    assert {len(digest) for digest in digests} == {16}
    assert example_digests([]) == []


def test_a_digest_depends_on_the_example_alone():
    digests = example_digests(DIFFERENT)
    assert example_digests(DIFFERENT[::-1]) == digests[::-1]
    assert [example_digests([each])[0] for each in DIFFERENT] == digests
    assert example_digests([{"a": 1, "b": 2}]) == example_digests([{"b": 2, "a": 1}])


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.RandomState(0)
    return {
        "image": rng.normal(size=(40, 3, 5, 4)).astype(np.float32),
        "length": rng.randint(0, 3, 40),
        "word": np.array([f"w{i % 7}" for i in range(40)]),
    }


def test_rows_have_digests_of_their_own(arrays):
    numbers = {name: arrays[name] for name in ("image", "length")}
    digests = example_digests(numbers)
    assert len(set(digests)) == 40
    order = np.random.RandomState(1).permutation(40)[:23]
    shuffled = {name: array[order] for name, array in reversed(numbers.items())}
    assert example_digests(shuffled) == [digests[i] for i in order]
    for name in numbers:
        for row in (0, 17, 39):
            changed = {**numbers, name: numbers[name].copy()}
            changed[name][row] += 1
            same = [a == b for a, b in zip(example_digests(changed), digests)]
            assert same == [i != row for i in range(40)]
    assert not set(example_digests({"images": arrays["image"]})) & set(
        example_digests({"image": arrays["image"]})
    )


def test_memory_layout_is_no_content(arrays, tmp_path):
    image = arrays["image"]
    digests = example_digests({"image": image})
    wide = np.zeros((40, 3, 5, 8), np.float32)
    wide[..., ::2] = image
    np.save(tmp_path / "image.npy", image)
    for same in (
        np.asfortranarray(image),
        wide[..., ::2],
        image[::-1].copy()[::-1],
        image.astype(">f4"),
        np.load(tmp_path / "image.npy", mmap_mode="r"),
    ):
        assert example_digests({"image": same}) == digests
    assert example_digests(list(image)) == example_digests(list(np.asfortranarray(image)))
    assert example_digests(list(image)) == example_digests(list(image.astype(">f4")))
    for other in (image.astype("f8"), image.view("i4"), image.reshape(40, 15, 4)):
        assert not set(example_digests({"image": other})) & set(digests)


def test_text_arrays_do_not_depend_on_the_longest_text_or_its_container(arrays):
    word = arrays["word"]
    digests = example_digests({"word": word})
    assert len(set(digests)) == 7
    longer = np.array([*word, "a much longer word"])
    assert example_digests({"word": longer})[:40] == digests
    assert example_digests({"word": word.astype(object)}) == digests
    with_numbers = example_digests({"word": word, "length": arrays["length"]})
    assert with_numbers[3:9] == example_digests(
        {"word": word[3:9].astype(object), "length": arrays["length"][3:9]}
    )


def test_empty_and_narrow_arrays():
    assert example_digests({"data": np.zeros((0, 3))}) == []
    first, second = example_digests({"data": np.zeros((2, 0))})
    assert first == second
    assert len(set(example_digests({"data": np.arange(5)}))) == 5
    assert len(set(example_digests({"data": np.array([True, False])}))) == 2
    assert len(set(example_digests({"data": np.arange(4).astype("M8[D]")}))) == 4


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        ([object()], TypeError, r"builtins\.object cannot .* are str, bytes, .* PIL images"),
        ([{1, 2}], TypeError, r"builtins\.set cannot"),
        ([[1, len]], TypeError, "builtin_function_or_method cannot"),
        ([np.array([object()])], TypeError, r"builtins\.object cannot"),
        ([np.ma.array([1, 2], mask=[0, 1])], TypeError, "masked array"),
        ({"data": np.ma.array([1, 2], mask=[0, 1])}, TypeError, "masked array"),
        ({"data": np.zeros(3, "f4,f4")}, TypeError, "must be of numbers, times or text"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, ValueError, r"one length, got .*\([34],\)"),
        ({"a": np.zeros(())}, ValueError, "one length"),
        ({}, ValueError, "one length"),
    ],
)
def test_what_has_no_content_to_tell_is_refused(examples, error, message):
    with pytest.raises(error, match=message):
        example_digests(examples)


def test_images():
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.random.RandomState(0).randint(0, 255, (6, 8, 3)).astype("u1")
    image = image_module.fromarray(pixels)
    (digest,) = example_digests([image])
    assert example_digests([image_module.fromarray(pixels.copy())]) == [digest]
    turned = image.copy()
    turned.info["exif"] = b"Exif\0\0 turned"
    palettes = [image_module.fromarray(pixels[..., 0]) for _ in range(2)]
    for index, palette in enumerate(palettes):
        palette.putpalette([index] * 768)
    others = [image.convert("L"), image.resize((6, 8)), image.rotate(180), turned, *palettes]
    assert len({digest, *example_digests(others)}) == 7


def test_an_image_from_a_file_is_its_content(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    image_module.fromarray(np.arange(12, dtype="u1").reshape(3, 4)).save(tmp_path / "a.png")
    with (
        image_module.open(tmp_path / "a.png") as first,
        image_module.open(tmp_path / "a.png") as second,
    ):
        second.load()
        assert example_digests([first]) == example_digests([second])


def test_tensors():
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6.0).reshape(2, 3)
    (digest,) = example_digests([tensor])
    for same in (tensor.clone(), tensor.T.contiguous().T, tensor.clone().requires_grad_()):
        assert example_digests([same]) == [digest]
    others = [tensor.double(), tensor.bfloat16(), tensor.half(), tensor[:1], tensor + 1]
    assert len({digest, *example_digests(others)}) == 6


def test_arrays_of_mxnet(mx):
    first, second = mx.nd.array([1, 2]), mx.nd.array([1, 3])
    assert example_digests([first]) == example_digests([first.copy()])
    assert example_digests([first]) != example_digests([second])


@pytest.mark.parametrize("kind", [str, pathlib.Path, np.str_])
@pytest.mark.parametrize(
    "place", ["alone", "tuple", "dict", "object array", "text array", "column"]
)
def test_a_file_counts_with_its_content(tmp_path, kind, place):
    path = kind(tmp_path / "image.png")

    def digest():
        example = {
            "alone": lambda: [path],
            "tuple": lambda: [("left", [path])],
            "dict": lambda: [{"image": path}],
            "object array": lambda: [np.array([path, None], object)],
            "text array": lambda: [np.array([str(path), "b"])],
            "column": lambda: {"image": np.array([path], object), "size": np.array([1])},
        }[place]()
        return example_digests(example)

    pathlib.Path(path).write_bytes(b"one")
    first = digest()
    assert digest() == first
    pathlib.Path(path).write_bytes(b"two")
    assert digest() != first
    pathlib.Path(path).write_bytes(b"one")
    assert digest() == first


def test_two_files_of_one_content_are_told_apart_and_so_are_files_and_texts(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"one")
    texts = example_digests(["a", "b"])
    monkeypatch.chdir(tmp_path)
    examples = ["a", "b", pathlib.Path("a"), pathlib.Path("b"), b"one", "one", "nowhere"]
    assert len({*texts, *example_digests(examples)}) == 9


def test_a_text_that_is_no_file_is_a_text(tmp_path, monkeypatch):
    texts = ["folder", "a\0b", "x" * 100_000, "\ud800", "", ".", "dangling"]
    before = example_digests(texts)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert example_digests(texts) == before
    with pytest.raises(FileNotFoundError, match="nowhere"):
        example_digests([pathlib.Path("nowhere")])


def test_names_of_columns_and_keys_are_no_files(tmp_path, monkeypatch):
    examples = {"data": np.arange(3)}, [{"data": 1}]
    before = [*map(example_digests, examples)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").write_text("one")
    assert [*map(example_digests, examples)] == before


def test_digests_are_the_same_in_every_process():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_digests as t\n"
        "print(b''.join(t.example_digests([*t.DIFFERENT, {'a': [1], 'b': 2}])).hex())"
    )
    arguments = [sys.executable, "-c", code, os.path.dirname(__file__)]
    said = {
        subprocess.check_output(arguments, env={**os.environ, "PYTHONHASHSEED": seed}, text=True)
        for seed in ("1", "2")
    }
    assert said == {b"".join(example_digests([*DIFFERENT, {"b": 2, "a": [1]}])).hex() + "\n"}
