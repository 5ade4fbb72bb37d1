"""What makes a network's inputs of raw examples, as data and not code.

A function cannot be compared with another one, nor written to a file that is safe to load. The size
of a picture, a mean or a vocabulary can: these classes hold such data, so that the cache knows them
and a loaded repurposer takes files or texts as the fitted one did.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from numbers import Integral, Real
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xfer.text import Corpus, Vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FunctionInputs", "ImageInputs", "Inputs", "TextInputs", "as_inputs", "from_state"]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2, as Pillow converts to gray

# Image processors that a file may name. Making one of these only stores its settings; some others
# fetch files from the network.
_SAVED_PROCESSORS = {
    f"{family}ImageProcessor{backend}"
    for family in ("Beit", "Bit", "CLIP", "ConvNext", "DeiT", "Siglip", "ViT")
    for backend in ("", "Fast", "Pil")
}

#: JSON, and arrays for what is too long for it.
State = tuple[dict[str, Any], dict[str, np.ndarray]]


class Inputs:
    """What turns a list of raw examples into the inputs of a network."""

    @property
    def padding_id(self) -> int | None:
        """The id that fills up short texts; None where there is none."""
        return None

    def __call__(self, examples: Sequence[Any]) -> np.ndarray | dict[str, np.ndarray]:
        """Return an array with a row for each example, or a dict of these by input name."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Return what tells these inputs from others, for JSON; ValueError where nothing does."""
        state, arrays = self.to_state()
        checksums = {
            name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()
        }
        return {**state, **checksums}

    def to_state(self) -> State:
        """Return JSON and arrays for :func:`from_state`; TypeError where that is impossible."""
        raise NotImplementedError


@dataclass(frozen=True)
class ImageInputs(Inputs):
    """Pictures as an array of one size, normalized.

    Each picture is resized, scaled and normalized: ``(pixels * scale - mean) / std``.

    Parameters
    ----------
    size : int, (int, int) or None, default=224
        Size in pixels: of a square, or (height, width). With None pictures keep their size, which
        must be the same for all.
    mean, std : float or sequence of float, optional
        One number, or one for each channel in the order of ``channels``. By default nothing is
        subtracted and nothing divided.
    scale : float, default=1/255
        Multiplies the pixels, which are 0 to 255 in a file.
    channels : {"rgb", "bgr", "gray"}, default="rgb"
        What the network takes; a picture in other channels is converted.
    layout : {"NCHW", "NHWC"}, default="NCHW"
        Order of the axes: examples, channels, height and width.
    crop : {"center"} or None, default="center"
        ``"center"`` keeps the proportions: the shorter side is resized, then the middle is cropped,
        like torchvision's ``Resize(size)`` and ``CenterCrop(size)``. With None the whole picture is
        resized to exactly ``size``.

    Raises
    ------
    ValueError
        If a parameter is not allowed. When called: if a picture is broken, or has another shape
        than the first where ``size`` is None.
    TypeError
        When called: if an example is not a path, a PIL image or an array of pixels.
    FileNotFoundError
        When called: if there is no such file.
    ImportError
        When called: if Pillow is not installed.

    Notes
    -----
    Examples are file paths, PIL images, and arrays of shape (height, width) or (height, width, 1, 3
    or 4), in RGB or RGBA order.

    - Arrays are uint8, uint16 or float. Only uint8 arrays may have an alpha channel. Floats are
      used as they are.
    - 16-bit pixels (uint16 arrays, Pillow's modes I and I;16) are divided by 257, which maps them
      to 0 to 255.
    - Transparent parts are shown on white.
    - The EXIF orientation of files and PIL images is applied.
    - Resizing is bilinear with antialiasing, as in Pillow.

    Examples
    --------
    >>> inputs = ImageInputs(size=2, mean=0.5, std=[0.5, 0.5, 0.25])
    >>> white = np.full((4, 6, 3), 255, np.uint8)
    >>> inputs([white]).shape
    (1, 3, 2, 2)
    >>> inputs([white])[0, :, 0, 0]
    array([1., 1., 2.], dtype=float32)
    """

    size: int | tuple[int, int] | None = 224
    _: KW_ONLY
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    scale: float = 1 / 255
    channels: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    crop: Literal["center"] | None = "center"

    def __post_init__(self) -> None:
        _check_choice("channels", self.channels, ("rgb", "bgr", "gray"))
        _check_choice("layout", self.layout, ("NCHW", "NHWC"))
        _check_choice("crop", self.crop, ("center", None))
        checked = {
            "size": _checked_size(self.size),
            "mean": self._per_channel("mean"),
            "std": self._per_channel("std"),
            "scale": _number("scale", self.scale, positive=True),
        }
        vars(self).update(checked)  # plain numbers and tuples: they can be compared and saved

    def __call__(self, examples: Sequence[Any]) -> np.ndarray:
        """Return the pictures as float32, in the layout asked for."""
        examples = _listed(examples)
        n_channels = 1 if self.channels == "gray" else 3
        height, width = self._target or (0, 0)
        if self._target is None and not examples:
            raise ValueError("an empty list gives no shape: set size, or give at least one picture")
        batch = np.empty((len(examples), height, width, n_channels), np.float32)
        for index, example in enumerate(examples):
            pixels = self._pixels(index, example)
            if self._target is None and index == 0:
                batch = np.empty((len(examples), *pixels.shape[:2], n_channels), np.float32)
            if pixels.shape[:2] != batch.shape[1:3]:
                raise ValueError(
                    f"example {index} is a picture of height and width {pixels.shape[:2]}, the "
                    f"first of {batch.shape[1:3]}: set size to resize them all"
                )
            batch[index] = pixels[..., ::-1] if self.channels == "bgr" else pixels
        batch *= np.float32(self.scale)
        if self.mean is not None:
            batch -= np.array(self.mean, np.float32)
        if self.std is not None:
            batch /= np.array(self.std, np.float32)
        if self.layout == "NCHW":
            return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        return batch

    def to_state(self) -> State:
        """Return all settings, and no arrays."""
        settings = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }
        return {"kind": "ImageInputs", **settings}, {}

    @property
    def _target(self) -> tuple[int, int] | None:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def _per_channel(self, name: str) -> float | tuple[float, ...] | None:
        """Return ``mean`` or ``std`` as plain numbers."""
        values = getattr(self, name)
        if values is None:
            return None
        if np.ndim(values) == 0:
            return _number(name, values, positive=name == "std")
        n_channels = 1 if self.channels == "gray" else 3
        if np.shape(values) != (n_channels,):
            raise ValueError(
                f"{name} must be one number, or {n_channels} for channels={self.channels!r}, got "
                f"{values!r}"
            )
        return tuple(_number(name, value, positive=name == "std") for value in values)

    def _pixels(self, index: int, example: Any) -> np.ndarray:
        """Return a picture in its final size, of shape (height, width, 1 or 3)."""
        floats = isinstance(example, np.ndarray) and example.dtype.kind == "f"
        if floats and self.scale == 1 / 255 and 0 < example.max(initial=0) <= 1:
            raise ValueError(
                f"example {index} is an array of floats up to {example.max():.3g}, but scale=1/255 "
                "is for pixels up to 255: set scale=1, or multiply the array by 255"
            )
        bands = _bands(index, example, "L" if self.channels == "gray" else "RGB")
        return np.dstack([np.asarray(self._resized(band)) for band in bands])

    def _resized(self, image: Image) -> Image:
        if self._target is None:
            return image
        bilinear = _pillow().Resampling.BILINEAR
        height, width = self._target
        if self.crop is None:
            return image.resize((width, height), bilinear)
        if width * image.height >= height * image.width:
            covering = width, width * image.height // image.width
        else:
            covering = height * image.width // image.height, height
        resized = image.resize(covering, bilinear)
        # torchvision's CenterCrop rounds in the same way.
        left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
        return resized.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class TextInputs(Inputs):
    """Texts as the word ids of a vocabulary, all of one length.

    Parameters
    ----------
    vocabulary : Vocabulary
        Cleans and splits the texts, and gives the ids. Its words are saved, not their counts.
    length : int
        Longer texts are cut to their first ``length`` words; shorter ones are padded at the end.

    Raises
    ------
    TypeError
        If ``vocabulary`` is something else. When called: if an example is not a str.
    ValueError
        If ``length`` is not an integer >= 1. When called: if a word is unknown to a vocabulary
        without an unknown word.

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
        if not isinstance(self.vocabulary, Vocabulary):
            raise TypeError(f"vocabulary must be a Vocabulary, got {_shown(self.vocabulary)}")
        if not _is_positive_integer(self.length):
            raise ValueError(f"length must be an integer >= 1, got {self.length!r}")
        vars(self).update(length=int(self.length))

    @property
    def padding_id(self) -> int:
        """The id of the padding word."""
        return self.vocabulary.word2id[self.vocabulary.padding_word]

    def __call__(self, examples: Sequence[str]) -> np.ndarray:
        """Return an int32 array of shape (n, length)."""
        texts = _texts(examples)
        if not texts:
            return np.empty((0, self.length), np.int32)
        return Corpus(texts, None, self.vocabulary, fix_length=self.length).x

    def to_state(self) -> State:
        """Return the length, and the words as JSON in bytes."""
        vocabulary = {
            "words": self.vocabulary.id2word,
            "padding_word": self.vocabulary.padding_word,
            "unknown_word": self.vocabulary.unknown_word,
            "collapse_whitespace": self.vocabulary.collapse_whitespace,
        }
        state = {"kind": "TextInputs", "length": self.length}
        return state, {"vocabulary": _as_bytes(json.dumps(vocabulary))}

    @classmethod
    def _from_state(cls, length: int, vocabulary: np.ndarray) -> TextInputs:
        return cls(Vocabulary.from_words(**json.loads(vocabulary.tobytes())), length)


@dataclass(frozen=True)
class TokenizerInputs(Inputs):
    """A fast tokenizer of transformers as data; runs on ``tokenizers`` alone."""

    # JSON of `tokenizers`, which also says how texts are cut and padded.
    tokenizer: str = field(repr=False)
    names: tuple[str, ...]

    @classmethod
    def of_tokenizer(cls, tokenizer: Any) -> TokenizerInputs:
        """Take what decides the output of ``tokenizer(texts, padding=True, truncation=True)``."""
        if tokenizer.pad_token is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no padding token, so texts of different lengths "
                "make no array: set tokenizer.pad_token"
            )
        tokenizer = copy.deepcopy(tokenizer)  # a call changes its settings
        texts = ["", "A text, naïve.", " ".join(tokenizer.all_special_tokens)]
        if tokenizer.model_max_length < 100_000:  # a far larger one means that there is none
            texts.append("word " * (tokenizer.model_max_length + 1))
        expected = dict(tokenizer(texts, padding=True, truncation=True, return_tensors="np"))
        inputs = cls(tokenizer.backend_tokenizer.to_str(), tuple(expected))
        known = set(expected) <= set(_OF_ENCODING)
        if not known or not all(map(np.array_equal, expected.values(), inputs(texts).values())):
            raise ValueError(
                f"{type(tokenizer).__name__} does more than its backend_tokenizer, which is all "
                "that can be saved: give a function that calls it, with cache_key=..."
            )
        return inputs

    @property
    def padding_id(self) -> int:
        """The id of the padding token."""
        return self._backend.padding["pad_id"]

    def __call__(self, examples: Sequence[str]) -> dict[str, np.ndarray]:
        """Return int64 arrays of shape (n, tokens of the longest text) by input name."""
        texts = _texts(examples)
        encodings = self._backend.encode_batch(texts)
        length = len(encodings[0]) if texts else 0
        return {
            name: np.array(
                [getattr(encoding, _OF_ENCODING[name]) for encoding in encodings], np.int64
            ).reshape(len(texts), length)
            for name in self.names
        }

    def to_state(self) -> State:
        """Return the input names, and the tokenizer as JSON in bytes."""
        state = {"kind": "TokenizerInputs", "names": list(self.names)}
        return state, {"tokenizer": _as_bytes(self.tokenizer)}

    @classmethod
    def _from_state(cls, names: list[str], tokenizer: np.ndarray) -> TokenizerInputs:
        if unknown := set(names) - set(_OF_ENCODING):
            raise ValueError(f"a tokenizer does not give {sorted(unknown)}")
        inputs = cls(tokenizer.tobytes().decode(), tuple(names))
        _ = inputs.padding_id  # damaged JSON is found now
        return inputs

    @cached_property
    def _backend(self) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ImportError(
                "a tokenizer needs the package tokenizers: pip install 'xfer-learn[text]'"
            ) from error
        return Tokenizer.from_str(self.tokenizer)


#: The attribute of an encoding of `tokenizers` for each input name of transformers.
_OF_ENCODING = {
    "input_ids": "ids",
    "token_type_ids": "type_ids",
    "attention_mask": "attention_mask",
}


@dataclass(frozen=True)
class ProcessorInputs(Inputs):
    """An image processor of transformers; files are opened as by :class:`ImageInputs`."""

    processor: Any

    def __call__(self, examples: Sequence[Any]) -> dict[str, np.ndarray]:
        """Return what the processor makes of the pictures."""
        pictures = [_rgb(index, example) for index, example in enumerate(_listed(examples))]
        return dict(self.processor(images=pictures, return_tensors="np"))

    def identity(self) -> dict[str, Any]:
        """Return its class and settings, and the version of transformers."""
        if not self._is_known:
            raise ValueError(
                f"{type(self.processor).__name__} is code outside of transformers, which cannot be "
                "known for certain: give a function that calls it, with cache_key=..."
            )
        return {**self._settings, "transformers": sys.modules["transformers"].__version__}

    def to_state(self) -> State:
        """Return its class and settings."""
        if not self._is_known or self._settings["class_name"] not in _SAVED_PROCESSORS:
            raise TypeError(
                f"an image processor {type(self.processor).__name__} is not saved: give inputs= to "
                "xfer.load again"
            )
        return self._settings, {}

    @property
    def _is_known(self) -> bool:
        return type(self.processor).__module__.startswith("transformers.")

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "kind": "ProcessorInputs",
            "class_name": type(self.processor).__name__,
            "settings": json.loads(self.processor.to_json_string()),
        }

    @classmethod
    def _from_state(cls, class_name: str, settings: dict[str, Any]) -> ProcessorInputs:
        if class_name not in _SAVED_PROCESSORS:
            raise ValueError(f"a file may not name the image processor {class_name!r}")
        import transformers

        processor = getattr(transformers, class_name).from_dict(settings)
        if type(processor).__name__ != class_name:
            raise ValueError(
                f"transformers gives a {type(processor).__name__} here instead of {class_name}: "
                "install torchvision, or give inputs= to xfer.load again"
            )
        return cls(processor)


@dataclass(frozen=True)
class FunctionInputs(Inputs):
    """A function of a list of examples; the cache knows it by ``cache_key``."""

    function: Callable[[list[Any]], Any]
    cache_key: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.function) or isinstance(self.function, type):
            raise TypeError(
                f"inputs must be a function of a list of examples, got {_shown(self.function)}"
            )
        if self.cache_key is not None and not (isinstance(self.cache_key, str) and self.cache_key):
            raise TypeError(f"cache_key must be a non-empty str, got {_shown(self.cache_key)}")

    def __call__(self, examples: Sequence[Any]) -> Any:
        """Return what the function makes of the examples."""
        return self.function(list(examples))

    def identity(self) -> dict[str, Any]:
        """Return the key; ValueError without one."""
        if self.cache_key is None:
            raise ValueError(
                f"what {self._name} does cannot be known for certain: give it a cache_key=..., a "
                "text that you change whenever the function changes"
            )
        return {"kind": "FunctionInputs", "cache_key": self.cache_key}

    def to_state(self) -> State:
        """Raise: code does not go into a safe file."""
        raise TypeError(
            f"{self._name} is code, which a file that is safe to load cannot hold: give inputs= to "
            "xfer.load again"
        )

    @property
    def _name(self) -> str:
        return f"function {getattr(self.function, '__qualname__', repr(self.function)[:80])}"


def as_inputs(given: Any, cache_key: str | None = None) -> Inputs:
    """Return what a user may give as ``inputs``, in a class that the cache and files can know.

    ``cache_key`` names a function, whose content cannot be known.
    """
    if isinstance(given, Inputs):
        return given
    kinds = type(given).__mro__
    # What comes from transformers can only be there once it is loaded, so its class tells.
    if any(kind.__module__.partition(".")[0] == "transformers" for kind in kinds):
        if hasattr(given, "backend_tokenizer"):
            return TokenizerInputs.of_tokenizer(given)
        if any(kind.__name__ == "ImageProcessingMixin" for kind in kinds):
            return ProcessorInputs(given)
        raise TypeError(
            f"cannot use {type(given).__name__} of transformers as inputs; allowed are a fast "
            "tokenizer, an image processor, and a function of a list of examples that calls it"
        )
    return FunctionInputs(given, cache_key)


def from_state(state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Inputs:
    """Return the inputs that ``to_state`` wrote."""
    makers: dict[Any, Callable[..., Inputs]] = {
        "ImageInputs": ImageInputs,
        "TextInputs": TextInputs._from_state,
        "TokenizerInputs": TokenizerInputs._from_state,
        "ProcessorInputs": ProcessorInputs._from_state,
    }
    settings = dict(state)
    kind = settings.pop("kind", None)
    if kind not in makers:
        raise ValueError(f"its inputs are of the unknown kind {kind!r}")
    try:
        return makers[kind](**settings, **arrays)
    except ImportError:
        raise
    except Exception as error:
        # The settings of a damaged file can be anything.
        raise ValueError(f"its {kind} are damaged: {error}") from error


def _listed(examples: Sequence[Any]) -> list[Any]:
    """Return the examples as a list; refuse one example in its place."""
    single = isinstance(examples, (str, bytes, PathLike, Mapping))
    if single or not (hasattr(examples, "__len__") and hasattr(examples, "__iter__")):
        raise TypeError(f"examples must be a list, got one {_shown(examples)}")
    if isinstance(examples, np.ndarray) and examples.ndim == 3 and examples.shape[2] in (1, 3, 4):
        raise TypeError(f"examples must be a list, got one picture: {_shown(examples)}")
    return list(examples)


def _texts(examples: Sequence[Any]) -> list[str]:
    texts = _listed(examples)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"example {index} is {_shown(text)}; each example must be a text (str)")
    return texts


def _bands(index: int, example: Any, mode: str) -> list[Image]:
    """Return a picture as one image of bytes, or as one image of floats for each channel."""
    if not isinstance(example, np.ndarray):
        return [_read(index, example, mode)]
    array = example[:, :, 0] if example.ndim == 3 and example.shape[2] == 1 else example
    n_channels = array.shape[2] if array.ndim == 3 else 1
    is_bytes, is_deep = array.dtype == np.uint8, array.dtype.str[1:] == "u2"  # of any byte order
    if (
        array.ndim not in (2, 3)
        or not array.size
        or n_channels not in ((1, 3, 4) if is_bytes else (1, 3))
        or not (is_bytes or is_deep or array.dtype.kind == "f")
    ):
        raise ValueError(
            f"example {index} is {_shown(example)}; an array must be uint8, uint16 or float and of "
            "shape (height, width), (height, width, 1 or 3), or with alpha (height, width, 4) and "
            "uint8"
        )
    fromarray = _pillow().fromarray
    if is_bytes:
        return [_read(index, fromarray(array), mode)]
    array = array.astype(np.float32) / (257 if is_deep else 1)
    if n_channels == 3 and mode == "L":
        array = array @ _LUMA
    return [
        fromarray(np.ascontiguousarray(band)) for band in np.atleast_3d(array).transpose(2, 0, 1)
    ]


def _read(index: int, example: Any, mode: str) -> Image:
    """Return a file or PIL image the right way up, in ``mode``, or in mode F with more bits."""
    Image = _pillow()
    from PIL import ImageOps

    is_path = isinstance(example, (str, PathLike))
    if not is_path and not isinstance(example, Image.Image):
        raise TypeError(
            f"example {index} is {_shown(example)}; each example must be a file path, a PIL image "
            "or an array"
        )
    try:
        if is_path:
            with Image.open(example) as opened:
                image = ImageOps.exif_transpose(opened)
        else:
            image = ImageOps.exif_transpose(example)
        if image.mode.startswith("I"):
            return Image.fromarray(np.asarray(image, np.float32) / np.float32(257))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image if image.mode == "F" else image.convert(mode)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"example {index}: there is no file {str(example)!r}") from error
    except Exception as error:
        # What is broken in a file shows in many kinds of errors.
        what = repr(str(example)) if is_path else _shown(example)
        raise ValueError(f"example {index} cannot be read as a picture: {what}: {error}") from error


def _rgb(index: int, example: Any) -> Any:
    """Return a picture as image processors take it: an RGB image, or an array as it is."""
    if isinstance(example, np.ndarray):
        return example
    image = _read(index, example, "RGB")
    return image.convert("L").convert("RGB") if image.mode == "F" else image


def _pillow() -> Any:
    """Return the module ``PIL.Image``."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install 'xfer-learn[images]'") from error
    return Image


def _checked_size(size: Any) -> int | tuple[int, int] | None:
    if size is None:
        return None
    if isinstance(size, Sequence) and len(size) == 2 and all(map(_is_positive_integer, size)):
        return int(size[0]), int(size[1])
    if not _is_positive_integer(size):
        raise ValueError(f"size must be an integer >= 1, (height, width) or None, got {size!r}")
    return int(size)


def _is_positive_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _number(name: str, value: Any, positive: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    if positive and value <= 0:
        raise ValueError(f"{name} must be greater than 0, got {value!r}")
    return float(value)


def _check_choice(name: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _shown(value: Any) -> str:
    """Return what a value is, short enough for a message."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and {value.dtype}"
    return f"{type(value).__name__}: {value!r:.80}"
