"""The outputs of a torch network's layers, taken while it runs."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

# A module, which of its calls, and where in its output: lstm:0[1][0].
_NAME = re.compile(r"(.+?)(?::(\d+))?((?:\[[^][]*\])*)")


@dataclass(frozen=True)
class Output:
    """One tensor that a network computes.

    `name` is what it is requested by, `module` the module that gives it. `call` says which call of
    the module in a pass, or None where there is just one; `path` where the tensor is in what the
    module returns, such as "[1][0]", or "" where that is a single tensor.
    """

    name: str
    module: str
    call: int | None
    path: str


def read_name(name: str, modules: Collection[str]) -> Output | None:
    """Return the output that a name means, or None if there is no such module."""
    if name in modules:
        return Output(name, name, None, "")
    found = _NAME.fullmatch(name)
    if found is None or found[1] not in modules:
        return None
    return Output(name, found[1], None if found[2] is None else int(found[2]), found[3])


class Stop(BaseException):
    """Ends a pass in which nothing is left to do.

    A BaseException, so that no ``except Exception`` of a network takes it for an error.
    """


class Capture:
    """Takes the requested outputs out of one pass.

    `keep` gets an Output, its tensor, and whether the pass ends there; it returns what is kept. The
    tensor may change once it has returned. With `may_stop` the pass ends with the last output.
    """

    def __init__(
        self,
        outputs: Sequence[Output],
        keep: Callable[[Output, torch.Tensor, bool], Any],
        may_stop: bool,
    ) -> None:
        self.outputs, self.keep, self.may_stop = outputs, keep, may_stop
        self.kept: dict[str, Any] = {}
        self.calls: Counter[str] = Counter()
        self.error: Exception | None = None

    @property
    def complete(self) -> bool:
        """Whether everything has been taken, and without an error."""
        return self.error is None and len(self.kept) == len(self.outputs)

    def hook(self, name: str) -> Callable[..., None]:
        """Make a forward hook for one module."""

        def take(module: torch.nn.Module, inputs: Any, value: Any) -> None:
            self.take(name, value)

        return take

    def take(self, name: str, value: Any) -> None:
        """Take what a module has returned."""
        if self.error or (self.may_stop and self.complete):
            return  # the network caught what was to end the pass
        call = self.calls[name]
        self.calls[name] += 1
        for output in self.outputs:
            if output.module == name and (output.call or 0) == call:
                is_last = self.may_stop and len(self.kept) + 1 == len(self.outputs)
                tensor = self.attempt(_tensor_of, output, value)
                self.kept[output.name] = self.attempt(self.keep, output, tensor, is_last)
        if self.may_stop and self.complete:
            raise Stop

    def attempt(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of ours inside the pass; the network must not catch its error."""
        try:
            return function(*args)
        except Exception as error:
            self.error = error
            raise Stop from error

    def finish(self) -> list[Any]:
        """Return what was taken, in the order of the outputs."""
        if self.error:
            raise self.error
        for output in self.outputs:
            calls = self.calls[output.module]
            if output.call is None and calls > 1:
                raise ValueError(
                    f"layer {output.name!r} is called {calls} times in a pass: ask for one call, "
                    f"{output.module}:0{output.path} to {output.module}:{calls - 1}{output.path}"
                )
            if output.name in self.kept:
                continue
            if calls:
                raise ValueError(
                    f"layer {output.module!r} is called {calls} times in a pass with these data; "
                    f"there is no {output.name!r}"
                )
            raise ValueError(
                f"layer {output.module!r} is never called in a pass with these data; the module "
                "around it may do its work, or it is compiled"
            )
        return [self.kept[output.name] for output in self.outputs]


def _tensor_of(output: Output, value: Any) -> torch.Tensor:
    found = {path: tensor for path, tensor in _tensors_in(value) if path.startswith(output.path)}
    if len(found) == 1:
        return next(iter(found.values()))
    stem = output.name.removesuffix(output.path)
    if found:
        names = ", ".join(stem + path for path in found)
        raise ValueError(
            f"layer {output.name!r} gives {len(found)} tensors: ask for one of {names}"
        )
    others = ", ".join(stem + path for path, _ in _tensors_in(value))
    raise ValueError(
        f"layer {stem!r} gives {others or f'no tensor, but {type(value).__name__}'}; "
        f"there is no {output.name!r}"
    )


def _tensors_in(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the path and the tensor of each in nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors_in(item, f"{path}[{key}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _tensors_in(item, f"{path}[{index}]")
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors_in(getattr(value, field.name), f"{path}[{field.name}]")
