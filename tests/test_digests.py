"""Names of examples and of functions: equal where the content is, and in every process."""

import functools
import hashlib
import importlib
import json
import operator
import os
import pathlib
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

from xfer.cache import code_digest, example_digests

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


def test_different_examples_have_different_names():
    digests = example_digests(DIFFERENT)
    assert len(set(digests)) == len(DIFFERENT)
    assert {len(digest) for digest in digests} == {16}
    assert example_digests([]) == []


def test_a_name_depends_on_the_example_alone():
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


def test_rows_have_names_of_their_own(arrays):
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
        ([object()], TypeError, r"builtins\.object cannot .* may be str, bytes, .* PIL images"),
        ([{1, 2}], TypeError, r"builtins\.set cannot"),
        ([[1, len]], TypeError, "builtin_function_or_method cannot"),
        ([np.array([object()])], TypeError, r"builtins\.object cannot"),
        ([np.ma.array([1, 2], mask=[0, 1])], TypeError, "masked array"),
        ({"data": np.ma.array([1, 2], mask=[0, 1])}, TypeError, "masked array"),
        ({"data": np.zeros(3, "f4,f4")}, TypeError, "must be of numbers, times or text"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, ValueError, r"one length, got .*\(3,\).*\(4,\)"),
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
    for number, palette in enumerate(palettes):
        palette.putpalette([number] * 768)
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


def test_a_file_counts_by_its_content(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(b"one")
    digest = example_digests([path])
    assert example_digests([pathlib.Path(str(path))]) == digest
    path.write_bytes(b"two")
    assert example_digests([path]) != digest


# Functions: each module below is written to a file, and edited.

MODULE = '''
import enum, functools, math, os
from collections import namedtuple
from dataclasses import dataclass
import numpy as np
import helper_of_{name}

SCALE = 255
WORDS = {{"ship", "plane", "car", "bike", "train"}}
TABLE = {{"mean": np.array([0.1, 0.2]), "nested": [1, (2, None)]}}
unused = 1

def even(n):
    return n == 0 or odd(n - 1)

def odd(n):
    return n != 0 and even(n - 1)

def plain(image, by=2, *, shift=3):
    """Scale."""
    return [word in WORDS for word in image] + [(lambda x: x / SCALE)(i) for i in image]

def recursive(image):
    return even(image) and image in {{"a", "b", "c", "d", "e"}}

def mean(image):
    return (image - TABLE["mean"]) / math.sqrt(2) + np.mean(image)

def helped(image):
    return helper_of_{name}.help(image)

def closing(factor):
    def inner(image):
        return image * factor
    return inner

def later():
    def inner(image):
        return unassigned + image
    if os.getpid() < 0:
        unassigned = 1
    return inner

def holding(image):
    class Inner:
        size = 3
    return Inner.size + image

class Base:
    size = 224
    def crop(self, image):
        return image[: self.size]

class Mode(enum.Enum):
    FAST = 1
    GOOD = 2

Point = namedtuple("Point", "x y")

@dataclass
class Settings:
    low: int = 0
    high: float = 1.0

class Transform(Base):
    __slots__ = ("mode", "steps")
    def __init__(self, mode=Mode.GOOD, steps=()):
        self.mode, self.steps = mode, steps
        self.settings = Settings()
        self.point = Point(1, 2)
    def __call__(self, image):
        return functools.reduce(lambda x, f: f(x), self.steps, self.crop(image))
    def method(self, image):
        return self(image)
    @staticmethod
    def static(image):
        return image + 10
    @classmethod
    def made(cls, image):
        return cls()(image)
    @functools.cached_property
    def cached(self):
        return 5
    @property
    def prop(self):
        return 6

class Steps(list):
    def __call__(self, image):
        return [step(image) for step in self]

@functools.lru_cache
def cached(image):
    return image + 1

@functools.wraps(plain)
def wrapped(image):
    return plain(image) + [1]

def wraps_around(image):
    return wrapped(image)

looped = Transform()
looped.itself = looped

FUNCTIONS = {{
    "plain": plain,
    "recursive": recursive,
    "mean": mean,
    "helped": helped,
    "closing": closing(2),
    "later": later(),
    "holding": holding,
    "transform": Transform(steps=(plain, closing(3), np.tanh)),
    "method": Transform().method,
    "static": Transform.static,
    "made": Transform.made,
    "class": Transform,
    "partial": functools.partial(plain, by=7),
    "steps": Steps([plain, str.upper]),
    "cached": cached,
    "wrapped": wraps_around,
    "looped": looped,
    "builtin": len,
    "numpy": np.asarray,
    "ufunc": np.tanh,
    "bound": "{{}} ships".format,
    "type": str,
}}
'''


def digests_of(folder, name, source, helper="def help(x): return x + 1"):
    """Digests of a module's functions, as another process sees them."""
    (folder / f"{name}.py").write_text(source)
    (folder / f"helper_of_{name}.py").write_text(helper)
    code = (
        f"import json, sys; sys.dont_write_bytecode = True; sys.path.insert(0, {str(folder)!r})\n"
        f"from {name} import FUNCTIONS; from xfer.cache import code_digest\n"
        "print(json.dumps({key: code_digest(each) for key, each in FUNCTIONS.items()}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": str(len(name))}
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_functions_have_one_name_in_every_process(tmp_path):
    source = MODULE.format(name="a")
    digests = digests_of(tmp_path, "a", source)
    assert len(set(digests.values())) == len(digests)
    # Under another hash seed, module name and line numbers; comments and what is not used change.
    moved = MODULE.format(name="another").replace("unused = 1", "unused = 2  # or three\n\n")
    moved = digests_of(tmp_path, "another", moved.replace("helper_of_another", "helper_of_a"))
    assert moved == digests


EDITS = {
    "SCALE = 255": ("SCALE = 256", "plain transform partial steps wrapped"),
    '"bike"': ('"boat"', "plain transform partial steps wrapped"),
    "x / SCALE": ("x // SCALE", "plain transform partial steps wrapped"),
    "by=2": ("by=3", "plain transform partial steps wrapped"),
    "shift=3": ("shift=4", "plain transform partial steps wrapped"),
    "odd(n - 1)": ("odd(n - 2)", "recursive"),
    "return n != 0": ("return n > 0", "recursive"),
    '"d", "e"': ('"d", "f"', "recursive"),
    "[0.1, 0.2]": ("[0.1, 0.3]", "mean"),
    "(2, None)": ("(2, 0)", "mean"),
    "math.sqrt": ("math.exp", "mean"),
    "closing(2)": ("closing(2.5)", "closing"),
    "closing(3)": ("closing(4)", "transform"),
    "np.tanh)": ("np.sin)", "transform"),
    "size = 224": ("size = 299", "transform method made class looped"),
    "image[: self.size]": ("image[-self.size :]", "transform method made class looped"),
    "mode=Mode.GOOD": ("mode=Mode.FAST", "transform method made class looped"),
    "high: float = 1.0": ("high: float = 2.0", "transform method made class looped"),
    "Point(1, 2)": ("Point(1, 3)", "transform method made class looped"),
    "image + 10": ("image + 11", "static transform method made class looped"),
    "cls()(image)": ("cls()(-image)", "transform method made class looped"),
    "return 5": ("return 7", "transform method made class looped"),
    "return 6": ("return 8", "transform method made class looped"),
    "by=7": ("by=8", "partial"),
    "str.upper": ("str.lower", "steps"),
    "step(image) for": ("step(-image) for", "steps"),
    "return image + 1\n": ("return image + 2\n", "cached"),
    "plain(image) + [1]": ("plain(image) + [2]", "wrapped"),
    "looped.itself = looped": ("looped.itself = [looped]", "looped"),
    "np.asarray": ("np.asanyarray", "numpy"),
    ": np.tanh": (": np.sin", "ufunc"),
    '"{} ships"': ('"{} boats"', "bound"),
    ": len": (": max", "builtin"),
}


def test_a_function_that_computes_something_else_has_another_name(tmp_path):
    source = MODULE.format(name="m")
    digests = digests_of(tmp_path, "m", source)
    sys.path.insert(0, str(tmp_path))
    try:
        for number, (before, (after, changed)) in enumerate(EDITS.items()):
            name = f"m{number}"
            assert source.count(before) >= 1, before
            (tmp_path / f"{name}.py").write_text(source.replace(before, after))
            functions = importlib.import_module(name).FUNCTIONS
            found = {key: code_digest(each) for key, each in functions.items()}
            differing = {key for key in digests if digests[key] != found[key]}
            # An instance counts with its class, whichever of its methods is asked about.
            assert differing == set(changed.split()), (before, differing)
    finally:
        sys.path.remove(str(tmp_path))
        for name in [name for name in sys.modules if re.fullmatch(r"m\d+|helper_of_m", name)]:
            del sys.modules[name]
    edited = digests_of(tmp_path, "m", source, helper="def help(x): return x + 2")
    assert {key for key in digests if digests[key] != edited[key]} == {"helped"}


def test_state_counts():
    class Scaled:
        def __init__(self, by):
            self.by = by

        def __call__(self, image):
            return image / self.by

    assert code_digest(Scaled(2)) == code_digest(Scaled(2)) != code_digest(Scaled(3))
    patterns = [re.compile("a"), re.compile("b")]
    assert len({code_digest(pattern.sub) for pattern in patterns}) == 2
    assert code_digest(operator.itemgetter(1)) != code_digest(operator.itemgetter(2))
    first, second = (functools.partial(np.add, np.full(3, i)) for i in range(2))
    assert code_digest(first) != code_digest(second)


def test_what_cannot_be_told_is_refused_and_can_say_itself():
    lock = threading.Lock()

    class Guarded:
        def __init__(self, version):
            self.version, self.lock = version, threading.Lock()

        def __call__(self, image):
            return image

    class Telling(Guarded):
        def __xfer_digest__(self):
            return self.version

    def locked(image):
        with lock:
            return image

    with pytest.raises(ValueError, match=r"preprocess, in .*locked, 'lock' .*_thread.lock does"):
        code_digest(locked)
    with pytest.raises(ValueError, match=r"type .*Guarded does not show|_thread.lock does"):
        code_digest(Guarded(1))
    assert code_digest(Telling(1)) == code_digest(Telling(1)) != code_digest(Telling("1"))
    with open(__file__) as file, pytest.raises(ValueError, match="TextIOWrapper does not show"):
        code_digest(lambda image: file.read())


def test_networks_and_their_transforms():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
    digest = code_digest(network)
    assert code_digest(network) == digest
    with torch.no_grad():
        network[0].weight[0, 0] += 1
    assert code_digest(network) != digest
    functions = [torch.relu, torch.sigmoid, lambda x: torch.relu(x), torch.Tensor.float]
    assert len(set(map(code_digest, functions))) == 4


def test_a_tokenizer_is_its_words_and_not_how_it_was_last_called():
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")

    def tokenizer(words):
        model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[U]")
        made = tokenizers.Tokenizer(model)
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[P]")

    first = tokenizer(["[U]", "[P]", "ship"])
    digest = code_digest(first)
    first(["ship", "a ship"], padding=True, truncation=True, max_length=4)
    assert code_digest(first) == digest == code_digest(tokenizer(["[U]", "[P]", "ship"]))
    assert code_digest(tokenizer(["[U]", "[P]", "plane"])) != digest
    first.model_max_length = 7
    assert code_digest(first) != digest


def test_digests_are_what_they_were():
    # A change here makes every cache out there useless: it wants a new format number.
    names = b"".join(example_digests([*DIFFERENT[:20], {"a": np.arange(3.0)}]))
    rows = b"".join(example_digests({"data": np.arange(6.0).reshape(3, 2)}))
    assert hashlib.sha256(names + rows).hexdigest()[:16] == "ef16c0f46222ea88"
