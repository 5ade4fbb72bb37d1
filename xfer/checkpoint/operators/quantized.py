"""Networks in 8 bits, as ``mx.contrib.quantization`` makes them for CPUs.

A quantized tensor has three parts: integers, and the two ends of the range that they cover. Here
it becomes real numbers before each layer with weights, and is quantized again after it.
"""

import numpy as np

from xfer.checkpoint.legacy import upgrade
from xfer.checkpoint.onnx_builder import Tensor
from xfer.checkpoint.operators.layers import activation
from xfer.checkpoint.operators.pooling import pooling
from xfer.checkpoint.operators.registry import (
    OPERATORS,
    Attributes,
    Call,
    Result,
    numbered_outputs,
    operator,
)
from xfer.checkpoint.operators.shapes import flatten
from xfer.checkpoint.symbol import Node

_SIGNED, _UNSIGNED = np.dtype(np.int8), np.dtype(np.uint8)
# Activations whose outputs MXNet stores without a sign.
_NOT_NEGATIVE = ("relu", "sigmoid", "softrelu")


def _with_range(_: Attributes) -> tuple[str, ...]:
    return "output", "min_output", "max_output"


def _scale(op: Call, dtype: np.dtype, low: float, high: float) -> float:
    """Return the scale of a quantized tensor: how many steps are 1.0, or 0 if all of it is 0."""
    if dtype not in (_SIGNED, _UNSIGNED):
        raise op.unsupported(f"numbers of {dtype}")
    return (np.iinfo(dtype).max + 0.5) / (max(abs(low), abs(high)) or np.inf)


def _ends(op: Call, low: Tensor, high: Tensor) -> tuple[float, float]:
    ends = op.fixed(low).value, op.fixed(high).value
    if ends[0] is None or ends[1] is None:
        raise op.unsupported("a range that depends on the data")
    return ends[0].item(), ends[1].item()


def _real(op: Call, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    # Not DequantizeLinear: ONNX Runtime would round the weights of the layer below it another way.
    scale = _scale(op, x.dtype, *_ends(op, low, high))
    return op("Mul", op.cast(x, np.float32), op.constant(1 / scale if scale else 0.0))


def _quantized(op: Call, x: Tensor, signed: bool, low: float, high: float) -> Result:
    dtype = _SIGNED if signed else _UNSIGNED
    limits = np.iinfo(dtype)
    codes = op("Round", op("Mul", x, op.constant(_scale(op, dtype, low, high))))
    codes = op("Clip", codes, op.constant(float(limits.min)), op.constant(float(limits.max)))
    return op.cast(codes, dtype), op.constant([low]), op.constant([high])


def _calibrated(op: Call) -> tuple[float, float]:
    low, high = op.float("min_calib_range", None), op.float("max_calib_range", None)
    if low is None or high is None:
        raise op.unsupported("no calibrated range: results would depend on the other examples")
    return low, high


@operator("_contrib_quantize_v2", outputs=numbered_outputs(lambda _: 3))
def quantize(op: Call, x: Tensor) -> Result:
    """Round to 8 bits within the calibrated range."""
    (low, high), kind = _calibrated(op), op.text("out_type", "int8")
    signed = low < 0 if kind == "auto" else kind == "int8"
    if signed:
        high = max(abs(low), abs(high))
        low = -high
    return _quantized(op, x, signed, low, high)


operator("_contrib_dequantize")(_real)


@operator("_contrib_quantized_pooling", outputs=_with_range)
def quantized_pooling(op: Call, x: Tensor, low: Tensor, high: Tensor) -> Result:
    """Pool; means are rounded."""
    return op.cast(op("Round", pooling(op, op.cast(x, np.float32))), x.dtype), low, high


@operator("_contrib_quantized_flatten", outputs=_with_range)
def quantized_flatten(op: Call, x: Tensor, low: Tensor, high: Tensor) -> Result:
    """Make each example a vector."""
    return flatten(op, x), low, high


@operator("_contrib_quantized_act", outputs=_with_range)
def quantized_activation(op: Call, x: Tensor, low: Tensor, high: Tensor) -> Result:
    """Set negative numbers to 0."""
    if op.text("act_type") != "relu":
        raise op.unsupported(f"act_type={op.text('act_type')!r}")
    return op.cast(activation(op, op.cast(x, np.float32)), x.dtype), low, high


@operator("_contrib_quantized_concat", outputs=_with_range)
def quantized_concat(op: Call, *inputs: Tensor) -> Result:
    """Join tensors, rescaled to the largest of their ranges."""
    count = len(inputs) // 3
    parts, lows, highs = inputs[:count], inputs[count::2], inputs[count + 1 :: 2]
    reals = [_real(op, *part) for part in zip(parts, lows, highs)]
    ends = [_ends(op, *pair) for pair in zip(lows, highs)]
    signed = any(part.dtype == _SIGNED for part in parts)
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return _quantized(op, op("Concat", *reals, axis=op.int("dim", 1)), signed, low, high)


def _has_range(op: Attributes) -> bool:
    return op.flag("quantized", False) and not op.flag("enable_float_output", False)


@operator(
    "_sg_mkldnn_fully_connected",
    outputs=lambda op: _with_range(op) if _has_range(op) else ("output",),
)
@operator(
    "_sg_mkldnn_conv",
    outputs=lambda op: ("output", "output_min", "output_max") if _has_range(op) else ("output",),
)
def fused(op: Call, *inputs: Tensor) -> Result:
    """Run a convolution or dense layer with the layers that MXNet fused with it, a subgraph."""
    nodes, ((head, _),) = upgrade(op.node.subgraphs[0])
    inner = [Node(*node) for node in nodes]
    variables = [node_id for node_id, node in enumerate(inner) if node.is_variable]
    sources, ranges = list(inputs[: len(variables)]), iter(inputs[len(variables) :])
    quantized = op.flag("quantized", False)
    if quantized:
        sources = [
            x if x.dtype == np.float32 else _real(op, x, next(ranges), next(ranges))
            for x in sources
        ]
        if inputs[1].dtype == np.float32:
            sources[1] = _rounded_weights(op, inputs[1])
    values = dict(zip(variables, sources))
    for node_id, node in enumerate(inner):
        if node.is_variable:
            continue
        convert = OPERATORS[node.operator].convert
        found = convert(Call(op._builder, node), *(values[source] for source, _ in node.inputs))
        values[node_id] = found if isinstance(found, Tensor) else found[0]
    if not _has_range(op):
        return values[head]
    last = inner[head]
    kind = last.attributes.get("act_type")
    signed = not (
        last.operator == "clip" or (last.operator == "Activation" and kind in _NOT_NEGATIVE)
    )
    return _quantized(op, values[head], signed, *_calibrated(op))


def _rounded_weights(op: Call, weight: Tensor) -> Tensor:
    """Round the weights of each channel to 8 bits."""
    values = op.fixed(weight).value
    if values is None:
        raise op.unsupported("weights that depend on the data")
    largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
    # In single precision, as in MXNet: the largest weight is halfway between two codes. (With a
    # BatchNorm, MXNet multiplies by its scale before rounding, and may get the other code.)
    scale = np.float32(127.5) / np.where(largest, largest, np.float32(1))
    return op.constant(np.round(values * scale).clip(-128, 127) / scale)
