"""The operators of ONNX in PyTorch; importing this registers them all."""

from xfer.graph_module.operators import (  # noqa: F401
    arithmetic,
    layers,
    shapes,
)
