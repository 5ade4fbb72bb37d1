"""PyTorch networks as ONNX models, by PyTorch's own exporter."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from xfer.checkpoint.onnx_builder import OPSET
from xfer.sources.base import OnnxLayers
from xfer.sources.data import to_numpy


class _Traced(torch.nn.Module):
    """A network that takes tensors in the order of its inputs and returns outputs of layers."""

    def __init__(self, source: Any, layers: Sequence[str], inputs: Sequence[str]) -> None:
        super().__init__()
        self.network, self.source, self.layers, self.inputs = source.module, source, layers, inputs

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the network."""
        return tuple(self.source.outputs_of(self.layers, dict(zip(self.inputs, tensors))))


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out warnings about what the exporter uses inside, such as an absent torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def export(source: Any, layers: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> OnnxLayers:
    """Trace the network of a source on some inputs; the number of examples is free.

    So is the second axis of inputs of integers, which is that of words.
    """
    body, given = _Traced(source, layers, [*tensors]), tuple(tensors.values())
    names = [f"layer_{index}" for index in range(len(layers))]
    free = torch.export.Dim.DYNAMIC
    axes = [2 if one.ndim == 2 and not one.is_floating_point() else 1 for one in given]
    with _quiet():
        arrays = [to_numpy(one) for one in body(*given)]
        try:
            program: Any = torch.onnx.export(
                body,
                given,
                dynamo=True,
                dynamic_shapes={"tensors": tuple(dict.fromkeys(range(n), free) for n in axes)},
                input_names=[*tensors],
                output_names=names,
                opset_version=OPSET,
                verbose=False,
            )
        except ImportError as error:
            raise ImportError(
                f"exporting a PyTorch network needs onnxscript: pip install onnxscript ({error})"
            ) from error
        except Exception as error:
            reason = " ".join(str(error).split())[-500:]
            raise ValueError(f"PyTorch cannot export the network to ONNX: {reason}") from error
    model = program.model_proto
    del model.graph.value_info[:]
    for value, n in zip(model.graph.input, axes):
        for axis, name in enumerate(("batch", "tokens")[:n]):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    return OnnxLayers(model, names, arrays, [(0, 1)] * len(names))
