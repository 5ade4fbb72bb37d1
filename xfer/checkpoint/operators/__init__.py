"""Conversions of MXNet's operators to ONNX: a small function for each, a file for each family."""

from xfer.checkpoint.operators import (  # noqa: F401
    arithmetic,
    layers,
    maths,
    pieces,
    pooling,
    products,
    quantized,
    reductions,
    sequence,
    shapes,
)
from xfer.checkpoint.operators.registry import OPERATORS, Unsupported

__all__ = ["OPERATORS", "Unsupported"]
