"""Preprocessing of raw examples into network inputs, described by data instead of code.

A function cannot be compared with another one, nor saved in a file that is safe to load. The size
of a picture or a vocabulary can: so the cache and a loaded repurposer know what makes the inputs.
"""

import copy
import hashlib
import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from io import BytesIO
from os import PathLike
from typing import Any, Literal, Self, cast

import numpy as np

from xfer._checks import check_integer
from xfer.text import _SETTINGS, Corpus, Vocabulary, _check_type

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2, as Pillow converts to gray
# The attribute of an encoding of `tokenizers` for each input name of transformers.
_ENCODED = {"input_ids": "ids", "token_type_ids": "type_ids", "attention_mask": "attention_mask"}
# Steps of torchvision's and timm's transforms that are settings of ImageInputs, and those that
# only change the type of a picture.
_STEPS = {"ImageClassification", "Resize", "CenterCrop", "Normalize", "ToTensor", "MaybeToTensor"}
_STEPS |= {"PILToTensor", "ConvertImageDtype", "ToImage", "ToDtype", "ToPureTensor"}
_USE_FUNCTION = "give a function that calls it with a list of examples, and a cache_key"

#: JSON, and arrays of bytes for long texts.
State = tuple[dict[str, Any], dict[str, np.ndarray]]


class Inputs:
    """Turns a list of raw examples into the inputs of a network."""

    #: The id that fills up short texts; None where there is none.
    padding_id: int | None = None

    def __call__(self, examples: Sequence[Any]) -> np.ndarray | dict[str, np.ndarray]:
        """Return an array with a row for each example, or a dict of these by input name."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Return what tells these inputs from others, for JSON; ValueError where nothing does."""
        state, arrays = self.to_state()
        return state | {n: hashlib.sha256(a.tobytes()).hexdigest() for n, a in arrays.items()}

    def to_state(self) -> State:
        """Return JSON and arrays for :func:`from_state`; TypeError where that is impossible."""
        raise TypeError(f"{self} cannot be saved as data: give inputs= to xfer.load again")


@dataclass(frozen=True)
class ImageInputs(Inputs):
    """Pictures as a float32 array: resized, scaled and normalized.

    Examples are file paths, the bytes of files, PIL images, or arrays of shape (height, width) or
    (height, width, 1, 3 or 4). Each becomes ``(pixels * scale - mean) / std``.

    Parameters
    ----------
    size : int, (int, int) or None, default=224
        Side of a square, or (height, width). None keeps the pictures' size, which must be equal.
    mean, std : float or sequence of float, default=0 and 1
        One number, or one for each channel in the order of ``channels``.
    scale : float, default=1/255
        Multiplies the pixels, which are 0 to 255 in a file.
    channels, layout : {"rgb", "bgr", "gray"}, {"NCHW", "NHWC"}, default="rgb", "NCHW"
        What the network takes, such as examples, channels, height and width.
    crop : {"center"} or None, default="center"
        ``"center"`` resizes the shorter side and crops the middle, like torchvision's
        ``Resize(size)`` and ``CenterCrop(size)``. None resizes the whole picture to ``size``.
    resize : int or None, default=None
        Length of the shorter side before the crop, like ``Resize(resize)`` and
        ``CenterCrop(size)``. None is the smallest length that covers ``size``.
    interpolation : {"bilinear", "bicubic"}, default="bilinear"
        How pixels are resized; both with antialiasing.

    Notes
    -----
    Arrays are RGB or RGBA, of uint8, uint16 or float; only uint8 may have alpha. 16-bit pixels are
    divided by 257, which maps them to 0 to 255; floats are used as they are. Transparent parts are
    shown on white. The EXIF orientation is applied.

    Examples
    --------
    >>> inputs = ImageInputs(size=2, mean=0.5, std=[0.5, 0.5, 0.25])
    >>> white = np.full((4, 6, 3), 255, np.uint8)
    >>> inputs([white])[0, :, 0, 0]
    array([1., 1., 2.], dtype=float32)
    """

    size: int | tuple[int, int] | None = 224
    _: KW_ONLY
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    scale: float = 1 / 255
    channels: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    crop: Literal["center"] | None = "center"
    resize: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    _n_channels = property(lambda self: 1 if self.channels == "gray" else 3)

    def __post_init__(self) -> None:
        colors, layouts, crops = ("rgb", "bgr", "gray"), ("NCHW", "NHWC"), ("center", None)
        allowed_values = {"channels": colors, "layout": layouts, "crop": crops}
        allowed_values["interpolation"] = ("bilinear", "bicubic")
        for name, allowed in allowed_values.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        size: Any = self.size
        sides = size if isinstance(size, Sequence) else (size, size)
        if len(sides) != 2:
            raise ValueError(f"size must be an integer, (height, width) or None, got {size!r}")
        # Plain numbers and tuples can be compared and saved.
        sizes = None if size is None else tuple(check_integer("size", side) for side in sides)
        if self.resize is not None:
            if sizes is None or self.crop is None:
                raise ValueError("resize needs a size and crop='center'")
            vars(self).update(resize=check_integer("resize", self.resize, max(sizes)))
        numbers = {name: self._checked(name) for name in ("mean", "std", "scale")}
        vars(self).update(numbers, size=sizes)

    def __call__(self, examples: Sequence[Any]) -> np.ndarray:
        """Return the pictures in the layout asked for."""
        pictures = [self._pixels(i, example) for i, example in enumerate(_listed(examples))]
        shapes = sorted({picture.shape for picture in pictures})
        if self.size is None and len(shapes) != 1:
            raise ValueError(f"pictures must have one shape, got {shapes}: set size to resize them")
        shape = shapes[0] if shapes else (*cast(Sequence, self.size), self._n_channels)
        batch = np.array(pictures, np.float32).reshape(-1, *shape)
        if self.channels == "bgr":
            batch = batch[..., ::-1]
        batch = batch * np.float32(self.scale) - np.array(self.mean, np.float32)
        batch /= np.array(self.std, np.float32)
        return np.ascontiguousarray(batch.transpose(0, 3, 1, 2)) if self.layout == "NCHW" else batch

    def is_example(self, value: Any) -> bool:
        """Return whether a value is one picture; an array of four dimensions is a batch."""
        return not isinstance(value, (list, tuple, Mapping)) and getattr(value, "ndim", 0) < 4

    def to_state(self) -> State:
        """Return all settings, and no arrays."""
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}
        return {"kind": "ImageInputs", **settings}, {}

    def _checked(self, name: str) -> float | tuple[float, ...]:
        """Return one number, or one for each channel, as a float or a tuple."""
        given, low = getattr(self, name), -np.inf if name == "mean" else 0
        shapes = [()] if name == "scale" else [(), (self._n_channels,)]
        values = np.asarray(given)
        is_allowed = values.dtype.kind in "iuf" and values.shape in shapes
        if not is_allowed or not ((values > low) & (values < np.inf)).all():
            allowed = f"finite, > {low} and of shape {' or '.join(map(str, shapes))}"
            raise ValueError(f"{name} must be {allowed}, got {given!r}")
        return tuple(map(float, values)) if values.ndim else float(values)

    def _pixels(self, index: int, example: Any) -> np.ndarray:
        """Return a picture in its final size, of shape (height, width, channels)."""
        is_float = isinstance(example, np.ndarray) and example.dtype.kind == "f"
        if is_float and self.scale == 1 / 255 and 0 < example.max(initial=0) <= 1:
            raise ValueError(f"example {index} is an array of floats up to 1: set scale=1")
        bands = _bands(index, example, "L" if self.channels == "gray" else "RGB")
        pixels = np.dstack([np.asarray(self._resized(band)) for band in bands])
        return np.broadcast_to(pixels, (*pixels.shape[:2], self._n_channels))

    def _resized(self, image: Any) -> Any:
        if self.size is None:
            return image
        filters = _package("PIL.Image").Resampling
        height, width = cast(Sequence, self.size)
        # The sides of the smallest rectangle that the resized picture covers.
        high, wide = (self.resize, self.resize) if self.resize else (height, width)
        if self.crop is None:
            covering = width, height
        elif wide * image.height >= high * image.width:
            covering = wide, wide * image.height // image.width
        else:
            covering = high * image.width // image.height, high
        # torchvision's CenterCrop rounds in the same way.
        left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
        resized = image.resize(covering, filters[self.interpolation.upper()])
        return resized.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class TextInputs(Inputs):
    """Texts as the word ids of a vocabulary, an int32 array of shape (n, length).

    Parameters
    ----------
    vocabulary : Vocabulary
        Cleans and splits the texts, and gives the ids. Its words are saved, not their counts.
    length : int
        Longer texts are cut to their first ``length`` words; shorter ones are padded at the end.

    Attributes
    ----------
    padding_id : int
        The id of the vocabulary's padding word.

    Examples
    --------
    >>> vocabulary = Vocabulary.from_words(["</s>", "</ukw>", "a", "car"])
    >>> TextInputs(vocabulary, length=4)(["A red car", "Car"])
    array([[2, 1, 3, 0],
           [3, 0, 0, 0]], dtype=int32)
    """

    vocabulary: Vocabulary
    length: int

    def __post_init__(self) -> None:
        _check_type(self.vocabulary, "vocabulary", Vocabulary)
        length = check_integer("length", self.length)
        padding_id = self.vocabulary.word2id[self.vocabulary.padding_word]
        vars(self).update(length=length, padding_id=padding_id)

    def __call__(self, examples: Sequence[str]) -> np.ndarray:
        """Return the word ids."""
        texts = _listed(examples, str)
        if not texts:
            return np.empty((0, self.length), np.int32)
        return Corpus(texts, None, self.vocabulary, fix_length=self.length).x

    def to_state(self) -> State:
        """Return the length, and the words as JSON."""
        settings = {name: getattr(self.vocabulary, name) for name in _SETTINGS}
        words = json.dumps({"words": self.vocabulary.id2word, **settings}).encode()
        state = {"kind": "TextInputs", "length": self.length}
        return state, {"vocabulary": np.frombuffer(words, np.uint8)}


@dataclass(frozen=True)
class TokenizerInputs(Inputs):
    """A fast tokenizer of transformers as data; runs on ``tokenizers`` alone."""

    tokenizer: str = field(repr=False)  # JSON, which also says how texts are cut and padded
    names: Sequence[str]
    _backend: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if unknown := set(self.names) - set(_ENCODED):
            raise ValueError(f"a tokenizer does not give {sorted(unknown)}")
        try:
            backend = _package("tokenizers").Tokenizer.from_str(self.tokenizer)
            backend.encode_batch(["", "a text"])
        except (Exception, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # what Rust panics with
            raise ValueError(f"the tokenizer is damaged: {error}") from error
        found = {"_backend": backend, "padding_id": backend.padding["pad_id"]}
        vars(self).update(found, names=tuple(self.names))

    @classmethod
    def of_tokenizer(cls, tokenizer: Any) -> Self:
        """Take what decides the output of ``tokenizer(texts, padding=True, truncation=True)``."""
        tokenizer = copy.deepcopy(tokenizer)
        texts = ["", "A text, naïve.", " ".join(tokenizer.all_special_tokens)]
        # This call also sets how `backend_tokenizer` cuts and pads.
        expected = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
        inputs = cls(tokenizer.backend_tokenizer.to_str(), tuple(expected))
        if not all(map(np.array_equal, expected.values(), inputs(texts).values())):
            name = type(tokenizer).__name__
            raise ValueError(f"{name} does more than its settings say: {_USE_FUNCTION}")
        return inputs

    def __call__(self, examples: Sequence[str]) -> dict[str, np.ndarray]:
        """Return int64 arrays of shape (n, tokens of the longest text) by input name."""
        encodings = self._backend.encode_batch(_listed(examples, str))
        shape = len(encodings), len(encodings[0]) if encodings else 0
        columns = {n: [getattr(each, _ENCODED[n]) for each in encodings] for n in self.names}
        return {name: np.array(ids, np.int64).reshape(shape) for name, ids in columns.items()}

    def to_state(self) -> State:
        """Return the input names, and the tokenizer as JSON."""
        state = {"kind": "TokenizerInputs", "names": list(self.names)}
        return state, {"tokenizer": np.frombuffer(self.tokenizer.encode(), np.uint8)}


@dataclass(frozen=True)
class FunctionInputs(Inputs):
    """A function of a list of examples; the cache knows it by ``cache_key``."""

    function: Callable[[list[Any]], Any]
    cache_key: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.function) or isinstance(self.function, type):
            raise TypeError(f"inputs must be a function of examples, got {_shown(self.function)}")

    def __call__(self, examples: Sequence[Any]) -> Any:
        """Apply the function to all examples together, or else to one at a time."""
        try:
            return self.function(list(examples))
        except Exception as error:
            # Many functions take a single example, as the transforms of torchvision do.
            try:
                return [self.function(example) for example in examples]
            except Exception:
                raise error from None

    def __str__(self) -> str:
        return f"function {getattr(self.function, '__qualname__', repr(self.function)[:80])}"

    def identity(self) -> dict[str, Any]:
        """Return the key; ValueError without one."""
        if not self.cache_key:
            advice = "give a cache_key, a text that you change whenever the function changes"
            raise ValueError(f"xfer cannot detect changes of {self}: {advice}")
        return {"kind": "FunctionInputs", "cache_key": self.cache_key}


def as_inputs(given: Any, cache_key: str | None = None) -> Inputs:
    """Return what a user may give as ``inputs``; ``cache_key`` names a function."""
    if isinstance(given, Inputs):
        return given
    if not any(kind.__module__.startswith("transformers.") for kind in type(given).__mro__):
        return _of_transform(given) or FunctionInputs(given, cache_key)
    if hasattr(given, "backend_tokenizer"):
        return TokenizerInputs.of_tokenizer(given)
    name = type(given).__name__
    if not hasattr(given, "preprocess"):
        raise TypeError(f"inputs cannot be a {name}: {_USE_FUNCTION}")
    if cache_key is None and type(given).__module__.startswith("transformers."):
        version = sys.modules["transformers"].__version__
        cache_key = f"{name} of transformers {version}: {given.to_json_string()}"
    return FunctionInputs(partial(_process, copy.deepcopy(given)), cache_key)


def _of_transform(transform: Any) -> ImageInputs | None:
    """Return a transform of torchvision or timm as data; None where it is, or may be, another."""
    steps = {type(step).__name__: step for step in getattr(transform, "transforms", [transform])}
    if not {*steps} <= _STEPS or type(transform).__name__ not in {"Compose", *_STEPS}:
        return None
    if getattr(steps.get("Resize"), "max_size", None) is not None:
        return None  # only wide pictures would show it
    try:
        whole = steps.get("ImageClassification")  # what torchvision's weights have
        resize, normalize = whole or steps["Resize"], whole or steps["Normalize"]
        sides = _listed_sides(whole.resize_size if whole else resize.size)
        if len(sides) == 2:
            settings: dict[str, Any] = {"size": sides, "crop": None}
        else:
            size = _listed_sides(whole.crop_size if whole else steps["CenterCrop"].size)
            settings = {"size": size * (3 - len(size)), "resize": sides[0]}
        # A single mean would not tell gray pictures from others. Tensors have 32 bits.
        for name in ("mean", "std"):
            settings[name] = [round(float(one), 6) for one in getattr(normalize, name)]
        interpolation = getattr(resize.interpolation, "value", resize.interpolation)
        inputs = ImageInputs(interpolation=interpolation, **settings)
        height, width = cast(Sequence, inputs.size)
        random, fromarray = np.random.RandomState(0), _package("PIL.Image").fromarray
        shapes = [
            (2 * height, 3 * width, 3),
            (height + 9, width + 2, 3),
            (height, width // 3 + 1, 3),
        ]
        pictures = [fromarray(random.randint(256, size=s).astype(np.uint8)) for s in shapes]
        expected = [np.asarray(transform(picture)) for picture in pictures]
        return inputs if np.allclose(inputs(pictures), expected, atol=1e-4) else None
    except Exception:  # whatever a transform of these names holds and does
        return None


def _listed_sides(size: Any) -> list[int]:
    return [*size] if isinstance(size, Sequence) else [size]


def from_state(state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Inputs:
    """Return the inputs that ``to_state`` wrote; ValueError where the state is damaged."""
    kinds: dict[str, Any] = {k.__name__: k for k in (ImageInputs, TextInputs, TokenizerInputs)}
    try:
        settings = {**state, **{name: a.tobytes().decode() for name, a in arrays.items()}}
        kind = kinds[settings.pop("kind")]
        if kind is TextInputs:
            settings["vocabulary"] = Vocabulary.from_words(**json.loads(settings["vocabulary"]))
        return kind(**settings)
    except ImportError:
        raise
    except Exception as error:  # the settings of a damaged file can be anything
        raise ValueError(f"its inputs {state.get('kind')!r} are damaged: {error!r}") from error


def _listed(examples: Sequence[Any], *kinds: type) -> list[Any]:
    """Return a list of examples that are each of one of these kinds, by default pictures."""
    kinds = kinds or (str, bytes, PathLike, _package("PIL.Image").Image, np.ndarray)
    is_picture = isinstance(examples, np.ndarray) and examples.shape[2:] in ((1,), (3,), (4,))
    is_one = is_picture or isinstance(examples, (str, bytes, PathLike, Mapping))
    if is_one or not hasattr(examples, "__len__"):
        raise TypeError(f"examples must be a list, got only {_shown(examples)}")
    for index, example in enumerate(examples):
        if not isinstance(example, kinds):
            allowed = " or ".join(kind.__name__ for kind in kinds)
            raise TypeError(f"example {index} must be a {allowed}, got {_shown(example)}")
    return list(examples)


def _process(processor: Any, examples: Sequence[Any]) -> dict[str, np.ndarray]:
    """Call an image processor of transformers with files opened as by :class:`ImageInputs`."""
    pictures = _listed(examples)
    for index, example in enumerate(pictures):
        if not isinstance(example, np.ndarray):
            pictures[index] = _read(index, example, "RGB")
    return dict(processor(images=pictures, return_tensors="np"))


def _bands(index: int, example: Any, mode: str) -> list[Any]:
    """Return a picture as one image of bytes, or as one image of floats for each channel."""
    if not isinstance(example, np.ndarray):
        return [_read(index, example, mode)]
    array = example[:, :, 0] if example.shape[2:] == (1,) else example
    dtype = array.dtype.str[1:]  # without the byte order
    trailing = [(), (3,), (4,)] if dtype == "u1" else [(), (3,)]
    is_picture = array.ndim >= 2 and array.size and array.shape[2:] in trailing
    if not is_picture or dtype not in ("u1", "u2", "f2", "f4", "f8"):
        allowed = "uint8, uint16 or float of shape (height, width) or (height, width, 1 or 3)"
        allowed += ", or uint8 of shape (height, width, 4)"
        raise ValueError(f"example {index} is {_shown(example)}; allowed are {allowed}")
    fromarray = _package("PIL.Image").fromarray
    if dtype == "u1":
        return [_read(index, fromarray(array), mode)]
    array = array.astype(np.float32) / (257 if dtype == "u2" else 1)
    if array.ndim == 3 and mode == "L":
        array = array @ _LUMA
    return [fromarray(band) for band in np.atleast_3d(array).transpose(2, 0, 1)]


def _read(index: int, example: Any, mode: str) -> Any:
    """Return a file or PIL image the right way up, in ``mode``, or in mode F with more bits."""
    Image = _package("PIL.Image")
    is_image = isinstance(example, Image.Image)
    file = BytesIO(example) if isinstance(example, bytes) else example
    try:
        with nullcontext(example) if is_image else Image.open(file) as opened:
            image = _package("PIL.ImageOps").exif_transpose(opened)
        if image.mode.startswith("I"):
            return Image.fromarray(np.asarray(image, np.float32) / np.float32(257))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image if image.mode == "F" else image.convert(mode)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"example {index}: there is no file {str(example)!r}") from error
    except Exception as error:  # what is broken in a file shows in many kinds of errors
        # Pillow repeats what it was given, which may be a whole file.
        shown = f"{len(example)} bytes" if isinstance(example, bytes) else f"{example!s:.200}"
        reason = re.sub(r" <_io.BytesIO object at \w+>", "", f"{error!s:.200}")
        raise ValueError(f"example {index} is not a readable image: {shown}: {reason}") from error


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = "pillow" if name.startswith("PIL") else name.partition(".")[0]
        raise ImportError(f"{name} is missing: pip install {package}") from error


def _shown(value: Any) -> str:
    """Return what a value is, short enough for a message."""
    if isinstance(value, np.ndarray):
        return f"an array: {value.dtype} of shape {value.shape}"
    return f"{type(value).__name__}: {value!r:.80}"
