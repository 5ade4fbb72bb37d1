"""MXNet checkpoints without MXNet: their bytes, their graphs, and their conversion to ONNX."""
