"""Output layers: softmax, losses, and operators that do nothing in inference."""

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor
from xfer.checkpoint.operators.registry import Call, operator


@operator("softmax", "_npx_softmax")
def softmax(op: Call, x: Tensor, length: Tensor | None = None) -> Tensor:
    """Compute softmax along an axis; with lengths, over the beginning of each row."""
    x = _cooled(op, x)
    axis = op.int("axis", -1) % x.rank
    if length is None:
        return _softmax(op, x, [axis])
    places = np.arange(x.shape[axis]).reshape([-1, *[1] * (x.rank - 1 - axis)])
    ends = op("Unsqueeze", op.cast(length, np.int64), op.constant([axis]))
    used = op("Less", op.constant(places, np.int64), ends)
    masked = op("Where", used, x, op.constant(-np.inf))
    return op("Where", used, _softmax(op, masked, [axis]), op.constant(0.0))


@operator("softmin")
def softmin(op: Call, x: Tensor) -> Tensor:
    """Compute softmax of the negative along an axis."""
    return _softmax(op, op("Neg", _cooled(op, x)), [op.int("axis", -1) % x.rank])


@operator("log_softmax", "_npx_log_softmax")
def log_softmax(op: Call, x: Tensor) -> Tensor:
    """Compute the logarithm of softmax along an axis."""
    x = _cooled(op, x)
    axis = op.int("axis", -1) % x.rank
    if axis == x.rank - 1:
        return op("LogSoftmax", x, axis=-1)
    axes = op.constant([axis])
    shifted = op("Sub", x, op("ReduceMax", x, axes))
    return op("Sub", shifted, op("Log", op("ReduceSum", op("Exp", shifted), axes)))


def _cooled(op: Call, x: Tensor) -> Tensor:
    if op.flag("use_length", False) and op.node.operator not in ("softmax", "_npx_softmax"):
        raise op.unsupported("use_length=True")
    temperature = op.float("temperature", None)
    return x if temperature is None else op("Div", x, op.constant(temperature))


def _softmax(op: Call, x: Tensor, axes: list[int]) -> Tensor:
    if axes == [x.rank - 1]:
        return op("Softmax", x, axis=-1)
    # Ten times faster than ONNX Runtime's Softmax, which transposes the axis to the end and back.
    along = op.constant(axes)
    powers = op("Exp", op("Sub", x, op("ReduceMax", x, along)))
    return op("Div", powers, op("ReduceSum", powers, along))


@operator("SoftmaxActivation")
def softmax_activation(op: Call, x: Tensor) -> Tensor:
    """Compute softmax along the last axis or the channels."""
    return _softmax(op, x, [1 if op.text("mode", "instance") == "channel" else x.rank - 1])


@operator("SoftmaxOutput", idle=(1,))
def softmax_output(op: Call, x: Tensor, label: Tensor | None = None) -> Tensor:
    """Compute softmax over an example, a position or the last axis."""
    if op.flag("multi_output", False):
        return _softmax(op, x, [1])
    if op.flag("preserve_shape", False) or x.rank == 1:
        return _softmax(op, x, [x.rank - 1])
    # Over the whole example, as documented; MXNet's MKL-DNN takes the last of four axes.
    return _softmax(op, x, list(range(1, x.rank)))


@operator("LogisticRegressionOutput", "_sparse_LogisticRegressionOutput", idle=(1,))
def logistic_regression_output(op: Call, x: Tensor, label: Tensor | None = None) -> Tensor:
    """Compute the sigmoid."""
    return op("Sigmoid", x)


@operator("Dropout", "_npx_dropout")
def dropout(op: Call, x: Tensor) -> Tensor:
    """Do nothing: inference drops nothing."""
    if op.text("mode", "training") == "always":
        raise op.unsupported("mode='always'")
    return x


@operator(
    *("LinearRegressionOutput", "_sparse_LinearRegressionOutput"),
    *("MAERegressionOutput", "_sparse_MAERegressionOutput", "SVMOutput"),
    *("MakeLoss", "make_loss", "_sparse_make_loss", "IdentityAttachKLSparseReg"),
    *("BlockGrad", "_sparse_stop_gradient", "_contrib_gradientmultiplier"),
    *("_copy", "_np_copy", "_CrossDeviceCopy"),
    idle=(1,),
)
def identity(op: Call, x: Tensor, other: Tensor | None = None) -> Tensor:
    """Do nothing: these differ only in their gradients."""
    return x
