"""The conversions of MXNet's operators by name, and what a conversion gets: its Call."""

import ast
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partialmethod
from typing import Any, TypeVar

import numpy as np
from onnx import helper

from xfer.checkpoint.onnx_builder import BATCH, OnnxBuilder, Tensor, describe_shape, follows_batch
from xfer.checkpoint.symbol import Node

#: Types by MXNet's flags; all floating-point ones are computed in single precision.
_TYPE_NAMES = "float32 float32 float32 uint8 int32 int8 int64 bool"
TYPES: dict[int, Any] = dict(enumerate(map(np.dtype, _TYPE_NAMES.split())))
# By the texts of attributes: flags, -1 for the default, and names.
_DTYPES = {str(flag): dtype for flag, dtype in TYPES.items()}
_DTYPES |= {dtype.name: dtype for dtype in TYPES.values()}
_DTYPES |= dict.fromkeys(("-1", "float16", "bfloat16", "float64"), TYPES[0])
#: What a conversion returns: an output, or several.
Result = Tensor | Sequence[Tensor]
#: Names the outputs of an operator with some attributes.
Outputs = Callable[["Attributes"], tuple[str, ...]]
#: Emits what computes a tensor of one or two others: ``formula(op, x)``.
Formula = Callable[..., Tensor]

_Conversion = TypeVar("_Conversion", bound=Callable[..., Result])


class Unsupported(ValueError):
    """An operator, or a way to use it, that has no conversion."""


@dataclass(frozen=True)
class Operator:
    """How one operator converts: ``convert(op, *inputs)`` emits ONNX nodes through a ``Call``.

    ``idle`` are the indices of inputs that play no part in inference, such as labels.
    """

    convert: Callable[..., Result]
    outputs: Outputs
    idle: tuple[int, ...]


#: Every operator that converts, by each of its names.
OPERATORS: dict[str, Operator] = {}


def operator(
    *names: str,
    outputs: Outputs = lambda _: ("output",),
    idle: tuple[int, ...] = (),
) -> Callable[[_Conversion], _Conversion]:
    """Register a function as the conversion of the operators of these names.

    They are the names of MXNet 1.9; :mod:`xfer.checkpoint.legacy` knows the older ones.
    """

    def register(function: _Conversion) -> _Conversion:
        for name in names:
            if name in OPERATORS:
                raise ValueError(f"operator {name!r} is registered twice")
            OPERATORS[name] = Operator(function, outputs, idle)
        return function

    return register


def numbered_outputs(count: Callable[["Attributes"], int]) -> Outputs:
    """Name as many outputs as the attributes say: ``output0``, ``output1``, ..."""

    def outputs(attributes: Attributes) -> tuple[str, ...]:
        several = count(attributes)
        return tuple(f"output{i}" for i in range(several)) if several > 1 else ("output",)

    return outputs


def emit(kind: str) -> Formula:
    """Make the formula that is a single ONNX operator."""
    return lambda op, *inputs: op(kind, *inputs)


_REQUIRED = object()
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def _read_tuple(text: str) -> tuple:
    values = ast.literal_eval(text)
    return tuple(values) if isinstance(values, (tuple, list)) else (values,)


def _read_ints(text: str) -> tuple[int | None, ...]:
    # Python 2 wrote (2L, 2L).
    values = _read_tuple(text.replace("L", ""))
    if not all(value is None or type(value) is int for value in values):
        raise ValueError(text)
    return values


class Attributes:
    """The attributes of a node, which MXNet writes as text; a text of ``None`` is None.

    Each method takes a name and a default; without a default a missing attribute is an error.
    ``ints`` and ``floats`` return a tuple, also of one number; any of the integers may be None.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def _read(self, read: Callable[[str], Any], name: str, default: Any = _REQUIRED) -> Any:
        text = self._texts.get(name)
        if text is None:
            if default is _REQUIRED:
                raise ValueError(f"it has no attribute {name!r}")
            return default
        if text == "None":
            return None
        try:
            return read(text)
        except (ValueError, KeyError, SyntaxError, TypeError, RecursionError, MemoryError):
            raise ValueError(f"its attribute {name}={text[:80]!r} cannot be read") from None

    text = partialmethod(_read, str)
    int = partialmethod(_read, lambda text: int(text.rstrip("L")))
    float = partialmethod(_read, float)
    flag = partialmethod(_read, lambda text: _FLAGS[text.lower()])
    ints = partialmethod(_read, _read_ints)
    floats = partialmethod(_read, lambda text: tuple(map(float, _read_tuple(text))))


class Call(Attributes):
    """An operator to convert: ``op("Relu", x)`` emits a node, ``op.int("axis")`` reads a text."""

    def __init__(self, builder: OnnxBuilder, node: Node) -> None:
        super().__init__(node.attributes)
        self.node = node
        self._builder = builder

    def __call__(
        self, kind: str, *inputs: Tensor | None, outputs: Any = 1, **attributes: Any
    ) -> Any:
        """Emit an ONNX node: its Tensor, or a list of them where it has several outputs."""
        name = f"{self.node.name}/{kind}"
        found = self._builder.add_node(kind, name, inputs, outputs, **attributes)
        return found[0] if outputs == 1 else found

    def constant(self, value: Any, dtype: Any = None) -> Tensor:
        """Return a Tensor that holds an array, a list or a number (floats as float32)."""
        array = np.asarray(value, dtype)
        if array.dtype.kind == "f":
            array = array.astype(np.float32, copy=False)
        return self._builder.add_constant(f"{self.node.name}/constant", array)

    def sizes(self, values: Sequence[Any]) -> Tensor:
        """Return a 1-D int64 Tensor of sizes; multiples of BATCH follow the batch."""
        if not any(map(follows_batch, values)):
            return self.constant(values, np.int64)
        batch = self._builder.batch_size_tensor()
        parts = [
            self("Mul", batch, self.constant([value // BATCH], np.int64))
            if follows_batch(value)
            else self.constant([value], np.int64)
            for value in values
        ]
        # Shape inference goes by this value.
        joined = self("Concat", *parts, axis=0)
        return Tensor(joined.name, joined.dtype, joined.dims, np.array(values, np.int64))

    def fixed(self, x: Tensor) -> Tensor:
        """Return ``x`` with its value, if it is a parameter; training leaves that value."""
        return self._builder.fixed(x)

    @property
    def training(self) -> bool:
        """Whether the conversion is for training, and not only for inference."""
        return self._builder.training

    @property
    def batch_size(self) -> Any:
        """The number of examples of a batch; ``BATCH`` where it is free."""
        return self._builder.batch_size

    def reshape(self, x: Tensor, shape: Iterable[Any]) -> Tensor:
        """Return ``x`` in another shape, all of whose sizes are given."""
        sizes = [int(size) for size in shape]
        if list(x.dims or [None]) == sizes:
            return x
        # Inference checks the count only where it has a size to fill in.
        if x.dims and None not in x.dims and math.prod(x.shape) != math.prod(sizes):
            found, wanted = describe_shape(x.dims), describe_shape(tuple(sizes))
            raise ValueError(f"a tensor of shape {found} cannot be reshaped to {wanted}")
        given = list(sizes)
        following = [i for i, size in enumerate(sizes) if follows_batch(size)]
        if len(following) == 1 and 0 not in sizes:
            given[following[0]] = -1
        result = self("Reshape", x, self.sizes(given), allowzero=1 if 0 in sizes else None)
        if list(result.shape) != sizes:
            raise ValueError(f"a tensor of shape {x.shape} cannot be reshaped to {tuple(sizes)}")
        return result

    def dtype(self, default: Any = np.float32, name: str = "dtype") -> np.dtype:
        """Return the type that an attribute names, or the default."""
        text = self.text(name, None)
        if text is None:
            return np.dtype(default)
        if text not in _DTYPES:
            raise self.unsupported(f"{name}={text!r}")
        return _DTYPES[text]

    def cast(self, x: Tensor, dtype: Any) -> Tensor:
        """Return ``x`` converted to a type; itself where it has that type."""
        dtype = np.dtype(dtype)
        if x.dtype == dtype:
            return x
        return self("Cast", x, to=helper.np_dtype_to_tensor_dtype(dtype))

    def unsupported(self, what: str) -> Unsupported:
        """Make the error for a use of the operator that has no conversion, to be raised."""
        return Unsupported(f"operator {self.node.operator} with {what}")
