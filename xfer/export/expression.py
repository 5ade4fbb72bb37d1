"""Formulas over arrays that become nodes of an ONNX graph: ``x @ weights + bias``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from onnx.helper import np_dtype_to_tensor_dtype

from xfer.checkpoint.onnx_builder import OnnxBuilder, Tensor

_NAME = "xfer"  # of nodes and constants; the builder makes names unique

Operand: TypeAlias = "Value | np.ndarray | float"


class Value:
    """A tensor of a graph that is being built; operators and methods add nodes to the graph."""

    __array_ufunc__ = None  # an array on the left leaves the operation to this class

    def __init__(self, builder: OnnxBuilder, tensor: Tensor) -> None:
        self.builder, self.tensor = builder, tensor

    @property
    def dtype(self) -> np.dtype:
        """The type of its numbers."""
        return self.tensor.dtype

    def apply(self, kind: str, *others: Any, **attributes: Any) -> Value:
        """Add an operator that takes this value, and others in its type unless they have one."""
        inputs = [self.tensor, *(self._operand(other) for other in others)]
        return Value(self.builder, self.builder.add_node(kind, _NAME, inputs, **attributes)[0])

    def constant(self, value: Any, dtype: Any = None) -> Value:
        """Add an array, in the type of this value unless another is given."""
        array = np.ascontiguousarray(value, dtype or self.dtype).reshape(np.shape(value))
        return Value(self.builder, self.builder.add_constant(_NAME, array))

    def _operand(self, other: Any) -> Tensor:
        return (other if isinstance(other, Value) else self.constant(other)).tensor

    def __add__(self, other: Operand) -> Value:
        return self.apply("Add", other)

    def __sub__(self, other: Operand) -> Value:
        return self.apply("Sub", other)

    def __mul__(self, other: Operand) -> Value:
        return self.apply("Mul", other)

    def __truediv__(self, other: Operand) -> Value:
        return self.apply("Div", other)

    def __matmul__(self, other: Operand) -> Value:
        return self.apply("MatMul", other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Operand) -> Value:
        return self.constant(other) - self

    def __rtruediv__(self, other: Operand) -> Value:
        return self.constant(other) / self

    def astype(self, dtype: Any) -> Value:
        """Convert to another type."""
        to = np.dtype(dtype)
        if to == self.dtype:
            return self
        return self.apply("Cast", to=np_dtype_to_tensor_dtype(to))

    def square(self) -> Value:
        """Return x * x."""
        return self * self

    def sum(self, axis: int, keepdims: bool = False) -> Value:
        """Sum over an axis."""
        return self._reduce("ReduceSum", [axis], keepdims)

    def mean(self, *axes: int, keepdims: bool = False) -> Value:
        """Average over axes."""
        return self._reduce("ReduceMean", axes, keepdims)

    def max(self, *axes: int, keepdims: bool = False) -> Value:
        """Return the largest over axes."""
        return self._reduce("ReduceMax", axes, keepdims)

    def min(self, axis: int) -> Value:
        """Return the smallest over an axis."""
        return self._reduce("ReduceMin", [axis], False)

    def _reduce(self, kind: str, axes: Sequence[int], keepdims: bool) -> Value:
        return self.apply(kind, self.constant([*axes], np.int64), keepdims=int(keepdims))

    def softmax(self) -> Value:
        """Return probabilities over the last axis."""
        return self.apply("Softmax", axis=-1)

    def log_softmax(self) -> Value:
        """Return log probabilities over the last axis."""
        return self.apply("LogSoftmax", axis=-1)

    def at_least(self, low: Operand) -> Value:
        """Replace smaller numbers."""
        return self.apply("Max", low)

    def at_most(self, high: Operand) -> Value:
        """Replace larger numbers."""
        return self.apply("Min", high)

    def where(self, condition: Value, other: Operand) -> Value:
        """Keep what a condition holds for, and take the other elsewhere."""
        inputs = [condition.tensor, self.tensor, self._operand(other)]
        return Value(self.builder, self.builder.add_node("Where", _NAME, inputs)[0])

    def take(self, indices: np.ndarray | Value, axis: int) -> Value:
        """Take entries along an axis."""
        if not isinstance(indices, Value):
            indices = self.constant(indices, np.int64)
        return self.apply("Gather", indices, axis=axis)

    def reshape(self, *sizes: int) -> Value:
        """Return the same numbers in another shape; 0 keeps a size, -1 is what is left."""
        return self.apply("Reshape", self.constant(sizes, np.int64))

    def add_axis(self, axis: int) -> Value:
        """Insert an axis of size 1."""
        return self.apply("Unsqueeze", self.constant([axis], np.int64))


def concatenate(values: Sequence[Value]) -> Value:
    """Join values along axis 1."""
    return values[0] if len(values) == 1 else values[0].apply("Concat", *values[1:], axis=1)
