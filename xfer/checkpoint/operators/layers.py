# ruff: noqa: D103 - where the name of a conversion says what it does
"""Convolutions, dense layers, activations, output layers (softmax, losses), normalization."""

import warnings
from typing import Any

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor, describe_shape
from xfer.checkpoint.operators.registry import Call, Outputs, Result, operator

#: The text on an Identity that no gradient passes.
NO_GRADIENT = "no gradient"


@operator("Convolution", "Convolution_v1", "_npx_convolution")
def convolution(op: Call, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    kernel, settings = read_filters(op, weight)
    agree(x, 1, weight, 1, settings["group"])
    for size, k, p, d in zip((x.dims or ())[2:], kernel, settings["pads"], settings["dilations"]):
        if size is not None and size + 2 * p < d * (k - 1) + 1:
            raise ValueError(f"kernel={kernel} is larger than data of {describe_shape(x.dims)}")
    pads = [*settings.pop("pads")] * 2
    return op("Conv", x, weight, *bias, pads=pads, **settings)


@operator("Deconvolution", "_npx_deconvolution")
def deconvolution(op: Call, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    kernel, settings = read_filters(op, weight)
    agree(x, 1, weight, 0)
    begins = ends = settings.pop("pads")
    target = op.ints("target_shape", ()) or ()
    extra = op.ints("adj", ()) or None
    if any(target):
        if not all(target):
            raise op.unsupported(f"target_shape={target}")
        # What exceeds the target is cut off, the larger half at the front.
        sizes = zip(x.shape[2:], target, kernel, settings["strides"], settings["dilations"])
        cuts = [s * (size - 1) + d * (k - 1) + 1 - aim for size, aim, k, s, d in sizes]
        if min(cuts) < 0:
            raise ValueError(f"target_shape={target} is larger than all of the output")
        begins, ends, extra = [(cut + 1) // 2 for cut in cuts], [cut // 2 for cut in cuts], None
    pads = [*begins, *ends]
    return op("ConvTranspose", x, weight, *bias, pads=pads, output_padding=extra, **settings)


def read_filters(op: Call, weight: Tensor) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Return the kernel of a convolution, and its attributes in ONNX."""
    layout = op.text("layout", None)
    if layout and layout[1] != "C":
        # MXNet itself runs these only on GPUs.
        raise op.unsupported(f"layout={layout!r}")
    kernel = op.ints("kernel")
    if weight.dims is not None and tuple(weight.dims[2:]) != kernel:
        found = f"a weight of {describe_shape(weight.dims)}"
        raise ValueError(f"kernel={kernel} does not match {found}")
    ones = (1,) * len(kernel)
    return kernel, {
        "kernel_shape": kernel,
        "strides": op.ints("stride", None) or ones,
        "dilations": op.ints("dilate", None) or ones,
        "pads": op.ints("pad", None) or (0,) * len(kernel),
        "group": op.int("num_group", 1),
    }


def agree(x: Tensor, axis: int, parameter: Tensor, place: int = 0, times: int = 1) -> None:
    """Refuse data whose size does not match a parameter; ONNX's inference does not check it."""
    if x.dims is None or parameter.dims is None:
        return
    found, meant = x.dims[axis : axis + 1], parameter.dims[place : place + 1]
    if None in (*found, *meant):
        return
    if not found or tuple(found) != tuple(size * times for size in meant):
        data, shape = describe_shape(x.dims), describe_shape(parameter.dims)
        raise ValueError(f"data of {data} does not match a parameter of {shape}")


@operator("_contrib_DeformableConvolution")
def deformable_convolution(
    op: Call, x: Tensor, offset: Tensor, weight: Tensor, *bias: Tensor
) -> Tensor:
    """Convolve with filters whose points are moved by offsets.

    A point before the first pixel counts as zero in MXNet, and one up to a pixel behind the last
    counts as the last. ONNX interpolates both with zero, so such points are moved.
    """
    kernel, settings = read_filters(op, weight)
    groups = op.int("num_deformable_group", 1)
    grid = _grid(offset.shape, kernel, settings, groups)
    limits = np.tile(np.array(x.shape[2:], np.float32), groups * kernel[0] * kernel[1])
    size = op.constant(limits[:, np.newaxis, np.newaxis])
    place = op("Add", offset, op.constant(grid))
    outside = op("Or", op("Less", place, op.constant(0.0)), op("GreaterOrEqual", place, size))
    place = op("Min", place, op("Sub", size, op.constant(1.0)))
    place = op("Where", outside, op.constant(-2.0), place)
    offset = op("Sub", place, op.constant(grid))
    return modulated_deformable_convolution(op, x, offset, None, weight, *bias)


@operator("_contrib_ModulatedDeformableConvolution")
def modulated_deformable_convolution(
    op: Call, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, *bias: Tensor
) -> Tensor:
    """Convolve with filters whose points are moved by offsets and weighted by a mask."""
    _, settings = read_filters(op, weight)
    agree(x, 1, weight, 1, settings["group"])
    pads, groups = [*settings.pop("pads")] * 2, op.int("num_deformable_group", 1)
    parts = [offset, *(bias or (None,)), *([mask] if mask else [])]
    return op("DeformConv", x, weight, *parts, pads=pads, offset_group=groups, **settings)


def _grid(
    shape: tuple[int, ...], kernel: tuple[int, ...], settings: dict[str, Any], groups: int
) -> np.ndarray:
    """Return the rows and columns of the points before they are moved."""
    names = "dilations", "strides", "pads"
    steps, strides, pads = (np.reshape(settings[name], (2, 1, 1, 1, 1)) for name in names)
    index = np.indices((*kernel, *shape[2:]))
    points = index[:2] * steps + index[2:] * strides - pads
    points = np.moveaxis(points, 0, 2).reshape(-1, *shape[2:])
    return np.tile(points, (groups, 1, 1)).astype(np.float32)


@operator("FullyConnected", "_npx_fully_connected", "_sparse_FullyConnected")
def fully_connected(op: Call, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    flatten = op.flag("flatten", True)
    if flatten or x.rank == 2:
        rows = x if x.rank == 2 else op("Flatten", x, axis=1)
        return op("Gemm", rows, weight, *bias, transB=1)
    product = op("MatMul", x, op("Transpose", weight, perm=(1, 0)))
    return op("Add", product, *bias) if bias else product


@operator("Activation", "_npx_activation")
def activation(op: Call, x: Tensor) -> Tensor:
    kind = op.text("act_type")
    if kind == "softrelu":
        if op.training:
            return op("Softplus", x)  # what follows has no gradient at zero
        # Four times faster than ONNX Runtime's Softplus.
        small = op("Exp", op("Neg", op("Abs", x)))
        return op("Add", op("Relu", x), op("Log", op("Add", small, op.constant(1.0))))
    kinds = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softsign": "Softsign"}
    if kind not in kinds:
        raise op.unsupported(f"act_type={kind!r}")
    return op(kinds[kind], x)


@operator(
    *("LeakyReLU", "_npx_leaky_relu"),
    # With random slopes there is a second output, unset in inference.
    outputs=lambda op: ("output", "mask") if op.text("act_type", "") == "rrelu" else ("output",),
)
def leaky_relu(op: Call, x: Tensor, *gamma: Tensor) -> Tensor:
    kind = op.text("act_type", "leaky")
    if kind == "rrelu":
        # The slope is random only in training.
        mean = (op.float("lower_bound", 0.125) + op.float("upper_bound", 0.334)) / 2
        return op("LeakyRelu", x, alpha=mean)
    if kind == "prelu":
        return _prelu(op, x, *gamma)
    kinds = {"leaky": "LeakyRelu", "elu": "Elu", "selu": "Selu", "gelu": "Gelu"}
    if kind not in kinds:
        raise op.unsupported(f"act_type={kind!r}")
    slope = op.float("slope", 0.25) if kind in ("leaky", "elu") else None
    return op(kinds[kind], x, alpha=slope)


def _prelu(op: Call, x: Tensor, gamma: Tensor) -> Tensor:
    if gamma.value is not None and gamma.value.size == 1:
        return op("LeakyRelu", x, alpha=gamma.value.item())
    # The last axis of the slopes is the channel, the second axis of the data.
    leading = min(x.rank, 2)
    pairs = zip(reversed(gamma.shape), reversed(x.dims[:leading]))
    if len(gamma.shape) > leading or any(size not in (1, meant) for size, meant in pairs):
        shapes = f"{describe_shape(gamma.dims)} do not go with data of {describe_shape(x.dims)}"
        raise ValueError(f"slopes of {shapes}")
    slopes = op.reshape(gamma, [*gamma.shape, *[1] * (x.rank - leading)])
    if gamma.value is None or (gamma.value > 1).any():
        return op("PRelu", x, slopes)
    return op("Max", x, op("Mul", x, slopes))  # eight times faster in ONNX Runtime


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


operator("softmin")(
    lambda op, x: _softmax(op, op("Neg", _cooled(op, x)), [op.int("axis", -1) % x.rank])
)


@operator("log_softmax", "_npx_log_softmax")
def log_softmax(op: Call, x: Tensor) -> Tensor:
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


operator("SoftmaxActivation")(
    lambda op, x: _softmax(op, x, [1 if op.text("mode", "instance") == "channel" else x.rank - 1])
)


@operator("SoftmaxOutput", idle=(1,))
def softmax_output(op: Call, x: Tensor, label: Tensor | None = None) -> Tensor:
    """Compute softmax over an example, a position or the last axis."""
    if op.flag("multi_output", False):
        return _softmax(op, x, [1])
    if op.flag("preserve_shape", False) or x.rank == 1:
        return _softmax(op, x, [x.rank - 1])
    # Over the whole example, as documented; MXNet's MKL-DNN takes the last of four axes.
    return _softmax(op, x, list(range(1, x.rank)))


operator("LogisticRegressionOutput", "_sparse_LogisticRegressionOutput", idle=(1,))(
    lambda op, x, label=None: op("Sigmoid", x)
)


@operator("Dropout", "_npx_dropout")
def dropout(op: Call, x: Tensor) -> Tensor:
    """Do nothing in inference, which drops nothing."""
    if op.training:
        rate = op.constant(op.float("p", 0.5))
        axes = [axis % x.rank for axis in op.ints("axes", ()) or ()]
        if not axes:
            return op("Dropout", x, rate)
        sizes = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        ones = op("Expand", op.constant(1.0), op.sizes(sizes))
        return op("Mul", x, op("Dropout", ones, rate))
    if op.text("mode", "training") == "always":
        warnings.warn(
            f"layer {op.node.name!r} drops nothing: mode='always' is ignored", stacklevel=2
        )
    return x


@operator(
    *("LinearRegressionOutput", "_sparse_LinearRegressionOutput"),
    *("MAERegressionOutput", "_sparse_MAERegressionOutput", "SVMOutput"),
    *("MakeLoss", "make_loss", "_sparse_make_loss", "IdentityAttachKLSparseReg"),
    *("_copy", "_np_copy", "_CrossDeviceCopy", "_identity_with_attr_like_rhs"),
    idle=(1,),
)
def identity(op: Call, x: Tensor, other: Tensor | None = None) -> Tensor:
    """Do nothing: these differ only in their gradients."""
    return x


@operator("BlockGrad", "_sparse_stop_gradient")
def block_gradient(op: Call, x: Tensor) -> Tensor:
    """Do nothing; in training, nothing below learns from what is above."""
    return op("Identity", x, doc_string=NO_GRADIENT) if op.training else x


@operator("_contrib_gradientmultiplier")
def multiply_gradient(op: Call, x: Tensor) -> Tensor:
    """Do nothing; in training, multiply what passes backwards."""
    if not op.training:
        return x
    factor = op.float("scalar", 1.0)
    rest = op("Mul", x, op.constant(1 - factor))
    passed = op("Mul", x, op.constant(factor))
    return op("Add", passed, op("Identity", rest, doc_string=NO_GRADIENT))


def _with_statistics(*names: str) -> Outputs:
    return lambda op: ("output", *names) if op.flag("output_mean_var", False) else ("output",)


@operator(
    *("BatchNorm", "BatchNorm_v1", "_npx_batch_norm"),
    *("_contrib_SyncBatchNorm", "_contrib_BatchNormWithReLU"),
    outputs=_with_statistics("mean", "var"),
)
def batch_norm(
    op: Call, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
) -> Result:
    """Normalise channels by running statistics."""
    axis = op.int("axis", 1)
    axis = axis if axis == 1 else axis % x.rank
    for parameter in (beta, mean, variance):
        agree(x, axis, parameter)
    if op.flag("fix_gamma", True):
        gamma = op.constant(np.ones(beta.shape, np.float32))
    epsilon = op.float("eps", 1e-3)
    follows_batches = op.training and not op.flag("use_global_stats", False)
    if follows_batches or (axis == 1 and not op.training):
        order = [k for k in range(x.rank) if k != axis] if axis != 1 else []
        order[1:1] = [axis] if order else []
        moved = op("Transpose", x, perm=order) if order else x
        # In inference the momentum means nothing.
        momentum = op.float("momentum", 0.9) if op.training else None
        settings = {"epsilon": epsilon, "momentum": momentum}
        y = op("BatchNormalization", moved, gamma, beta, mean, variance, **settings)
        y = op("Transpose", y, perm=np.argsort(order).tolist()) if order else y
    else:
        # ONNX Runtime folds these where the parameters are constant.
        shape = [*beta.shape, *[1] * (x.rank - axis - 1)]
        scale = op("Mul", gamma, _inverse_deviation(op, variance, epsilon))
        shift = op("Sub", beta, op("Mul", mean, scale))
        y = op("Mul", x, op.reshape(scale, shape))
        y = op("Add", y, op.reshape(shift, shape))
    if op.node.operator == "_contrib_BatchNormWithReLU":
        y = op("Relu", y)
    if not op.flag("output_mean_var", False):
        return y
    if op.node.operator == "_contrib_SyncBatchNorm":
        # MXNet leaves these outputs unset.
        raise op.unsupported("output_mean_var=True")
    if op.node.operator == "BatchNorm_v1":
        return y, mean, variance
    return y, mean, _inverse_deviation(op, variance, epsilon)


def _inverse_deviation(op: Call, variance: Tensor, epsilon: float) -> Tensor:
    return op("Reciprocal", op("Sqrt", op("Add", variance, op.constant(epsilon))))


@operator("LayerNorm", "_npx_layer_norm", outputs=_with_statistics("mean", "std"))
def layer_norm(op: Call, x: Tensor, gamma: Tensor, beta: Tensor) -> Result:
    axis = op.int("axis", -1) % x.rank
    agree(x, axis, gamma)
    agree(x, axis, beta)
    order = [*(k for k in range(x.rank) if k != axis), axis]

    def turned(tensor: Tensor, order: list[int]) -> Tensor:
        return tensor if axis == x.rank - 1 else op("Transpose", tensor, perm=order)

    rows, epsilon = turned(x, order), op.float("eps", 1e-5)
    kind, back = "LayerNormalization", np.argsort(order).tolist()
    if not op.flag("output_mean_var", False):
        return turned(op(kind, rows, gamma, beta, epsilon=epsilon), back)
    y, mean, inverse = op(kind, rows, gamma, beta, epsilon=epsilon, outputs=3)
    return turned(y, back), turned(mean, back), turned(op("Reciprocal", inverse), back)


@operator("InstanceNorm")
def instance_norm(op: Call, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    agree(x, 1, gamma)
    agree(x, 1, beta)
    return op("InstanceNormalization", x, gamma, beta, epsilon=op.float("eps", 1e-3))


@operator("GroupNorm", outputs=_with_statistics("mean", "std"))
def group_norm(op: Call, x: Tensor, gamma: Tensor, beta: Tensor) -> Result:
    """Normalise groups of channels of each example, with a scale and a shift for each group."""
    groups, epsilon = op.int("num_groups", 1), op.float("eps", 1e-5)
    if gamma.shape != (groups,) or beta.shape != (groups,):
        raise ValueError(f"parameters of {describe_shape(gamma.dims)} for {groups} groups")
    rows = op("Reshape", x, op.constant([0, groups, -1]))
    y = op("InstanceNormalization", rows, gamma, beta, epsilon=epsilon)
    y = op.reshape(y, x.shape)
    if not op.flag("output_mean_var", False):
        return y
    last = op.constant([2])
    mean = op("ReduceMean", rows, last)
    away = op("Sub", rows, mean)
    variance = op("ReduceMean", op("Mul", away, away), last, keepdims=0)
    deviation = op("Sqrt", op("Add", variance, op.constant(epsilon)))
    return y, op("Squeeze", mean, last), deviation


@operator("L2Normalization")
def l2_normalization(op: Call, x: Tensor) -> Tensor:
    """Divide by the Euclidean norm of an example, a position or a channel."""
    mode = op.text("mode", "instance")
    axes = {"instance": range(1, x.rank), "channel": [1], "spatial": range(2, x.rank)}
    if mode not in axes:
        raise op.unsupported(f"mode={mode!r}")
    squares = op("ReduceSumSquare", x, op.constant(list(axes[mode])))
    length = op("Sqrt", op("Add", squares, op.constant(op.float("eps", 1e-10))))
    return op("Div", x, length)


@operator("LRN")
def local_response_norm(op: Call, x: Tensor) -> Tensor:
    """Divide by a power of the mean square of neighbouring channels, plus a constant."""
    size, alpha, beta = op.int("nsize"), op.float("alpha", 1e-4), op.float("beta", 0.75)
    if size % 2 == 0 or x.rank < 3:
        raise op.unsupported(f"nsize={size} on data of {x.rank} dimensions")
    channels = x.dims[1]
    if channels is None:
        return op("LRN", x, size=size, alpha=alpha, beta=beta, bias=op.float("knorm", 2.0))
    # A convolution over channels, and roots as the power: five times faster in ONNX Runtime.
    place = np.arange(channels)
    near = np.abs(place[:, None] - place) <= size // 2
    band = (near * alpha / size).reshape(channels, channels, *[1] * (x.rank - 2))
    bias = np.full(channels, op.float("knorm", 2.0))
    scale = op("Conv", op("Mul", x, x), op.constant(band), op.constant(bias))
    if beta != 0.75:
        return op("Div", x, op("Pow", scale, op.constant(beta)))
    root = op("Sqrt", scale)
    return op("Div", x, op("Mul", root, op("Sqrt", root)))
