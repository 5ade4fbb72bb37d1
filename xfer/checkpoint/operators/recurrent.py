"""Recurrent networks: any number of layers in one operator."""

from typing import Any

import numpy as np

from xfer.checkpoint.onnx_builder import Tensor, describe_shape
from xfer.checkpoint.operators.registry import Attributes, Call, Result, operator

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
    if "activations" in attributes:
        attributes = {"activations": attributes["activations"][:directions]}
    lengths = None
    if op.flag("use_sequence_length", False):
        states, lengths = states[:-1], op.cast(states[-1], np.int32)
    weights = _split_parameters(parameters, x, layers, directions, hidden, gates)
    shape = (layers * directions, x.dims[1] if x.dims else None, hidden)
    before = [_split_state(op, state, shape, layers) for state in states]
    after = []
    for arrays, *start in zip(weights, *before):
        y, *end = op(
            kind,
            x,
            *map(op.constant, arrays),
            lengths,
            *start,
            outputs=1 + len(states),
            hidden_size=hidden,
            direction="forward" if directions == 1 else "bidirectional",
            **attributes,
        )
        after.append(end)
        x = _join_directions(op, y, directions * hidden)
    if not op.flag("state_outputs", False):
        return x
    return x, *(op("Concat", *ends, axis=0) if layers > 1 else ends[0] for ends in zip(*after))


def _split_parameters(
    parameters: Tensor, x: Tensor, layers: int, directions: int, hidden: int, gates: list[int]
) -> list[tuple[np.ndarray, ...]]:
    """Return W, R and B of ONNX for each layer.

    MXNet has one vector: first the matrices for the input and for the state, layer by layer and
    direction by direction; then, in the same order, the biases of both.
    """
    if parameters.value is None:
        raise ValueError("its parameters must not depend on the data")
    flat, rows, later = parameters.value.ravel(), len(gates) * hidden, directions * hidden
    rest = layers * (hidden + 2) + (layers - 1) * later
    features = flat.size // (rows * directions) - rest
    if features < 1 or flat.size != rows * directions * (features + rest):
        raise ValueError(f"{flat.size} parameters do not make {layers} layers of {hidden}")
    if x.dims is not None and x.dims[-1] not in (None, features):
        raise ValueError(f"it takes {features} features, not those of {describe_shape(x.dims)}")
    place = 0

    def read(columns: int) -> np.ndarray:
        nonlocal place
        found = flat[place : place + rows * columns]
        place += found.size
        return found.reshape(len(gates), hidden, columns)[gates].reshape(rows, columns)

    def read_pairs(columns: int) -> list[list[np.ndarray]]:
        return [[read(columns), read(hidden)] for _ in range(directions)]

    matrices = [read_pairs(features if layer == 0 else later) for layer in range(layers)]
    biases = [[[read(1), read(1)] for _ in range(directions)] for _ in range(layers)]
    return [
        (*map(np.stack, zip(*pairs)), np.reshape(bias, (directions, -1)))
        for pairs, bias in zip(matrices, biases)
    ]


def _split_state(
    op: Call, state: Tensor, shape: tuple[Any, ...], layers: int
) -> list[Tensor | None]:
    """Return the initial state of each layer; None where it is zeros."""
    if state.value is not None and not state.value.any():
        return [None] * layers
    found = state.dims or shape
    if len(found) != 3 or any(a != b for a, b in zip(found, shape) if None not in (a, b)):
        raise ValueError(
            f"its state is {describe_shape(found)}, and has to be {describe_shape(shape)}"
        )
    if layers == 1:
        return [state]
    parts = op.constant([shape[0] // layers] * layers, np.int64)
    return op("Split", state, parts, axis=0, outputs=layers)


def _join_directions(op: Call, y: Tensor, size: int) -> Tensor:
    """Turn (steps, directions, examples, hidden) into (steps, examples, directions * hidden)."""
    if y.dims[1] == 1:
        return op("Squeeze", y, op.constant([1], np.int64))
    side_by_side = op("Transpose", y, perm=(0, 2, 1, 3))
    return op("Reshape", side_by_side, op.constant([0, 0, size], np.int64))
