"""Variations of the training examples that are ready to use."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.random import RandomState

from xfer.sources.data import to_numpy

_MARGIN, _REPLACED = 4, 0.3


def images(given: np.ndarray, random: RandomState) -> np.ndarray:
    """Flip half of the images left to right, and shift each by up to 4 pixels.

    Images are (m, channels, height, width), or (m, height, width, channels) if the last axis is the
    shorter one and the first not 1, 3 or 4. What a shift uncovers repeats the image's edge.
    """
    if not isinstance(given, np.ndarray) or given.ndim != 4:
        shape = given.shape if isinstance(given, np.ndarray) else type(given).__name__
        raise ValueError(
            "augment='images' takes one input of shape (m, channels, height, width) or (m, height, "
            f"width, channels), got {shape}"
        )
    is_last = given.shape[1] not in (1, 3, 4) and given.shape[3] < given.shape[1]
    pixels = np.moveaxis(given, 3, 1) if is_last else given
    n, _, height, width = pixels.shape
    margins = [(0, 0), (0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)]
    padded = np.pad(pixels, margins, mode="edge")
    found = np.empty_like(pixels)
    starts = random.randint(0, 2 * _MARGIN + 1, size=(n, 2))
    for i, ((top, left), flip) in enumerate(zip(starts, random.rand(n) < 0.5)):
        crop = padded[i, :, top : top + height, left : left + width]
        found[i] = crop[:, :, ::-1] if flip else crop
    return np.moveaxis(found, 1, 3) if is_last else found


def words_of(source: Any, share: float) -> Callable[[Any, RandomState], Any]:
    """Return a function that replaces 30% of the words, times a share, by any of the network's.

    Few labelled texts hold few of the words that later texts do. The network learns from this not
    to be misled by words that it has no labels for.
    """
    names, sizes = source._id_inputs(), dict(source._id_sizes())
    if not names:
        raise ValueError("augment='words' takes a network that looks words up in an embedding")
    padding = source.padding_id or 0

    def vary(given: Any, random: RandomState) -> Any:
        several = isinstance(given, Mapping)
        found = {}
        for name, ids in given.items() if several else [(next(iter(names)), given)]:
            others = random.randint(1, sizes.get(name, 2), size=ids.shape)
            replaced = (random.rand(*ids.shape) < _REPLACED * share) & (ids != padding)
            found[name] = np.where(replaced, others, ids).astype(ids.dtype)
        kept = {**given, **{name: found[name] for name in names}} if several else found
        return kept if several else next(iter(found.values()))

    return vary


#: Makes a function that varies a batch, given the source and the share of words to vary.
AUGMENTATIONS: dict[str, Callable[[Any, float], Callable[[Any, RandomState], Any]]] = {
    "images": lambda source, share: images,
    "words": words_of,
}


def augmented(
    augment: Callable[[Any, RandomState], Any],
    inputs: Mapping[str, np.ndarray],
    random: RandomState,
) -> dict[str, np.ndarray]:
    """Return other inputs of the same names and shapes, to learn from."""
    several = len(inputs) > 1
    given = dict(inputs) if several else next(iter(inputs.values()))
    found = augment(given, random)
    found = found if several else dict.fromkeys(inputs, found)
    if not isinstance(found, Mapping) or found.keys() != inputs.keys():
        names = ", ".join(map(repr, inputs))
        raise ValueError(f"augment must return a dict with {names}, got {type(found).__name__}")
    shapes = {name: tuple(np.shape(found[name])) for name in inputs}
    expected = {name: array.shape for name, array in inputs.items()}
    if shapes != expected:
        raise ValueError(f"augment must not change shapes: it returned {shapes} for {expected}")
    return {name: to_numpy(found[name]) for name in inputs}
