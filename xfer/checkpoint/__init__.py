"""MXNet checkpoints without MXNet: their bytes, their graphs, and their conversion to ONNX."""

from xfer.checkpoint.params import read_params, split_params, write_params
from xfer.checkpoint.symbol import Graph

__all__ = ["Graph", "read_params", "split_params", "write_params"]
