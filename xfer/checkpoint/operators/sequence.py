"""Lookups by index, sequences of different lengths, and recurrent networks."""

import math
from typing import Any

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor, describe_shape, follows_batch
from xfer.checkpoint.operators.registry import Attributes, Call, Result, operator
from xfer.checkpoint.operators.shapes import integers_below


@operator("Embedding", "_npx_embedding", "_sparse_Embedding", "_contrib_SparseEmbedding")
def embedding(op: Call, ids: Tensor, weight: Tensor) -> Tensor:
    """Look rows up in a table; ids out of range mean its first or last row."""
    rows = op.int("input_dim")
    if weight.dims is not None and weight.dims[0] not in (None, rows):
        raise ValueError(f"input_dim={rows}, and the table is {weight.dims}")
    return op("Gather", weight, _clip(op, ids, _whole(op, rows - 1)), axis=0)


@operator("take", "_npi_take")
def take(op: Call, x: Tensor, ids: Tensor) -> Tensor:
    """Look entries up along an axis."""
    mode, axis = op.text("mode", "clip"), op.int("axis", 0)
    if mode == "raise":
        # ONNX counts negative ids from the end, where MXNet raises an error.
        return op("Gather", x, op.cast(ids, np.int64), axis=axis)
    return op("Gather", x, _within(op, x, axis, ids, mode), axis=axis)


@operator("pick", "_npx_pick")
def pick(op: Call, x: Tensor, ids: Tensor) -> Tensor:
    """Look up one entry along an axis for each position on the other axes."""
    axis = op.int("axis", -1)
    if axis is None:
        raise op.unsupported("axis=None")
    ids = _within(op, x, axis, ids, op.text("mode", "clip"))
    return _pick(op, x, ids, axis % x.rank, op.flag("keepdims", False))


operator("batch_take")(lambda op, x, ids: _pick(op, x, _within(op, x, 1, ids, "clip"), 1, False))


operator("gather_nd", "_npi_gather_nd", "_npx_gather_nd")(
    lambda op, x, ids: op("GatherND", x, _places(op, ids))
)
operator("scatter_nd")(
    lambda op, x, ids: op(
        "ScatterND", op.constant(np.zeros(op.ints("shape"), x.dtype)), _places(op, ids), x
    )
)


@operator("one_hot", "_npx_one_hot")
def one_hot(op: Call, ids: Tensor) -> Tensor:
    """Encode ids one-hot on a new last axis; ids out of range mark nothing."""
    dtype = op.dtype()
    on, off = op.float("on_value", 1.0), op.float("off_value", 0.0)
    if dtype.kind in "iu":
        # As in C: fractions are cut off, then values out of range wrap around.
        on, off = (np.asarray(int(value)).astype(dtype) for value in (on, off))
    ids = op("Unsqueeze", op.cast(ids, np.int64), _whole(op, [-1]))
    marked = op("Equal", ids, _whole(op, np.arange(op.int("depth"))))
    return op("Where", marked, op.constant(on, dtype), op.constant(off, dtype))


@operator("SequenceMask", "_npx_sequence_mask")
def sequence_mask(op: Call, x: Tensor, lengths: Any = None) -> Tensor:
    """Overwrite the steps after the end of each sequence."""
    axis = op.int("axis", 0)
    if not op.flag("use_sequence_length", False):
        return x
    rank = x.rank
    steps = _along(op, integers_below(op, (x, axis)), axis, rank)
    lengths = _along(op, op.cast(lengths, np.int64), 1 - axis, rank)
    value = op.constant(np.asarray(op.float("value", 0.0)).astype(x.dtype))
    return op("Where", op("Less", steps, lengths), x, value)


@operator("SequenceLast")
def sequence_last(op: Call, x: Tensor, lengths: Any = None) -> Tensor:
    """Return the last step of each sequence."""
    axis = op.int("axis", 0)
    if not op.flag("use_sequence_length", False):
        return op("Gather", x, _whole(op, -1), axis=axis)
    if axis == 0:
        x = op("Transpose", x, perm=(1, 0, *range(2, x.rank)))
    last = op("Sub", op.cast(lengths, np.int64), _whole(op, 1))
    return op("GatherND", x, op("Unsqueeze", last, _whole(op, [1])), batch_dims=1)


@operator("SequenceReverse")
def sequence_reverse(op: Call, x: Tensor, lengths: Any = None) -> Tensor:
    """Reverse each sequence, and keep the steps after its end."""
    if op.flag("use_sequence_length", False):
        lengths = op.cast(lengths, np.int64)
        return op("ReverseSequence", x, lengths, time_axis=0, batch_axis=1)
    start, end = _whole(op, [-1]), _whole(op, [np.iinfo(np.int64).min])
    return op("Slice", x, start, end, _whole(op, [0]), _whole(op, [-1]))


def _whole(op: Call, value: Any) -> Tensor:
    return op.constant(value, np.int64)


def _clip(op: Call, ids: Tensor, last: Tensor) -> Tensor:
    return op("Clip", op.cast(ids, np.int64), _whole(op, 0), last)


def _within(op: Call, x: Tensor, axis: int, ids: Tensor, mode: str) -> Tensor:
    """Return ids as integers within an axis."""
    size = None if x.dims is None else x.dims[axis]
    unknown = size is None or follows_batch(size)
    size = op("Gather", op("Shape", x), _whole(op, axis)) if unknown else _whole(op, size)
    if mode == "clip":
        return _clip(op, ids, op("Sub", size, _whole(op, 1)))
    if mode == "wrap":
        return op("Mod", op.cast(ids, np.int64), size)
    raise op.unsupported(f"mode={mode!r}")


def _along(op: Call, vector: Tensor, axis: int, rank: int) -> Tensor:
    others = [place for place in range(rank) if place != axis]
    return op("Unsqueeze", vector, _whole(op, others)) if others else vector


def _pick(op: Call, x: Tensor, ids: Tensor, axis: int, keepdims: bool) -> Tensor:
    if ids.rank < x.rank:
        ids = op("Unsqueeze", ids, _whole(op, [axis]))
    picked = op("GatherElements", x, ids, axis=axis)
    return picked if keepdims else op("Squeeze", picked, _whole(op, [axis]))


def _places(op: Call, ids: Tensor) -> Tensor:
    """Move the indices of an entry on all axes from the first axis to the last."""
    ids = op.cast(ids, np.int64)
    return op("Transpose", ids, perm=(*range(1, ids.rank), 0))


# ONNX's operator, the order of MXNet's gates in it, and its attributes.
_MODES: dict[str, tuple[str, list[int], dict[str, Any]]] = {
    "lstm": ("LSTM", [0, 3, 1, 2], {}),
    "gru": ("GRU", [1, 0, 2], {"linear_before_reset": 1}),
    "rnn_tanh": ("RNN", [0], {"activations": ["Tanh", "Tanh"]}),
    "rnn_relu": ("RNN", [0], {"activations": ["Relu", "Relu"]}),
}


def _outputs(attributes: Attributes) -> tuple[str, ...]:
    if not attributes.flag("state_outputs", False):
        return ("output",)
    names = ("output", "state_output", "statecell_output")
    return names if attributes.text("mode") == "lstm" else names[:2]


@operator("RNN", "_npx_rnn", outputs=_outputs)
def rnn(op: Call, x: Tensor, parameters: Tensor, *states: Tensor) -> Result:
    """Run layers one after the other over x (steps, examples, features)."""
    for name in ("projection_size", "lstm_state_clip_min", "lstm_state_clip_max"):
        if op.text(name, None) is not None:
            raise op.unsupported(name)
    if op.text("mode") not in _MODES:
        raise op.unsupported(f"mode={op.text('mode')!r}")
    kind, gates, attributes = _MODES[op.text("mode")]
    layers, directions = op.int("num_layers"), 2 if op.flag("bidirectional", False) else 1
    hidden = op.int("state_size")
    attributes = {**attributes, "hidden_size": hidden}
    attributes["direction"] = "forward" if directions == 1 else "bidirectional"
    if "activations" in attributes:
        attributes["activations"] = attributes["activations"][:directions]
    lengths = None
    if op.flag("use_sequence_length", False):
        states, lengths = states[:-1], op.cast(states[-1], np.int32)
    weights = _split_parameters(op, parameters, x, layers, directions, hidden, gates)
    shape = (layers * directions, x.dims[1] if x.dims else None, hidden)
    before = [_split_state(op, state, shape, layers) for state in states]
    after: list[Any] = []
    rate = op.float("p", 0.0)
    for arrays, *start in zip(weights, *before):
        if after and op.training and rate:
            x = op("Dropout", x, op.constant(rate))
        y, *end = op(kind, x, *arrays, lengths, *start, outputs=1 + len(states), **attributes)
        after.append(end)
        # From (steps, directions, examples, hidden) to (steps, examples, directions * hidden).
        if directions == 1:
            x = op("Squeeze", y, _whole(op, [1]))
        else:
            side_by_side = op("Transpose", y, perm=(0, 2, 1, 3))
            x = op("Reshape", side_by_side, _whole(op, [0, 0, directions * hidden]))
    if not op.flag("state_outputs", False):
        return x
    return x, *(op("Concat", *ends, axis=0) if layers > 1 else ends[0] for ends in zip(*after))


def _split_parameters(
    op: Call,
    parameters: Tensor,
    x: Tensor,
    layers: int,
    directions: int,
    hidden: int,
    gates: list[int],
) -> list[tuple[Tensor, ...]]:
    """Return W, R and B of ONNX for each layer.

    MXNet has one vector: first the matrices for the input and for the state, layer by layer and
    direction by direction; then, in the same order, the biases of both.
    """
    size, rows, later = math.prod(parameters.shape), len(gates) * hidden, directions * hidden
    rest = layers * (hidden + 2) + (layers - 1) * later
    features = size // (rows * directions) - rest
    if features < 1 or size != rows * directions * (features + rest):
        raise ValueError(f"{size} parameters do not make {layers} layers of {hidden}")
    if x.dims is not None and x.dims[-1] not in (None, features):
        raise ValueError(f"it takes {features} features, not those of {describe_shape(x.dims)}")
    flat, place = op.reshape(parameters, [size]), 0

    def read(*shape: int) -> Tensor:
        """Read gates, and put them into the order of ONNX."""
        nonlocal place
        ends = _whole(op, [place]), _whole(op, [place + rows * math.prod(shape)])
        place += rows * math.prod(shape)
        part = op.reshape(op("Slice", flat, *ends), [len(gates), hidden, *shape])
        part = op("Gather", part, _whole(op, gates)) if len(gates) > 1 else part
        return op.reshape(part, [1, rows, *shape])

    def joined(parts: list[Tensor], axis: int) -> Tensor:
        return op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]

    def read_pairs(columns: int) -> tuple[Tensor, Tensor]:
        pairs = [(read(columns), read(hidden)) for _ in range(directions)]
        return joined([w for w, _ in pairs], 0), joined([r for _, r in pairs], 0)

    matrices = [read_pairs(features if layer == 0 else later) for layer in range(layers)]
    biases = [
        joined([joined([read(), read()], 1) for _ in range(directions)], 0) for _ in range(layers)
    ]
    return [(*pair, bias) for pair, bias in zip(matrices, biases)]


def _split_state(
    op: Call, state: Tensor, shape: tuple[Any, ...], layers: int
) -> list[Tensor | None]:
    """Return the initial state of each layer; None where it is zeros."""
    if state.value is not None and not state.value.any():
        return [None] * layers
    found = state.dims or shape
    if len(found) != 3 or any(a != b for a, b in zip(found, shape) if None not in (a, b)):
        saved = op.fixed(state).value
        if saved is not None and not saved.any():
            return [None] * layers
        wanted = describe_shape(shape)
        raise ValueError(f"its state must have shape {wanted}, got {describe_shape(found)}")
    if layers == 1:
        return [state]
    parts = op.constant([shape[0] // layers] * layers, np.int64)
    return op("Split", state, parts, axis=0, outputs=layers)
