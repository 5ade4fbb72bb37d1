"""Types of numbers in ONNX, NumPy and PyTorch."""

from typing import NamedTuple

import numpy as np
import torch
from onnx import TensorProto, helper

#: PyTorch's types by ONNX's numbers.
TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool,
}
_BY_NAME = {
    np.dtype(helper.tensor_dtype_to_np_dtype(kind)).name: dtype for kind, dtype in TYPES.items()
}


class Array(NamedTuple):
    """The array that an attribute holds, in lists, and its type."""

    values: list
    dtype: torch.dtype


def torch_type(dtype: np.dtype) -> torch.dtype:
    """Return the type of PyTorch for one of NumPy; KeyError if there is none."""
    return _BY_NAME[dtype.name]


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """Return a copy of an array as a tensor; KeyError if its type is not known."""
    array, dtype = np.array(array, order="C"), torch_type(array.dtype)
    if dtype == torch.bfloat16:  # which NumPy has from another package
        return torch.from_numpy(array.view(np.int16)).view(dtype)
    return torch.from_numpy(array)
