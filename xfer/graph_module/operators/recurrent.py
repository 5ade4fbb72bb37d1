"""Recurrent networks: PyTorch's own where they do the same, and otherwise step by step."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xfer.graph_module.operators.shapes import reversed_steps
from xfer.graph_module.registry import operator

# By name: the function of x, alpha and beta, and the defaults of these.
_ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...]]] = {
    "Relu": (torch.relu, ()),
    "Tanh": (torch.tanh, ()),
    "Sigmoid": (torch.sigmoid, ()),
    "Softsign": (F.softsign, ()),
    "Softplus": (F.softplus, ()),
    "LeakyRelu": (F.leaky_relu, (0.01,)),
    "Elu": (F.elu, (1.0,)),
    "ThresholdedRelu": (lambda x, alpha: F.threshold(x, alpha, 0.0), (1.0,)),
    "Affine": (lambda x, alpha, beta: alpha * x + beta, (1.0, 0.0)),
    "ScaledTanh": (lambda x, alpha, beta: alpha * torch.tanh(beta * x), (1.0, 1.0)),
    "HardSigmoid": (lambda x, alpha, beta: torch.clamp(alpha * x + beta, 0, 1), (0.2, 0.5)),
}
# By operator: the default activations, PyTorch's function, and the gates of ONNX in its order.
_KINDS: dict[str, tuple[list[str], Any, list[int]]] = {
    "RNN": (["Tanh"], torch.rnn_tanh, [0]),
    "GRU": (["Sigmoid", "Tanh"], torch.gru, [1, 0, 2]),
    "LSTM": (["Sigmoid", "Tanh", "Tanh"], torch.lstm, [0, 2, 3, 1]),
}


def _recurrent(kind: str) -> None:
    defaults, fast, order = _KINDS[kind]

    @operator(kind, only={"activations": _ACTIVATIONS})
    def compute(
        X: Tensor,
        W: Tensor,
        R: Tensor,
        B: Tensor | None = None,
        sequence_lens: Tensor | None = None,
        initial_h: Tensor | None = None,
        initial_c: Tensor | None = None,
        P: Tensor | None = None,
        activation_alpha: Any = (),
        activation_beta: Any = (),
        activations: Any = None,
        clip: float = 0.0,
        direction: str = "forward",
        hidden_size: int = 0,
        input_forget: int = 0,
        layout: int = 0,
        linear_before_reset: int = 0,
        output_sequence: int = 0,
        n_outputs: int = 1,
    ) -> tuple[Tensor, ...]:
        directions, _, hidden = R.shape
        X = (X.transpose(0, 1) if layout else X).to(W.dtype)
        states = []
        for state in (initial_h, initial_c)[: 1 + (kind == "LSTM")]:
            if state is None:
                state = X.new_zeros(directions, X.shape[1], hidden)
            else:
                state = (state.transpose(0, 1) if layout else state).to(W.dtype)
            states.append(state)
        names = activations or defaults * directions
        function = torch.rnn_relu if kind == "RNN" and set(names) == {"Relu"} else fast
        usual = names == defaults * directions or function is torch.rnn_relu
        usual = usual and (kind != "GRU" or linear_before_reset)
        if usual and not clip and not input_forget and P is None and sequence_lens is None:
            y, states = _fast(function, order, X, W, R, B, states, direction)
        else:
            sides = []
            functions = _activations(names, activation_alpha, activation_beta)
            for d in range(directions):
                cell = {
                    "kind": kind,
                    "activations": [next(functions) for _ in defaults],
                    "clip": clip,
                    "coupled": input_forget,
                    "before_reset": linear_before_reset,
                }
                parts: list[Any] = [None if one is None else one[d] for one in (W, R, B, P)]
                start = [state[d] for state in states]
                turned = d == 1 or direction == "reverse"
                sides.append(_slow(X, parts, start, sequence_lens, turned, cell))
            y = torch.stack([side[0] for side in sides], 1)
            states = [torch.stack(ends) for ends in zip(*(side[1] for side in sides))]
        if layout:
            y, states = y.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in states]
        return (y, *states)[:n_outputs]


def _fast(
    function: Any,
    order: list[int],
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None,
    states: list[Tensor],
    direction: str,
) -> tuple[Tensor, list[Tensor]]:
    """Run PyTorch's own; its outputs have the directions side by side."""
    n, directions = len(order), len(W)

    def ordered(rows: Tensor) -> Tensor:
        return rows if n == 1 else torch.cat([rows.chunk(n)[i] for i in order])

    weights = []
    for d in range(directions):
        weights += [ordered(W[d]), ordered(R[d])]
        weights += [] if B is None else [ordered(half) for half in B[d].chunk(2)]
    x = X.flip(0) if direction == "reverse" else X
    start: Any = states[0] if len(states) == 1 else states
    # What is needed for gradients is kept only "in training".
    settings = B is not None, 1, 0.0, torch.is_grad_enabled(), directions == 2, False
    y, *states = function(x, start, weights, *settings)
    y = y.unflatten(-1, (directions, -1)).transpose(1, 2)
    return (y.flip(0) if direction == "reverse" else y), states


def _activations(names: list[str], alphas: Any, betas: Any) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield functions; each takes as many of the numbers that are left as it needs."""
    given = iter(alphas), iter(betas)
    for name in names:
        function, defaults = _ACTIVATIONS[name]
        numbers = [next(left, default) for left, default in zip(given, defaults)]
        yield partial(_applied, function, numbers)


def _applied(function: Callable[..., Tensor], numbers: list[float], x: Tensor) -> Tensor:
    return function(x, *numbers)


def _slow(
    X: Tensor,
    parts: Sequence[Any],
    states: list[Tensor],
    lengths: Tensor | None,
    turned: bool,
    cell: dict[str, Any],
) -> tuple[Tensor, list[Tensor]]:
    """Run one direction step by step; beyond the end of a sequence outputs are zero."""
    W, R, bias, P = parts
    bias = X.new_zeros(2 * len(W)) if bias is None else bias
    every = torch.full((X.shape[1],), X.shape[0], device=X.device) if lengths is None else lengths
    x = reversed_steps(X, every) if turned else X
    # The bias of the state is added in the cell, where a reset may come between.
    inputs, outputs = x @ W.T + bias[: len(W)], []
    for step, row in enumerate(inputs):
        inside = (step < every).unsqueeze(1)
        after = _step(row, R, bias[len(W) :], P, states, **cell)
        states = [torch.where(inside, new, old) for new, old in zip(after, states)]
        outputs.append(torch.where(inside, states[0], 0.0))
    y = torch.stack(outputs)
    return (reversed_steps(y, every) if turned else y), states


def _step(
    x: Tensor,
    R: Tensor,
    bias: Tensor,
    P: Tensor | None,
    states: list[Tensor],
    kind: str,
    activations: list[Callable[[Tensor], Tensor]],
    clip: float,
    coupled: int,
    before_reset: int,
) -> list[Tensor]:
    """Return the states after a step, by the equations of ONNX's operator."""

    def clipped(gate: Tensor) -> Tensor:
        return gate.clamp(-clip, clip) if clip else gate

    h, f, *others = states[0], *activations
    if kind == "RNN":
        return [f(clipped(x + h @ R.T + bias))]
    if kind == "GRU":
        x_gates, x_new = x.tensor_split([2 * h.shape[1]], 1)
        R_gates, R_new = R.tensor_split([2 * h.shape[1]])
        b_gates, b_new = bias.tensor_split([2 * h.shape[1]])
        z, r = f(clipped(x_gates + h @ R_gates.T + b_gates)).chunk(2, 1)
        state = r * (h @ R_new.T + b_new) if before_reset else (r * h) @ R_new.T + b_new
        return [(1 - z) * others[0](clipped(x_new + state)) + z * h]
    c, (g, of_cell) = states[1], others
    peep_i, peep_o, peep_f = (0, 0, 0) if P is None else P.chunk(3)
    i, o, forget, new = (x + h @ R.T + bias).chunk(4, 1)
    i = f(clipped(i + peep_i * c))
    forget = 1 - i if coupled else f(clipped(forget + peep_f * c))
    c = forget * c + i * g(clipped(new))
    return [f(clipped(o + peep_o * c)) * of_cell(c), c]


for _kind in _KINDS:
    _recurrent(_kind)
