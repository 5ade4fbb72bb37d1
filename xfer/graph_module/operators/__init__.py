"""The operators of ONNX in PyTorch; importing this registers them all."""

from xfer.graph_module.operators import (  # noqa: F401
    elementwise,
    layers,
    normalization,
    quantized,
    random,
    recurrent,
    reductions,
    sampling,
    shapes,
)
