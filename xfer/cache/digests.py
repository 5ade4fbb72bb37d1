"""Names of examples by their content: equal content, equal name, in any process and any batch."""

import hashlib
import os
import sys
from collections.abc import Mapping
from functools import partial

import numpy as np

# The quickest that hashlib has, where the processor helps; half of its 32 bytes is plenty.
_hash = partial(hashlib.sha256, usedforsecurity=False)
DIGEST_BYTES = 16


def example_digests(examples):
    """Name each example by its content.

    Parameters
    ----------
    examples : dict of str to ndarray of shape (n, ...), or list
        The inputs of a network, or raw examples: texts, bytes, numbers, arrays, tensors, PIL
        images, paths of files (their content counts), and tuples, lists and dicts of these.

    Returns
    -------
    list of bytes of shape (n,)
        16 bytes for each example.

    Raises
    ------
    TypeError
        If an example is of another kind.
    ValueError
        If the arrays differ in length, or there is none.

    Examples
    --------
    >>> first, second, third = example_digests(["a ship", "a plane", "a ship"])
    >>> first == third, first == second
    (True, False)
    """
    if isinstance(examples, Mapping):
        return _row_digests(examples)
    return [value_digest(example) for example in examples]


def value_digest(value):
    """Name one value by its content, as :func:`example_digests` does.

    Parameters
    ----------
    value : object
        Of a kind that is named there.

    Returns
    -------
    bytes
        16 of them.
    """
    digest = _hash()
    _feed(digest, value)
    return digest.digest()[:DIGEST_BYTES]


def _row_digests(arrays):
    arrays = {name: _plain(array) for name, array in sorted(arrays.items())}
    lengths = {name: array.shape[:1] for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or () in lengths.values():
        raise ValueError(f"the arrays must be of one length, got {lengths}")
    number = len(next(iter(arrays.values())))
    if any(array.dtype.kind in "OUS" for array in arrays.values()):
        rows = [{name: array[i] for name, array in arrays.items()} for i in range(number)]
        return [value_digest(row) for row in rows]
    start = _hash(b"rows")
    for name, array in arrays.items():
        _feed(start, name)
        _feed_kind(start, array.dtype, array.shape[1:])
    columns = [_bytes_of(array) for array in arrays.values()]
    sizes = [len(column) // number if number else 0 for column in columns]
    digests = []
    for row in range(number):
        digest = start.copy()
        for column, size in zip(columns, sizes):
            digest.update(column[row * size : (row + 1) * size])
        digests.append(digest.digest()[:DIGEST_BYTES])
    return digests


def _feed(digest, value):
    """Feed a value to a hash, so that no two different values feed the same bytes."""
    kind = type(value)
    if kind in _SCALARS:
        _feed_bytes(digest, _SCALARS[kind], repr(value).encode())
    elif isinstance(value, str):
        _feed_bytes(digest, b"text", value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, (bytes, bytearray)):
        _feed_bytes(digest, b"bytes", value)
    elif isinstance(value, np.ndarray | np.generic):
        _feed_array(digest, b"array", value)
    elif isinstance(value, list | tuple):
        _feed_bytes(digest, b"list" if isinstance(value, list) else b"tuple", b"%d" % len(value))
        for item in value:
            _feed(digest, item)
    elif isinstance(value, Mapping):
        items = sorted(value_digest(item) for item in value.items())
        _feed_bytes(digest, b"dict", b"".join(items))
    elif isinstance(value, os.PathLike):
        with open(value, "rb") as file:
            content = hashlib.file_digest(file, _hash).digest()
        _feed_bytes(digest, b"file", os.fsencode(value) + b"\0" + content)
    elif _is_image(value):
        _feed_image(digest, value)
    elif hasattr(value, "dtype") and (hasattr(value, "__array__") or hasattr(value, "asnumpy")):
        _feed_tensor(digest, value)
    else:
        raise TypeError(
            f"an example of type {kind.__module__}.{kind.__qualname__} cannot be told from others "
            "by its content; examples may be str, bytes, numbers, arrays, tensors, PIL images, "
            "pathlib.Path, and lists, tuples and dicts of these"
        )


_SCALARS = {
    type(None): b"none",
    bool: b"bool",
    int: b"int",
    float: b"float",
    complex: b"complex",
}


def _feed_bytes(digest, kind, content):
    digest.update(b"%s %d:" % (kind, len(content)))
    digest.update(content)


def _feed_array(digest, kind, array):
    array = array if type(array) is np.ndarray else _plain(array)
    if array.dtype.kind in "OUS":
        # The width of a text array is that of its longest text, which is no part of the others.
        _feed_bytes(digest, kind, repr(array.shape).encode())
        for item in array.ravel().tolist():
            _feed(digest, item)
        return
    digest.update(kind)
    _feed_kind(digest, array.dtype, array.shape)
    digest.update(_bytes_of(array))


def _plain(array):
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("an example is a masked array; fill it, or give data and mask in a tuple")
    return np.asarray(array)


def _feed_kind(digest, dtype, shape):
    if dtype.kind not in "biufcmM":
        raise TypeError(f"arrays must be of numbers, times or text, got dtype {dtype}")
    _feed_bytes(digest, b"of", f"{dtype.newbyteorder('<').str} {list(shape)}".encode())


def _bytes_of(array):
    little = array.dtype.newbyteorder("<")
    contiguous = np.ascontiguousarray(array, little)
    # The buffer protocol knows no times, and memoryview cannot cast an array without elements.
    return memoryview(contiguous.reshape(-1).view(np.uint8)) if contiguous.size else b""


def _is_image(value):
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def _feed_image(digest, image):
    pixels = image.tobytes()  # this loads the file, which may add to `info`
    _feed(digest, ("image", image.mode, image.size, image.getpalette()))
    _feed_bytes(digest, b"pixels", pixels)
    # What else changes how an image is turned, converted to RGBA, or brought to another profile.
    said = {name: image.info.get(name) for name in ("transparency", "exif", "icc_profile")}
    _feed(digest, said)


def _feed_tensor(digest, tensor):
    name = f"{type(tensor).__module__}.{type(tensor).__qualname__} {tensor.dtype}"
    for method in ("detach", "cpu"):
        tensor = getattr(tensor, method, lambda kept=tensor: kept)()
    if "bfloat16" in name and hasattr(tensor, "float"):
        tensor = tensor.float()  # exact; numpy has no such type
    array = tensor.asnumpy() if hasattr(tensor, "asnumpy") else np.asarray(tensor)
    if array.dtype == object:
        raise TypeError(f"an example of type {name} does not become an array of numbers")
    _feed_array(digest, name.encode(), array)
