"""What the converter knows of each MXNet operator, by name."""

import ast
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: Types of numbers by MXNet's flags; all floating-point ones are computed in single precision.
TYPES = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float32),
    2: np.dtype(np.float32),
    3: np.dtype(np.uint8),
    4: np.dtype(np.int32),
    5: np.dtype(np.int8),
    6: np.dtype(np.int64),
    7: np.dtype(np.bool_),
}
#: Every operator that converts, by each of its names.
OPERATORS = {}


class Unsupported(ValueError):
    """An operator, or a way to use it, that has no conversion."""


@dataclass(frozen=True)
class Operator:
    """How one operator converts.

    Parameters
    ----------
    convert : callable
        ``convert(op, *inputs)`` emits ONNX nodes through ``op``, a
        :class:`xfer.checkpoint.convert.Call`, and returns a Tensor, or a tuple of them.
    outputs : callable
        Names the outputs, given the attributes: ``("output",)`` but for those with several.
    idle : tuple of int
        Positions of inputs that play no part in inference, such as labels.
    """

    convert: Callable
    outputs: Callable
    idle: tuple


def operator(*names, outputs=None, idle=()):
    """Register a function as the conversion of the operators of these names.

    Parameters
    ----------
    *names : str
        As MXNet 1.9 writes them; :mod:`xfer.checkpoint.legacy` knows what else they were called.
    outputs : callable, optional
        See :class:`Operator`; by default there is one.
    idle : tuple of int, default=()

    Returns
    -------
    callable
        A decorator.
    """

    def register(function):
        for name in names:
            if name in OPERATORS:
                raise ValueError(f"operator {name!r} is registered twice")
            OPERATORS[name] = Operator(function, outputs or (lambda _: ("output",)), idle)
        return function

    return register


def numbered_outputs(attribute):
    """Name as many outputs as an attribute says: ``output0``, ``output1``, ...

    Parameters
    ----------
    attribute : str

    Returns
    -------
    callable
        For the ``outputs`` of :func:`operator`.
    """

    def outputs(attributes):
        number = attributes.int(attribute)
        return tuple(f"output{k}" for k in range(number)) if number > 1 else ("output",)

    return outputs


_REQUIRED = object()


class Attributes:
    """The attributes of a node, which MXNet writes as text, read as what they mean.

    Each method takes the name and what holds where the node does not say; without a default a
    missing attribute is an error. ``None`` in the text is None.

    Parameters
    ----------
    texts : dict of str to str
    """

    def __init__(self, texts):
        self.texts = texts

    def text(self, name, default=_REQUIRED):
        """Return the text itself (str)."""
        return self._read(name, default, str)

    def int(self, name, default=_REQUIRED):
        """Return a whole number (int)."""
        return self._read(name, default, lambda text: int(text.rstrip("L")))

    def float(self, name, default=_REQUIRED):
        """Return a number (float)."""
        return self._read(name, default, float)

    def flag(self, name, default=_REQUIRED):
        """Return whether it is set (bool)."""
        return self._read(name, default, _read_flag)

    def ints(self, name, default=_REQUIRED):
        """Return whole numbers, of which any may be None (tuple); one number counts as a tuple."""
        return self._read(name, default, _read_ints)

    def floats(self, name, default=_REQUIRED):
        """Return numbers (tuple of float); one number counts as a tuple."""
        return self._read(name, default, _read_floats)

    def _read(self, name, default, read):
        text = self.texts.get(name)
        if text is None:
            if default is _REQUIRED:
                raise ValueError(f"it has no attribute {name!r}")
            return default
        if text == "None":
            return None
        try:
            return read(text)
        except (ValueError, KeyError, SyntaxError, TypeError, RecursionError, MemoryError):
            raise ValueError(f"its attribute {name}={text[:80]!r} cannot be read") from None


def _read_flag(text):
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


def _read_ints(text):
    # Python 2 wrote (2L, 2L).
    values = _literal(text.replace("L", ""))
    if not all(value is None or type(value) is int for value in values):
        raise ValueError(text)
    return values


def _read_floats(text):
    return tuple(float(value) for value in _literal(text))


def _literal(text):
    values = ast.literal_eval(text)
    return tuple(values) if isinstance(values, (tuple, list)) else (values,)
