"""How data flow through a PyTorch network, also by functions, which have no hooks."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

_ACTIVATIONS = re.compile("relu|elu|gelu|silu|swish|mish|tanh|sigmoid|softplus|clamp|pool")
# Functions and modules whose output holds the scores that they read.
_COPIES = re.compile("softmax|sigmoid|dropout|flatten|view|reshape|squeeze|identity")


class Flow(NamedTuple):
    """What one pass has shown.

    Parameters
    ----------
    activated : set of str
        Modules whose activation or pooling is a function, and that all that an output holds has
        passed through.
    heads : set of str
        Linear modules that are outputs of the network, and that no other head reads.
    common : set of str
        Modules that all that the heads hold has passed through.
    """

    activated: frozenset[str] = frozenset()
    heads: frozenset[str] = frozenset()
    common: frozenset[str] = frozenset()


class _Trace(NamedTuple):
    """Where a tensor comes from: modules that all of it has passed through, and the last one.

    ``through`` is None where nothing learned was involved, as in masks; these do not count.
    """

    through: frozenset[str] | None
    maker: str | None = None
    is_linear: bool = False


class Watch(TorchFunctionMode):
    """Follows the inputs of one pass through functions and modules."""

    def __init__(self, inputs: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._traces: Any = WeakTensorKeyDictionary()
        self._activated: set[str] = set()
        # How many modules without parts are being called: what they do is not functional style.
        self._n_inside = 0
        for tensor in inputs:
            self._traces[tensor] = _Trace(None)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        traces = self._of((args, kwargs))
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if (
            not self._n_inside
            and len(traces) == 1
            and traces[0].maker
            and _ACTIVATIONS.search(name)
        ):
            self._activated.add(traces[0].maker)
        if traces:
            is_copy = len(traces) == 1 and _COPIES.search(name)
            trace = traces[0] if is_copy else _joined(traces)
            for _, tensor in tensors_in(result):
                self._traces[tensor] = trace
        return result

    def follow(self, name: str, module: torch.nn.Module, hooks: ExitStack) -> None:
        """Note each call of a module while the hooks last."""
        is_leaf = next(module.children(), None) is None
        if is_leaf and not isinstance(module, torch.jit.ScriptModule):
            hooks.callback(module.register_forward_pre_hook(self._enter).remove)
        hook(hooks, module, partial(self._leave, name, is_leaf))

    def _enter(self, module: torch.nn.Module, inputs: Any) -> None:
        self._n_inside += 1

    def _leave(
        self, name: str, is_leaf: bool, module: torch.nn.Module, inputs: Any, value: Any
    ) -> None:
        """Note that what a module returns has passed through it."""
        self._n_inside -= is_leaf
        given = self._of(inputs)
        kind = type(module).__name__.lower()
        for _, tensor in tensors_in(value):
            # Code that is not Python calls no function that can be seen.
            found = self._traces.get(tensor) or (_joined(given) if given else None)
            if found is None:
                continue
            through = found.through
            if through is None and next(module.parameters(), None) is not None:
                through = frozenset()
            if through is not None:
                through |= {name}
            if is_leaf and not _COPIES.search(kind):
                is_linear = isinstance(module, torch.nn.Linear)
                found = _Trace(through, name, is_linear)
            self._traces[tensor] = found._replace(through=through)

    def flow(self, outputs: Any) -> Flow:
        """Return what the pass has shown, given what the network returned."""
        traces = [one for one in self._of(outputs) if one.through is not None]
        passed = frozenset[str]().union(*(one.through or () for one in traces))
        heads = [one for one in traces if one.is_linear]
        # An embedding that is returned beside the scores made of it is no head.
        inner = {one.maker for one in heads for two in heads if _is_before(one, two)}
        heads = [one for one in heads if one.maker not in inner]
        common = _joined(heads).through or frozenset()
        names = frozenset(one.maker for one in heads if one.maker)
        return Flow(passed & self._activated, names, common)

    def _of(self, value: Any) -> list[_Trace]:
        tensors = (tensor for _, tensor in tensors_in(value))
        return [self._traces[tensor] for tensor in tensors if tensor in self._traces]


def _is_before(one: _Trace, other: _Trace) -> bool:
    return one.maker != other.maker and one.maker in (other.through or ())


def _joined(traces: list[_Trace]) -> _Trace:
    learned = [one.through for one in traces if one.through is not None]
    return _Trace(frozenset.intersection(*learned) if learned else None)


def tensors_in(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the path and the tensor of each in nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, f"{path}[{key}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from tensors_in(item, f"{path}[{index}]")
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield from tensors_in(getattr(value, one.name), f"{path}[{one.name}]")


def hook(hooks: ExitStack, module: torch.nn.Module, function: Callable[..., None]) -> None:
    """Call a function after each call of a module, while the hooks last."""
    if not isinstance(module, torch.jit.ScriptModule):  # these are not called from Python
        hooks.callback(module.register_forward_hook(function).remove)
