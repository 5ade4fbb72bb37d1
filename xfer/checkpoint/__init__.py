"""MXNet checkpoints without MXNet: their bytes, their graphs, and their conversion to ONNX."""

from xfer.checkpoint.params import read_params, split_params, write_params
from xfer.checkpoint.symbol import MxGraph

__all__ = ["MxGraph", "read_params", "split_params", "write_params"]
