"""Initial values of MXNet's parameters."""

import numpy as np
from numpy.random import RandomState

from xfer.checkpoint.edit import ModelError

# Parameters that start as 0 or 1, by the endings of MXNet's names.
_ZERO, _ONE = ("bias", "beta", "mean"), ("gamma", "var")


def initial_values(name: str, shape: tuple[int, ...], random: RandomState) -> np.ndarray:
    """Initialise a parameter by its name: as 0 or 1, or a weight as Glorot and Bengio (2010)."""
    if name.endswith(_ZERO):
        return np.zeros(shape, np.float32)
    if name.endswith(_ONE):
        return np.ones(shape, np.float32)
    if len(shape) < 2 and not name.endswith(("weight", "parameters")):
        endings = f"weight, {', '.join(_ZERO + _ONE)}"
        raise ModelError(
            f"cannot choose initial values for parameter {name!r} of shape {shape}: end its name "
            f"in {endings}, or use mx.sym.var(name, init=...)"
        )
    # Eq. 16 of Understanding the difficulty of training deep feedforward neural networks; each
    # position of a kernel is an input and an output of its own.
    rows, columns, *kernel = (*shape, 1)
    limit = np.sqrt(6 / ((rows + columns) * np.prod(kernel, dtype=float)))
    return random.uniform(-limit, limit, shape).astype(np.float32)
