"""A small task that needs no download, used throughout the documentation.

Handwritten digits, each at a random place on a larger canvas, and a convolutional network trained
to read 0 to 4, as an MXNet checkpoint. `examples/train_digits.py` trained it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["checkpoint", "digits", "network", "scatter"]

CANVAS = 16


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits, each at a random place on a canvas, and their labels.

    The images are of shape (1797, 1, 16, 16), float32 from 0 to 1; the labels are from 0 to 9. The
    data are those of `sklearn.datasets.load_digits`: Alpaydin and Kaynak (1998), Cascading
    classifiers.

    Examples
    --------
    >>> images, labels = digits()
    >>> images.shape, labels[:5]
    ((1797, 1, 16, 16), array([0, 1, 2, 3, 4]))
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return scatter(images.reshape(-1, 8, 8) / 16), labels


def scatter(images: Any, seed: int = 0) -> np.ndarray:
    """Put images of shape (n, 8, 8) at random places on canvases of shape (n, 1, 16, 16)."""
    images = np.asarray(images)
    if images.shape[1:] != (8, 8):
        raise ValueError(f"images must have shape (n, 8, 8), got {images.shape}")
    places = np.random.RandomState(seed).randint(0, CANVAS - 7, size=(len(images), 2))
    canvases = np.zeros((len(images), 1, CANVAS, CANVAS), np.float32)
    for canvas, image, (top, left) in zip(canvases, images, places):
        canvas[0, top : top + 8, left : left + 8] = image
    return canvases


def checkpoint() -> str:
    """Return the prefix of a checkpoint (epoch 0) that reads the digits 0 to 4.

    It takes `data` of shape (n, 1, 16, 16); three convolutions with `relu1`, `relu2` and `relu3`,
    the maximum over the canvas `pool3`, and five outputs. Open it with `xfer.load_checkpoint`, or
    with ``mx.mod.Module.load`` and epoch 0.

    Examples
    --------
    >>> import xfer
    >>> images, labels = digits()
    >>> source = xfer.load_checkpoint(checkpoint())
    >>> scores = source.extract(images[labels < 5], "softmax").matrix
    >>> bool((scores.argmax(axis=1) == labels[labels < 5]).mean() > 0.95)
    True
    """
    return str(Path(__file__).with_name("digits"))


def network() -> "torch.nn.Module":
    """Return the network of `checkpoint` as a PyTorch module, in inference mode.

    It takes tensors of shape (n, 1, 16, 16) and returns the probabilities of the digits 0 to 4.

    Examples
    --------
    >>> import torch
    >>> images, labels = digits()
    >>> network()(torch.from_numpy(images[:2])).argmax(dim=1)
    tensor([0, 1])
    """
    from xfer.checkpoint import to_torch

    return to_torch(checkpoint())
