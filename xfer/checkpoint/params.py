"""MXNet's ``.params`` files, read and written with NumPy only.

A file is a list of arrays, then a list of their names, all little-endian. An array has one of four
layouts, which its first four bytes tell (``NDArray::Load`` in MXNet's ``ndarray.cc``). Sizes are
checked against the bytes left in the file before memory is allocated.
"""

import math
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from xfer._io import atomic_write

_MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DENSE, _ROW_SPARSE, _CSR = range(3)
# A sparse array of few bytes can have a huge shape: the limit for making it dense.
_MOST_DENSE_BYTES = 2**33
_CPU = 1
_MAX_DIMENSIONS = 32

#: Types in the order of their flags. MXNet 1.9.1 reads back no more than the first eight.
_DTYPES = ("<f4", "<f8", "<f2", "|u1", "<i4", "|i1", "<i8", "|b1", "<i2", "<u2", "<u4", "<u8")
_WRITTEN = _DTYPES[:8]
_BOOL, _BFLOAT16 = 7, 12


def read_params(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all arrays of a ``.params`` file, of any version of MXNet 1 or before.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    dict of str to ndarray
        By name, in the order of the file; the names are ``"0"``, ``"1"``, ... where the arrays
        were saved without. bfloat16 becomes float32, which holds it exactly.

    Raises
    ------
    ValueError
        If the file is damaged, or an array has csr storage or no values.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_params(f"{folder}/net-0000.params", {"arg:fc_bias": np.array([0.5, 2.0])})
    ...     read_params(f"{folder}/net-0000.params")
    {'arg:fc_bias': array([0.5, 2. ])}
    """
    with open(path, "rb") as file:
        reader = _Reader(file, path)
        magic = reader.number("<u8", "the start of an MXNet .params file")
        check_is_no_pointer(path)
        if magic != _MAGIC:
            raise reader.error("the start of an MXNet .params file", magic.to_bytes(8, "little"))
        reader.number("<u8", "the reserved number")
        count = reader.number("<u8", "the number of arrays")
        # No array takes fewer bytes than one of shape (0,) in the oldest layout.
        if count > reader.left() // 20:
            raise reader.error(f"a number of arrays that {reader.left()} bytes can hold", count)
        arrays = [_read_array(reader, f"array {i} (of 0 to {count - 1})") for i in range(count)]
        names = _read_names(reader, count)
        if reader.left():
            reader.at = file.tell()
            raise reader.error("the end of the file", f"{reader.left()} more bytes")
    return dict(zip(names, arrays, strict=True))


def write_params(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Write arrays as a ``.params`` file: the bytes that ``mx.nd.save`` of MXNet 1.9.1 writes.

    Parameters
    ----------
    path : str or path-like
        An existing file is replaced in one step, once all is written.
    arrays : dict of str to array-like
        float16, float32, float64, int8, uint8, int32, int64 or bool, of at most 32 dimensions. If
        one is a scalar, MXNet can read the file only under ``mx.util.np_shape(True)``.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_params(f"{folder}/net-0000.params", {"arg:fc_bias": [0.5, 2.0]})
    ...     os.listdir(folder)
    ['net-0000.params']
    """
    arrays = {name: np.asarray(values) for name, values in arrays.items()}
    flags = [_type_flag(name, values) for name, values in arrays.items()]
    names = [name.encode() for name in arrays]
    # MXNet reads shape () as "unknown", except in its NumPy semantics; a file has one kind.
    version = _V3 if any(values.ndim == 0 for values in arrays.values()) else _V2
    with atomic_write(path) as file:
        file.write(struct.pack("<QQQ", _MAGIC, 0, len(arrays)))
        for flag, values in zip(flags, arrays.values()):
            shape = struct.pack(f"<i{values.ndim}q", values.ndim, *values.shape)
            file.write(struct.pack("<Ii", version, 0) + shape + struct.pack("<iii", _CPU, 0, flag))
            file.write(np.asarray(values, dtype=_WRITTEN[flag], order="C").data)
        file.write(struct.pack("<Q", len(names)))
        for name in names:
            file.write(struct.pack("<Q", len(name)) + name)


def split_params(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Separate learned parameters from running statistics, and drop the prefixes of their names.

    Gluon's ``save_parameters`` writes no prefixes; then only the graph tells which are which.

    >>> split_params({"arg:bn_gamma": 1, "aux:bn_moving_mean": 2, "dense0_weight": 3})
    ({'bn_gamma': 1, 'dense0_weight': 3}, {'bn_moving_mean': 2})
    """
    arguments: dict[str, np.ndarray] = {}
    auxiliary: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        part = auxiliary if name.startswith("aux:") else arguments
        bare = name[4:] if name.startswith(("arg:", "aux:")) else name
        if bare in part:
            raise ValueError(f"'arg:{bare}' and {bare!r} would both be named {bare!r}")
        part[bare] = values
    return arguments, auxiliary


def check_is_no_pointer(path: str | os.PathLike[str]) -> None:
    """Refuse a Git LFS pointer, which stands in for a file that was not fetched."""
    with open(path, "rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            pointer = "a Git LFS pointer, not the file itself"
            raise ValueError(f"{os.fspath(path)} is {pointer}: fetch it with `git lfs pull`")


class _Reader:
    """A file read from front to back; ``at`` is the byte where the last thing read began."""

    def __init__(self, file: BinaryIO, path: str | os.PathLike[str]) -> None:
        self.file = file
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.at = 0

    def left(self) -> int:
        return self.size - self.file.tell()

    def error(self, expected: str, found: Any) -> ValueError:
        path = os.fspath(self.path)
        return ValueError(f"{path}, byte {self.at}: expected {expected}, found {found}")

    def values(self, shape: Sequence[int], dtype: str, what: str) -> np.ndarray:
        self.at = self.file.tell()
        needed, left = math.prod(shape) * np.dtype(dtype).itemsize, self.left()
        if needed <= left:
            values = np.empty(shape, dtype)
            left = self.file.readinto(values)  # type: ignore[attr-defined]
        # Another process may cut the file meanwhile.
        if needed > left:
            raise self.error(f"{what} ({needed} bytes)", f"the end of the file after {left} bytes")
        return values

    def number(self, dtype: str, what: str) -> int:
        return int(self.values((), dtype, what))


def _read_array(reader: _Reader, what: str) -> np.ndarray:
    version = reader.number("<u4", f"the layout of {what}")
    storage, stored = 0, []
    if version in (_V2, _V3):
        storage = reader.number("<i4", f"the storage type of {what}")
        if storage == _CSR:
            wanted = 'csr storage; save array.tostype("default") in MXNet instead'
            raise reader.error(f"{what} to be dense or row_sparse", wanted)
        if storage not in (_DENSE, _ROW_SPARSE):
            raise reader.error(f"the storage type of {what}, 0 to 2", storage)
        stored = _read_shape(reader, version, what) if storage else []
    shape = _read_shape(reader, version, what)
    # The kind and index of the device that held the array.
    reader.values((2,), "<i4", f"the device of {what}")
    flag = reader.number("<i4", f"the type flag of {what}")
    if storage == _DENSE:
        return _read_values(reader, flag, shape, what)
    # The rows that are not zero, and their indices.
    index_flag = reader.number("<i4", f"the type flag of the rows of {what}")
    count = _read_shape(reader, version, f"the rows of {what}")
    values = _read_values(reader, flag, stored, what)
    rows = _read_values(reader, index_flag, count, f"the rows of {what}")
    fits = [*count, *shape[1:]] == stored and len(count) == 1 and rows.dtype.kind == "i"
    if not fits or not ((rows >= 0) & (rows < shape[0])).all():
        raise reader.error(f"rows of {what}, whose shape is {tuple(shape)}", f"{rows.ravel()[:9]}")
    if math.prod(shape) * values.itemsize > _MOST_DENSE_BYTES:
        raise reader.error(f"{what} of less than 8 GiB when dense", tuple(shape))
    array = np.zeros(shape, values.dtype)
    array[rows] = values
    return array


def _read_values(reader: _Reader, flag: int, shape: Sequence[int], what: str) -> np.ndarray:
    if flag == _BOOL:
        # Every byte but 0 is true; NumPy's bool holds only 0 and 1.
        return reader.values(shape, "|u1", f"the values of {what}").astype(bool)
    if flag == _BFLOAT16:
        # The upper half of a float32, whose lower half is zero.
        wide = reader.values(shape, "<u2", f"the values of {what}").astype("<u4")
        wide <<= np.uint32(16)
        return wide.view("<f4")
    if not 0 <= flag < len(_DTYPES):
        raise reader.error(f"the type flag of {what}, 0 to {_BFLOAT16}", flag)
    return reader.values(shape, _DTYPES[flag], f"the values of {what}")


def _read_shape(reader: _Reader, version: int, what: str) -> list[int]:
    if version in (_V1, _V2, _V3):
        dimensions, dtype = reader.number("<i4", f"the number of dimensions of {what}"), "<i8"
    else:
        # The oldest layout has no mark, and begins with the number of dimensions.
        dimensions, dtype = version, "<u4"
    if not -1 <= dimensions <= _MAX_DIMENSIONS:
        raise reader.error(
            f"the number of dimensions of {what}, at most {_MAX_DIMENSIONS}", dimensions
        )
    shape = reader.values((max(dimensions, 0),), dtype, f"the shape of {what}").tolist()
    # In NumPy semantics -1 is "unknown" and 0 is a size; before them 0 was "unknown".
    if dimensions == -1 or (dimensions == 0 and version != _V3) or (-1 in shape and version == _V3):
        raise reader.error(
            f"the shape of {what}",
            "none: it had no values when it was saved, or is a scalar "
            "that was not saved under mx.util.np_shape(True)",
        )
    # An empty array takes no bytes, but NumPy multiplies its other dimensions.
    if min(shape, default=0) < 0 or math.prod(size or 1 for size in shape) > sys.maxsize // 8:
        raise reader.error(f"a possible shape of {what}", tuple(shape))
    return shape


def _read_names(reader: _Reader, count: int) -> list[str]:
    given = reader.number("<u8", "the number of names")
    if given not in (0, count):
        raise reader.error(f"names for all {count} arrays or for none", f"{given} names")
    if given == 0:
        return [str(i) for i in range(count)]
    names: dict[str, int] = {}
    for i in range(count):
        length = reader.number("<u8", f"the length of name {i}")
        encoded = reader.values((length,), "|u1", f"name {i}").tobytes()
        try:
            name = encoded.decode()
        except UnicodeDecodeError:
            raise reader.error(f"name {i} in UTF-8", encoded[:40]) from None
        if name in names:
            raise reader.error("a unique name for each array", f"{name[:80]!r} again")
        names[name] = i
    return list(names)


def _type_flag(name: str, values: np.ndarray) -> int:
    if not isinstance(name, str):
        raise TypeError(f"a name is a string, and {name!r} is a {type(name).__name__}")
    dtype = values.dtype.newbyteorder("<").str
    if dtype not in _WRITTEN:
        known = ", ".join(np.dtype(known).name for known in _WRITTEN)
        raise TypeError(f"{name!r} is an array of {values.dtype}; MXNet 1.9.1 reads {known}")
    if values.ndim > _MAX_DIMENSIONS:
        raise ValueError(f"{name!r} has {values.ndim} dimensions, more than {_MAX_DIMENSIONS}")
    return _WRITTEN.index(dtype)
