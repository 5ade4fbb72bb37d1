"""The operators of ONNX by name, as functions of tensors."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any


class Unsupported(ValueError):
    """An operator, or a use of it, that has no counterpart in PyTorch here."""


@dataclass(frozen=True)
class Definition:
    """A function of an operator's inputs and attributes, and which inputs are not tensors."""

    function: Callable[..., Any]
    parameters: tuple[str, ...]
    required: frozenset[str]
    sizes: tuple[str, ...]
    numbers: tuple[str, ...]
    only: Mapping[str, Collection[Any]]


#: Every operator that has a counterpart here.
OPERATORS: dict[str, Definition] = {}


def operator(
    *names: str, sizes: str = "", numbers: str = "", only: Mapping[str, Collection[Any]] = {}
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function of tensors as the operators of these names.

    Its parameters have the names of ONNX's inputs, in their order, and attributes: one that was an
    attribute in old versions and is an input now comes either way. `sizes` are those that it gets
    as a number or a list, such as shapes and axes; `numbers` are those that it gets so if they are
    constant, and otherwise as a tensor. `only` are the values that an attribute, or each item of
    it, may have, where others are refused.

    It may also ask for ``training``, whether the module is in training mode; for ``n_outputs``; for
    ``opset``, the version; and for ``like``, a tensor on the device to use. With ``*inputs`` it
    takes any number. Where it returns a tuple, these are the operator's outputs.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = inspect.signature(function).parameters
        required = {p.name for p in parameters.values() if p.default is p.empty} - {"inputs"}
        listed = tuple(parameters), frozenset(required), tuple(sizes.split())
        definition = Definition(function, *listed, tuple(numbers.split()), only)
        for name in names:
            if name in OPERATORS:
                raise ValueError(f"operator {name!r} is registered twice")
            OPERATORS[name] = definition
        return function

    return register
