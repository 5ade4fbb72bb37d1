"""ONNX graphs as PyTorch modules."""

from xfer.graph_module import operators  # noqa: F401 - registers them
from xfer.graph_module.build import build_module
from xfer.graph_module.registry import OPERATORS, Unsupported

__all__ = ["OPERATORS", "Unsupported", "build_module"]
